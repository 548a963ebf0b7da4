"""What a log says was finished, told from what is settled because it was lost."""

from __future__ import annotations

from nsqd.log.finished import read_finished
from nsqd.log.state import Code
from nsqd.log.topic_log import TopicLog
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.log.samples import append, flip, new_log


def found(log: TopicLog) -> dict[int, list[tuple[int, int]]]:
    return {generation: list(ranges) for generation, ranges in read_finished(log).items()}


def finish(log: TopicLog, generation: int, start: int, length: int) -> None:
    log.append([], [(Code.FINISHED, generation, start, length)], flowing=True)


def test_of_all_segments_and_channels() -> None:
    log = new_log(MemoryStorage())
    append(log, 10)
    finish(log, 1, 0, 3)
    log.roll()
    finish(log, 2, 5, 1)
    finish(log, 1, 8, 2)
    assert found(log) == {1: [(0, 3), (8, 10)], 2: [(5, 6)]}


def test_what_was_lost_is_not_finished() -> None:
    """A lost message that awaited another delivery is written as finished, as nothing can be done about it."""
    log = new_log(MemoryStorage())
    append(log, 10)
    log.append([], [(Code.LOST, 4, 6, True)], flowing=True)
    finish(log, 1, 2, 6)
    assert found(log) == {1: [(2, 4), (6, 8)]}


def test_what_is_before_the_older_snapshot_is_not_read() -> None:
    log = new_log(MemoryStorage())
    append(log, 10)
    finish(log, 1, 0, 3)
    log.snapshots = [log.position, log.position]
    finish(log, 1, 3, 1)
    assert found(log) == {1: [(3, 4)]}


def test_damage_costs_what_is_in_it() -> None:
    storage = MemoryStorage()
    log = new_log(storage)
    append(log, 10)
    at = log.position
    finish(log, 1, 0, 3)
    finish(log, 1, 5, 1)
    flip(storage, log.segments[0].path, 8 * (at + 33))
    assert found(log) == {1: [(5, 6)]}
