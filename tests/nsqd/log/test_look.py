"""Looks at single messages: found at any depth with few reads, whatever became of their segments."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence

import pytest

from nsqd.log import look as look_module
from nsqd.log.look import CHUNK, Look, Looked
from nsqd.log.records import RECORD_HEAD_SIZE
from nsqd.log.topic_log import Batch, TopicLog
from nsqd.testing.memory_storage import MemoryStorage
from nsqkit.wire.frames import encode_message
from tests.nsqd.log.samples import FOLDER, append, content, flip, frame, new_log, recovered, segments


def seen(log: TopicLog, seqs: Sequence[int]) -> list[bytes | None]:
    return list(looked(log.look(seqs), seqs))


def looked(look: Look, seqs: Sequence[int]) -> list[bytes | None]:
    with contextlib.closing(look.messages(seqs)) as messages:
        return [message and message.frame for message in messages]


def mixed_log(count: int, storage: MemoryStorage) -> TopicLog:
    """`count` messages: single ones, batches and deferred ones, between changes that have no messages."""
    chance = random.Random(count)
    log = new_log(storage, max_segment_bytes=200_000)
    while log.end < count:
        size = min(chance.choice([1, 1, 2, 7]), count - log.end)
        made = [frame(log.end + at, b"%d" % at * chance.choice([1, 10, 300])) for at in range(size)]
        delays = [5] * size if chance.random() < 0.2 else None
        changes = [(20, 1, log.end, 1)] * chance.choice([0, 1, 20])
        log.append([Batch.of(made, delays)], changes, flowing=True)
    return log


def without_index(log: TopicLog) -> TopicLog:
    """As after a start."""
    for segment in log.segments:
        del segment.marks[1:]
    return log


@pytest.mark.parametrize("is_cold", [False, True])
def test_each_message_is_found_in_any_order(is_cold: bool) -> None:
    log = mixed_log(4000, MemoryStorage())
    assert len(log.segments) > 3
    everything = seen(log, range(log.end))
    assert [found and int(found[18:34], 16) for found in everything] == list(range(log.end))
    if is_cold:
        without_index(log)
    marks = [list(segment.marks) for segment in log.segments]
    seqs = random.Random(1).sample(range(log.end), 300)
    assert seen(log, seqs) == [everything[seq] for seq in seqs]
    assert seen(log, sorted(seqs)) == [everything[seq] for seq in sorted(seqs)]
    assert [list(segment.marks) for segment in log.segments] == marks, "nothing is kept"


def test_a_look_into_a_long_segment_without_index_reads_little() -> None:
    log = new_log(MemoryStorage(), max_segment_bytes=1 << 30)
    for first in range(0, 200_000, 100):
        log.append([Batch.of([frame(seq, b"x" * 20) for seq in range(first, first + 100)])])
    without_index(log)
    for seq in (0, 1, 99_999, 123_456, 199_999):
        look = log.look([seq])
        assert looked(look, [seq]) == [frame(seq, b"x" * 20)]
        assert look.bytes_read < 4 * CHUNK < log.position / 50


def test_a_search_for_an_id_reads_little() -> None:
    log = new_log(MemoryStorage(), max_segment_bytes=1 << 30)
    for first in range(0, 200_000, 10):
        log.append([Batch.of([frame(seq, b"x" * 20) for seq in range(first, first + 10)])])
    without_index(log)
    for seq in (0, 77_777, 199_999):
        look = log.look()
        assert look.find(b"%016x" % seq) == (seq, Looked(frame(seq, b"x" * 20)))
        assert look.bytes_read < 30 * CHUNK < log.position / 10, "a chunk for each bisection at most"


def test_what_is_appended_later_does_not_disturb() -> None:
    log = new_log(MemoryStorage())
    append(log, 5)
    look = log.look([4])
    append(log, 50)
    assert looked(look, [4]) == [frame(4)]


def test_moved_messages_are_found() -> None:
    log = new_log(MemoryStorage())
    append(log, 10)
    log.roll()
    append(log, 3)
    log.append_moved([(seq, frame(seq)) for seq in (1, 5)])
    log.drop(log.segments[:1])
    assert seen(log, [12, 5, 1, 10]) == [frame(12), frame(5), frame(1), frame(10)]
    assert seen(log, [2]) == [None], "it is gone"
    for seq in (1, 5, 10, 12):
        assert log.look().find(b"%016x" % seq) == (seq, Looked(frame(seq)))
    assert log.look().find(b"%016x" % 2) is None


def test_a_segment_that_is_removed_meanwhile_is_said() -> None:
    log = new_log(MemoryStorage())
    append(log, 5)
    log.roll()
    append(log, 5)
    look = log.look([2, 7])
    dropped = log.segments[:1]
    log.drop(dropped)
    log.remove_files([segment.path for segment in dropped])
    with pytest.raises(FileNotFoundError):
        looked(look, [2, 7])
    assert seen(log, [7]) == [frame(7)]


def test_damage_costs_only_what_it_hit() -> None:
    storage = MemoryStorage()
    log = new_log(storage)
    for _ in range(5):
        append(log, 2)
    (path,) = segments(storage)
    offset = content(storage, path).index(b"body 4")
    flip(storage, path, 8 * offset)
    expected = [None if seq in (4, 5) else frame(seq) for seq in range(10)]
    assert seen(log, range(10)) == expected
    assert [seen(log, [seq])[0] for seq in range(10)] == expected


def test_a_body_that_holds_records_of_its_own_file_misleads_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look_module, "NEAR", 64)
    monkeypatch.setattr(look_module, "PROBE", RECORD_HEAD_SIZE + 8)
    storage = MemoryStorage()
    log = new_log(storage)
    for _ in range(20):
        append(log, 1)
    copy = content(storage, log.segments[0].path)[64:]
    for _ in range(3):
        log.append([Batch.of([frame(log.end, copy)])])
        append(log, 5)
    without_index(log)
    expected = [frame(seq, copy) if seq in (20, 26, 32) else frame(seq) for seq in range(log.end)]
    assert seen(log, range(log.end)) == expected
    assert [seen(log, [seq])[0] for seq in range(log.end)] == expected


@pytest.mark.parametrize("is_cold", [False, True])
def test_ids_are_found(is_cold: bool) -> None:
    log = mixed_log(1500, MemoryStorage())
    if is_cold:
        without_index(log)
    for seq in random.Random(2).sample(range(log.end), 50):
        found = log.look().find(b"%016x" % seq)
        assert found is not None
        assert (found[0], found[1].frame[18:34]) == (seq, b"%016x" % seq)
    assert log.look().find(b"%016x" % log.end) is None
    assert log.look().find(b"f" * 16) is None


@pytest.mark.parametrize("is_cold", [False, True])
def test_messages_and_ids_that_are_spread_unevenly_are_found(is_cold: bool) -> None:
    chance = random.Random(3)
    log = new_log(MemoryStorage(), max_segment_bytes=3_000_000)
    ids, message_id = [], 1
    for at in range(3000):
        message_id += chance.choice([1, 1, 1, 1 << 20]) if at % 1000 < 500 else 1
        size = 1 if at % 600 < 300 else chance.choice([1, 100, 20_000])
        log.append([Batch.of([encode_message(0, 1, b"%016x" % message_id, b"x" * size)])])
        ids.append(b"%016x" % message_id)
    assert len(log.segments) > 2
    if is_cold:
        without_index(log)
    seqs = [0, 2999, *chance.sample(range(3000), 200)]
    assert [found and found[18:34] for found in seen(log, seqs)] == [ids[seq] for seq in seqs]
    for seq in seqs:
        found = log.look().find(ids[seq])
        assert found is not None
        assert found[0] == seq
    assert log.look().find(b"%016x" % (message_id + 1)) is None


def test_ids_that_are_no_numbers_are_found() -> None:
    log = new_log(MemoryStorage())
    ids = [b"%016d" % at if at < 50 else b"z%015d" % at for at in range(100)]
    for message_id in ids:
        log.append([Batch.of([encode_message(0, 1, message_id, b"x")])])
    for seq, message_id in enumerate(ids):
        found = log.look().find(message_id)
        assert found is not None
        assert found[0] == seq


def test_ids_are_found_where_some_are_missing() -> None:
    log = new_log(MemoryStorage())
    log.append([Batch.of([encode_message(0, 1, b"%016x" % number, b"x") for number in (10, 20, 30)])])
    for number, seq in ((10, 0), (20, 1), (30, 2)):
        found = log.look().find(b"%016x" % number)
        assert found is not None
        assert found[0] == seq
    for number in (5, 15, 35):
        assert log.look().find(b"%016x" % number) is None


def test_ids_are_found_behind_segments_in_which_nothing_can_be_read() -> None:
    storage = MemoryStorage()
    log = new_log(storage)
    for number in range(6):
        append(log, 2)
        if number in (1, 2, 4):
            path = log.segments[-1].path
            flip(storage, path, 8 * content(storage, path).index(b"body"))
        log.roll()
    for seq in range(12):
        found = log.look().find(b"%016x" % seq)
        assert found == (None if seq // 2 in (1, 2, 4) else (seq, Looked(frame(seq))))


def test_an_empty_log_has_no_ids() -> None:
    log = new_log(MemoryStorage())
    assert log.look().find(b"%016x" % 1) is None
    log.append([], [(20, 1, 0, 1)])
    assert log.look().find(b"%016x" % 1) is None


def test_a_log_after_a_start_is_looked_at() -> None:
    storage = MemoryStorage()
    append(new_log(storage), 3, 4)
    log = recovered(storage, FOLDER).log
    assert seen(log, range(7)) == [frame(seq) for seq in range(7)]


def timed_log(stamps: Sequence[int], size: int = 20, segment: int = 1 << 30) -> TopicLog:
    """Messages with these timestamps, in records of up to ten."""
    log = new_log(MemoryStorage(), max_segment_bytes=segment)
    for first in range(0, len(stamps), 10):
        part = stamps[first : first + 10]
        log.append(
            [Batch.of([frame(n, b"x" * size, timestamp_ns=stamp) for n, stamp in enumerate(part, first)])]
        )
    return log


@pytest.mark.parametrize("segment", [300, 5000, 1 << 30])
def test_the_first_message_since_a_time(segment: int) -> None:
    chance = random.Random(segment)
    stamps = sorted(chance.choices(range(0, 3000, 3), k=700))
    log = without_index(timed_log(stamps, segment=segment))
    for wanted in (-1, 0, *chance.choices(range(3100), k=100), 3100):
        for start in (0, 250):
            found = log.look().first_since(wanted, start)
            expected = next((n for n, stamp in enumerate(stamps) if n >= start and stamp >= wanted), None)
            assert (found and found[0]) == expected
            assert found is None or found[1] == frame(found[0], b"x" * 20, timestamp_ns=stamps[found[0]])


def test_a_search_for_a_time_reads_little() -> None:
    log = without_index(timed_log(range(200_000)))
    look = log.look()
    found = look.first_since(123_456, 0)
    assert found is not None
    assert found[0] == 123_456
    assert look.bytes_read < 20 * CHUNK < log.position / 10


def test_the_first_message_since_a_time_over_aborted_ones_and_removed_segments() -> None:
    log = timed_log(range(100), segment=300)
    log._use_up([Batch.of([frame(0)] * 5)])  # an append has failed
    append(log, 1)
    log.drop(log.segments[2:4])
    first = log.segments[2].first
    assert log.complete_from == first > log.segments[1].first
    assert log.removed(0, log.end) == [(log.segments[1].next_first, first)]
    look = log.look()
    assert (
        look.first_from(first - 1)
        == look.first_since(first - 1, 0)
        == (first, frame(first, b"x" * 20, first))
    )
    assert look.first_from(100) == (105, frame(105))
    assert look.first_from(106) is None
    assert look.first_since(10**18, 0) is None


def test_a_log_that_nothing_was_removed_from_is_complete() -> None:
    log = new_log(MemoryStorage(), max_segment_bytes=300)
    assert (log.complete_from, log.removed(0, 0)) == (0, [])
    for _ in range(20):
        append(log, 3)
    assert log.complete_from == 0
    log.moved[3] = 0
    log.drop(log.segments[:1])
    first = log.segments[0].first
    assert log.complete_from == first
    assert log.removed(0, log.end) == [(0, 3), (4, first)]


def aged_log(times: Sequence[int], storage: MemoryStorage, segment_bytes: int = 4000) -> TopicLog:
    """Messages that were published at these times, in batches of up to five."""
    log = new_log(storage, max_segment_bytes=segment_bytes)
    for first in range(0, len(times), 5):
        made = [frame(seq, timestamp_ns=at) for seq, at in enumerate(times[first : first + 5], first)]
        log.append([Batch.of(made)])
    return log


@pytest.mark.parametrize("is_cold", [False, True])
def test_the_first_younger_message_is_found(is_cold: bool) -> None:
    times = [10 * (seq // 3) for seq in range(2000)]
    log = aged_log(times, MemoryStorage())
    assert len(log.segments) > 20
    if is_cold:
        without_index(log)
    for start in (0, 1, 700, 1999):
        for cutoff in (-1, 0, 9, 10, 2000, 2345, 5000, 6649, 6650, 6659, 6660, 9999):
            younger = next((seq for seq in range(start, 2000) if times[seq] > cutoff), None)
            expected = (2000, None) if younger is None else (younger, times[younger])
            assert log.look().first_younger(start, 2000, cutoff) == expected, (start, cutoff)


def test_it_is_looked_for_up_to_a_message() -> None:
    log = aged_log(range(100), MemoryStorage())
    assert log.look().first_younger(0, 50, 70) == (50, None)
    assert log.look().first_younger(0, 50, 48) == (49, 49)
    assert log.look().first_younger(50, 50, 0) == (50, None)


def test_aborted_ones_hide_no_younger_message() -> None:
    """The last message of a part is not there: that says nothing of the part."""
    log = new_log(MemoryStorage())
    for at in range(0, 200, 10):
        log.append([Batch.of([frame(log.end, timestamp_ns=at) for _ in range(1)])])
        log.end += 40  # as after an append that failed
    for cutoff in (-1, 0, 15, 100, 189):
        seq, published = log.look().first_younger(0, log.end, cutoff)
        assert published == 10 * (cutoff // 10 + 1)
        assert seq == 41 * (cutoff // 10 + 1)
    assert log.look().first_younger(0, log.end, 190) == (log.end, None)


def test_moved_messages_are_looked_at() -> None:
    log = aged_log(range(0, 400, 10), MemoryStorage(), segment_bytes=500)
    first, second = log.segments[1].first, log.segments[2].first
    log.append_moved([(seq, frame(seq, timestamp_ns=10 * seq)) for seq in (first - 1, first, first + 1)])
    log.drop(log.segments[:2])
    assert second > first + 2
    for seq in (first - 1, first, first + 1):
        assert log.look().first_younger(0, log.end, 10 * seq - 1) == (seq, 10 * seq)
    assert log.look().first_younger(0, log.end, 10 * (first + 1)) == (second, 10 * second)


def test_a_search_for_an_age_reads_little() -> None:
    log = new_log(MemoryStorage(), max_segment_bytes=5 << 20)
    for first in range(0, 200_000, 100):
        made = [frame(seq, b"x" * 20, timestamp_ns=seq) for seq in range(first, first + 100)]
        log.append([Batch.of(made)])
    without_index(log)
    for seq in (0, 77_777, 199_999):
        look = log.look()
        assert look.first_younger(0, log.end, seq - 1) == (seq, seq)
        assert look.bytes_read < log.position


@pytest.mark.parametrize("is_moved", [False, True])
def test_dead_letters_are_found_with_where_they_are_from(is_moved: bool) -> None:
    log = new_log(MemoryStorage())
    origins = {seq: b"origin %d" % seq for seq in range(2, 5)}
    append(log, 2)
    batch = Batch.of([frame(seq) for seq in origins])
    batch.origins = list(origins.values())
    log.append([batch])
    append(log, 2)
    if is_moved:
        log.roll()
        log.append_moved([(seq, frame(seq)) for seq in range(7)], origins=origins)
    expected = [Looked(frame(seq), origins.get(seq)) for seq in range(7)]
    for seqs in (range(7), [4], [3, 0, 2]):
        with contextlib.closing(log.look(seqs).messages(seqs)) as messages:
            assert list(messages) == [expected[seq] for seq in seqs]
    assert log.look().find(b"%016x" % 3) == (3, expected[3])
