"""The follower's side of one life: frames into files, below a folder of its own.

Rules:

- An append that is not at the end of its file is refused, and so is everything else that cannot be meant.
- A file that replaces another one gets its name when its bytes are synced; a snapshot, when the log of its topic is,
  too.
- Bytes are written as they come; they are synced in jobs (`begin_sync`), one at a time. The first sync of a session is
  one of everything: nobody knows whether what earlier sessions have written is on the disk.
- A file stays open until it is synced, unless it is removed: a sync of a closed file would say nothing.
- A failed sync is final, as everywhere: the session ends, and none begins until the daemon was started again.

What an acknowledgement says: everything that came before a `Ticket` is with the operating system, or is synced, as the
leader asked for in its `Hello`.
"""

from __future__ import annotations

import contextlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from nsqd.log.paths import split_path
from nsqd.log.storage import File, Storage
from nsqd.replication.noted_storage import ROOT_FILES, is_copied, is_copied_folder
from nsqd.replication.reconcile import WHOLE, FileState, generation_of, read_folder, replayed_from
from nsqd.replication.wire import (
    MAX_DATA,
    MAX_FILES,
    Data,
    FileFrame,
    FolderHeld,
    Frame,
    MakeFolder,
    NewFile,
    Others,
    Pass,
    Remove,
    RemoveFolder,
    Ticket,
    Whole,
    WireError,
)
from nsqkit.decoding import decode_json

__all__ = ["Copy", "CopyNote", "Work", "read_piece"]

NOTE: Final = "nsqd.copy"
MAX_NOTE: Final = 1 << 17  # bytes; the longest texts that a `Hello` may have take 80 kB
PART: Final = ".part"  # at the end of the name of a file that is not whole
OPEN_FILES: Final = 64  # of which the synced ones are closed; more only while they are unsynced
MANY_FILES: Final = 8  # from here on the whole file system is synced


@attrs.frozen
class Work:
    """What may take long. `run` is called in any thread, then `done` where the copy's other methods are."""

    run: Callable[[], None]
    done: Callable[[], None]


@attrs.frozen
class CopyNote:
    """What stands in `nsqd.copy`: whose copy this is.

    `life`: of the leader, hexadecimal. `name`: of its node, for people. `complete`: the copy has no gap. `start`: see
    `Identity`, hexadecimal. `others`: addresses of the leader's other followers. `registries`: how many nsqlookupds it
    has.
    """

    life: str
    name: str
    incarnation: int
    complete: bool
    start: str = ""
    others: tuple[str, ...] = ()
    registries: int = 0

    def encode(self) -> bytes:
        return json.dumps(attrs.asdict(self)).encode() + b"\n"

    @classmethod
    def read(cls, storage: Storage) -> CopyNote | None:
        """None when there is none, or none that can be read. `OSError`."""
        if NOTE not in storage.files():
            return None
        with contextlib.closing(storage.open(NOTE, read_only=True)) as file:
            data = file.read(0, MAX_NOTE)
        try:
            found = decode_json(data)
            return cls(
                str(found["life"]),
                str(found["name"]),
                int(found["incarnation"]),
                bool(found["complete"]),
                str(found["start"]),
                tuple(map(str, found.get("others", ()))),
                int(found.get("registries", 0)),
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return None


class Copy:
    """A copy in `storage`, whose root is this life's folder. `note`: whose it is.

    `received`: the last ticket of this session, -1 before the first. `acknowledged`: the last one whose bytes are as
    safe as the leader asked for. `bytes`: of all files. `suspect`: a power loss may have damaged what was not synced.
    """

    def __init__(
        self, storage: Storage, note: CopyNote, *, disk: bool, size: int = 0, suspect: bool = False
    ) -> None:
        self._storage = storage
        self._disk = disk
        self._suspect = suspect
        self.note = note
        self.bytes = size
        self.received = -1
        self._synced_ticket = -1
        self._open: OrderedDict[str, File] = OrderedDict()  # by path, least recently used first
        self._unsynced: dict[File, None] = {}
        self._being_synced: list[File] = []
        self._inherited = True  # earlier sessions may have left bytes and names that are not synced
        self._renamed: dict[str, None] = {}  # folders with names that are not synced
        self._target: tuple[str, File] | None = None  # what `Data` goes to: a path, perhaps a temporary one
        self._syncing = False

    @property
    def acknowledged(self) -> int:
        return self._synced_ticket if self._disk else self.received

    def begin(self) -> Work:
        """A session begins: note whose copy it is, now, and remove what the last one has not completed."""

        def run() -> None:
            for folder in ["", *filter(is_copied_folder, self._storage.folders())]:
                for name in self._storage.files(folder):
                    if name.endswith(PART):
                        self._storage.remove(f"{folder}/{name}" if folder else name)
            self._storage.replace(NOTE, self.note.encode())

        return Work(run, lambda: None)

    def close(self) -> None:
        """The session has ended. Nothing that is open stays so: another one may write to the files."""
        while self._open:
            self._open.popitem()[1].close()
        self._unsynced.clear()
        self._being_synced.clear()
        self._target = None

    # --- what is here

    def held(self) -> Iterator[FolderHeld]:
        """The files that are here. *Any thread.* `OSError`."""
        here = self._storage.files()
        if names := [name for name in ROOT_FILES if name in here]:
            yield from self._folder_held("", names)
        for folder in self._storage.folders():
            if is_copied_folder(folder):
                names = [name for name in self._storage.files(folder) if is_copied(f"{folder}/{name}")]
                yield from self._folder_held(folder, names)

    def _folder_held(self, folder: str, names: list[str]) -> Iterator[FolderHeld]:
        files: dict[str, FileState] = {}
        if self._suspect:
            first = replayed_from(names)
            for name in [name for name in names if name.endswith(".log") and name >= first]:
                # Every byte is read, so each is told of at once: the leader does not wait for ever.
                found = read_folder(self._storage, folder, {name: WHOLE}).files
                yield FolderHeld(folder, 0, _rows(found))
                files |= found
        rest = read_folder(self._storage, folder, {name: None for name in names if name not in files}).files
        generation, rows = generation_of(files | rest), _rows(rest)
        for at in range(0, max(len(rows), 1), MAX_FILES):
            yield FolderHeld(folder, generation, rows[at : at + MAX_FILES])

    def read(self, path: str, offset: int, size: int) -> bytes:
        return read_piece(self._storage, path, offset, size)

    # --- frames

    def apply(self, frame: Frame) -> Work | None:
        """Do what a frame says. `WireError` when it cannot be meant; `OSError` when the disk refuses.

        Work that is returned must be done before the next frame.
        """
        match frame:
            case Data(data):
                self._append(data)
            case FileFrame(path, offset):
                self._target = (path, self._file(path, offset))
            case NewFile(path, offset):
                temporary = _temporary(path)
                if not offset:
                    self._discard(temporary)
                self._target = (temporary, self._file(temporary, offset))
            case Whole(path, size):
                return self._whole(path, size)
            case MakeFolder(folder):
                self._make_folder(folder)
            case Remove(path):
                return self._remove(path)
            case RemoveFolder(folder):
                return self._remove_folder(folder)
            case Pass(complete):
                return self._note(attrs.evolve(self.note, complete=complete))
            case Others(others):
                return self._note(attrs.evolve(self.note, others=tuple(others)))
            case Ticket(ticket):
                if ticket < self.received:
                    raise WireError(f"the ticket {ticket} after {self.received}")
                self.received = ticket
            case _:
                raise WireError(f"a {type(frame).__name__} has no place here")
        return None

    def _append(self, data: bytes | bytearray | memoryview) -> None:
        if self._target is None:
            raise WireError("data before the file that it is for was named")
        file = self._target[1]
        file.append([bytes(data)])
        self.bytes += len(data)
        self._unsynced[file] = None

    def _file(self, path: str, offset: int) -> File:
        """An open file that has exactly `offset` bytes."""
        file = self._open.get(path)
        if file is None:
            self._close_some()
            try:
                file = self._storage.open(path)
            except FileNotFoundError:
                if offset:
                    raise WireError(
                        f"{path} is not there, and {offset} bytes of it are taken for granted"
                    ) from None
                try:
                    file = self._storage.create(path)
                except FileNotFoundError:
                    raise WireError(f"{path}: there is no such folder") from None
                self._renamed[split_path(path)[0]] = None
            self._open[path] = file
        self._open.move_to_end(path)
        if file.size != offset:
            raise WireError(f"{path} has {file.size} bytes, not {offset}")
        return file

    def _close_some(self) -> None:
        """Make room for one more open file: of those that are synced, close the ones that were used longest ago."""
        synced = [
            path
            for path, file in self._open.items()
            if file not in self._unsynced and file not in self._being_synced
        ]
        for path in synced[: max(0, len(self._open) + 1 - OPEN_FILES)]:
            self._close(path)

    def _close(self, path: str) -> None:
        file = self._open.pop(path, None)
        if file is not None:
            file.close()
            self._unsynced.pop(file, None)
            if self._target is not None and self._target[1] is file:
                self._target = None

    def _size_of(self, path: str) -> int:
        """0 for a file that is not there."""
        if (file := self._open.get(path)) is not None:
            return file.size
        try:
            found = self._storage.open(path, read_only=True)
        except FileNotFoundError:
            return 0
        with contextlib.closing(found):
            return found.size

    def _discard(self, path: str) -> None:
        self.bytes -= self._size_of(path)
        self._close(path)
        with contextlib.suppress(FileNotFoundError):
            self._storage.remove(path)

    def _whole(self, path: str, size: int) -> Work:
        temporary = _temporary(path)
        file = self._open.get(temporary)
        if file is None or file.size != size:
            raise WireError(
                f"{path} is not whole with {size} bytes: {file.size if file else 'none'} are here"
            )
        folder, replaced = split_path(path)[0], self._size_of(path)
        snapshot, inherited = path.endswith(".snap"), self._inherited
        log = [other for name, other in self._open.items() if name.startswith(f"{folder}/")]

        def run() -> None:
            if snapshot:  # one that survives a power loss must not speak of bytes that do not
                if inherited:
                    self._storage.sync_all()
                for other in log:
                    other.sync()
            # Else a power loss could leave the name, and take the bytes.
            file.sync()
            self._storage.rename(temporary, path)
            self._storage.sync_folder(folder)

        def done() -> None:
            # What had the name before is not written to any more.
            self._close(path)
            self._close(temporary)
            self.bytes -= replaced

        return Work(run, done)

    def _make_folder(self, folder: str) -> None:
        with contextlib.suppress(FileExistsError):
            self._storage.make_folder(folder)
            self._renamed[""] = None

    def _remove(self, path: str) -> Work:
        self.bytes -= self._size_of(path)
        self._close(path)
        if _temporary(path) in self._open:  # another one was about to take its place
            self._discard(_temporary(path))

        def run() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._storage.remove(path)

        def done() -> None:
            self._renamed[split_path(path)[0]] = None

        return Work(run, done)

    def _remove_folder(self, folder: str) -> Work:
        for path in [path for path in self._open if path.startswith(f"{folder}/")]:
            self._close(path)
        self._renamed.pop(folder, None)
        self._renamed[""] = None
        removed = 0

        def run() -> None:
            nonlocal removed
            with contextlib.suppress(FileNotFoundError):
                removed = sum(self._size_of(f"{folder}/{name}") for name in self._storage.files(folder))
            self._storage.remove_folder(folder)

        def done() -> None:
            self.bytes -= removed

        return Work(run, done)

    def _note(self, note: CopyNote) -> Work | None:
        if note == self.note:
            return None

        def done() -> None:
            self.note = note

        return Work(lambda: self._storage.replace(NOTE, note.encode()), done)

    @property
    def crowded(self) -> bool:
        """Descriptors are not endless, and unsynced files must stay open: a sync comes before the next frame."""
        return len(self._unsynced) + len(self._being_synced) >= OPEN_FILES

    # --- syncs

    @property
    def wants_sync(self) -> bool:
        """Whether something waits for a sync that has not begun."""
        pending = self._unsynced or self._renamed or self._inherited or self.received > self._synced_ticket
        return bool(pending) and not self._syncing

    def begin_sync(self) -> Work:
        """A sync of all that is here now. One at a time (`wants_sync`). A failure (`OSError`) is final."""
        self._syncing = True
        ticket = self.received
        files, folders = list(self._unsynced), list(self._renamed)
        self._being_synced = files
        self._unsynced.clear()
        self._renamed.clear()
        everything = self._inherited or len(files) + len(folders) > MANY_FILES

        def run() -> None:
            if everything:
                self._storage.sync_all()
                return
            for file in files:
                try:
                    file.sync()
                except OSError:
                    if not file.closed:  # else it was removed, or has been replaced
                        raise
            for folder in folders:
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    self._storage.sync_folder(folder)

        def done() -> None:
            self._syncing = self._inherited = False
            self._being_synced = []
            self._synced_ticket = max(self._synced_ticket, ticket)

        return Work(run, done)


def _rows(files: dict[str, FileState]) -> list[list[object]]:
    return [[name, file.size, file.checked_from, file.checksum] for name, file in files.items()]


def read_piece(storage: Storage, path: str, offset: int, size: int) -> bytes:
    """Bytes of a file that is here. `WireError` for one that is not; `OSError`."""
    try:
        file = storage.open(path, read_only=True)
    except FileNotFoundError:
        raise WireError(f"{path} is not here") from None
    with contextlib.closing(file):
        return file.read(offset, min(size, MAX_DATA))


def _temporary(path: str) -> str:
    return path + PART
