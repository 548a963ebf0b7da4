"""The follower's side of one life: frames into files, below a folder of its own.

Rules:

- An append that is not at the end of its file is refused, and so is everything else that cannot be meant.
- A snapshot gets its name when the log of its topic is synced.
- Bytes are written as they come; they are synced in jobs (`begin_sync`), one at a time.
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
from crc32c import crc32c

from nsqd.log.paths import split_path
from nsqd.log.storage import File, Storage
from nsqd.replication.noted_storage import IDS, is_copied, is_copied_folder
from nsqd.replication.reconcile import HEAD_SIZE, read_folder
from nsqd.replication.wire import (
    MAX_DATA,
    MAX_FILES,
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

__all__ = ["Copy", "CopyNote", "Work"]

NOTE: Final = "nsqd.copy"
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

    `life`: of the leader, hexadecimal. `name`: of its node, for people. `complete`: the copy has no gap.
    """

    life: str
    name: str
    incarnation: int
    complete: bool

    def encode(self) -> bytes:
        return json.dumps(attrs.asdict(self)).encode() + b"\n"

    @classmethod
    def read(cls, storage: Storage) -> CopyNote | None:
        """None when there is none, or none that can be read. `OSError`."""
        if NOTE not in storage.files():
            return None
        with contextlib.closing(storage.open(NOTE, read_only=True)) as file:
            data = file.read(0, 10_000)
        try:
            found = json.loads(data)
            return cls(
                str(found["life"]), str(found["name"]), int(found["incarnation"]), bool(found["complete"])
            )
        except (ValueError, TypeError, KeyError, RecursionError):
            return None


class Copy:
    """A copy in `storage`, whose root is this life's folder. `note`: whose it is.

    `received`: the last ticket of this session, -1 before the first. `acknowledged`: the last one whose bytes are as
    safe as the leader asked for.
    """

    def __init__(self, storage: Storage, note: CopyNote, *, disk: bool) -> None:
        self._storage = storage
        self._disk = disk
        self.note = note
        self.received = -1
        self._synced_ticket = -1
        self._open: OrderedDict[str, File] = OrderedDict()  # by path, least recently used first
        self._unsynced: dict[File, None] = {}
        self._renamed: dict[str, None] = {}  # folders with names that are not synced
        self._target: tuple[str, File] | None = None  # what `Data` goes to: a path, perhaps a temporary one
        self._syncing = False

    @property
    def acknowledged(self) -> int:
        return self._synced_ticket if self._disk else self.received

    def begin(self) -> None:
        """A session begins: sync what is here, and note whose copy it is, now. May take long; any thread. `OSError`.

        An earlier session, or process, may have left bytes that were never synced, in files that this one does not open
        again. Snapshots and acknowledgements of this session speak of them.
        """
        self._storage.sync_all()
        self._storage.replace(NOTE, self.note.encode())

    def close(self) -> None:
        """The session has ended. Nothing that is open stays so: another one may write to the files."""
        while self._open:
            self._open.popitem()[1].close()
        self._unsynced.clear()
        self._target = None

    # --- what is here

    def held(self) -> Iterator[FolderHeld]:
        """The files that are here. `OSError`."""
        if IDS in self._storage.files():
            yield from self._folder_held("", [IDS])
        for folder in self._storage.folders():
            if is_copied_folder(folder):
                names = [name for name in self._storage.files(folder) if is_copied(f"{folder}/{name}")]
                yield from self._folder_held(folder, names)

    def _folder_held(self, folder: str, names: list[str]) -> Iterator[FolderHeld]:
        state = read_folder(self._storage, folder, dict.fromkeys(names))
        files = [
            [name, file.size, crc32c(file.head[: min(file.size, HEAD_SIZE)])]
            for name, file in state.files.items()
        ]
        for at in range(0, max(len(files), 1), MAX_FILES):
            yield FolderHeld(folder, state.generation, files[at : at + MAX_FILES])

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Bytes of a file that is here. `WireError` for one that is not; `OSError`."""
        try:
            file = self._storage.open(path, read_only=True)
        except FileNotFoundError:
            raise WireError(f"{path} is not here") from None
        with contextlib.closing(file):
            return file.read(offset, min(size, MAX_DATA))

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
                self._remove(path)
            case RemoveFolder(folder):
                return self._remove_folder(folder)
            case Pass(complete):
                self._pass(complete)
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
        self._unsynced[file] = None

    def _file(self, path: str, offset: int) -> File:
        """An open file that has exactly `offset` bytes."""
        file = self._open.get(path)
        if file is None:
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
            self._close_some()
        self._open.move_to_end(path)
        if file.size != offset:
            raise WireError(f"{path} has {file.size} bytes, not {offset}")
        return file

    def _close_some(self) -> None:
        for path, file in list(self._open.items()):
            if len(self._open) <= OPEN_FILES:
                break
            if file not in self._unsynced:
                self._close(path)

    def _close(self, path: str) -> None:
        file = self._open.pop(path, None)
        if file is not None:
            file.close()
            self._unsynced.pop(file, None)
            if self._target is not None and self._target[1] is file:
                self._target = None

    def _discard(self, path: str) -> None:
        self._close(path)
        with contextlib.suppress(FileNotFoundError):
            self._storage.remove(path)

    def _whole(self, path: str, size: int) -> Work | None:
        temporary = _temporary(path)
        file = self._open.get(temporary)
        if file is None or file.size != size:
            raise WireError(
                f"{path} is not whole with {size} bytes: {file.size if file else 'none'} are here"
            )
        folder = split_path(path)[0]

        def in_place() -> None:
            # What had the name before is not written to any more.
            self._close(path)
            self._close(temporary)
            self._renamed[folder] = None

        if folder and not path.endswith(".snap"):
            self._storage.rename(temporary, path)
            in_place()
            return None
        # A snapshot that survives a power loss must not speak of bytes that do not; the ids are only this one file.
        log = [other for name, other in self._open.items() if split_path(name)[0] == folder]

        def work() -> None:
            for other in log:
                other.sync()
            self._storage.rename(temporary, path)
            self._storage.sync_folder(folder)

        return Work(work, in_place)

    def _make_folder(self, folder: str) -> None:
        with contextlib.suppress(FileExistsError):
            self._storage.make_folder(folder)
            self._renamed[""] = None

    def _remove(self, path: str) -> None:
        self._discard(path)
        self._renamed[split_path(path)[0]] = None

    def _remove_folder(self, folder: str) -> Work:
        for path in [path for path in self._open if path.startswith(f"{folder}/")]:
            self._close(path)
        self._renamed.pop(folder, None)
        self._renamed[""] = None
        return Work(lambda: self._storage.remove_folder(folder), lambda: None)

    def _pass(self, complete: bool) -> None:
        if complete is not self.note.complete:
            self.note = attrs.evolve(self.note, complete=complete)
            self._storage.replace(NOTE, self.note.encode())

    @property
    def crowded(self) -> bool:
        """Descriptors are not endless, and unsynced files must stay open: a sync comes before the next frame."""
        return len(self._unsynced) >= OPEN_FILES

    # --- syncs

    @property
    def wants_sync(self) -> bool:
        """Whether something waits for a sync that has not begun."""
        pending = self._unsynced or self._renamed or self.received > self._synced_ticket
        return bool(pending) and not self._syncing

    def begin_sync(self) -> Work:
        """A sync of all that is here now. One at a time (`wants_sync`). A failure (`OSError`) is final."""
        self._syncing = True
        ticket = self.received
        files, folders = list(self._unsynced), list(self._renamed)
        self._unsynced.clear()
        self._renamed.clear()

        def run() -> None:
            if len(files) + len(folders) > MANY_FILES:
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
            self._syncing = False
            self._synced_ticket = max(self._synced_ticket, ticket)
            self._close_some()

        return Work(run, done)


def _temporary(path: str) -> str:
    folder, name = split_path(path)
    return f"{folder}/.{name}.new" if folder else f".{name}.new"
