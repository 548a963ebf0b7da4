"""Snapshots in the making: slices, the seal, the name, and what a failure leaves behind."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from nsqd.log.records import FormatError
from nsqd.log.snapshots import SnapshotWriter, load_snapshot, snapshot_name
from nsqd.log.state import Change, Code
from nsqd.log.topic_log import TopicLog
from nsqd.testing.faulty_storage import Fail, FaultyStorage
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.log.samples import FOLDER, append, new_log, read_all, recovered

MIB = 1 << 20


def slices(count: int) -> Iterator[list[Change]]:
    for number in range(1, count + 1):
        yield [(Code.CHANNEL_CREATED, number, f"ch{number}", 0)]


def path_of(writer: SnapshotWriter) -> str:
    return f"{FOLDER}/{snapshot_name(writer.position)}"


def hidden_path(writer: SnapshotWriter) -> str:
    return f"{FOLDER}/.{snapshot_name(writer.position)}.new"


def exists(storage: MemoryStorage, path: str) -> bool:
    try:
        storage.open(path).close()
    except FileNotFoundError:
        return False
    return True


class TestWriting:
    def test_every_step_writes_one_slice(self) -> None:
        storage = MemoryStorage()
        writer = SnapshotWriter.begin(new_log(storage), slices(3))
        assert [writer.step() for _ in range(4)] == [False, False, False, True]
        writer.finish([])
        state, header = load_snapshot(storage, path_of(writer))
        assert sorted(state.channels) == [1, 2, 3]
        assert header.position == writer.position

    def test_an_empty_slice_is_no_record(self) -> None:
        storage = MemoryStorage()
        writer = SnapshotWriter.begin(new_log(storage), iter([[], [(Code.TOPIC_PAUSED, True)], []]))
        while not writer.step():
            pass
        writer.finish([])
        assert load_snapshot(storage, path_of(writer))[0].paused

    def test_a_snapshot_has_no_final_name_before_it_is_valid(self) -> None:
        storage = MemoryStorage()
        writer = SnapshotWriter.begin(new_log(storage), slices(1))
        while not writer.step():
            assert not exists(storage, path_of(writer))
        assert not exists(storage, path_of(writer))
        writer.finish([])
        assert exists(storage, path_of(writer))
        assert not exists(storage, hidden_path(writer))

    def test_a_snapshot_and_its_log_survive_a_power_loss(self) -> None:
        """I1, I3"""
        storage = MemoryStorage()
        log = new_log(storage)
        storage.sync_folder()
        append(log, 2)
        log.roll()
        append(log, 1)
        writer = SnapshotWriter.begin(log, slices(1))
        append(log, 1)
        while not writer.step():
            pass
        writer.finish(list(log.unsynced))
        found = recovered(storage.crash())
        assert found.log.snapshots == [writer.position]
        assert sorted(read_all(found.log)) == [0, 1, 2, 3]

    def test_a_half_made_one_of_an_earlier_life_is_no_obstacle(self) -> None:
        storage = MemoryStorage()
        log = new_log(storage)
        storage.create(f"{FOLDER}/.{snapshot_name(log.position)}.new").append([b"half"])
        writer = SnapshotWriter.begin(log, slices(1))
        while not writer.step():
            pass
        writer.finish([])
        assert load_snapshot(storage, path_of(writer))

    def test_records_are_counted_from_the_snapshot_on(self) -> None:
        log = new_log(MemoryStorage())
        append(log, 1, 1)
        SnapshotWriter.begin(log, slices(1))
        assert log.records_since_snapshot == 0


class TestFailures:
    def test_an_abandoned_one_gives_its_room_back(self) -> None:
        """On a full disk, of all places."""
        storage = MemoryStorage(capacity=MIB)
        log = new_log(storage)
        before = storage.free_space()
        writer = SnapshotWriter.begin(log, iter([[(Code.CHANNEL_CREATED, 1, "x" * MIB, 0)]]))
        with pytest.raises(OSError):
            writer.step()
        writer.abandon()
        assert not exists(storage, hidden_path(writer))
        assert before - storage.free_space() < 100, "only the checkpoint in the log"

    def test_abandoning_may_fail(self) -> None:
        storage = FaultyStorage(MemoryStorage())
        writer = SnapshotWriter.begin(new_log(storage), slices(1))
        storage.fault = lambda operation, path: Fail(errno.EIO)
        writer.abandon()

    @pytest.mark.parametrize("at", [1, 2])
    def test_a_snapshot_that_cannot_begin_leaves_nothing(self, at: int) -> None:
        memory = MemoryStorage()
        storage = FaultyStorage(memory)
        log = new_log(storage)
        position = log.position
        left = [at]

        def fault(operation: str, path: str) -> Fail | None:
            left[0] -= operation == "append"
            return Fail(errno.ENOSPC) if operation == "append" and left[0] == 0 else None

        storage.fault = fault
        with pytest.raises(OSError):
            SnapshotWriter.begin(log, slices(1))
        assert not exists(memory, f"{FOLDER}/.{snapshot_name(position)}.new")
        assert storage.counts["close"] == storage.counts["create"] - 1 if at == 2 else True

    @pytest.mark.parametrize("operation", ["sync", "rename", "sync_folder"])
    def test_a_snapshot_that_cannot_be_finished_is_reported(self, operation: str) -> None:
        storage = FaultyStorage(MemoryStorage())
        log = new_log(storage)
        writer = SnapshotWriter.begin(log, slices(1))
        while not writer.step():
            pass
        storage.fault = lambda asked, path: Fail(errno.EIO) if asked == operation else None
        with pytest.raises(OSError):
            writer.finish(list(log.unsynced))


class TestLoading:
    def written(self, log: TopicLog) -> str:
        writer = SnapshotWriter.begin(log, slices(2))
        while not writer.step():
            pass
        writer.finish([])
        return path_of(writer)

    def test_a_segment_is_none(self) -> None:
        storage = MemoryStorage()
        with pytest.raises(FormatError, match="not a snapshot"):
            load_snapshot(storage, new_log(storage).segments[0].path)

    def test_a_snapshot_without_its_seal_is_not_used(self) -> None:
        storage = MemoryStorage()
        path = self.written(new_log(storage))
        file = storage.open(path)
        file.truncate(file.size - 32)
        with pytest.raises(FormatError, match="never finished"):
            load_snapshot(storage, path)

    def test_an_error_of_the_system_is_no_damage(self) -> None:
        storage = MemoryStorage()
        path = self.written(new_log(storage))
        faulty = FaultyStorage(
            storage, lambda operation, path: Fail(errno.EIO) if operation == "read" else None
        )
        with pytest.raises(OSError):
            load_snapshot(faulty, path)
