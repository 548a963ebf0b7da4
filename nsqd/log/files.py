"""The real file system under the topic log.

Rules:

- A file is written only at its end, at a position that is known here (never O_APPEND): bytes that a failed
  append left behind are cut off, and nobody reads past the size that is known.
- A name is one component of a path. It arrives encoded; what could leave its folder is refused with EINVAL.
- A failed sync is final for its file. The kernel reports a lost write once for each descriptor and then takes
  the pages for clean, so asking again would be answered with a success that means nothing. The error is kept
  and raised by every later sync.
- A temporary file for `replace` is called `.<name>.tmp`. `files` does not list names that begin with a dot.

Theory of operation. There may be more open files than descriptors, so a file borrows its descriptor for
each call from a table, which keeps the least recently used ones open and opens a closed one again. The table
therefore follows every rename; a file whose name is gone keeps its descriptor until it is closed. A
descriptor that somebody uses is never closed. Neither is one with unsynced appends, because a descriptor
opened afterwards may not be told about writes that were lost before: there are rather more descriptors than
meant, until the next sync. Only when the process has none left is the oldest of these synced, and closed.

Two locks. `_lock` guards the table and is never held over a call that may wait for the disk: an append whose
descriptor is open takes no other. `names` is held while a name is turned into a descriptor or changed, and by
an eviction with its sync. Whoever takes both takes `names` first.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import threading
from collections.abc import Iterator

from nsqd.log.file_table import FileTable
from nsqd.log.open_file import OpenFile
from nsqd.log.paths import check_name, os_error, split_path, temporary_name
from nsqd.log.system_calls import libc

__all__ = ["FileStorage"]

_FILE_MODE = 0o600
_FOLDER_MODE = 0o700


class FileStorage:
    """Folders and files below `root`, which must exist and belong to this process alone.

    At most `max_descriptors` of its files hold a descriptor at a time, apart from those in use at that moment
    and those that were removed while open. Raises `OSError` when the root is missing or no folder.
    """

    def __init__(self, root: str | os.PathLike[str], max_descriptors: int = 256) -> None:
        if max_descriptors < 1:
            raise ValueError(f"max_descriptors must be at least 1, not {max_descriptors}")
        self._root = os.fspath(root)
        # Held open for good: syncfs reports the lost writes that its descriptor has not been told of yet.
        self._root_descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        self._table = FileTable(self._root, max_descriptors)
        self._replacing: set[str] = set()
        self._replaced = threading.Condition()
        self._sync_lock = threading.Lock()
        self._sync_errno = 0

    def close(self) -> None:
        """Close every file and let go of the root. Nothing of this storage can be used afterwards."""
        self._table.close()
        if self._root_descriptor >= 0:
            os.close(self._root_descriptor)
            self._root_descriptor = -1

    def folders(self) -> list[str]:
        with os.scandir(self._root) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))

    def files(self, folder: str = "") -> list[str]:
        with os.scandir(self._folder_path(folder)) as entries:
            return sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False)
            )

    def make_folder(self, folder: str) -> None:
        check_name(folder)
        os.mkdir(self._full(folder), _FOLDER_MODE)

    def rename_folder(self, folder: str, to: str) -> None:
        check_name(folder)
        check_name(to)
        self._table.rename_folder(folder, to)

    def remove_folder(self, folder: str) -> None:
        """Remove a folder and its files, hidden ones too.

        A file in it that is still open can be used while it has its descriptor, and raises ENOENT otherwise.
        """
        check_name(folder)
        self._table.orphan_folder(folder)
        path = self._full(folder)
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(path):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{path}/{name}")
            os.rmdir(path)

    def create(self, path: str) -> OpenFile:
        split_path(path)
        return self._table.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def open(self, path: str) -> OpenFile:
        split_path(path)
        return self._table.open(path, os.O_RDWR)

    def replace(self, path: str, data: bytes) -> None:
        folder, name = split_path(path)
        temporary = f"{folder}/{temporary_name(name)}" if folder else temporary_name(name)
        with self._only_replacer(path):
            try:
                self._write_synced(temporary, data)
                self._table.rename(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(self._full(temporary))
                raise
        self.sync_folder(folder)

    def rename(self, path: str, to: str) -> None:
        """Rename a file inside its folder; both are whole paths. EINVAL when the folders differ."""
        if split_path(path)[0] != split_path(to)[0]:
            raise os_error(errno.EINVAL, to)
        self._table.rename(path, to)

    def remove(self, path: str) -> None:
        split_path(path)
        self._table.remove(path)

    def sync_folder(self, folder: str = "") -> None:
        descriptor = self._table.open_descriptor(self._folder_path(folder), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def sync_all(self) -> None:
        # One at a time, so that the one who hears of a lost write has noted it before the next returns.
        with self._sync_lock:
            if self._sync_errno:
                raise os_error(self._sync_errno, self._root)
            covered = self._table.changes()
            if libc.syncfs(self._root_descriptor) != 0:
                self._sync_errno = ctypes.get_errno()
                raise os_error(self._sync_errno, self._root)
            self._table.note_synced(covered)
            self._table.trim()

    def free_space(self) -> int:
        status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _folder_path(self, folder: str) -> str:
        if not folder:
            return self._root
        check_name(folder)
        return self._full(folder)

    def _write_synced(self, path: str, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        descriptor = self._table.open_descriptor(self._full(path), flags)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _only_replacer(self, path: str) -> Iterator[None]:
        """Wait until no other thread replaces the same path: both would write the same temporary file."""
        with self._replaced:
            self._replaced.wait_for(lambda: path not in self._replacing)
            self._replacing.add(path)
        try:
            yield
        finally:
            with self._replaced:
                self._replacing.discard(path)
                self._replaced.notify_all()
