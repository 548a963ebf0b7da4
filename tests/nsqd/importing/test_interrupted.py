"""An import that is killed, or loses its power, at any write, goes on: nothing is lost and nothing is there twice."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from nsqd.importing import ImportRefused
from nsqd.importing.journal import Journal
from nsqd.testing.faulty_storage import WRITES, Crash, CrashAt, Die, Fail, Fault, FaultyStorage
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.importing.harness import boot, bring, delivered, drain, sorted_by_id
from tests.nsqd.importing.original import Ids, Message, write_metadata, write_queue


class Everything:
    """A data path with two topics, several segments, every attempt count, a pause, and damage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.queues: dict[str, list[Message]] = {}
        for topic in ("a", "b"):
            ids = Ids()
            for name in (topic, f"{topic}:c1", f"{topic}:c2"):
                attempts = [0, 0, 2] if ":" in name else [0, 0, 0]
                messages = [
                    ids.message(bytes([number]) * 800, tries) for number, tries in enumerate(attempts)
                ]
                write_queue(folder, name, messages)
                self.queues[name] = messages
        write_metadata(folder, {"a": ["c1", "c2"], "b": ["c1", "c2"]}, paused=["b", "a:c2"])
        with (folder / "a.diskqueue.000000.dat").open("ab") as file:
            file.write(b"torn")

    def check(self, storage: MemoryStorage) -> None:
        """All of it is in the storage, once."""
        journal = Journal.load(storage)
        assert journal is not None
        assert journal.complete
        assert list(journal.problems) == ["a"]
        harness = boot(storage)
        assert sorted(harness.broker.topics) == ["a", "b"]
        assert harness.channel("c2", "a").paused
        harness.broker.topics["a"].pause_channel("c2", False)
        for name in ("a:c1", "a:c2", "b:c1", "b:c2"):
            topic, channel = name.split(":")
            backlog = delivered(self.queues[topic], fresh=True) if topic == "a" else []
            expected = delivered(self.queues[name]) + backlog
            assert sorted_by_id(drain(harness, topic, channel)) == sorted_by_id(expected)
        assert harness.broker.topics["b"].depth == 3


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Everything:
    return Everything(tmp_path_factory.mktemp("original"))


def die(source: Everything, storage: MemoryStorage, number: int, fault: Die) -> bool:
    """Import until this write; True when the process died of it."""
    try:
        bring(source.folder, FaultyStorage(storage, CrashAt(number, fault, among=WRITES)))
    except Crash:
        return True
    return False


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power loss"])
@pytest.mark.parametrize("fault", [Die(), Die(after=True), Die(part=5)], ids=["before", "after", "part"])
def test_an_import_continues_after_a_failure_of_any_write(
    source: Everything, fault: Die, power: bool
) -> None:
    number, died = 0, True
    while died:
        inner = MemoryStorage()
        died = die(source, inner, number, fault)
        after = inner.crash(random.Random(number)) if power else inner.kill()
        bring(source.folder, after)
        assert ".import.new" not in after.folders()
        source.check(after)
        number += 1
    assert number > 40


@pytest.mark.parametrize("step", [7, 23, 31])
def test_an_import_makes_progress_however_often_the_process_is_killed(source: Everything, step: int) -> None:
    storage, lives = MemoryStorage(), 0
    while die(source, storage, step + lives, Die(part=3)):
        storage = storage.kill()
        lives += 1
        assert lives < 200
    assert lives > 0
    source.check(storage)


@pytest.mark.parametrize(
    "operation", ["append", "sync", "rename_folder", "replace", "make_folder", "sync_folder"]
)
@pytest.mark.parametrize("number", [0, 1])
def test_an_import_continues_when_the_disk_works_again(
    source: Everything, operation: str, number: int
) -> None:
    """A full disk, or a failed sync, ends it with the error; the next one goes on."""
    left = number

    def fault(asked: str, path: str) -> Fault | None:
        nonlocal left
        left -= asked == operation
        return Fail(errno.ENOSPC) if asked == operation and left < 0 else None

    inner = MemoryStorage()
    with pytest.raises(OSError, match="No space left") as caught:
        bring(source.folder, FaultyStorage(inner, fault))
    assert caught.value.errno == errno.ENOSPC
    after = inner.kill()
    bring(source.folder, after)
    source.check(after)


def test_a_second_import_does_nothing(source: Everything) -> None:
    """Also when all that it had brought is finished, and its topics are deleted."""
    storage = MemoryStorage()
    first = bring(source.folder, storage)
    assert (first.topics, first.messages) == (2, 18)
    harness = boot(storage)
    harness.broker.delete_topic("a")
    harness.round()
    again = bring(source.folder, harness.memory)
    assert (again.topics, again.messages) == (0, 0)
    assert again.problems == first.problems
    assert harness.memory.folders() == ["topic-b"]


def test_a_source_that_has_changed_since(tmp_path: Path) -> None:
    """The original ran in between: what was imported before it did would be delivered twice."""
    source = Everything(tmp_path)
    begun, complete = MemoryStorage(), MemoryStorage()
    assert die(source, begun, 40, Die())
    bring(tmp_path, complete)
    write_queue(tmp_path, "a:c1", source.queues["a:c1"][:1])
    with pytest.raises(ImportRefused, match="its files have changed since"):
        bring(tmp_path, begun.kill())
    with pytest.raises(ImportRefused, match="was imported here before"):
        bring(tmp_path, complete)


def test_a_source_that_was_only_touched(source: Everything, tmp_path: Path) -> None:
    """The original writes nsqd.dat at every start, if only with the same content."""
    storage = MemoryStorage()
    Everything(tmp_path)
    assert die(Everything(tmp_path), storage, 40, Die())
    write_again = (tmp_path / "nsqd.dat").read_bytes()
    (tmp_path / "nsqd.dat").write_bytes(write_again)
    os.utime(tmp_path / "nsqd.dat", ns=(1, 1))
    with pytest.raises(ImportRefused, match="its files have changed since"):
        bring(tmp_path, storage.kill())


def test_unsynced_data_stays_small(source: Everything) -> None:
    """A full segment is synced before much more is written, so that no sync at the end takes minutes."""
    unsynced = most = 0

    def look(operation: str, path: str) -> None:
        nonlocal unsynced, most
        unsynced += (operation == "create") - (operation == "sync")
        most = max(most, unsynced)

    storage = FaultyStorage(MemoryStorage(), look)
    bring(source.folder, storage)
    assert most == 2
    assert storage.counts["create"] == 6
    assert unsynced == 0


def test_a_source_that_was_moved_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    source = Everything(tmp_path / "one")
    storage = MemoryStorage()
    assert die(source, storage, 40, Die())
    source.folder = source.folder.rename(tmp_path / "two")
    after = storage.kill()
    bring(source.folder, after)
    source.check(after)
