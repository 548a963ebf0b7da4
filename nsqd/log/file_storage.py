"""The real file system under the topic log.

Rules:

- An open file is one descriptor, and belongs to the caller that opened it, until `close`. `writers.py` decides how
  many are kept open to append to.
- A file is written only at its end, at a position that is known here (never O_APPEND): bytes that a failed append
  left behind are cut off, and a read never goes past the known size.
- A name is one component of a path. What could leave its folder is refused with EINVAL.
- A failed sync is final for its file. Linux reports a lost write once for each open file description and then takes
  the pages for clean: the next fdatasync would succeed and mean nothing. So the error is kept by device and inode, and
  every later sync of that file raises it, through any descriptor.
- A temporary file for `replace` is called `.<name>.tmp`. `files` does not list names that begin with a dot.

There is one kind of lock, `_Descriptor._syncing`, for each descriptor. The thread that syncs a file holds it for the
length of that sync: a worker as a rule, the event loop's thread at the stop and when descriptors have run out. `close`
only tries it, and never waits: when it is taken, the thread that syncs closes the descriptor afterwards. Otherwise the
system could give the descriptor's number to another file while a sync is about to use it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import threading
from collections.abc import Callable, Sequence

import attrs

from nsqd.log.paths import check_name, os_error, split_path, temporary_name
from nsqd.log.system_calls import SYNC_FILE_RANGE_WRITE, libc

__all__ = ["FileStorage", "OpenFile"]

_FILE_MODE = 0o600
_FOLDER_MODE = 0o700

# pwritev takes this many buffers at most (IOV_MAX of Linux).
_BUFFERS_PER_WRITE = 1024

# A read that must not wait needs a buffer to read into. A fresh one for each read of 1 MiB costs 0.8 ms of
# page faults, one that is kept 0.04 ms; a read is seldom larger than this.
_SCRATCH_SIZE = 1024 * 1024


class _Scratch(threading.local):
    """One buffer for each thread that reads without waiting."""

    def __init__(self) -> None:
        self.buffer = bytearray(_SCRATCH_SIZE)


_scratch = _Scratch()


@attrs.define(eq=False)
class _Descriptor:
    """A descriptor that any thread may sync; one sync at a time, and none after an error.

    Of two at once the kernel would tell only one of a lost write.
    """

    path: str
    _storage: FileStorage
    _descriptor: int
    # Device and inode: the same for all descriptors of a file, also after a rename.
    _key: tuple[int, int]
    closed: bool = attrs.field(default=False, init=False)
    _syncing: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def sync_with(self, call: Callable[[int], None]) -> None:
        """Sync by calling `call` with the descriptor. `OSError`: EBADF when closed, else of the first failure."""
        failed = self._storage.failed_syncs
        try:
            with self._syncing:
                if self.closed:
                    raise os_error(errno.EBADF, self.path)
                if self._key not in failed:
                    try:
                        call(self._descriptor)
                    except OSError as error:
                        failed[self._key] = error.errno or errno.EIO
                # Looked at again: another descriptor of this file may have been told of the lost write.
                if self._key in failed:
                    raise os_error(failed[self._key], self.path)
        finally:
            if self.closed:
                self._release()

    def close(self) -> None:
        self.closed = True
        self._release()

    def _release(self) -> None:
        """Close the descriptor, unless a thread syncs it; that thread comes here when it has ended."""
        if not self._syncing.acquire(blocking=False):
            return
        descriptor, self._descriptor = self._descriptor, -1
        self._syncing.release()
        if descriptor >= 0:
            self._storage.open_files.discard(self)
            _close(descriptor)


@attrs.define(eq=False)
class OpenFile(_Descriptor):
    """One open file; see `storage.File`."""

    size: int
    _read_only: bool
    # A cut after a failed append has failed: the end is unknown.
    broken: bool = attrs.field(default=False, init=False)

    def append(self, buffers: Sequence[bytes]) -> None:
        if self.closed or self.broken or self._read_only:
            raise os_error(errno.EIO if self.broken and not self.closed else errno.EBADF, self.path)
        total = sum(map(len, buffers))
        if total == 0:
            return
        try:
            # Nearly every append is one call that takes everything.
            if len(buffers) > _BUFFERS_PER_WRITE or os.pwritev(self._descriptor, buffers, self.size) != total:
                self._write_in_pieces(buffers, total)
        except BaseException:
            self._cut_back()
            raise
        self.size += total

    def _write_in_pieces(self, buffers: Sequence[bytes], total: int) -> None:
        """Write all the buffers from `size` on, however little the system takes at a time."""
        rest: list[bytes | memoryview] = [buffer for buffer in buffers if buffer]
        first, done = 0, 0
        while done < total:
            written = os.pwritev(self._descriptor, rest[first : first + _BUFFERS_PER_WRITE], self.size + done)
            if written == 0:
                raise os_error(errno.ENOSPC, self.path)
            done += written
            while first < len(rest) and written >= len(rest[first]):
                written -= len(rest[first])
                first += 1
            if written:
                rest[first] = memoryview(rest[first])[written:]

    def _cut_back(self) -> None:
        # A part that stayed would be damage in the middle, with the next record after it.
        try:
            os.ftruncate(self._descriptor, self.size)
        except OSError:
            self.broken = True

    def read(self, offset: int, size: int, *, wait: bool = True) -> bytes:
        if offset < 0 or size < 0:
            raise os_error(errno.EINVAL, self.path)
        if self.closed:
            raise os_error(errno.EBADF, self.path)
        expected = min(size, self.size - offset)
        if expected <= 0:
            return b""
        if wait or not self._storage.can_read_cached:
            return _read_all(self._descriptor, offset, expected)
        return self._read_cached(offset, expected)

    def _read_cached(self, offset: int, size: int) -> bytes:
        buffer = _scratch.buffer if size <= _SCRATCH_SIZE else bytearray(size)
        view = memoryview(buffer)[:size]
        try:
            count = os.preadv(self._descriptor, [view], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            # This file system cannot say; the answer will not change, so it is asked no more.
            self._storage.can_read_cached = False
            return _read_all(self._descriptor, offset, size)
        if count < size:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), self.path)
        return bytes(view)

    def send(self, socket: int, offset: int, size: int) -> int:
        """Send up to `size` bytes to a socket, without a copy in our memory; returns how many. *Any thread.*

        `BlockingIOError` when a socket that must not block takes none now; 0 when the file ends before.
        """
        if self.closed:
            raise os_error(errno.EBADF, self.path)
        return os.sendfile(socket, self._descriptor, offset, size)

    def truncate(self, size: int) -> None:
        if self.closed or self._read_only:
            raise os_error(errno.EBADF, self.path)
        if not 0 <= size <= self.size:
            raise os_error(errno.EINVAL, self.path)
        os.ftruncate(self._descriptor, size)
        self.size = size

    def sync(self) -> None:
        self.sync_with(os.fdatasync)

    def start_writeback(self, offset: int, size: int) -> None:
        # The system takes a size of 0 for "to the end". Errors, also of a closed file, are the business of `sync`.
        if size > 0:
            libc.sync_file_range(self._descriptor, offset, size, SYNC_FILE_RANGE_WRITE)

    def forget_cached(self, offset: int = 0, size: int = 0) -> None:
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._descriptor, offset, size, os.POSIX_FADV_DONTNEED)


class FileStorage:
    """Folders and files below `root`, which must exist and belong to this process alone.

    Raises `OSError` when the root is missing or no folder. `failed_syncs`, `open_files` and `can_read_cached` are for
    its files.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = os.fspath(root)
        # Errnos of syncs that failed, by device and inode.
        self.failed_syncs: dict[tuple[int, int], int] = {}
        self.open_files: set[_Descriptor] = set()
        # False once the file system said that it knows no RWF_NOWAIT.
        self.can_read_cached = True
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        # Held open for good: syncfs reports the lost writes that its descriptor has not been told of yet.
        self._file_system = _Descriptor(self._root, self, descriptor, _key_of(os.fstat(descriptor)))

    def close(self) -> None:
        """Close every file and let go of the root. Nothing of this storage can be used afterwards."""
        for file in [*self.open_files, self._file_system]:
            file.close()

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

    def exists(self, path: str) -> bool:
        return os.path.isfile(self._full(path))

    def make_folder(self, folder: str) -> None:
        check_name(folder)
        os.mkdir(self._full(folder), _FOLDER_MODE)

    def rename_folder(self, folder: str, to: str) -> None:
        check_name(folder)
        check_name(to)
        # The system would put it in the place of an empty folder.
        if os.path.lexists(self._full(to)):
            raise os_error(errno.EEXIST, to)
        if not stat.S_ISDIR(os.stat(self._full(folder), follow_symlinks=False).st_mode):
            raise os_error(errno.ENOTDIR, folder)
        os.rename(self._full(folder), self._full(to))

    def remove_folder(self, folder: str) -> None:
        """Remove a folder and its files, hidden ones too."""
        check_name(folder)
        path = self._full(folder)
        # Another thread may be removing the same folder.
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(path):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{path}/{name}")
            os.rmdir(path)

    def create(self, path: str) -> OpenFile:
        file = self._open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        # A new file may have the inode of a removed one, but nothing of its history.
        self.failed_syncs.pop(file._key, None)
        return file

    def open(self, path: str, *, read_only: bool = False) -> OpenFile:
        return self._open(path, os.O_RDONLY if read_only else os.O_RDWR)

    def _open(self, path: str, flags: int) -> OpenFile:
        split_path(path)
        descriptor = os.open(self._full(path), flags, _FILE_MODE)
        try:
            status = os.fstat(descriptor)
        except BaseException:
            _close(descriptor)
            raise
        if stat.S_ISDIR(status.st_mode):
            _close(descriptor)
            raise os_error(errno.EISDIR, path)
        read_only = not flags & os.O_RDWR
        file = OpenFile(path, self, descriptor, _key_of(status), size=status.st_size, read_only=read_only)
        self.open_files.add(file)
        return file

    def replace(self, path: str, data: bytes) -> None:
        # The data is synced before the rename: else a power loss could leave the new name with an empty file.
        folder, name = split_path(path)
        temporary = f"{folder}/{temporary_name(name)}" if folder else temporary_name(name)
        try:
            self._write_synced(temporary, data)
            self.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(self._full(temporary))
            raise
        self.sync_folder(folder)

    def rename(self, path: str, to: str) -> None:
        """Rename a file inside its folder; both are whole paths. EINVAL when the folders differ."""
        if split_path(path)[0] != split_path(to)[0]:
            raise os_error(errno.EINVAL, to)
        # A name that belongs to a folder is none of a file.
        if stat.S_ISDIR(os.stat(self._full(path), follow_symlinks=False).st_mode):
            raise os_error(errno.EISDIR, path)
        os.rename(self._full(path), self._full(to))

    def remove(self, path: str) -> None:
        split_path(path)
        os.unlink(self._full(path))

    def sync_folder(self, folder: str = "") -> None:
        try:
            descriptor = os.open(self._folder_path(folder), os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            # To open a folder is no sync, and a failed sync stops the daemon: the limit of descriptors is reached, or
            # the folder may not be read. This one needs no new descriptor, and covers the folder too.
            self.sync_all()
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def sync_all(self) -> None:
        self._file_system.sync_with(_syncfs)

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
        descriptor = os.open(self._full(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _FILE_MODE)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _key_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _syncfs(descriptor: int) -> None:
    if libc.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _close(descriptor: int) -> None:
    # It is gone in any case, and lost writes are the business of sync.
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _read_all(descriptor: int, offset: int, size: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    # The system may return less than it has; nothing at all means that the file ends here.
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
