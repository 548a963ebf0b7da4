"""The data path: topics made, found, deleted; trash; room on the disk; clean and unclean stops."""

from __future__ import annotations

import errno
import random

import pytest

from nsqd.log.records import FILE_HEADER_SIZE
from nsqd.log.recovery import Recovered
from nsqd.log.space import BALLAST
from nsqd.log.storage import Storage
from nsqd.log.store import CLEAN, ForeignDataPath, Store, StoreOptions
from nsqd.testing.faulty_storage import Crash, CrashAt, Fail, FaultyStorage
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.broker.harness import Harness
from tests.nsqd.log.samples import append, content, put, read_all

MIB = 1 << 20
WALL_NS = 1_700_000_000_000_000_000


def open_store(storage: Storage, **options: int) -> Store:
    defaults = {"min_free_space": 0, "ballast_bytes": MIB, "max_segment_bytes": MIB}
    return Store(storage, StoreOptions(**(defaults | options)), WALL_NS)


def topics(store: Store) -> dict[str, Recovered]:
    return dict(store.topics(WALL_NS))


class TestTopics:
    def test_topics_are_found_again(self) -> None:
        storage = MemoryStorage()
        store = open_store(storage)
        for name in ("a", ".", "..", "b.c"):
            append(store.create_topic(name, WALL_NS), 2)
        found = topics(open_store(storage.kill()))
        assert sorted(found) == [".", "..", "a", "b.c"]
        assert all(len(read_all(topic.log)) == 2 for topic in found.values())

    def test_each_life_has_its_own_generation(self) -> None:
        store = open_store(MemoryStorage())
        first = store.create_topic("t", WALL_NS)
        store.delete_topic(first)
        assert store.create_topic("t", WALL_NS).generation != first.generation

    def test_an_existing_topic_is_not_made_again(self) -> None:
        store = open_store(MemoryStorage())
        append(store.create_topic("t", WALL_NS), 1)
        with pytest.raises(FileExistsError):
            store.create_topic("t", WALL_NS)
        store.jobs.run_all()
        assert list(topics(store)) == ["t"]

    def test_a_topic_that_could_not_be_made_leaves_nothing(self) -> None:
        storage = FaultyStorage(MemoryStorage())
        store = open_store(storage)
        storage.fault = lambda operation, path: Fail(errno.ENOSPC) if operation == "append" else None
        with pytest.raises(OSError):
            store.create_topic("t", WALL_NS)
        storage.fault = lambda operation, path: None
        store.jobs.run_all()
        assert storage.folders() == []
        store.create_topic("t", WALL_NS)

    def test_a_half_made_one_is_removed_at_the_start(self) -> None:
        storage = MemoryStorage()
        storage.make_folder("topic-t")
        store = open_store(storage)
        assert topics(store) == {}
        assert storage.folders() == []

    @pytest.mark.parametrize("data", [b"", bytes(FILE_HEADER_SIZE)])
    def test_a_topic_whose_creation_a_power_loss_cut_short_can_be_made_again(self, data: bytes) -> None:
        """The name of its first segment is on the disk, and its header is not."""
        storage = MemoryStorage()
        storage.make_folder("topic-t")
        storage.create("topic-t/00000000000000000000.log").append([data])
        store = open_store(storage)
        assert topics(store) == {}
        store.create_topic("t", WALL_NS)

    @pytest.mark.parametrize("seed", range(30))
    def test_a_topic_can_be_made_again_from_any_remains_of_a_power_loss(self, seed: int) -> None:
        storage = MemoryStorage()
        open_store(storage).create_topic("t", WALL_NS)
        store = open_store(storage.crash(random.Random(seed)))
        if "t" not in topics(store):
            store.create_topic("t", WALL_NS)

    def test_a_folder_with_foreign_files_stays(self) -> None:
        name = "notes.txt"
        storage = MemoryStorage()
        storage.make_folder("topic-notes")
        storage.create(f"topic-notes/{name}").append([b"do not lose this"])
        store = open_store(storage)
        assert topics(store) == {}
        assert store.notes == ["topic-notes: left alone, its files are not those of a topic"]
        assert content(storage, f"topic-notes/{name}") == b"do not lose this"

    def test_a_folder_whose_name_is_no_topic_name_stays(self) -> None:
        storage = MemoryStorage()
        open_store(storage).create_topic("no topic", WALL_NS)
        store = open_store(storage)
        assert topics(store) == {}
        assert store.notes == ["topic-no topic: left alone, it has no topic's name"]
        assert storage.files("topic-no topic")

    def test_other_folders_stay(self) -> None:
        storage = MemoryStorage()
        storage.make_folder("lost+found")
        store = open_store(storage)
        assert topics(store) == {}
        store.jobs.run_all()
        assert storage.folders() == ["lost+found"]


class TestDeletion:
    def test_the_name_is_free_at_once_and_the_files_go_later(self) -> None:
        storage = MemoryStorage()
        store = open_store(storage)
        log = store.create_topic("t", WALL_NS)
        append(log, 1)
        store.delete_topic(log)
        assert log.deleted
        assert storage.folders() == [f"trash-{log.generation}"]
        store.create_topic("t", WALL_NS)
        store.jobs.run_all()
        assert storage.folders() == ["topic-t"]

    def test_trash_is_removed_at_the_start(self) -> None:
        """I10: it does not come back as a topic."""
        storage = MemoryStorage()
        store = open_store(storage)
        store.delete_topic(store.create_topic("t", WALL_NS))
        again = open_store(storage.kill())
        assert topics(again) == {}
        again.jobs.run_all()
        assert again.storage.folders() == []

    def test_a_deletion_at_level_disk_survives_a_power_loss(self) -> None:
        """I10"""
        storage = MemoryStorage()
        store = open_store(storage)
        store.delete_topic(store.create_topic("t", WALL_NS))
        store.syncer.want(store.syncer.written)
        store.jobs.run_all()
        assert topics(open_store(storage.crash())) == {}

    def test_a_deletion_that_failed_changes_nothing(self) -> None:
        storage = FaultyStorage(MemoryStorage())
        store = open_store(storage)
        log = store.create_topic("t", WALL_NS)
        storage.fault = lambda operation, path: Fail(errno.EIO) if operation == "rename_folder" else None
        with pytest.raises(OSError):
            store.delete_topic(log)
        storage.fault = lambda operation, path: None
        assert not log.deleted
        append(log, 1)


class TestRoom:
    def test_a_ballast_is_made_at_the_start(self) -> None:
        storage = MemoryStorage()
        open_store(storage, ballast_bytes=2 * MIB)
        assert len(content(storage, BALLAST)) == 2 * MIB

    def test_no_space_gives_the_ballast_back(self) -> None:
        storage = MemoryStorage(capacity=4 * MIB)
        store = open_store(storage)
        log = store.create_topic("t", WALL_NS)
        storage.capacity = MIB + 500
        with pytest.raises(OSError) as caught:
            append(log, 10)
        store.space.failed(caught.value)
        assert BALLAST not in storage.files()
        assert store.space.full
        assert store.space.health.lower().startswith("nok - no space left")
        append(log, 10)  # a finish can be written

    def test_a_disk_under_the_floor_is_full(self) -> None:
        """I15: health flips with a reason, and flips back."""
        storage = MemoryStorage(capacity=10 * MIB)
        store = open_store(storage, min_free_space=3 * MIB)
        assert store.space.health == "OK"
        other = storage.create("other")
        other.append([bytes(7 * MIB)])
        store.space.check()
        assert store.space.health.startswith("NOK - no space left on device")
        other.truncate(0)
        store.space.check()
        assert store.space.health == "OK"

    def test_a_full_disk_heals_when_there_is_room_for_the_ballast_too(self) -> None:
        storage = MemoryStorage(capacity=10 * MIB)
        store = open_store(storage, min_free_space=3 * MIB)
        store.space.failed(OSError(errno.ENOSPC, "no space left on device"))
        assert store.space.full
        other = storage.create("other")
        other.append([bytes(13 * MIB // 2)])
        store.space.check()
        assert store.space.full, "room for the floor, not for the ballast"
        other.truncate(5 * MIB)
        store.space.check()
        assert store.space.full is None
        assert store.space.health == "OK"
        assert len(content(storage, BALLAST)) == MIB

    def test_a_restart_does_not_forget_that_the_disk_is_full(self) -> None:
        """I15: without the ballast there is no room to publish into."""
        storage = MemoryStorage(capacity=10 * MIB)
        store = open_store(storage, min_free_space=3 * MIB)
        other = storage.create("other")
        other.append([bytes(13 * MIB // 2)])
        store.space.failed(OSError(errno.ENOSPC, "no space left on device"))
        assert store.space.full
        assert open_store(storage, min_free_space=3 * MIB).space.full

    def test_a_store_starts_without_a_free_byte(self) -> None:
        """So that messages can be consumed, and topics be deleted. Ids are reserved when there is room."""
        storage = MemoryStorage(capacity=2 * MIB)
        open_store(storage, ballast_bytes=0, min_free_space=MIB)
        other = storage.create("other")
        other.append([bytes(storage.free_space())])
        store = open_store(storage, ballast_bytes=0, min_free_space=MIB)
        assert store.space.full
        with pytest.raises(OSError, match=r"(?i)no space"):
            store.ids.take(1)
        other.truncate(0)
        store.space.check()
        assert store.space.full is None
        first = store.ids.take(1)
        assert open_store(storage, min_free_space=0).ids.take(1) > first

    def test_another_error_is_told_until_a_write_succeeds(self) -> None:
        store = open_store(MemoryStorage())
        log = store.create_topic("t", WALL_NS)
        store.space.failed(OSError(errno.EIO, "input/output error"))
        assert (store.space.health, store.space.full) == ("NOK - input/output error", None)
        store.wrote(log)
        assert store.space.health == "OK"

    def test_a_ballast_that_cannot_be_made_leaves_no_part(self) -> None:
        storage = MemoryStorage(capacity=MIB)
        open_store(storage, ballast_bytes=3 * MIB, min_free_space=0)
        assert BALLAST not in storage.files()

    @pytest.mark.parametrize("number", range(6))
    def test_a_part_of_a_ballast_is_made_whole_at_the_next_start(self, number: int) -> None:
        inner = MemoryStorage()
        storage = FaultyStorage(inner, CrashAt(number, among=["append", "create", "close"]))
        with pytest.raises(Crash):
            open_store(storage, ballast_bytes=4 * MIB)
        after = inner.kill()
        open_store(after, ballast_bytes=4 * MIB)
        assert len(content(after, BALLAST)) == 4 * MIB


class TestStarts:
    @pytest.mark.parametrize("name", ["nsqd.dat", "t.diskqueue.meta.dat", "t:c.diskqueue.000001.dat"])
    def test_files_of_the_original_are_refused_and_untouched(self, name: str) -> None:
        storage = MemoryStorage()
        put(storage, name, b"theirs")
        with pytest.raises(ForeignDataPath, match=name):
            open_store(storage)
        assert storage.files() == [name]
        assert content(storage, name) == b"theirs"

    def test_an_orderly_stop_is_noted_once(self) -> None:
        storage = MemoryStorage()
        store = open_store(storage)
        assert not store.clean
        append(store.create_topic("t", WALL_NS), 1)
        store.close()
        assert CLEAN in storage.files()
        again = open_store(storage)
        assert again.clean
        assert CLEAN not in storage.files()
        assert not open_store(storage.kill()).clean

    def test_after_an_orderly_stop_a_power_loss_takes_nothing(self) -> None:
        storage = MemoryStorage()
        store = open_store(storage)
        append(store.create_topic("t", WALL_NS), 3)
        store.close()
        assert len(read_all(topics(open_store(storage.crash()))["t"].log)) == 3

    def test_a_power_loss_right_after_a_start_does_not_bring_the_mark_back(self) -> None:
        storage = MemoryStorage()
        open_store(storage).close()
        open_store(storage)
        assert CLEAN not in storage.crash().files()

    def test_a_stop_whose_sync_fails_is_not_orderly(self) -> None:
        storage = FaultyStorage(MemoryStorage())
        store = open_store(storage)
        append(store.create_topic("t", WALL_NS), 1)
        storage.fault = lambda operation, path: Fail(errno.EIO) if operation == "sync" else None
        with pytest.raises(OSError):
            store.close()
        assert CLEAN not in storage.inner.files()

    def test_after_an_unclean_stop_all_that_is_taken_over_is_synced(self) -> None:
        storage = MemoryStorage()
        append(open_store(storage).create_topic("t", WALL_NS), 3)
        after = storage.kill()
        store = open_store(after)
        assert topics(store)
        store.syncer.want(store.syncer.written)
        store.jobs.run_all()
        assert len(read_all(topics(open_store(after.crash()))["t"].log)) == 3

    def test_a_cut_is_synced_also_after_an_orderly_stop(self) -> None:
        storage = MemoryStorage()
        store = open_store(storage)
        log = store.create_topic("t", WALL_NS)
        append(log, 1)
        store.close()
        path = log.segments[0].path
        whole = content(storage, path)
        put(storage, path, whole + b"torn")
        store = open_store(storage)
        assert store.clean
        assert [segment.file.closed for segment in topics(store)["t"].log.unsynced] == [False]
        store.syncer.want(store.syncer.written)
        store.jobs.run_all()
        assert content(storage.crash(), path) == whole

    def test_a_failed_sync_is_fatal(self) -> None:
        storage = FaultyStorage(MemoryStorage())
        store = open_store(storage)
        store.create_topic("t", WALL_NS)
        storage.fault = lambda operation, path: Fail(errno.EIO) if operation == "sync" else None
        store.syncer.want(store.syncer.written)
        store.jobs.run_all()
        assert store.fatal is not None
        assert store.fatal.errno == errno.EIO

    def test_notes_of_recovery_are_passed_on(self) -> None:
        storage = MemoryStorage()
        log = open_store(storage).create_topic("t", WALL_NS)
        append(log, 1)
        put(storage, log.segments[0].path, content(storage, log.segments[0].path) + b"torn")
        store = open_store(storage)
        topics(store)
        assert any("cut off 4 bytes" in note for note in store.notes)


class TestTopicsOfWhichOnlyTheManifestIsLeft:
    def of(self, manifest: bytes | None) -> tuple[MemoryStorage, Store]:
        """A topic with a channel and three messages, whose other files are gone. None: its manifest as it was."""
        harness = Harness()
        harness.create()
        harness.publish_many(3)
        harness.advance(1.0)
        harness.broker.close()
        storage = harness.memory.kill()
        for name in storage.files("topic-t"):
            if name != "manifest":
                storage.remove(f"topic-t/{name}")
        if manifest is not None:
            storage.remove("topic-t/manifest")
            storage.create("topic-t/manifest").append([manifest])
        return storage, Store(storage, harness.store_options, harness.wall_ns)

    def test_one_that_was_never_written_is_none(self) -> None:
        storage, store = self.of(b"torn")
        assert not list(store.topics(0))
        assert not store.failing
        assert "topic-t" not in storage.folders()

    def test_a_readable_one_has_the_channels_and_tells_of_the_loss(self) -> None:
        _, store = self.of(None)
        ((name, recovered),) = store.topics(0)
        assert (name, [channel.name for channel in recovered.state.channels.values()]) == ("t", ["c"])
        assert sum(damage.end - damage.first for damage in recovered.damage) == 3
        assert not store.failing
