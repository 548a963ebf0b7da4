"""Group sync: who shares which one, and that a failed one is the last."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from nsqd.log.file_storage import FileStorage
from nsqd.log.jobs import JobQueue
from nsqd.log.snapshots import SnapshotWriter
from nsqd.log.store import Store, StoreOptions
from nsqd.log.sync import MANY_FILES, Syncer
from nsqd.log.topic_log import SyncError, TopicLog
from nsqd.testing.faulty_storage import Fail, FaultyStorage
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.broker.harness import WALL_NS
from tests.nsqd.log.samples import append, new_log, read_all, recovered
from tests.timing import patience


class Setting:
    def __init__(self) -> None:
        self.memory = MemoryStorage()
        self.storage = FaultyStorage(self.memory)
        self.jobs = JobQueue()
        self.synced: list[int] = []
        self.errors: list[OSError] = []
        self.syncer = Syncer(
            self.storage, self.jobs, lambda: self.synced.append(self.syncer.synced), self.errors.append
        )

    def log(self, name: str = "topic-t") -> TopicLog:
        log = new_log(self.storage, name)
        self.syncer.wrote(log)
        return log

    def write(self, log: TopicLog) -> int:
        append(log, 1)
        return self.syncer.wrote(log)

    def messages_after_power_loss(self, name: str = "topic-t") -> int:
        return len(read_all(recovered(self.memory.crash(), name).log))


class TestSharing:
    def test_all_waiting_tickets_share_one_sync(self) -> None:
        setting = Setting()
        log = setting.log()
        tickets = [setting.write(log) for _ in range(3)]
        setting.syncer.want(tickets[0])
        setting.syncer.want(tickets[2])
        setting.jobs.run_all()
        assert setting.synced == [tickets[2]]
        assert setting.messages_after_power_loss() == 3

    def test_tickets_that_come_during_a_sync_share_the_next(self) -> None:
        setting = Setting()
        log = setting.log()
        first = setting.write(log)
        setting.syncer.want(first)
        sync = setting.jobs.popleft()
        sync.begin()
        late = [setting.write(log), setting.write(log)]
        for ticket in late:
            setting.syncer.want(ticket)
        assert not setting.jobs
        sync.finish()
        assert setting.synced == [first]
        assert setting.syncer.synced < late[0]
        setting.jobs.run_all()
        assert setting.synced == [first, late[1]]
        assert setting.syncer.count == 2
        assert setting.messages_after_power_loss() == 3

    def test_data_that_is_on_the_disk_needs_no_sync(self) -> None:
        setting = Setting()
        ticket = setting.write(setting.log())
        setting.syncer.want(ticket)
        setting.jobs.run_all()
        setting.syncer.want(ticket)
        assert not setting.jobs

    def test_without_a_waiting_ticket_nothing_is_synced(self) -> None:
        setting = Setting()
        setting.write(setting.log())
        assert not setting.jobs

    @pytest.mark.parametrize("count", [1, MANY_FILES + 1])
    def test_many_files_are_synced_together(self, count: int) -> None:
        setting = Setting()
        names = [f"topic-{at}" for at in range(count)]
        for name in names:
            ticket = setting.write(setting.log(name))
        setting.syncer.want(ticket)
        setting.jobs.run_all()
        assert setting.storage.counts["sync_all"] == (count > 1)
        assert all(setting.messages_after_power_loss(name) == 1 for name in names)

    def test_a_file_that_is_synced_is_not_synced_again(self) -> None:
        setting = Setting()
        one, other = setting.log("topic-1"), setting.log("topic-2")
        setting.syncer.want(setting.write(one))
        setting.jobs.run_all()
        before = setting.storage.counts["sync"]
        setting.syncer.want(setting.write(other))
        setting.jobs.run_all()
        assert setting.storage.counts["sync"] == before + 1


class TestFailure:
    def test_a_failed_sync_is_final(self) -> None:
        """The system has forgotten what was lost: a second success would mean nothing."""
        setting = Setting()
        log = setting.log()
        setting.syncer.want(setting.write(log))
        setting.storage.fault = lambda operation, path: Fail(errno.EIO) if operation == "sync" else None
        setting.jobs.run_all()
        setting.storage.fault = lambda operation, path: None
        assert [error.errno for error in setting.errors] == [errno.EIO]
        setting.syncer.want(setting.write(log))
        assert not setting.jobs
        assert setting.synced == []

    def test_an_orderly_stop_says_so(self) -> None:
        setting = Setting()
        setting.write(setting.log())
        setting.storage.fault = lambda operation, path: Fail(errno.EIO) if operation == "sync" else None
        with pytest.raises(OSError):
            setting.syncer.sync_now()
        assert setting.syncer.synced == 0


class TestWhatGoesMeanwhile:
    @pytest.mark.parametrize("when", ["before", "meanwhile"])
    def test_a_topic_that_is_deleted_is_no_failure(self, when: str) -> None:
        setting = Setting()
        log, other = setting.log(), setting.log("topic-2")
        ticket = setting.write(log)
        setting.write(other)
        if when == "meanwhile":
            setting.syncer.want(ticket + 1)
        setting.storage.rename_folder(log.folder, "trash-1")
        log.deleted = True
        log.close()
        setting.syncer.want(setting.syncer.renamed())
        setting.jobs.run_all()
        assert not setting.errors
        assert setting.memory.crash().folders() == ["topic-2", "trash-1"]
        assert setting.messages_after_power_loss("topic-2") == 1

    def test_a_segment_that_is_released_is_no_failure(self) -> None:
        setting = Setting()
        log = setting.log()
        setting.write(log)
        log.roll()
        setting.syncer.want(setting.write(log))
        old = log.segments[0]
        log.drop([old])
        old.file.close()
        setting.storage.remove(old.path)
        setting.jobs.run_all()
        assert not setting.errors
        assert setting.synced

    def test_an_error_of_a_living_file_is_one(self) -> None:
        setting = Setting()
        log = setting.log()
        setting.syncer.want(setting.write(log))
        setting.storage.fault = lambda operation, path: Fail(errno.EIO) if operation == "sync" else None
        setting.jobs.run_all()
        assert [type(error) for error in setting.errors] == [SyncError]

    def test_a_segment_that_is_sealed_is_closed_when_it_is_synced(self) -> None:
        setting = Setting()
        log = setting.log()
        setting.write(log)
        sealed = log.segments[0]
        log.roll()
        assert not sealed.file.closed, "a lost write is told to this descriptor"
        setting.syncer.want(setting.write(log))
        setting.jobs.run_all()
        assert (sealed.file.closed, log.segments[1].file.closed) == (True, False)
        log.roll()
        assert log.segments[1].file.closed, "it was synced already"

    def test_a_file_that_another_sync_has_closed_is_no_failure(self) -> None:
        """A snapshot's job has a list of what was unsynced when it was made."""
        setting = Setting()
        log = setting.log()
        setting.write(log)
        log.roll()
        unsynced = log.unsynced
        setting.syncer.want(setting.write(log))
        setting.jobs.run_all()
        assert unsynced[0].file.closed
        log.sync_files(unsynced)
        assert setting.storage.counts["sync_all"] == 0

    def test_what_an_earlier_life_has_written_is_synced_with_everything(self) -> None:
        """No descriptor is opened for it, and none that is there knows whether its writes were lost."""
        setting = Setting()
        log = setting.log()
        for _ in range(2):
            setting.write(log)
            log.roll()
        found = recovered(setting.storage)
        assert len(found.log.unsynced) == 3
        assert all(segment.file.closed for segment in found.log.segments)
        found.log.sync_files(found.log.unsynced)
        assert setting.storage.counts["sync_all"] == 1
        setting.syncer.want(setting.syncer.wrote(found.log))
        setting.jobs.run_all()
        assert setting.storage.counts["sync_all"] == 2
        assert not found.log.unsynced
        assert setting.messages_after_power_loss() == 2

    def test_a_sync_of_everything_that_fails_is_an_error_of_the_log(self) -> None:
        setting = Setting()
        setting.write(setting.log())
        found = recovered(setting.storage)
        setting.storage.fault = lambda operation, path: Fail(errno.EIO) if operation == "sync_all" else None
        with pytest.raises(SyncError):
            found.log.sync_files(found.log.unsynced)


class TestWhatIsUnsynced:
    def test_a_file_counts_as_unsynced_until_its_sync_has_ended(self) -> None:
        """I1: a snapshot that is finished meanwhile must not speak of what a power loss still takes away."""
        setting = Setting()
        log = setting.log()
        setting.syncer.want(setting.write(log))
        setting.jobs.run_all()
        setting.write(log)
        writer = SnapshotWriter.begin(log, iter([]))
        setting.syncer.want(setting.syncer.wrote(log))
        assert writer.step()
        writer.finish(list(log.unsynced))  # the sync has not even begun
        found = recovered(setting.memory.crash())
        assert found.log.snapshots
        assert sorted(read_all(found.log)) == [0, 1]

    def test_data_written_during_a_sync_is_unsynced_after_the_sync(self) -> None:
        setting = Setting()
        log = setting.log()
        setting.syncer.want(setting.write(log))
        sync = setting.jobs.popleft()
        sync.begin()
        late = setting.write(log)
        sync.finish()
        assert log.unsynced
        setting.syncer.want(late)
        setting.jobs.run_all()
        assert not log.unsynced
        assert setting.messages_after_power_loss() == 2

    def test_an_orderly_stop_syncs_everything(self) -> None:
        setting = Setting()
        log = setting.log()
        ticket = setting.write(log)
        setting.syncer.sync_now()
        assert setting.syncer.synced == ticket
        assert not log.unsynced
        assert setting.messages_after_power_loss() == 1


def test_deleting_a_topic_during_the_sync_of_its_folder_is_no_failed_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed sync stops the daemon; but nobody waits for the folder of a topic that is deleted."""
    storage = FileStorage(tmp_path)
    store = Store(storage, StoreOptions(min_free_space=0, ballast_bytes=0), WALL_NS)
    log = store.create_topic("t", WALL_NS)
    store.syncer.want(store.syncer.written)
    (job,) = (job for job in store.jobs if job.name == "sync")
    job.begin()
    errors: list[OSError] = []

    def work() -> None:
        try:
            job.work()
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    rename = storage.rename_folder

    def rename_and_sync(folder: str, to: str) -> None:
        rename(folder, to)
        thread.start()  # the sync goes on right here, before the log is known to be deleted
        thread.join(0.3)

    monkeypatch.setattr(storage, "rename_folder", rename_and_sync)
    store.delete_topic(log)
    thread.join(patience(5))
    assert not thread.is_alive()
    assert not errors
    storage.close()
