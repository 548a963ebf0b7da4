"""Which segments have an open file: few descriptors for many topics, and no lost write unheard of."""

from __future__ import annotations

import errno
import random
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nsqd.log.file_storage import FileStorage
from nsqd.log.store import Store, StoreOptions
from nsqd.log.topic_log import SyncError, TopicLog
from nsqd.log.writers import Writers
from tests.nsqd.log.samples import GENERATION, SEGMENT_BYTES, append, frame, read_all, recovered, sync
from tests.nsqd.testing.system_calls import Calls, fails_with, held_below, no_descriptors_left

WALL_NS = 1_700_000_000 * 10**9


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[FileStorage]:
    storage = FileStorage(tmp_path)
    yield storage
    storage.close()


def new_log(storage: FileStorage, name: str, writers: Writers) -> TopicLog:
    """An empty log with its first segment, which is not synced."""
    storage.make_folder(name)
    log = TopicLog(storage, name, GENERATION, max_segment_bytes=SEGMENT_BYTES, writers=writers)
    log.roll()
    return log


def synced_log(storage: FileStorage, name: str, writers: Writers) -> TopicLog:
    log = new_log(storage, name, writers)
    sync(log)
    return log


def is_open(log: TopicLog) -> bool:
    return not log.segments[-1].file.closed


class TestLimit:
    def test_at_least_one(self) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            Writers(0)

    @pytest.mark.parametrize("limit", [1, 4])
    def test_no_more_than_allowed(self, storage: FileStorage, tmp_path: Path, limit: int) -> None:
        writers = Writers(limit)
        logs = [synced_log(storage, f"topic-{number}", writers) for number in range(20)]
        for count in (1, 2):
            for log in logs:
                append(log, 1)
                sync(log)
                assert held_below(tmp_path) <= limit
            for log in logs:
                assert len(read_all(log)) == count
        assert held_below(tmp_path) == limit
        for log in logs:
            log.close()
        assert held_below(tmp_path) == 0

    def test_the_least_recently_appended_to_goes_first(self, storage: FileStorage) -> None:
        writers = Writers(2)
        a, b = synced_log(storage, "topic-a", writers), synced_log(storage, "topic-b", writers)
        append(a, 1)
        sync(a)
        new_log(storage, "topic-c", writers)
        assert (is_open(a), is_open(b)) == (True, False)

    def test_reading_is_no_use(self, storage: FileStorage) -> None:
        """A read has a descriptor of its own."""
        writers = Writers(2)
        a, b = synced_log(storage, "topic-a", writers), synced_log(storage, "topic-b", writers)
        for log in (a, b):
            append(log, 1)
            sync(log)
        assert read_all(a) == {0: frame(0)}
        new_log(storage, "topic-c", writers)
        assert (is_open(a), is_open(b)) == (False, True)

    def test_unsynced_ones_stay_open(self, storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        writers = Writers(3)
        synced = [synced_log(storage, f"topic-{number}", writers) for number in range(2)]
        unsynced = new_log(storage, "topic-unsynced", writers)
        calls = Calls(monkeypatch, "fdatasync")
        append(synced[0], 1)
        for number in range(2, 8):
            append(new_log(storage, f"topic-{number}", writers), 1)
        assert [is_open(log) for log in (*synced, unsynced)] == [True, False, True]
        assert calls.count == 0

    def test_when_all_are_unsynced_there_are_more_until_a_sync(
        self, storage: FileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An append must not wait for the disk because another topic's descriptor would be needed."""
        writers = Writers(2)
        calls = Calls(monkeypatch, "fdatasync")
        logs = [new_log(storage, f"topic-{number}", writers) for number in range(5)]
        assert (held_below(tmp_path), calls.count) == (5, 0)
        sync(logs[0])
        assert not is_open(logs[0]), "one too many, and now it can go"
        for log in logs[1:]:
            sync(log)
        assert [is_open(log) for log in logs] == [False, False, False, True, True]

    def test_an_append_during_a_sync_is_unsynced(self, storage: FileStorage) -> None:
        writers = Writers(1)
        log = new_log(storage, "topic-a", writers)
        size = log.segments[-1].file.size
        log.sync_files(log.unsynced)
        append(log, 1)
        log.note_synced(log.segments[-1], size)
        new_log(storage, "topic-b", writers)
        assert is_open(log)
        assert log.unsynced == log.segments

    def test_sealed_ones_count_until_they_are_synced(self, storage: FileStorage, tmp_path: Path) -> None:
        log = new_log(storage, "topic-a", Writers(1))
        for _ in range(4):
            append(log, 1)
            log.roll()
        assert held_below(tmp_path) == 5
        sync(log)
        assert held_below(tmp_path) == 1
        assert is_open(log)

    def test_a_thousand_topics_on_64_descriptors(self, storage: FileStorage, tmp_path: Path) -> None:
        store = Store(storage, StoreOptions(min_free_space=0, ballast_bytes=0, max_writers=64), WALL_NS)
        logs = [store.create_topic(f"t{number}", WALL_NS) for number in range(1000)]
        for _ in range(3):
            for at in range(0, 1000, 50):  # 50 topics are written to between two syncs
                for log in logs[at : at + 50]:
                    append(log, 2)
                    store.wrote(log)
                store.syncer.want(store.syncer.written)
                store.jobs.run_all()
                assert held_below(tmp_path) <= 64
        assert all(read_all(log) == {n: frame(n) for n in range(6)} for log in logs)
        assert held_below(tmp_path) == 64
        for log in logs:
            log.close()
        again = Store(storage, StoreOptions(min_free_space=0, ballast_bytes=0, max_writers=64), WALL_NS)
        found = [topic.log for _, topic in again.topics(WALL_NS)]
        assert len(found) == 1000
        assert held_below(tmp_path) == 0, "recovery keeps nothing open that it did not have to change"
        for log in found:
            append(log, 1)
        assert held_below(tmp_path) == 1000, "none is synced yet"
        again.syncer.want(again.syncer.written)
        again.jobs.run_all()
        assert held_below(tmp_path) <= 1000
        again.close()

    def test_crowded_while_more_than_so_many_are_open(self, storage: FileStorage) -> None:
        writers = Writers(1, crowd=2)
        logs = [new_log(storage, f"topic-{number}", writers) for number in range(2)]
        assert not writers.crowded
        logs.append(new_log(storage, "topic-2", writers))
        assert writers.crowded
        for log in logs:
            sync(log)
        assert not writers.crowded

    def test_recovery_stays_near_the_limit_where_every_topic_has_to_be_cut(
        self, storage: FileStorage, tmp_path: Path
    ) -> None:
        """I12, I13"""
        store = Store(storage, StoreOptions(min_free_space=0, ballast_bytes=0), WALL_NS)
        for number in range(10):
            append(store.create_topic(f"topic{number}", WALL_NS), 1)
        storage.close()
        for path in tmp_path.glob("topic-*/*.log"):
            path.write_bytes(path.read_bytes() + b"torn")
        again = FileStorage(tmp_path)
        options = StoreOptions(min_free_space=0, ballast_bytes=0, max_writers=3)
        held = []
        for _, found in Store(again, options, WALL_NS).topics(WALL_NS):
            assert found.torn_bytes == 4
            held.append(held_below(tmp_path))
        again.close()
        assert held == [1, 2, 3, *[4] * 7]


class TestNoneLeft:
    """The process has no descriptor left."""

    def test_an_idle_one_goes(self, storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        writers = Writers(10)
        idle = [synced_log(storage, f"topic-{number}", writers) for number in range(3)]
        calls = Calls(monkeypatch, "fdatasync")
        with no_descriptors_left():
            append(new_log(storage, "topic-new", writers), 1)
            assert [is_open(log) for log in idle] == [False, True, True]
            append(idle[0], 1)
            assert [is_open(log) for log in idle] == [True, False, True]
        assert calls.count == 0

    def test_the_oldest_is_synced_where_all_are_unsynced(
        self, storage: FileStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writers = Writers(10)
        a, b = new_log(storage, "topic-a", writers), new_log(storage, "topic-b", writers)
        calls = Calls(monkeypatch, "fdatasync")
        with no_descriptors_left():
            new_log(storage, "topic-c", writers)
            assert (is_open(a), is_open(b), calls.count) == (False, True, 1)
        assert not a.unsynced

    def test_an_error_of_that_sync_is_kept(
        self, storage: FileStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = new_log(storage, "topic-a", Writers(10))
        calls = Calls(monkeypatch, "fdatasync", errno.EIO)
        storage.make_folder("topic-b")
        other = TopicLog(storage, "topic-b", 1, max_segment_bytes=1000, writers=log.writers)
        with no_descriptors_left(), fails_with(errno.EMFILE):
            other.roll()
        assert is_open(log)
        for _ in range(2):
            with pytest.raises(SyncError):
                log.sync_files(log.unsynced)
        assert calls.count == 1

    def test_a_read_that_may_not_wait(self, storage: FileStorage) -> None:
        writers = Writers(10)
        log, idle = new_log(storage, "topic-a", writers), synced_log(storage, "topic-idle", writers)
        append(log, 1)
        sync(log)
        with no_descriptors_left():
            result = log.plan(0, 1000).run(wait=False)
            assert result is not None
            assert result.runs[0].frames == [frame(0)]
        assert is_open(log) != is_open(idle)

    def test_a_read_in_a_worker_says_so(self, storage: FileStorage) -> None:
        """It must not touch what belongs to the event loop; the reader tries again."""
        log = new_log(storage, "topic-a", Writers(10))
        append(log, 1)
        sync(log)
        plan = log.plan(0, 1000)
        with no_descriptors_left(), ThreadPoolExecutor(1) as pool, fails_with(errno.EMFILE):
            pool.submit(plan.run).result()
        assert is_open(log)

    def test_many_topics(self, storage: FileStorage) -> None:
        writers = Writers(1000)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare = storage.create("spare")
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare._descriptor + 20, hard))
        try:
            logs = [new_log(storage, f"topic-{number}", writers) for number in range(60)]
            for log in logs:
                append(log, 1)
            for log in logs:
                result = log.plan(0, 1000).run(wait=False)
                assert result is not None
                assert result.runs[0].frames == [frame(0)]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_other_errors_close_nothing(self, storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        writers = Writers(1)
        log = synced_log(storage, "topic-a", writers)
        synced_log(storage, "topic-b", writers)
        assert not is_open(log)
        calls = Calls(monkeypatch, "open", errno.EACCES)
        with fails_with(errno.EACCES):
            append(log, 1)
        assert calls.count == 1
        assert log.end == 1, "the number is aborted"
        append(log, 1)
        assert list(read_all(log)) == [1]


class TestLostWrites:
    def test_a_sync_error_outlives_every_eviction(
        self, storage: FileStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writers = Writers(1)
        log = new_log(storage, "topic-a", writers)
        calls = Calls(monkeypatch, "fdatasync", errno.EIO)
        with pytest.raises(SyncError):
            log.sync_files(log.unsynced)
        for number in range(5):
            synced_log(storage, f"topic-{number}", writers)
        calls.count = 0
        assert is_open(log), "it is not synced, and never will be"
        with pytest.raises(SyncError):
            log.sync_files(log.unsynced)
        other = storage.open(log.segments[0].path)
        with fails_with(errno.EIO):
            other.sync()
        assert calls.count == 0

    def test_a_closed_file_was_synced(self, storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever happens: a file that was written to is closed only after a sync of its last byte."""
        written: dict[int, int] = {}
        real_write, real_sync = Calls(monkeypatch, "pwritev"), Calls(monkeypatch, "fdatasync")
        rng, writers = random.Random(7), Writers(3)

        def write(real: Callable[..., int], descriptor: int, buffers: Any, offset: int) -> int:
            count = real(descriptor, buffers, offset)
            written[descriptor] = written.get(descriptor, 0) + count
            return count

        def fdatasync(real: Callable[..., None], descriptor: int) -> None:
            real(descriptor)
            written.pop(descriptor, None)

        def close(real: Callable[..., None], descriptor: int) -> None:
            assert descriptor not in written
            real(descriptor)

        real_write.answers, real_sync.answers = [write] * 10_000, [fdatasync] * 10_000
        Calls(monkeypatch, "close", *[close] * 10_000)
        logs = [new_log(storage, f"topic-{number}", writers) for number in range(8)]
        for _ in range(600):
            log = rng.choice(logs)
            what = rng.choice(["append", "append", "sync", "roll", "read"])
            if what == "append":
                append(log, 1)
            elif what == "sync":
                sync(log)
            elif what == "roll":
                log.roll()
            elif log.end:
                log.plan(rng.randrange(log.end), 1000).run()
        for log in logs:
            sync(log)


class TestReads:
    @pytest.mark.parametrize("wait", [True, False])
    @pytest.mark.parametrize("cold", [True, False])
    def test_a_read_holds_no_descriptor_afterwards(
        self, storage: FileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: bool, cold: bool
    ) -> None:
        log = new_log(storage, "topic-a", Writers(1))
        append(log, 3)
        log.roll()
        sync(log)
        new_log(storage, "topic-b", log.writers)
        before = held_below(tmp_path)
        during: list[int] = []

        def count(real: Callable[..., Any], *args: Any) -> Any:
            during.append(held_below(tmp_path))
            if cold and not wait:
                raise BlockingIOError
            return real(*args)

        Calls(monkeypatch, "pread" if wait else "preadv", count)
        result = log.plan(0, 1000).run(wait=wait)
        assert (result is None) == (cold and not wait)
        assert during == [before + 1]
        assert held_below(tmp_path) == before

    def test_an_error_leaves_none_either(
        self, storage: FileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = new_log(storage, "topic-a", Writers())
        append(log, 3)
        Calls(monkeypatch, "pread", errno.EIO)
        with fails_with(errno.EIO):
            log.plan(0, 1000).run()
        assert held_below(tmp_path) == 1

    def test_a_deleted_topic_is_never_taken_for_the_next_one(self, storage: FileStorage) -> None:
        store = Store(storage, StoreOptions(min_free_space=0, ballast_bytes=0), WALL_NS)
        old = store.create_topic("t", WALL_NS)
        append(old, 3)
        plan = old.plan(0, 1000)
        store.delete_topic(old)
        with fails_with(errno.ENOENT):
            plan.run()
        new = store.create_topic("t", WALL_NS)
        append(new, 1)
        size = new.segments[0].file.size
        with fails_with(errno.ENOENT):
            plan.run()
        with fails_with(errno.ENOENT):
            plan.run(wait=False)
        for _ in range(2):
            with fails_with(errno.EBADF):
                append(old, 1)
        with fails_with(errno.EBADF):
            old.roll()
        old.remove_files([old.segments[0].path])
        store.jobs.run_all()
        assert storage.open(new.segments[0].path).size == size
        assert storage.files("topic-t") == ["00000000000000000000.log"]

    def test_files_that_somebody_else_has_removed_are_removed(self, storage: FileStorage) -> None:
        """Retention would try again, once a second, for good."""
        log = new_log(storage, "topic-a", Writers())
        log.roll()
        first, second = log.segments
        storage.remove(first.path)
        log.remove_files([first.path, second.path])
        assert storage.files("topic-a") == []

    def test_a_file_that_another_program_has_changed_is_not_appended_to(
        self, storage: FileStorage, tmp_path: Path
    ) -> None:
        writers = Writers(1)
        log = synced_log(storage, "topic-a", writers)
        synced_log(storage, "topic-b", writers)
        with open(tmp_path / log.segments[0].path, "ab") as file:
            file.write(b"x")
        with fails_with(errno.EIO):
            append(log, 1)
        assert held_below(tmp_path) == 0

    def test_threads_read_and_sync_while_the_loop_appends(self, storage: FileStorage, tmp_path: Path) -> None:
        """Never EBADF, never another file's bytes; and a power loss now would take nothing that was synced."""
        writers = Writers(3)
        logs = [new_log(storage, f"topic-{number}", writers) for number in range(8)]
        for log in logs:
            append(log, 1)
        plans = {log: log.plan(0, 1 << 20) for log in logs}
        unsynced = {log: log.unsynced for log in logs}
        done = threading.Event()

        def use(seed: int) -> int:
            rng, rounds = random.Random(seed), 0
            while not done.is_set() or not rounds:
                log = rng.choice(logs)
                if rng.random() < 0.3:
                    log.sync_files(unsynced[log])
                    continue
                result = plans[log].run()
                assert result is not None
                rounds += 1
                for run in result.runs:
                    assert run.frames == [frame(run.first + at) for at in range(len(run.frames))]
            return rounds

        with ThreadPoolExecutor(3) as pool:
            users = [pool.submit(use, seed) for seed in range(3)]
            rng = random.Random(9)
            for _ in range(800):
                log = rng.choice(logs)
                append(log, 1)
                if rng.random() < 0.1:
                    log.roll()
                if rng.random() < 0.5:
                    sync(log)
                plans[log] = log.plan(rng.randrange(log.end), 1 << 20)
                unsynced[log] = log.unsynced
            done.set()
            assert all(user.result() for user in users)
        for log in logs:
            sync(log)
            log.close()
            assert read_all(recovered(storage, log.folder).log) == {n: frame(n) for n in range(log.end)}
        assert held_below(tmp_path) == 0
