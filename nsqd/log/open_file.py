"""One open file of the real file system; its descriptor is borrowed from a table for each call."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from nsqd.log.paths import os_error
from nsqd.log.system_calls import SYNC_FILE_RANGE_WRITE, libc

if TYPE_CHECKING:
    from nsqd.log.file_table import FileTable

__all__ = ["OpenFile"]

# writev takes this many buffers at most (IOV_MAX of Linux).
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
class OpenFile:
    """One open file. The fields from `location` on belong to the table."""

    path: str
    size: int
    _table: FileTable
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
        self._table.trim()

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
                libc.sync_file_range(descriptor, offset, size, SYNC_FILE_RANGE_WRITE)
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


def _read_all(descriptor: int, offset: int, size: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    # The system may return less than it has; nothing at all means that the file ends here.
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
