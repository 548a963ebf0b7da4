"""Messages that were moved: read one by one and many at once, over damage, and after their segments are gone."""

from __future__ import annotations

import pytest

from nsqd.log.moved import MovedPlan
from nsqd.log.records import RECORD_HEAD_SIZE
from nsqd.log.segment import ReadResult
from nsqd.log.topic_log import MOVED_RECORD_BYTES, Batch, TopicLog
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.log.samples import append, flip, frame, new_log, read_all


def moved_log(count: int, size: int = 0) -> tuple[TopicLog, dict[int, bytes]]:
    """A log whose first segment is gone, and of which every second message was moved; these messages."""
    log = new_log(MemoryStorage())
    frames = [frame(seq, b"x" * size + b"%d" % seq) for seq in range(count)]
    log.append([Batch.of(frames)], flowing=True)
    log.roll()
    append(log, 1)
    needed = {seq: frames[seq] for seq in range(0, count, 2)}
    log.append_moved(list(needed.items()))
    log.drop(log.segments[:1])
    return log, needed


def read(log: TopicLog, seq: int) -> ReadResult:
    plan = log.plan(seq, 1000)
    assert isinstance(plan, MovedPlan)
    result = plan.run()
    assert result is not None
    log.accept(result)
    return result


def test_each_is_found_by_its_number() -> None:
    log, needed = moved_log(300, size=200)
    assert len(set(log.moved.values())) == 3, "in several records"
    for seq, expected in needed.items():
        assert read(log, seq).runs[0].frames == [expected]
        assert (read(log, seq + 1).runs, read(log, seq + 1).next) == ([], seq + 2)
    assert read_all(log) == needed | {300: frame(300)}


def test_neighbours_come_together() -> None:
    log = new_log(MemoryStorage())
    append(log, 10)
    log.roll()
    log.append_moved([(seq, frame(seq)) for seq in (1, 2, 3, 5)])
    log.drop(log.segments[:1])
    run = read(log, 2).runs[0]
    assert (run.first, run.frames) == (2, [frame(2), frame(3)])


def test_one_that_is_longer_than_a_record_should_be() -> None:
    log, needed = moved_log(3, size=3 * MOVED_RECORD_BYTES)
    assert read(log, 2).runs[0].frames == [needed[2]]
    result = log.plan_fetch([2, 0], 1 << 20, 1 << 20).run()
    assert (result.frames, result.doubtful) == ({seq: needed[seq] for seq in (0, 2)}, [])


@pytest.mark.parametrize("wait", [True, False])
def test_many_at_once(wait: bool) -> None:
    """In any order, with others that were not moved; adjacent records are read with one call."""
    log, needed = moved_log(2000, size=100)
    last = frame(2000)
    result = log.plan_fetch([*reversed(needed), 2000], 1 << 24, 1 << 24).run(wait=wait)
    assert result.frames == needed | {2000: last}
    assert result.doubtful == []
    assert result.size == sum(map(len, [*needed.values(), last]))


def test_a_damaged_record_costs_its_messages_only() -> None:
    log, needed = moved_log(300, size=200)
    position = log.moved[100]
    inside = {seq for seq, place in log.moved.items() if place == position}
    segment = log.segments[0]
    flip(log.storage, segment.path, 8 * (position - segment.position + RECORD_HEAD_SIZE + 5))
    result = log.plan_fetch(list(needed), 1 << 24, 1 << 24).run()
    assert set(result.doubtful) == inside
    assert result.frames == {seq: body for seq, body in needed.items() if seq not in inside}
    found = read(log, 100)
    assert (found.runs, found.next, found.moved_away) == ([], 100, 100), "it may be elsewhere"
    assert read(log, 100).next == 101, "it is not"


def test_a_message_whose_copy_is_damaged_is_read_from_its_own_segment() -> None:
    log = new_log(MemoryStorage())
    append(log, 3)
    log.roll()
    log.append_moved([(1, frame(1))])
    log.segments[0].emptied = True
    position = log.moved[1]
    flip(log.storage, log.segments[1].path, 8 * (position - log.segments[1].position + RECORD_HEAD_SIZE + 20))
    assert read(log, 1).next == 1
    assert not log.segments[0].emptied, "it is needed again"
    assert read_all(log)[1] == frame(1)


def test_moved_again() -> None:
    log, needed = moved_log(4)
    log.roll()
    log.append_moved(list(needed.items()))
    first, last = log.segments
    assert (first.moved_count, last.moved_count) == (0, 2)
    assert last.moved_bytes == sum(map(len, needed.values()))
    log.drop([first])
    assert {seq: body for seq, body in read_all(log).items() if seq < 4} == needed


def test_what_is_needed_of_a_segment() -> None:
    log, needed = moved_log(300, size=200)
    append(log, 3)
    log.roll()
    segment = log.segments[0]
    plan = log.plan_needed(segment, 64, segment.first, [(300, 301), (302, 303)], 304)
    whole = plan.read(1 << 20)
    assert {seq: body for seq, position, body in whole.messages if position is not None} == needed
    assert [seq for seq, position, _ in whole.messages if position is None] == [300, 302]
    assert whole.own_bytes == plan.measure().own_bytes == len(frame(300)) + len(frame(302))
    pieces, offset, first = [], 64, segment.first
    while offset:
        piece = log.plan_needed(segment, offset, first, [(300, 301), (302, 303)], 304).read(5000)
        pieces += piece.messages
        offset, first = piece.next_offset or 0, piece.next_first
    assert pieces == whole.messages


def test_damage_where_the_read_begins_is_only_of_this_segment() -> None:
    """What is below it would be lost with it, with all that is ready in older segments."""
    storage = MemoryStorage()
    log = new_log(storage)
    for _ in range(2):
        append(log, 3)
        append(log, 3)
        log.roll()
    segment = log.segments[1]
    flip(storage, segment.path, 8 * (64 + 40))
    found = log.plan_needed(segment, 64, segment.first, [(6, 12)], 12).read(1 << 20)
    (damage,) = found.damage
    assert (damage.first, damage.end) == (6, 9)
    assert [seq for seq, _, _ in found.messages] == [9, 10, 11]
