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
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import attrs

__all__ = ["FileStorage", "check_name", "os_error", "split_path", "temporary_name"]

# writev takes this many buffers at most (IOV_MAX of Linux).
_BUFFERS_PER_WRITE = 1024

_FILE_MODE = 0o600
_FOLDER_MODE = 0o700

_SYNC_FILE_RANGE_WRITE = 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
_libc.syncfs.argtypes = [ctypes.c_int]


# A read that must not wait needs a buffer to read into. A fresh one for each read of 1 MiB costs 0.8 ms of
# page faults, one that is kept 0.04 ms; a read is seldom larger than this.
_SCRATCH_SIZE = 1024 * 1024


class _Scratch(threading.local):
    """One buffer for each thread that reads without waiting."""

    def __init__(self) -> None:
        self.buffer = bytearray(_SCRATCH_SIZE)


_scratch = _Scratch()


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
        self._table = _FileTable(self._root, max_descriptors)
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

    def create(self, path: str) -> _OpenFile:
        split_path(path)
        return self._table.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def open(self, path: str) -> _OpenFile:
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
            if _libc.syncfs(self._root_descriptor) != 0:
                self._sync_errno = ctypes.get_errno()
                raise os_error(self._sync_errno, self._root)
            self._table.note_synced(covered)

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


@attrs.define(eq=False)
class _OpenFile:
    """One open file. The fields from `location` on belong to the table."""

    path: str
    size: int
    _table: _FileTable
    # Where the file is now: renames change it, `path` stays.
    location: str
    # -1 while it has none.
    descriptor: int = -1
    # Calls that are using the descriptor at this moment.
    users: int = 0
    closed: bool = False
    # Its name is gone: a closed descriptor could not be opened again.
    orphan: bool = False
    # Appends and cuts so far, and how many of them a sync has covered.
    changes: int = 0
    synced_changes: int = 0
    # Of the first sync that failed, 0 while none has.
    sync_errno: int = 0
    # A cut after a failed append has failed: the end is unknown.
    broken: bool = False
    _sync_lock: threading.Lock = attrs.field(factory=threading.Lock)

    def append(self, buffers: Sequence[bytes]) -> None:
        total = sum(map(len, buffers))
        table = self._table
        descriptor = table.borrow(self)
        try:
            if self.broken:
                raise os_error(errno.EIO, self.path)
            if total == 0:
                return
            try:
                # Nearly every append is one call that takes everything.
                if len(buffers) > _BUFFERS_PER_WRITE or os.pwritev(descriptor, buffers, self.size) != total:
                    self._write_in_pieces(descriptor, buffers, total)
            except BaseException:
                self._cut_back(descriptor)
                raise
            self.size += total
            self.changes += 1
        finally:
            table.give_back(self)

    def _write_in_pieces(self, descriptor: int, buffers: Sequence[bytes], total: int) -> None:
        """Write all the buffers from `size` on, however little the system takes at a time."""
        rest: list[bytes | memoryview] = [buffer for buffer in buffers if buffer]
        first, done = 0, 0
        while done < total:
            written = os.pwritev(descriptor, rest[first : first + _BUFFERS_PER_WRITE], self.size + done)
            if written == 0:
                raise os_error(errno.ENOSPC, self.path)
            done += written
            while first < len(rest) and written >= len(rest[first]):
                written -= len(rest[first])
                first += 1
            if written:
                rest[first] = memoryview(rest[first])[written:]

    def _cut_back(self, descriptor: int) -> None:
        try:
            os.ftruncate(descriptor, self.size)
        except OSError:
            self.broken = True

    def read(self, offset: int, size: int, *, wait: bool = True) -> bytes:
        if offset < 0 or size < 0:
            raise os_error(errno.EINVAL, self.path)
        table = self._table
        descriptor = table.borrow(self)
        try:
            expected = min(size, self.size - offset)
            if expected <= 0:
                return b""
            if wait or not table.can_read_cached:
                return _read_all(descriptor, offset, expected)
            return self._read_cached(descriptor, offset, expected)
        finally:
            table.give_back(self)

    def _read_cached(self, descriptor: int, offset: int, size: int) -> bytes:
        buffer = _scratch.buffer if size <= _SCRATCH_SIZE else bytearray(size)
        view = memoryview(buffer)[:size]
        try:
            count = os.preadv(descriptor, [view], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            # This file system cannot say; the answer will not change, so it is asked no more.
            self._table.can_read_cached = False
            return _read_all(descriptor, offset, size)
        if count < size:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), self.path)
        return bytes(view)

    def truncate(self, size: int) -> None:
        descriptor = self._table.borrow(self)
        try:
            if not 0 <= size <= self.size:
                raise os_error(errno.EINVAL, self.path)
            os.ftruncate(descriptor, size)
            self.size = size
            self.changes += 1
        finally:
            self._table.give_back(self)

    def sync(self) -> None:
        # One at a time: of two at once the kernel would tell only one of a lost write.
        with self._sync_lock:
            descriptor = self._table.borrow(self)
            try:
                if not self.sync_errno:
                    self.sync_descriptor(descriptor)
                if self.sync_errno:
                    raise os_error(self.sync_errno, self.path)
            finally:
                self._table.give_back(self)

    def sync_descriptor(self, descriptor: int) -> None:
        """Sync through a descriptor that nobody can close meanwhile; an error goes to `sync_errno`."""
        # Counted before: what is appended during the sync may not be covered by it.
        covered = self.changes
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            self.sync_errno = error.errno or errno.EIO
        else:
            self._table.note_synced([(self, covered)])

    def start_writeback(self, offset: int, size: int) -> None:
        # The system takes a size of 0 for "to the end".
        if size <= 0:
            return
        with contextlib.suppress(OSError):
            descriptor = self._table.borrow(self)
            try:
                _libc.sync_file_range(descriptor, offset, size, _SYNC_FILE_RANGE_WRITE)
            finally:
                self._table.give_back(self)

    def forget_cached(self) -> None:
        with contextlib.suppress(OSError):
            descriptor = self._table.borrow(self)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                self._table.give_back(self)

    def close(self) -> None:
        self._table.release(self)


class _FileTable:
    """All open files of one storage: where they are, and the descriptors that some of them hold."""

    def __init__(self, root: str, limit: int) -> None:
        self.names = threading.RLock()
        # False once the file system said that it knows no RWF_NOWAIT.
        self.can_read_cached = True
        self._root = root
        self._limit = limit
        self._lock = threading.Lock()
        # Files with a descriptor, the least recently used first.
        self._held: OrderedDict[_OpenFile, None] = OrderedDict()
        # Files that still have a name, by their folder.
        self._named: dict[str, set[_OpenFile]] = {}

    def borrow(self, file: _OpenFile) -> int:
        """The file's descriptor, not to be closed before `give_back`. EBADF for a closed file."""
        with self._lock:
            if file.descriptor >= 0 and not file.closed:
                file.users += 1
                self._held.move_to_end(file)
                return file.descriptor
        return self._borrow_reopened(file)

    def give_back(self, file: _OpenFile) -> None:
        with self._lock:
            file.users -= 1
            if file.users or not file.closed:
                return
            descriptor = self._take_descriptor(file)
        _close(descriptor)

    def _borrow_reopened(self, file: _OpenFile) -> int:
        with self.names:
            with self._lock:
                if file.closed:
                    raise os_error(errno.EBADF, file.path)
                if file.descriptor >= 0:
                    file.users += 1
                    return file.descriptor
            if file.orphan:
                raise os_error(errno.ENOENT, file.path)
            self._make_room()
            descriptor = self.open_descriptor(self._full(file.location), os.O_RDWR)
            with self._lock:
                if not file.closed:
                    self._give_descriptor(file, descriptor)
                    file.users += 1
                    return descriptor
            _close(descriptor)
            raise os_error(errno.EBADF, file.path)

    def release(self, file: _OpenFile) -> None:
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

    def open(self, path: str, flags: int) -> _OpenFile:
        with self.names:
            self._make_room()
            descriptor = self.open_descriptor(self._full(path), flags)
            try:
                size = os.fstat(descriptor).st_size
            except BaseException:
                _close(descriptor)
                raise
            file = _OpenFile(path, size, self, path)
            with self._lock:
                self._give_descriptor(file, descriptor)
                self._named.setdefault(_folder_of(path), set()).add(file)
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
        borrowed: list[_OpenFile] = []
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

    def changes(self) -> list[tuple[_OpenFile, int]]:
        """What a sync of everything that begins now will cover."""
        with self._lock:
            return [(file, file.changes) for file in self._held]

    def note_synced(self, covered: list[tuple[_OpenFile, int]]) -> None:
        with self._lock:
            for file, changes in covered:
                file.synced_changes = max(file.synced_changes, changes)

    def _make_room(self) -> None:
        while len(self._held) >= self._limit:
            # All in use, orphans or unsynced: rather one too many than an error, or a wait for the disk.
            if not self._evict(only_synced=True):
                return

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

    def _victim(self, only_synced: bool) -> _OpenFile | None:
        oldest_unsynced = None
        for file in self._held:
            if file.users or file.orphan:
                continue
            if file.changes == file.synced_changes:
                return file
            oldest_unsynced = oldest_unsynced or (None if only_synced else file)
        return oldest_unsynced

    def _files_at(self, path: str) -> list[_OpenFile]:
        return [file for file in self._named.get(_folder_of(path), ()) if file.location == path]

    def _forget_name(self, file: _OpenFile) -> None:
        folder = _folder_of(file.location)
        files = self._named.get(folder)
        if files is not None:
            files.discard(file)
            if not files:
                del self._named[folder]

    def _give_descriptor(self, file: _OpenFile, descriptor: int) -> None:
        file.descriptor = descriptor
        self._held[file] = None

    def _take_descriptor(self, file: _OpenFile) -> int:
        descriptor, file.descriptor = file.descriptor, -1
        del self._held[file]
        return descriptor

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}"


def split_path(path: str) -> tuple[str, str]:
    """Folder ("" for the root) and name of a path. EINVAL when it is not `name` or `folder/name`."""
    folder, slash, name = path.rpartition("/")
    if slash:
        check_name(folder)
    check_name(name)
    return folder, name


def check_name(name: str) -> None:
    """Raise EINVAL for what is not one plain component of a path."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise os_error(errno.EINVAL, name)


def temporary_name(name: str) -> str:
    """What a file is called while `replace` writes it."""
    return f".{name}.tmp"


def os_error(number: int, path: str) -> OSError:
    """The `OSError` (of the fitting subclass) that the operating system would raise."""
    return OSError(number, os.strerror(number), path)


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def _read_all(descriptor: int, offset: int, size: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    # The system may return less than it has; nothing at all means that the file ends here.
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def _close(descriptor: int) -> None:
    # It is gone in any case, and lost writes are the business of sync.
    with contextlib.suppress(OSError):
        os.close(descriptor)
