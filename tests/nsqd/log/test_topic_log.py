"""One topic's log: sequence numbers, appends that fail, segments, reads, removal."""

from __future__ import annotations

import errno
import itertools
import operator
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsqd.log.records import FILE_HEADER_SIZE, FileHeader, FileKind, Kind
from nsqd.log.scan import Record, scan
from nsqd.log.segment import INDEX_EVERY, ReadPlan, ReadResult, Segment, segment_name
from nsqd.log.state import Code
from nsqd.log.topic_log import WRITE_BACK_EVERY, Batch, TopicLog
from nsqd.testing.faulty_storage import Break, Fail, Fault, FaultyStorage
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.log.samples import (
    FOLDER,
    GENERATION,
    append,
    content,
    everything,
    flip,
    frame,
    frames,
    new_log,
    read_all,
    recovered,
    segments,
    sync,
)


def records(log: TopicLog) -> list[Record]:
    """Every record of the log as it stands in the files."""
    out = []
    for segment in log.segments:
        for item in scan(segment.file.read, FILE_HEADER_SIZE, segment.file.size, segment.salt, 0):
            assert isinstance(item, Record)
            out.append(item)
    return out


def read(log: TopicLog, seq: int, max_bytes: int = 1) -> ReadResult:
    result = log.plan(seq, max_bytes).run()
    assert result is not None
    return result


class TestAppend:
    def test_numbers_rise_by_one(self) -> None:
        log = new_log(MemoryStorage())
        append(log, 3)
        append(log, 1, 2)
        assert log.end == 6
        assert [item.head.first for item in records(log)] == [0, 3, 4]
        assert read_all(log) == dict(enumerate(frames(0, 6)))

    def test_one_append_is_one_write(self) -> None:
        faulty = FaultyStorage(MemoryStorage())
        log = new_log(faulty)
        before = faulty.counts["append"]
        log.append(
            [Batch.of(frames(0, 2)), Batch.of(frames(2, 1), [5])], [(Code.TOPIC_PAUSED, True)], flowing=True
        )
        assert faulty.counts["append"] == before + 1
        heads = [item.head for item in records(log)]
        assert [(head.kind, head.first, head.count) for head in heads] == [
            (Kind.MESSAGES, 0, 2),
            (Kind.DEFERRED, 2, 1),
            (Kind.CHANGES, 3, 1),
        ]
        assert [head.flowing for head in heads] == [True, True, False]

    def test_an_append_counts_its_records(self) -> None:
        log = new_log(MemoryStorage())
        append(log, 3, 1)
        log.append((), [(Code.TOPIC_PAUSED, True), (Code.TOPIC_PAUSED, False)])
        assert log.records_since_snapshot == 3

    def test_a_file_is_unsynced_until_it_is_synced(self) -> None:
        log = new_log(MemoryStorage())
        sync(log)
        assert log.unsynced == []
        append(log, 1)
        assert log.unsynced == log.segments
        sync(log)
        assert log.unsynced == []

    def test_writing_back_begins_early(self) -> None:
        faulty = FaultyStorage(MemoryStorage())
        log = new_log(faulty, max_segment_bytes=100 << 20)
        body = frame(0, bytes(1 << 20))
        for _ in range(10):
            log.append([Batch.of([body])])
        assert faulty.counts["start_writeback"] == 10 * (1 << 20) // WRITE_BACK_EVERY


class TestFailedAppend:
    """I15: what failed leaves no trace, and its sequence numbers are not used again."""

    def faulty(self, fault: Fault) -> tuple[FaultyStorage, TopicLog]:
        storage = FaultyStorage(MemoryStorage())
        log = new_log(storage)
        append(log, 2)
        storage.fault = lambda operation, path: fault if operation == "append" else None
        return storage, log

    def test_its_sequence_numbers_are_aborted(self) -> None:
        storage, log = self.faulty(Fail(errno.ENOSPC))
        before = everything(storage.inner)
        with pytest.raises(OSError):
            append(log, 2, 1)
        assert log.end == 5
        assert everything(storage.inner) == before
        storage.fault = lambda operation, path: None
        append(log, 1)
        assert sorted(read_all(log)) == [0, 1, 5]

    def test_a_change_has_no_numbers(self) -> None:
        _, log = self.faulty(Fail(errno.EIO))
        with pytest.raises(OSError):
            log.append((), [(Code.TOPIC_PAUSED, True)])
        assert log.end == 2
        assert log.records_since_snapshot == 1

    def test_behind_a_broken_file_a_new_segment_begins(self) -> None:
        storage, log = self.faulty(Break(errno.EIO, 20))
        with pytest.raises(OSError):
            append(log, 3)
        storage.fault = lambda operation, path: None
        position = log.position
        append(log, 1)
        assert [segment.position for segment in log.segments] == [0, position]
        assert sorted(read_all(log)) == [0, 1, 5]

    @pytest.mark.parametrize("operation", ["create", "append", "rename"])
    def test_a_new_segment_that_cannot_be_made(self, operation: str) -> None:
        storage = FaultyStorage(MemoryStorage())
        log = new_log(storage, max_segment_bytes=100)
        append(log, 2)
        storage.fault = lambda asked, path: Fail(errno.ENOSPC) if asked == operation else None
        for _ in range(2):
            with pytest.raises(OSError):
                append(log, 2)
        assert len(log.segments) == 1
        storage.fault = lambda asked, path: None
        append(log, 1)
        assert sorted(read_all(log)) == [0, 1, 6]
        assert sorted(read_all(recovered(storage.inner.kill()).log)) == [0, 1, 6]  # type: ignore[attr-defined]


class TestSegments:
    def test_a_full_one_is_followed_by_another(self) -> None:
        storage = MemoryStorage()
        log = new_log(storage, max_segment_bytes=300)
        for _ in range(10):
            append(log, 2)
        assert len(log.segments) > 3
        for segment, following in zip(log.segments, log.segments[1:], strict=False):
            assert following.position == segment.position + segment.file.size
            assert 300 <= segment.file.size < 600
        assert log.position == log.segments[-1].end
        assert log.bytes_on_disk == log.position
        assert read_all(log) == dict(enumerate(frames(0, 20)))

    def test_the_header_of_a_segment_says_where_it_belongs(self) -> None:
        storage = MemoryStorage()
        log = new_log(storage)
        append(log, 3)
        segment = log.roll()
        header = FileHeader.decode(content(storage, f"{FOLDER}/{segment_name(segment.position)}"))
        assert (header.kind, header.generation, header.first) == (FileKind.SEGMENT, GENERATION, 3)
        assert (header.position, header.salt) == (segment.position, segment.salt)
        assert header.created_ns == 1

    def test_a_half_made_one_of_an_earlier_life_is_no_obstacle(self) -> None:
        storage = MemoryStorage()
        log = new_log(storage)
        append(log, 1)
        storage.create(f"{FOLDER}/.{segment_name(log.position)}.new").append([b"half a header"])
        log.roll()
        append(log, 1)
        assert sorted(read_all(recovered(storage.kill()).log)) == [0, 1]

    def test_an_incomplete_segment_has_no_name(self) -> None:
        storage = FaultyStorage(MemoryStorage())
        log = new_log(storage)
        names: list[list[str]] = []

        def look(operation: str, path: str) -> None:
            names.append(storage.inner.files(FOLDER))

        storage.fault = look
        log.roll()
        assert all(len(seen) == 1 for seen in names)


class TestRead:
    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=15),
        st.integers(100, 1000),
        st.integers(1, 2000),
        st.data(),
    )
    def test_by_any_number(
        self, appends: list[list[int]], segment_bytes: int, max_bytes: int, data: st.DataObject
    ) -> None:
        log = new_log(MemoryStorage(), max_segment_bytes=segment_bytes)
        for sizes in appends:
            append(log, *sizes)
        seq = data.draw(st.integers(0, log.end - 1))
        assert read_all(log, seq, max_bytes) == dict(enumerate(frames(seq, log.end - seq), seq))
        if data.draw(st.booleans()):
            log = recovered(log.storage.kill()).log  # type: ignore[attr-defined]
            assert read_all(log, seq, max_bytes) == dict(enumerate(frames(seq, log.end - seq), seq))

    def test_a_read_stops_near_its_size(self) -> None:
        log = new_log(MemoryStorage())
        for _ in range(100):
            append(log, 1)
        result = read(log, 10, 300)
        assert result.runs[0].first == 10
        count = len(result.runs[0].frames)
        assert count == -(-300 // len(frame(10)))
        assert result.next == 10 + count

    def test_from_the_middle_of_a_batch(self) -> None:
        log = new_log(MemoryStorage())
        append(log, 5)
        (run,) = read(log, 3).runs
        assert (run.first, run.frames) == (3, frames(3, 2))

    def test_deferred_messages_are_messages(self) -> None:
        log = new_log(MemoryStorage())
        log.append([Batch.of(frames(0, 2), [5, 6])])
        assert read_all(log) == dict(enumerate(frames(0, 2)))

    def test_changes_are_passed_over(self) -> None:
        log = new_log(MemoryStorage())
        append(log, 1)
        for _ in range(50):
            log.append((), [(Code.TOPIC_PAUSED, True)])
        append(log, 1)
        assert sorted(read_all(log)) == [0, 1]

    def test_only_what_was_appended_before_the_plan(self) -> None:
        log = new_log(MemoryStorage())
        append(log, 2)
        plan = log.plan(0, 1 << 20)
        append(log, 2)
        result = plan.run()
        assert result is not None
        assert (len(result.runs), result.next) == (1, 2)

    def test_aborted_sequence_numbers_are_passed_over(self) -> None:
        storage = FaultyStorage(MemoryStorage())
        log = new_log(storage)
        storage.fault = lambda operation, path: Fail(errno.ENOSPC) if operation == "append" else None
        with pytest.raises(OSError):
            append(log, 4)
        storage.fault = lambda operation, path: None
        append(log, 1)
        result = read(log, 1)
        assert (result.runs[0].first, result.next, result.damage) == (4, 5, [])

    def test_behind_the_end_nothing_can_be_asked_for(self) -> None:
        log = new_log(MemoryStorage())
        append(log, 1)
        with pytest.raises(AssertionError):
            log.plan(1, 1)

    def test_without_waiting_a_cold_file_gives_nothing(self) -> None:
        storage = MemoryStorage()
        log = new_log(storage)
        append(log, 2)
        storage.cold = True
        plan = log.plan(0, 100)
        assert plan.run(wait=False) is None
        assert plan.run() is not None

    def test_without_waiting_what_was_found_before_is_given(self) -> None:
        storage = MemoryStorage()
        log = new_log(storage)
        for _ in range(3):
            log.append([Batch.of([frame(log.end, bytes(100_000))])])

        class Cold:
            """Only the first bytes are in memory."""

            size = log.segments[0].file.size
            inner = log.segments[0].file

            def read(self, offset: int, size: int, *, wait: bool = True) -> bytes:
                if not wait and offset + size > 210_000:
                    raise BlockingIOError
                return self.inner.read(offset, size, wait=wait)

        log.segments[0].file = Cold()  # type: ignore[assignment]
        result = log.plan(0, 1).run(wait=False)
        assert result is not None
        assert (len(result.runs), result.next) == (1, 1)

    def test_without_waiting_nothing_is_searched_for_long(self) -> None:
        log = new_log(MemoryStorage(), max_segment_bytes=100 << 20)
        for _ in range(6):
            log.append([Batch.of([frame(log.end, bytes(1 << 20))])])
        segment = log.segments[0]
        del segment.marks[1:]  # as after a start
        assert log.plan(5, 1).run(wait=False) is None
        result = read(log, 5)
        assert result.runs[0].first == 5
        log.accept(result)
        assert log.plan(5, 1).run(wait=False) is not None

    def test_an_error_of_the_disk_is_no_damage(self) -> None:
        storage = FaultyStorage(MemoryStorage())
        log = new_log(storage)
        append(log, 2)
        storage.fault = lambda operation, path: Fail(errno.EIO) if operation == "read" else None
        with pytest.raises(OSError):
            log.plan(0, 1).run()


class TestDamageOnRead:
    def damaged(self) -> tuple[MemoryStorage, TopicLog, bytes]:
        """Three batches of two; the one in the middle has a flipped bit."""
        storage = MemoryStorage()
        log = new_log(storage)
        for _ in range(3):
            append(log, 2)
        start = records(log)[1].offset
        bad = content(storage, segments(storage)[0])[start : records(log)[2].offset]
        flip(storage, segments(storage)[0], 8 * (start + 60))
        log.segments[0].file = storage.open(segments(storage)[0])
        return storage, log, bad

    def test_the_rest_is_there(self) -> None:
        _, log, _ = self.damaged()
        assert sorted(read_all(log)) == [0, 1, 4, 5]

    def test_damage_is_reported_with_its_numbers(self) -> None:
        _, log, bad = self.damaged()
        (damage,) = read(log, 2).damage
        assert (damage.first, damage.end, damage.size) == (2, 4, len(bad))
        assert damage.path == segments(log.storage)[0]
        assert "payload" in damage.reason

    def test_damaged_bytes_are_set_aside_once(self) -> None:
        storage, log, bad = self.damaged()
        result = read(log, 2)
        log.accept(result)
        path = f"{result.damage[0].path}.{result.damage[0].offset}.damaged"
        assert len(content(storage, path)) == len(bad)
        storage.remove(path)
        log.accept(result)
        assert path.rpartition("/")[2] not in storage.files(FOLDER)

    def test_setting_aside_may_fail(self) -> None:
        storage, log, _ = self.damaged()
        result = read(log, 2)
        log.storage = FaultyStorage(storage, lambda operation, path: Fail(errno.EMFILE))
        log.accept(result)
        assert not any(name.endswith(".damaged") for name in storage.files(FOLDER))

    def test_at_the_end_of_a_segment(self) -> None:
        storage = MemoryStorage()
        log = new_log(storage)
        append(log, 2)
        append(log, 2)
        log.roll()
        append(log, 1)
        flip(storage, segments(storage)[0], 8 * (log.segments[0].file.size - 1))
        log.segments[0].file = storage.open(segments(storage)[0])
        assert sorted(read_all(log)) == [0, 1, 4]


class TestIndex:
    def long_log(self) -> TopicLog:
        log = new_log(MemoryStorage(), max_segment_bytes=100 << 20)
        for _ in range(40):
            log.append([Batch.of([frame(log.end, bytes(20_000))])])
        return log

    def test_appending_builds_the_index(self) -> None:
        log = self.long_log()
        offsets = [offset for _, offset in log.segments[0].marks]
        assert all(b - a >= INDEX_EVERY for a, b in itertools.pairwise(offsets))
        assert len(offsets) == 10
        plan = log.plan(30, 1)
        assert isinstance(plan, ReadPlan)
        assert plan.first <= 30
        assert plan.first > 25

    def test_reading_builds_the_index_again(self) -> None:
        log = recovered(self.long_log().storage.kill()).log  # type: ignore[attr-defined]
        segment = log.segments[0]
        del segment.marks[1:]
        read_all(log)
        assert len(segment.marks) == 10

    def test_reading_fills_what_lies_before_the_replay(self) -> None:
        """A snapshot lets the replay begin in the middle: what is before it is searched only once too."""
        log = self.long_log()
        segment = log.segments[0]
        del segment.marks[1:8]
        read_all(log)
        assert len(segment.marks) >= 9
        assert all(a < b and c < d for (a, c), (b, d) in itertools.pairwise(segment.marks))
        plan = log.plan(20, 1)
        assert isinstance(plan, ReadPlan)
        assert plan.first > 15


def needless(segment: Segment) -> bool:
    return True


class TestRetention:
    def log(self) -> TopicLog:
        log = new_log(MemoryStorage(), max_segment_bytes=200)
        for _ in range(12):
            append(log, 1)
        assert len(log.segments) >= 4
        return log

    def test_nothing_goes_without_two_snapshots(self) -> None:
        log = self.log()
        assert log.releasable(needless) == []
        log.snapshots = [log.position]
        assert log.releasable(needless) == []

    def test_segments_that_the_older_snapshot_needs_stay(self) -> None:
        log = self.log()
        log.snapshots = [log.segments[2].position, log.position]
        assert log.releasable(needless) == log.segments[:2]
        log.snapshots[0] += 1
        assert log.releasable(needless) == log.segments[:2]

    def test_segments_that_a_channel_needs_stay(self) -> None:
        """I1"""
        log = self.log()
        log.snapshots = [log.position, log.position]
        for needed in log.segments[:-1]:
            gone = log.releasable(partial(operator.is_not, needed))
            assert gone == [segment for segment in log.segments[:-1] if segment is not needed]

    def test_the_last_segment_never_goes(self) -> None:
        log = self.log()
        log.snapshots = [log.position, log.position]
        assert log.releasable(needless) == log.segments[:-1]

    def test_dropped_segments_are_forgotten(self) -> None:
        log = self.log()
        gone, kept = log.segments[:2], log.segments[2:]
        log.drop(gone)
        assert log.segments == kept
        assert not set(log.unsynced) & set(gone)
        assert all(segment.file.closed for segment in gone)
        assert min(read_all(log, log.segments[0].first)) == log.segments[0].first

    def test_a_number_that_is_gone_is_not_taken_for_another(self) -> None:
        log = self.log()
        log.drop(log.segments[1:3])
        for seq in range(log.segments[0].next_first or 0, log.segments[1].first):
            result = read(log, seq)
            assert (result.runs, result.next) == ([], seq + 1)
