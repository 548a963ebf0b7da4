"""Reads of single messages: each comes with its bytes, from wherever it is, and little else is read."""

from __future__ import annotations

import errno
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqd.log.budget import MemoryBudget
from nsqd.log.fetch import READ_BYTES, FetchResult
from nsqd.log.state import Code
from nsqd.log.storage import Storage
from nsqd.log.topic_log import Batch, TopicLog
from nsqd.testing.faulty_storage import Fail, FaultyStorage
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.log.samples import append, frame, frames, new_log, recovered

LARGE = 1 << 30


def fetch(log: TopicLog, seqs: list[int], *, max_bytes: int = LARGE, max_size: int = LARGE) -> FetchResult:
    result = log.plan_fetch(seqs, max_bytes, max_size).run()
    log.accept_fetch(result)
    return result


def long_log(storage: Storage, count: int = 3000, per_record: int = 1) -> TopicLog:
    """Several stretches of the index in one segment; frames of 260 bytes and a little."""
    log = new_log(storage, max_segment_bytes=100 << 20)
    for first in range(0, count, per_record):
        log.append([Batch.of([frame(seq, b"%0226d" % seq) for seq in range(first, first + per_record)])])
    return log


def frames_of_long_log(seqs: list[int]) -> dict[int, bytes]:
    return {seq: frame(seq, b"%0226d" % seq) for seq in seqs}


record = st.one_of(
    st.tuples(st.just("messages"), st.integers(1, 5)),
    st.tuples(st.just("deferred"), st.integers(1, 3)),
    st.tuples(st.just("changes"), st.integers(1, 3)),
    st.tuples(st.just("aborted"), st.integers(1, 3)),
)


@given(st.lists(record, min_size=1, max_size=30), st.sampled_from([200, 1 << 20]), st.data())
def test_any_messages_of_any_log(
    records: list[tuple[str, int]], segment_bytes: int, data: st.DataObject
) -> None:
    storage = FaultyStorage(MemoryStorage())
    log, written = new_log(storage, max_segment_bytes=segment_bytes), list[int]()
    for kind, count in records:
        batch = Batch.of(frames(log.end, count), [5] * count if kind == "deferred" else None)
        if kind == "changes":
            log.append([], [(Code.TOPIC_PAUSED, False)] * count)
        elif kind == "aborted":
            storage.fault = lambda operation, _path: Fail(errno.EIO) if operation == "append" else None
            with pytest.raises(OSError, match="Input/output"):
                log.append([batch])
            storage.fault = lambda _operation, _path: None
        else:
            written += range(log.end, log.end + count)
            log.append([batch])
    for again in range(3):
        seqs = data.draw(st.lists(st.sampled_from(written), unique=True)) if written else []
        result = fetch(log, seqs)
        assert result.frames == {seq: frame(seq) for seq in seqs}
        assert result.doubtful == []
        assert result.size == sum(map(len, result.frames.values()))
        if again == 1:
            log = recovered(storage).log


@pytest.mark.parametrize("per_record", [1, 20, 1000])
class TestHowMuchIsRead:
    def test_once_its_place_is_known_a_message_costs_its_bytes(self, per_record: int) -> None:
        log = long_log(MemoryStorage(), per_record=per_record)
        seqs = list(range(5, 3000, 50))
        assert fetch(log, seqs).frames == frames_of_long_log(seqs)
        result = fetch(log, seqs)
        assert result.frames == frames_of_long_log(seqs)
        assert result.bytes_read <= len(seqs) * 350

    def test_messages_that_are_near_are_one_read(self, per_record: int) -> None:
        storage = FaultyStorage(MemoryStorage())
        log = long_log(storage, per_record=per_record)
        fetch(log, list(range(3000)))
        reads = list[str]()

        def count(operation: str, path: str) -> None:
            if operation == "read":
                reads.append(path)

        storage.fault = count
        seqs = list(range(0, 3000, 5))
        random.Random(1).shuffle(seqs)
        assert fetch(log, seqs).frames == frames_of_long_log(seqs)
        assert len(reads) <= 2 * (3000 * 300 // READ_BYTES)

    def test_a_segment_of_an_earlier_life_is_searched_once(self, per_record: int) -> None:
        storage = MemoryStorage()
        long_log(storage, per_record=per_record)
        log = recovered(storage.kill()).log
        del log.segments[0].marks[1:]  # as when a snapshot lets the replay begin after it
        assert fetch(log, [2000]).bytes_read > 500_000
        assert fetch(log, [1000, 2500]).bytes_read < 1000


class TestLimits:
    def test_a_read_that_has_read_enough_ends(self) -> None:
        log = long_log(MemoryStorage())
        fetch(log, list(range(3000)))
        result = fetch(log, list(range(3000)), max_bytes=200_000)
        assert 0 < len(result.frames) < 2000
        assert not result.full

    def test_a_read_ends_when_the_frames_are_large_enough(self) -> None:
        log = long_log(MemoryStorage())
        result = fetch(log, list(range(3000)), max_size=10_000)
        assert result.full
        assert 10_000 <= result.size <= 10_000 + 2 * READ_BYTES

    def test_one_message_always_comes(self) -> None:
        log = long_log(MemoryStorage())
        assert fetch(log, [2999], max_bytes=1, max_size=1).frames == frames_of_long_log([2999])

    def test_places_are_dropped_above_a_limit_and_found_again(self) -> None:
        log = new_log(MemoryStorage(), max_segment_bytes=4000)
        log.index_budget = MemoryBudget(2000)
        for _ in range(60):
            append(log, 10)
        seqs = list(range(600))
        for _ in range(3):
            assert fetch(log, seqs).frames == {seq: frame(seq) for seq in seqs}
            assert log.index_budget.used == sum(segment.blocks_size for segment in log.segments)
            assert sum(bool(segment.blocks) for segment in log.segments) <= 3
        log.close()
        assert log.index_budget.used == 0


class TestWithoutWaiting:
    def test_a_read_that_would_block_gives_nothing(self) -> None:
        storage = MemoryStorage()
        log = long_log(storage)
        storage.cold = True
        assert log.plan_fetch([7], LARGE, LARGE).run(wait=False).frames == {}
        assert log.plan_fetch([7], LARGE, LARGE).run().frames == frames_of_long_log([7])

    def test_nothing_is_searched_for_long(self) -> None:
        storage = MemoryStorage()
        long_log(storage, count=10_000)
        log = recovered(storage.kill()).log
        del log.segments[0].marks[1:]
        assert log.plan_fetch([7], LARGE, LARGE).run(wait=False).frames == {}
        fetch(log, [7])
        assert log.plan_fetch([9000], LARGE, LARGE).run(wait=False).frames == frames_of_long_log([9000])


class TestDamage:
    def damaged(self, log: TopicLog, storage: MemoryStorage, seq: int) -> None:
        content = storage._folder("topic-t").names["00000000000000000000.log"]
        at = content.data.find(b"%0226d" % seq)  # type: ignore[union-attr]
        content.data[at] ^= 1  # type: ignore[union-attr]

    def test_a_damaged_stretch_is_left_to_the_other_way_to_read(self) -> None:
        storage = MemoryStorage()
        log = long_log(storage)
        self.damaged(log, storage, 7)
        result = fetch(log, [6, 7, 8, 2000])
        assert result.frames == frames_of_long_log([2000])
        assert result.doubtful == [6, 7, 8]

    def test_damage_that_comes_after_the_search_is_seen(self) -> None:
        storage = MemoryStorage()
        log = long_log(storage)
        fetch(log, [6, 7, 8])
        self.damaged(log, storage, 7)
        result = fetch(log, [6, 7, 8, 2000])
        assert result.frames == frames_of_long_log([6, 8, 2000])
        assert result.doubtful == [7]

    def test_an_error_of_the_disk_is_an_error(self) -> None:
        storage = FaultyStorage(MemoryStorage())
        log = long_log(storage)
        storage.fault = lambda operation, _path: Fail(errno.EIO) if operation == "read" else None
        with pytest.raises(OSError, match="Input/output"):
            fetch(log, [7])
