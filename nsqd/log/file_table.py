"""Which files are open, where they are, and which of them hold a descriptor; `files.py` has the theory of operation."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator

from nsqd.log.open_file import OpenFile
from nsqd.log.paths import folder_of, os_error

__all__ = ["FileTable"]

_FILE_MODE = 0o600


class FileTable:
    """All open files of one storage: where they are, and the descriptors that some of them hold."""

    def __init__(self, root: str, limit: int) -> None:
        self.names = threading.RLock()
        # False once the file system said that it knows no RWF_NOWAIT.
        self.can_read_cached = True
        self._root = root
        self._limit = limit
        self._lock = threading.Lock()
        # Files with a descriptor, the least recently used first.
        self._held: OrderedDict[OpenFile, None] = OrderedDict()
        # Files that still have a name, by their folder.
        self._named: dict[str, set[OpenFile]] = {}

    def borrow(self, file: OpenFile) -> int:
        """The file's descriptor, not to be closed before `give_back`. EBADF for a closed file."""
        with self._lock:
            if file.descriptor >= 0 and not file.closed:
                file.users += 1
                self._held.move_to_end(file)
                return file.descriptor
        return self._borrow_reopened(file)

    def give_back(self, file: OpenFile) -> None:
        with self._lock:
            file.users -= 1
            if file.users or not file.closed:
                return
            descriptor = self._take_descriptor(file)
        _close(descriptor)

    def _borrow_reopened(self, file: OpenFile) -> int:
        with self.names:
            with self._lock:
                if file.closed:
                    raise os_error(errno.EBADF, file.path)
                if file.descriptor >= 0:
                    file.users += 1
                    return file.descriptor
            if file.orphan:
                raise os_error(errno.ENOENT, file.path)
            self.trim(room=1)
            descriptor = self.open_descriptor(self._full(file.location), os.O_RDWR)
            with self._lock:
                if not file.closed:
                    self._give_descriptor(file, descriptor)
                    file.users += 1
                    return descriptor
            _close(descriptor)
            raise os_error(errno.EBADF, file.path)

    def release(self, file: OpenFile) -> None:
        """Close a file, or leave it to the last user of its descriptor."""
        descriptor = -1
        with self._lock:
            if file.closed:
                return
            file.closed = True
            self._forget_name(file)
            if file.descriptor >= 0 and not file.users:
                descriptor = self._take_descriptor(file)
        if descriptor >= 0:
            _close(descriptor)

    def close(self) -> None:
        with self._lock:
            files = [*self._held, *(file for folder in self._named.values() for file in folder)]
        for file in files:
            self.release(file)

    def open(self, path: str, flags: int) -> OpenFile:
        with self.names:
            self.trim(room=1)
            descriptor = self.open_descriptor(self._full(path), flags)
            try:
                size = os.fstat(descriptor).st_size
            except BaseException:
                _close(descriptor)
                raise
            file = OpenFile(path, size, self, path)
            with self._lock:
                self._give_descriptor(file, descriptor)
                self._named.setdefault(folder_of(path), set()).add(file)
            return file

    def open_descriptor(self, full_path: str, flags: int) -> int:
        """Open; when the process or the system has no descriptor left, free one of ours and try once more."""
        try:
            return os.open(full_path, flags, _FILE_MODE)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._evict():
                raise
        return os.open(full_path, flags, _FILE_MODE)

    def rename(self, path: str, to: str) -> None:
        with self.names:
            # A name that belongs to a folder is none of a file.
            if stat.S_ISDIR(os.stat(self._full(path), follow_symlinks=False).st_mode):
                raise os_error(errno.EISDIR, path)
            if path == to:
                return
            with self._orphaned(to):
                os.rename(self._full(path), self._full(to))
            with self._lock:
                for file in self._files_at(path):
                    file.location = to

    def remove(self, path: str) -> None:
        with self.names, self._orphaned(path):
            os.unlink(self._full(path))

    def rename_folder(self, folder: str, to: str) -> None:
        with self.names:
            # The system would put it in the place of an empty folder.
            if os.path.lexists(self._full(to)):
                raise os_error(errno.EEXIST, to)
            if not stat.S_ISDIR(os.stat(self._full(folder), follow_symlinks=False).st_mode):
                raise os_error(errno.ENOTDIR, folder)
            os.rename(self._full(folder), self._full(to))
            with self._lock:
                files = self._named.pop(folder, set())
                for file in files:
                    file.location = f"{to}/{file.location.partition('/')[2]}"
                if files:
                    self._named[to] = files

    def orphan_folder(self, folder: str) -> None:
        """The folder's files are about to go. Descriptors are not opened for it: there might be many."""
        with self.names, self._lock:
            for file in self._named.pop(folder, set()):
                file.orphan = True

    @contextlib.contextmanager
    def _orphaned(self, path: str) -> Iterator[None]:
        """Give the open files at `path` a descriptor to keep, while the block takes their name away."""
        borrowed: list[OpenFile] = []
        try:
            with self._lock:
                files = self._files_at(path)
            for file in files:
                try:
                    self.borrow(file)
                except OSError as error:
                    # Closed meanwhile, or its name went without us: nothing to keep.
                    if error.errno not in (errno.EBADF, errno.ENOENT):
                        raise
                else:
                    borrowed.append(file)
            yield
            with self._lock:
                for file in files:
                    self._forget_name(file)
                    file.orphan = True
        finally:
            for file in borrowed:
                self.give_back(file)

    def changes(self) -> list[tuple[OpenFile, int]]:
        """What a sync of everything that begins now will cover."""
        with self._lock:
            return [(file, file.changes) for file in self._held]

    def note_synced(self, covered: list[tuple[OpenFile, int]]) -> None:
        with self._lock:
            for file, changes in covered:
                file.synced_changes = max(file.synced_changes, changes)

    def trim(self, room: int = 0) -> None:
        """Close what is beyond the limit, and may be closed now; `room`: for so many more.

        Where all are in use, orphans or unsynced: rather one too many than an error, or a wait for the disk.
        """
        while len(self._held) + room > self._limit and self._evict(only_synced=True):
            pass

    def _evict(self, *, only_synced: bool = False) -> bool:
        """Close one descriptor that nobody uses; false when there is none."""
        # Nobody may open the file again before an error of the sync is noted.
        with self.names:
            with self._lock:
                file = self._victim(only_synced)
                if file is None:
                    return False
                unsynced = file.changes != file.synced_changes
                descriptor = self._take_descriptor(file)
            if unsynced and not file.sync_errno:
                file.sync_descriptor(descriptor)
            _close(descriptor)
            return True

    def _victim(self, only_synced: bool) -> OpenFile | None:
        oldest_unsynced = None
        for file in self._held:
            if file.users or file.orphan:
                continue
            if file.changes == file.synced_changes:
                return file
            oldest_unsynced = oldest_unsynced or (None if only_synced else file)
        return oldest_unsynced

    def _files_at(self, path: str) -> list[OpenFile]:
        return [file for file in self._named.get(folder_of(path), ()) if file.location == path]

    def _forget_name(self, file: OpenFile) -> None:
        folder = folder_of(file.location)
        files = self._named.get(folder)
        if files is not None:
            files.discard(file)
            if not files:
                del self._named[folder]

    def _give_descriptor(self, file: OpenFile, descriptor: int) -> None:
        file.descriptor = descriptor
        self._held[file] = None

    def _take_descriptor(self, file: OpenFile) -> int:
        descriptor, file.descriptor = file.descriptor, -1
        del self._held[file]
        return descriptor

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}"


def _close(descriptor: int) -> None:
    # It is gone in any case, and lost writes are the business of sync.
    with contextlib.suppress(OSError):
        os.close(descriptor)
