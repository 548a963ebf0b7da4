"""A storage that notes what changes in it, so that somebody can copy it: names and sizes, never bytes.

Rules:

- A note says no more than what the inner storage has done: it is made after the operation; before, if a name goes that
  somebody may give away again.
- To look at a file notes nothing: it may be removed meanwhile by another thread, and would be noted for ever.
- Only files that are copied are noted (`is_copied`): a segment is noted when it gets its real name, not before.
- A file that takes the place of another one (a manifest, the ids) is a new file: its `version` is another one.
- Folders that have changed are put on the lists of all who watch. A list has each folder once, so that the memory for a
  watcher that lags is bounded by the number of topics.

Names change in the event loop's thread and in workers; `Notes.lock` is held while the notes of a name change, and
while somebody reads the names of a folder. Sizes of files that grow change in the event loop's thread only, without it.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections import deque
from collections.abc import Container, Sequence
from contextlib import closing
from typing import Final

import attrs

from nsqd.log.paths import split_path
from nsqd.log.storage import File, Storage
from nsqkit.wire.names import is_valid_name

__all__ = ["RECENT_BYTES", "ROOT_FILES", "FileNote", "NotedStorage", "Notes", "Watch", "is_copied"]

ROOT_FILES: Final[tuple[str, ...]] = ("nsqd.deleted", "nsqd.ids")
RECENT_BYTES: Final = 128 * 1024  # of each file
_TOPIC: Final = "topic-"
_IN_A_TOPIC: Final = re.compile(r"[0-9]{20}\.(?:log|snap)|manifest")


def is_copied(path: str) -> bool:
    """Whether a file (`name` or `folder/name`) of a data path belongs into a copy of it."""
    folder, _, name = path.rpartition("/")
    if not folder:
        return path in ROOT_FILES
    return is_copied_folder(folder) and _IN_A_TOPIC.fullmatch(name) is not None


def is_copied_folder(folder: str) -> bool:
    return folder.startswith(_TOPIC) and is_valid_name(folder.removeprefix(_TOPIC))


@attrs.define(eq=False)
class FileNote:
    """A file that is there: its size in bytes, and a number that no other file had under this name.

    The buffers of the last appends are kept, `RECENT_BYTES` of them and one more: to read back what is so little would
    cost more than all the rest of sending it.
    """

    version: int
    size: int
    _recent: deque[tuple[int, bytes]] = attrs.field(
        factory=deque, init=False
    )  # offset in the file, and what is there

    def grow(self, buffers: Sequence[bytes], size: int) -> None:
        """The file was appended to, and has `size` bytes now."""
        recent, offset = self._recent, self.size
        for buffer in buffers:
            recent.append((offset, buffer))
            offset += len(buffer)
        while recent[0][0] < size - RECENT_BYTES and len(recent) > 1:
            recent.popleft()
        self.size = size

    def shrink(self, size: int) -> None:
        """The file was cut."""
        self._recent.clear()
        self.size = size

    def recent(self, offset: int) -> list[bytes] | None:
        """Everything from this offset on, if that begins with one of the last appends."""
        found: list[bytes] = []
        for start, buffer in reversed(self._recent):
            if start < offset:
                break
            found.append(buffer)
            if start == offset:
                found.reverse()
                return found
        return None


@attrs.define(eq=False)
class Watch:
    """What has changed since its owner has looked: folders ("" for the root), oldest change first.

    `grown`: with bytes in segments, or new folders and segments. `renamed`: with other files that came or went.
    """

    grown: dict[str, None] = attrs.field(factory=dict)
    renamed: dict[str, None] = attrs.field(factory=dict)


@attrs.define(eq=False)
class Notes:
    """The files of a data path that are copied, by folder ("" for the root) and name."""

    folders: dict[str, dict[str, FileNote]] = attrs.field(factory=lambda: {"": {}})
    versions: dict[str, int] = attrs.field(factory=dict)
    """Of folders, as `FileNote.version`."""
    appended: int = 0
    """Bytes, since the start."""
    watches: list[Watch] = attrs.field(factory=list)
    lock: threading.Lock = attrs.field(factory=threading.Lock)
    _next_version: itertools.count[int] = attrs.field(factory=lambda: itertools.count(1))

    def watch(self) -> Watch:
        """A new watch, on which everything has changed."""
        with self.lock:
            watch = Watch(dict.fromkeys(self.folders), dict.fromkeys(self.folders))
            self.watches.append(watch)
        return watch

    def unwatch(self, watch: Watch) -> None:
        with self.lock:
            self.watches.remove(watch)

    def files(self, folder: str) -> dict[str, FileNote]:
        """The files of a folder now, by name; empty when it is not there. *Any thread.*"""
        with self.lock:
            return dict(self.folders.get(folder, ()))

    def take(self, todo: dict[str, None], without: Container[str]) -> str | None:
        """Take the first folder from a list of a watch, but for those `without`; None when there is none.

        What changes while it is looked at puts it on the list again.
        """
        with self.lock:
            for folder in todo:
                if folder not in without:
                    del todo[folder]
                    return folder
        return None

    # --- for the storage

    def folder_made(self, folder: str) -> None:
        if is_copied_folder(folder):
            with self.lock:
                self._add_folder(folder)

    def folder_gone(self, folder: str) -> None:
        with self.lock:
            if self.folders.pop(folder, None) is not None:
                del self.versions[folder]
                self._changed(folder)

    def file_there(self, path: str, size: int, *, new: bool) -> FileNote | None:
        """A file can be found under this path. `new`: it is another one than before. None when it is not copied."""
        if not is_copied(path):
            return None
        folder, name = split_path(path)
        with self.lock:
            if folder not in self.folders:
                self._add_folder(folder)
            files = self.folders[folder]
            note = files.get(name)
            if note is None or new:
                note = files[name] = FileNote(next(self._next_version), size)
                self._changed(folder)
            return note

    def file_gone(self, path: str) -> None:
        folder, name = split_path(path)
        with self.lock:
            if self.folders.get(folder, {}).pop(name, None) is not None:
                self._changed(folder)

    def grown(self, folder: str, size: int = 0) -> None:
        """The folder has other bytes in its segments; `size`: how many were appended."""
        self.appended += size
        for watch in self.watches:
            watch.grown[folder] = None

    def _add_folder(self, folder: str) -> None:
        self.folders[folder] = {}
        self.versions[folder] = next(self._next_version)
        self._changed(folder)

    def _changed(self, folder: str) -> None:
        for watch in self.watches:
            watch.grown[folder] = watch.renamed[folder] = None


@attrs.define(eq=False)
class _NotedFile:
    """An open file. `note` is None while its name is none that is copied."""

    inner: File
    _storage: NotedStorage
    folder: str
    note: FileNote | None

    @property
    def path(self) -> str:
        return self.inner.path

    @property
    def size(self) -> int:
        return self.inner.size

    @property
    def closed(self) -> bool:
        return self.inner.closed

    @property
    def broken(self) -> bool:
        return self.inner.broken

    def append(self, buffers: Sequence[bytes]) -> None:
        inner = self.inner
        inner.append(buffers)
        if (note := self.note) is not None:
            before = note.size
            note.grow(buffers, inner.size)
            self._storage.notes.grown(self.folder, inner.size - before)

    def truncate(self, size: int) -> None:
        self.inner.truncate(size)
        if self.note is not None:
            self.note.shrink(size)
            self._storage.notes.grown(self.folder)

    def close(self) -> None:
        self.inner.close()

    def read(self, offset: int, size: int, *, wait: bool = True) -> bytes:
        return self.inner.read(offset, size, wait=wait)

    def sync(self) -> None:
        self.inner.sync()

    def start_writeback(self, offset: int, size: int) -> None:
        self.inner.start_writeback(offset, size)

    def forget_cached(self, offset: int = 0, size: int = 0) -> None:
        self.inner.forget_cached(offset, size)


class NotedStorage:
    """`inner`, with `notes` on it. The files that are there already are noted by `note_existing`."""

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.notes = Notes()
        # Files that are being made, by their path: some grow on under the name that they get.
        self._making: dict[str, _NotedFile] = {}

    def note_existing(self) -> None:
        """Note the files that nobody has opened yet. `OSError`."""
        for folder in ["", *filter(is_copied_folder, self.inner.folders())]:
            if folder and folder not in self.notes.folders:
                self.notes.folder_made(folder)
            for name in self.inner.files(folder):
                path = f"{folder}/{name}" if folder else name
                if is_copied(path) and name not in self.notes.files(folder):
                    with closing(self.inner.open(path, read_only=True)) as file:
                        self.notes.file_there(path, file.size, new=True)

    # --- names

    def make_folder(self, folder: str) -> None:
        self.inner.make_folder(folder)
        self.notes.folder_made(folder)

    def rename_folder(self, folder: str, to: str) -> None:
        try:
            self.inner.rename_folder(folder, to)
        except FileNotFoundError:  # somebody else has removed it
            self.notes.folder_gone(folder)
            raise
        self.notes.folder_gone(folder)

    def remove_folder(self, folder: str) -> None:
        self.notes.folder_gone(folder)
        self.inner.remove_folder(folder)

    def create(self, path: str) -> File:
        file = self._noted(self.inner.create(path), new=True)
        if file.note is None:
            self._making[path] = file
        return file

    def open(self, path: str, *, read_only: bool = False) -> File:
        inner = self.inner.open(path, read_only=read_only)
        return inner if read_only else self._noted(inner, new=False)

    def _noted(self, inner: File, *, new: bool) -> _NotedFile:
        path = inner.path
        note = self.notes.file_there(path, inner.size, new=new)
        return _NotedFile(inner, self, split_path(path)[0], note)

    def replace(self, path: str, data: bytes) -> None:
        self.inner.replace(path, data)
        self.notes.file_there(path, len(data), new=True)

    def rename(self, path: str, to: str) -> None:
        self.inner.rename(path, to)
        file = self._making.pop(path, None)
        self.notes.file_gone(path)
        if not is_copied(to):
            self.notes.file_gone(to)
        elif file is not None:
            file.note = self.notes.file_there(to, file.size, new=True)
        else:
            with closing(self.inner.open(to, read_only=True)) as found:
                self.notes.file_there(to, found.size, new=True)

    def remove(self, path: str) -> None:
        self.inner.remove(path)
        self._making.pop(path, None)
        self.notes.file_gone(path)

    # --- what changes no name

    def folders(self) -> list[str]:
        return self.inner.folders()

    def files(self, folder: str = "") -> list[str]:
        return self.inner.files(folder)

    def exists(self, path: str) -> bool:
        return self.inner.exists(path)

    def sync_folder(self, folder: str = "") -> None:
        self.inner.sync_folder(folder)

    def sync_all(self) -> None:
        self.inner.sync_all()

    def free_space(self) -> int:
        return self.inner.free_space()
