"""The files of one topic: writing, syncing, rotating, moving. Synchronous; time is an argument.

Rules:

- A record is a body and a newline. `synced` counts the records that are durable; only those may be finished. It grows
  after an fsync of the file (and of the folders in which it is new), never before.
- Any `OSError` is final: nothing is retried after a failed write or fsync. The caller must end.
- Nothing is ever overwritten or truncated. An existing file is appended to, if that is allowed, or left alone.
- A file that will be moved has one writer, though names may be shared by topics and processes: the writer holds a lock
  (`flock`, which ends with the process) from before its first byte until the old name is removed.

Choice of the file. The template of the name depends on the time. A file with that name is opened in `work_dir`; if it
cannot be used (it exists and must not, is already too large, or belongs to another writer) the next revision is tried,
which starts at 0 for every new template. A file is complete when its template is no longer the current one, when it was
open for `rotate_interval`, or when it has more than `rotate_size` bytes (before compression). A complete file is moved
to `output_dir` by a hard link and an unlink, as a link never replaces a file.

With compression each sync ends a gzip member, so that the file is readable up to the last sync after any failure.

A process that is killed during a write can leave a partial record. When such a file is appended to, a newline is
written first: the partial record is a line of its own, and damages no other.
"""

from __future__ import annotations

import errno
import fcntl
import os
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs

from nsqkit.logging import get_logger
from nsqtools.nsq_to_file.names import with_revision

__all__ = ["FileSettings", "Instant", "TopicFiles"]

_log = get_logger(__name__)

_GZIP_FORMAT = 31  # zlib's value for its largest window with a gzip header
_FOLDER_MODE = 0o770
_NO_LOCKS = frozenset([errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])  # of file systems without locks
_FILE_MODE = 0o666


@attrs.frozen
class Instant:
    """A point in time, on two clocks."""

    wall: float
    """Seconds since 1970."""
    monotonic: float
    """Seconds of a monotonic clock."""


@attrs.frozen(kw_only=True)
class FileSettings:
    """The settings for the files of all topics."""

    output_dir: Path
    work_dir: Path
    """If equal to `output_dir`, files are not moved."""
    revisions: bool = True
    """Whether names have a revision; required with compression, rotation and a separate `work_dir`."""
    gzip_level: int = 0
    """0: not compressed."""
    rotate_size: int = 0
    """Bytes; 0: off."""
    rotate_interval: float = 0.0
    """Seconds; 0: off."""
    skip_empty: bool = False

    def __attrs_post_init__(self) -> None:
        assert self.revisions or not (self.must_be_new or self.moves or self.rotate_size)

    @property
    def moves(self) -> bool:
        """Whether complete files are moved."""
        return self.work_dir != self.output_dir

    @property
    def must_be_new(self) -> bool:
        """Whether existing files are left alone."""
        return bool(self.gzip_level or self.rotate_interval)


@attrs.define(eq=False)
class TopicFiles:
    """The files of one topic, one of which is open at a time.

    `template_at`: returns the template of the name, relative to the folders, for a time in seconds since 1970.
    """

    settings: FileSettings
    template_at: Callable[[float], str]
    synced: int = 0
    """Durable records, in all files."""
    _written: int = 0
    _file: _OpenFile | None = None
    _template: str = ""
    _revision: int = 0

    @property
    def path(self) -> Path | None:
        """The file that is open now."""
        return None if self._file is None else self._file.path

    def write(self, bodies: Iterable[bytes], now: Instant) -> None:
        """Write records, beginning new files as they become due."""
        self._rotate_if_due(now)
        limit = self.settings.rotate_size
        gathered: list[bytes] = []
        for body in bodies:
            file = self._file or self._open(now)
            if limit and file.size > limit:
                self._put(gathered)
                gathered.clear()
                self._rotate()
                file = self._open(now)
            gathered += (body, b"\n")
            file.size += len(body) + 1
        self._put(gathered)

    def tick(self, now: Instant) -> None:
        """Do what is due without a message: rotate, and begin a file if empty ones are wanted."""
        self._rotate_if_due(now)
        if self._file is None and not self.settings.skip_empty:
            self._open(now)

    def sync(self) -> None:
        """Sync all written records, and update `synced`."""
        if self._file is not None and self.synced != self._written:
            self._file.sync()
        self.synced = self._written

    def close(self) -> None:
        """Sync and complete the open file, if there is one. The next record opens another one."""
        file, self._file = self._file, None
        if file is None:
            return
        file.complete()
        self.synced = self._written
        if self.settings.moves:
            self._move(file.path)
        os.close(file.descriptor)  # which also releases the lock

    # --- helpers

    def _put(self, gathered: list[bytes]) -> None:
        if gathered:
            assert self._file is not None
            self._file.write(b"".join(gathered))
            self._written += len(gathered) // 2

    def _rotate_if_due(self, now: Instant) -> None:
        """Rotate by time or size. `write` checks the size again before each record."""
        file, settings = self._file, self.settings
        template = self.template_at(now.wall)
        if template != self._template:
            self.close()
            self._template, self._revision = template, 0
        elif file is not None and (
            0 < settings.rotate_interval < now.monotonic - file.opened_at
            or 0 < settings.rotate_size < file.size
        ):
            self._rotate()

    def _rotate(self) -> None:
        self.close()
        self._revision += 1

    def _open(self, now: Instant) -> _OpenFile:
        while True:
            relative = with_revision(self._template, self._revision if self.settings.revisions else None)
            file = self._try_open(relative, now)
            if file is not None:
                _log.info("writing to %s", file.path)
                self._file = file
                return file
            self._revision += 1

    def _try_open(self, relative: str, now: Instant) -> _OpenFile | None:
        """Open the file with this name; None if it cannot be used."""
        settings = self.settings
        if settings.moves and os.path.lexists(settings.output_dir / relative):
            return None
        path = settings.work_dir / relative
        make_folders(path.parent)
        try:
            if settings.must_be_new:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
            else:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _FILE_MODE)
        except FileExistsError:
            return None
        ours = not settings.moves or _lock(descriptor, path)
        size = os.fstat(descriptor).st_size  # after the lock, as another writer may have appended before
        if not ours or 0 < settings.rotate_size < size:
            os.close(descriptor)
            return None
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            _log.warning("%s ends within a line; appending to it on a new line", path)
            _write_all(descriptor, b"\n")
            size += 1
        return _OpenFile(path, descriptor, settings.gzip_level, size, now.monotonic)

    def _move(self, path: Path) -> None:
        settings = self.settings
        relative = str(path.relative_to(settings.work_dir))
        number = self._revision
        while True:
            target = settings.output_dir / relative
            make_folders(target.parent)
            try:
                os.link(path, target)
                break
            except FileExistsError:  # another process has created it meanwhile
                number += 1
                relative = with_revision(self._template, number)
        _sync_folder(target.parent)
        os.unlink(path)
        _log.info("moved %s to %s", path, target)


@attrs.define(eq=False)
class _OpenFile:
    """One open file."""

    path: Path
    descriptor: int
    gzip_level: int
    size: int
    """Bytes in it, before compression."""
    opened_at: float
    _member: zlib._Compress | None = None
    _has_members: bool = False
    _folder_synced: bool = False

    def write(self, data: bytes) -> None:
        if self.gzip_level:
            if self._member is None:
                self._member = zlib.compressobj(self.gzip_level, wbits=_GZIP_FORMAT)
            data = self._member.compress(data)
        _write_all(self.descriptor, data)

    def sync(self) -> None:
        self._end_member()
        os.fsync(self.descriptor)
        if not self._folder_synced:
            _sync_folder(self.path.parent)
            self._folder_synced = True

    def complete(self) -> None:
        """Sync the file; nothing is written to it after that."""
        if self.gzip_level and not self._has_members and self._member is None:
            self.write(b"")  # a valid gzip file without content
        self.sync()

    def _end_member(self) -> None:
        if self._member is not None:
            _write_all(self.descriptor, self._member.flush(zlib.Z_FINISH))
            self._member, self._has_members = None, True


def make_folders(folder: Path) -> None:
    """Create this folder and missing parents, all with the same mode (`Path.mkdir` uses its mode for the last only)."""
    if not folder.is_dir():
        make_folders(folder.parent)
        folder.mkdir(_FOLDER_MODE, exist_ok=True)


def _lock(descriptor: int, path: Path) -> bool:
    """Lock a file. False if another process has the lock, or has moved the file, perhaps partly, since then."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.warning(
            "%s: the file system has no locks; no other process may write to this folder", path.parent
        )
    status = os.fstat(descriptor)
    try:
        return status.st_nlink == 1 and os.path.samestat(status, os.stat(path))
    except FileNotFoundError:
        return False


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
