"""The follower's side of one life: what is refused, what an acknowledgement covers, what a power loss leaves."""

from __future__ import annotations

import errno
from contextlib import closing

import pytest

from nsqd.log.storage import Storage
from nsqd.replication.keep import OPEN_FILES, Copy, CopyNote, Work
from nsqd.replication.wire import (
    Ack,
    Beat,
    Data,
    FileFrame,
    FolderHeld,
    Frame,
    MakeFolder,
    NewFile,
    Pass,
    Remove,
    RemoveFolder,
    Ticket,
    Whole,
    WireError,
)
from nsqd.testing.faulty_storage import Fail, FaultyStorage
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.replication.pair import NOTE, run

LOG = "topic-t/00000000000000000000.log"
SNAPSHOT = "topic-t/00000000000000000100.snap"


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


def begin(storage: Storage, *, disk: bool = True) -> Copy:
    """A session, whose copy has nothing left to sync."""
    copy = Copy(storage, CopyNote.read(storage) or NOTE, disk=disk)
    run(copy.begin())
    sync(copy)
    return copy


def apply(copy: Copy, *frames: Frame) -> None:
    for frame in frames:
        run(copy.apply(frame))


def sync(copy: Copy) -> None:
    assert copy.wants_sync
    run(copy.begin_sync())


def segment(number: int) -> str:
    return f"topic-{number}/00000000000000000000.log"


def content(storage: Storage, path: str) -> bytes:
    with closing(storage.open(path, read_only=True)) as file:
        return file.read(0, file.size)


def files(storage: Storage) -> dict[str, bytes]:
    """Of all topics."""
    paths = [f"{folder}/{name}" for folder in storage.folders() for name in storage.files(folder)]
    return {path: content(storage, path) for path in paths}


# --- what is refused


@pytest.mark.parametrize(
    "frames",
    [
        [Data(b"for no file")],
        [FileFrame(LOG, 5)],
        [FileFrame("topic-unknown/manifest", 0)],
        [FileFrame(LOG, 0), Data(b"four"), FileFrame(LOG, 3)],
        [FileFrame(LOG, 0), Data(b"four"), FileFrame(LOG, 5)],
        [Whole("topic-t/manifest", 0)],
        [NewFile("topic-t/manifest", 0), Data(b"four"), Whole("topic-t/manifest", 5)],
        [NewFile("topic-t/manifest", 0), Whole(SNAPSHOT, 0)],
        [NewFile("topic-t/manifest", 4)],
        [FileFrame(LOG, 0), Remove(LOG), Data(b"for a file that was removed")],
        [FileFrame(LOG, 0), RemoveFolder("topic-t"), Data(b"for a file that was removed")],
        [NewFile("topic-t/manifest", 0), Whole("topic-t/manifest", 0), Data(b"behind what is whole")],
        [Ticket(5), Ticket(4)],
        [Ack(1)],
        [Beat(1, 0, 0)],
        [FolderHeld("topic-t", 0, [])],
    ],
    ids=str,
)
def test_a_frame_that_cannot_be_meant_is_refused(storage: MemoryStorage, frames: list[Frame]) -> None:
    copy = begin(storage)
    apply(copy, MakeFolder("topic-t"), *frames[:-1])
    before = files(storage)
    with pytest.raises(WireError):
        run(copy.apply(frames[-1]))
    assert files(storage) == before


def test_what_another_one_has_appended_is_not_appended_to(storage: MemoryStorage) -> None:
    copy = begin(storage)
    apply(copy, MakeFolder("topic-t"), FileFrame(LOG, 0), Data(b"mine"))
    copy.close()
    with closing(storage.open(LOG)) as file:
        file.append([b"another's"])
    with pytest.raises(WireError, match="has 13 bytes, not 4"):
        apply(begin(storage), FileFrame(LOG, 4))


def test_a_full_disk_leaves_whole_appends(storage: MemoryStorage) -> None:
    copy = begin(storage)
    apply(copy, MakeFolder("topic-t"), FileFrame(LOG, 0), Data(b"fits"))
    storage.capacity = 0
    with pytest.raises(OSError, match=r"\[Errno 28\]"):
        apply(copy, Data(b"does not fit"))
    assert content(storage, LOG) == b"fits"


def test_a_folder_or_a_file_that_is_gone_already_may_be_removed(storage: MemoryStorage) -> None:
    copy = begin(storage)
    apply(copy, RemoveFolder("topic-t"), Remove("nsqd.ids"), MakeFolder("topic-t"), MakeFolder("topic-t"))
    apply(copy, Remove(LOG), RemoveFolder("topic-t"), RemoveFolder("topic-t"))
    assert storage.folders() == []


# --- syncs


def test_an_acknowledgement_at_level_disk_survives_a_power_loss(storage: MemoryStorage) -> None:
    copy = begin(storage)
    apply(copy, MakeFolder("topic-t"), FileFrame(LOG, 0), Data(b"one"), Ticket(1))
    assert copy.acknowledged == -1
    sync(copy)
    assert copy.acknowledged == 1
    apply(copy, Data(b"two"), Ticket(2))
    assert copy.acknowledged == 1
    assert content(storage.crash(), LOG) == b"one"


def test_an_acknowledgement_at_level_os_waits_for_no_sync(storage: MemoryStorage) -> None:
    copy = begin(storage, disk=False)
    apply(copy, MakeFolder("topic-t"), FileFrame(LOG, 0), Data(b"one"), Ticket(1))
    assert copy.acknowledged == 1


def test_a_sync_covers_what_came_before_it_began(storage: MemoryStorage) -> None:
    copy = begin(storage)
    apply(copy, MakeFolder("topic-t"), FileFrame(LOG, 0), Data(b"one"), Ticket(1))
    work = copy.begin_sync()
    assert not copy.wants_sync
    work.run()
    apply(copy, Data(b"two"), Ticket(2))
    work.done()
    assert copy.acknowledged == 1
    sync(copy)
    assert copy.acknowledged == 2
    assert content(storage.crash(), LOG) == b"onetwo"


def test_a_file_stays_open_while_it_is_synced(storage: MemoryStorage) -> None:
    """Others that are opened meanwhile close those that are synced: a sync of a closed file would do nothing."""
    copy = begin(storage)
    for number in range(OPEN_FILES + 10):
        apply(copy, MakeFolder(f"topic-{number}"), FileFrame(segment(number), 0))
    apply(copy, FileFrame(segment(0), 0), Data(b"acknowledged"), Ticket(1))
    sync(copy)
    apply(copy, Data(b" and so is this"), Ticket(2))
    work = copy.begin_sync()
    for number in range(1, OPEN_FILES + 10):
        apply(copy, FileFrame(segment(number), 0))
    run(work)
    assert copy.acknowledged == 2
    assert content(storage.crash(), segment(0)) == b"acknowledged and so is this"


def test_what_an_earlier_session_has_written_is_synced_before_an_acknowledgement(
    storage: MemoryStorage,
) -> None:
    copy = begin(storage)
    apply(copy, MakeFolder("topic-t"), FileFrame(LOG, 0), Data(b"one"))
    copy.close()
    copy = Copy(storage, NOTE, disk=True)
    apply(copy, Ticket(1))
    assert copy.acknowledged == -1
    sync(copy)
    assert copy.acknowledged == 1
    assert content(storage.crash(), LOG) == b"one"


def test_a_removed_file_does_not_fail_the_sync_that_was_to_cover_it(storage: MemoryStorage) -> None:
    copy = begin(storage)
    apply(copy, MakeFolder("topic-t"), FileFrame(LOG, 0), Data(b"one"), Ticket(1))
    work = copy.begin_sync()
    apply(copy, RemoveFolder("topic-t"))
    run(work)
    assert copy.acknowledged == 1


def test_a_failed_sync_acknowledges_nothing(storage: MemoryStorage) -> None:
    faulty = FaultyStorage(storage)
    copy = begin(faulty)
    apply(copy, MakeFolder("topic-t"), FileFrame(LOG, 0), Data(b"one"), Ticket(1))
    work = copy.begin_sync()
    faulty.fault = lambda operation, _path: Fail(errno.EIO) if operation == "sync" else None
    with pytest.raises(OSError, match=r"\[Errno 5\]"):
        work.run()
    assert copy.acknowledged == -1
    assert not copy.wants_sync


def test_unsynced_files_stay_open_and_more_than_enough_of_them_ask_for_a_sync(storage: MemoryStorage) -> None:
    copy = begin(storage)
    for number in range(OPEN_FILES):
        assert not copy.crowded
        apply(copy, MakeFolder(f"topic-{number}"), FileFrame(segment(number), 0), Data(b"x"))
    assert copy.crowded
    work = copy.begin_sync()
    assert copy.crowded
    run(work)
    assert not copy.crowded
    apply(copy, MakeFolder("topic-x"), FileFrame("topic-x/manifest", 0), Data(b"x"), Ticket(1))
    sync(copy)
    assert all(content(storage.crash(), segment(number)) == b"x" for number in range(OPEN_FILES))


# --- files that replace others


@pytest.mark.parametrize("path", ["nsqd.ids", "topic-t/manifest", SNAPSHOT])
def test_a_file_that_has_its_name_is_whole_after_a_power_loss(storage: MemoryStorage, path: str) -> None:
    copy = begin(storage)
    apply(copy, MakeFolder("topic-t"))
    sync(copy)
    for text in (b"old", b"new and longer"):
        apply(copy, NewFile(path, 0), Data(text[:2]))
        apply(copy, NewFile(path, 2), Data(text[2:]), Whole(path, len(text)))
        assert content(storage.crash(), path) == text


def test_a_snapshot_does_not_survive_what_it_speaks_of(storage: MemoryStorage) -> None:
    copy = begin(storage)
    apply(copy, MakeFolder("topic-t"))
    sync(copy)
    apply(copy, FileFrame(LOG, 0), Data(b"messages"))
    apply(copy, NewFile(SNAPSHOT, 0), Data(b"state"), Whole(SNAPSHOT, 5))
    assert content(storage.crash(), LOG) == b"messages"


def test_nor_what_an_earlier_session_has_written(storage: MemoryStorage) -> None:
    copy = begin(storage)
    apply(copy, MakeFolder("topic-t"), FileFrame(LOG, 0), Data(b"messages"))
    copy.close()
    copy = Copy(storage, NOTE, disk=False)
    apply(copy, NewFile(SNAPSHOT, 0), Data(b"state"), Whole(SNAPSHOT, 5))
    assert content(storage.crash(), LOG) == b"messages"


def test_a_file_that_a_session_has_not_completed_is_removed_by_the_next_one(storage: MemoryStorage) -> None:
    copy = begin(storage)
    apply(copy, MakeFolder("topic-t"), NewFile(SNAPSHOT, 0), Data(b"half of it"))
    apply(copy, NewFile("nsqd.ids", 0))
    copy.close()
    begin(storage)
    assert storage.files("topic-t") == []
    assert storage.files() == ["nsqd.copy"]


# --- what is told


def test_the_bytes_of_all_files_are_counted(storage: MemoryStorage) -> None:
    copy = begin(storage)
    apply(copy, MakeFolder("topic-t"), FileFrame(LOG, 0), Data(b"12345"))
    apply(copy, NewFile("topic-t/manifest", 0), Data(b"123"), Whole("topic-t/manifest", 3))
    assert copy.bytes == 8
    apply(copy, NewFile("topic-t/manifest", 0), Data(b"12"), Whole("topic-t/manifest", 2))
    assert copy.bytes == 7
    apply(copy, NewFile("topic-t/manifest", 0), Data(b"1234"))
    apply(copy, NewFile("topic-t/manifest", 0), Data(b"1"), Whole("topic-t/manifest", 1))
    assert copy.bytes == 6
    apply(copy, Remove("topic-t/manifest"), Remove("topic-t/manifest"))
    assert copy.bytes == 5
    apply(copy, RemoveFolder("topic-t"))
    assert copy.bytes == 0


def test_a_gap_is_noted_before_anything_else_happens(storage: MemoryStorage) -> None:
    copy = begin(storage)
    apply(copy, Pass(True))
    for complete in (False, True):
        work = copy.apply(Pass(complete))
        assert isinstance(work, Work)
        run(work)
        note = CopyNote.read(storage.crash())
        assert note is not None
        assert note.complete is copy.note.complete is complete
        assert copy.apply(Pass(complete)) is None


def test_only_files_of_a_copy_are_told(storage: MemoryStorage) -> None:
    copy = begin(storage)
    apply(copy, MakeFolder("topic-t"), FileFrame(LOG, 0), Data(b"x"))
    storage.make_folder("trash-1")
    for path in ("topic-t/0.log", f"{LOG}.damaged", "topic-t/.log.new", "nsqd.life", "nsqd.seal"):
        storage.create(path).close()
    (held,) = copy.held()
    assert (held.folder, held.generation) == ("topic-t", 0)
    assert [(name, size) for name, size, _, _ in held.files] == [(LOG.removeprefix("topic-t/"), 1)]


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"nonsense", b"[" * 9000, b'{"life": "00"}', b"\xff"])
def test_a_note_that_cannot_be_read_is_none(storage: MemoryStorage, text: bytes) -> None:
    storage.replace("nsqd.copy", text)
    assert CopyNote.read(storage) is None
