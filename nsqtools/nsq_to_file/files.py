"""The files of one topic: writing, syncing, rotating, moving. Synchronous; time comes in as an argument.

Rules:

- A record is a body and a newline. `synced` counts the records that are on disk for good; only those may be
  finished. It grows after an fsync of the file (and of the folders that it is new in), never before.
- Any `OSError` is final: nothing is tried again after a failed write or fsync, and whoever uses this ends.
- Nothing is ever overwritten or cut. An existing file is appended to, if that is allowed, or left alone.
- A file that will be moved has one writer, though names may be shared by topics and processes: the writer holds
  a lock (`flock`, which ends with the process) from before its first byte until the old name is gone.

Which file? The name's template comes from the time. A file of that name is opened in `work_dir`; while it
cannot be used (it exists and must not, it is too large already, or somebody else's) the next revision is tried,
which starts at 0 for every new template. A file is complete when its template is not the present one any more,
when it was open for `rotate_interval`, or when more than `rotate_size` bytes (before compression) are in it. A
complete file is moved to `output_dir` by a hard link and an unlink: a link never replaces a file.

Compressed, each sync ends a gzip member, so that a file is readable up to the last sync whatever happens.

A process that is killed in the midst of a write can leave half a record. When such a file is appended to, a
newline comes first: the half stays visible as a line of its own, and spoils no other.
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

_GZIP_FORMAT = 31  # what zlib calls its largest window with a gzip head
_FOLDER_MODE = 0o770
_NO_LOCKS = frozenset([errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])  # said by file systems without
_FILE_MODE = 0o666


@attrs.frozen
class Instant:
    """A point in time, on two clocks."""

    wall: float
    """Seconds since 1970."""
    monotonic: float
    """Seconds, of a clock that nobody sets."""


@attrs.frozen(kw_only=True)
class FileSettings:
    """How files are written."""

    output_dir: Path
    work_dir: Path
    """The same as `output_dir`: files are not moved."""
    revisions: bool = True
    """Whether names have a revision; must be with all that follows, and with a `work_dir` of its own."""
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
        """Whether a complete file goes somewhere else."""
        return self.work_dir != self.output_dir

    @property
    def must_be_new(self) -> bool:
        """Whether existing files are left alone."""
        return bool(self.gzip_level or self.rotate_interval)


@attrs.define(eq=False)
class TopicFiles:
    """The present file of one topic, and all its files over time.

    `template_at` gives the name's template at a time (seconds since 1970), relative to the folders.
    """

    settings: FileSettings
    template_at: Callable[[float], str]
    synced: int = 0
    """Records that are on disk, since the beginning."""
    _written: int = 0
    _file: _OpenFile | None = None
    _template: str = ""
    _revision: int = 0

    @property
    def path(self) -> Path | None:
        """The file that is open now."""
        return None if self._file is None else self._file.path

    def write(self, bodies: Iterable[bytes], now: Instant) -> None:
        """Write these records, each to the file that is due for it."""
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
        """Bring all that was written to disk; then `synced` is up to date."""
        if self._file is not None and self.synced != self._written:
            self._file.sync()
        self.synced = self._written

    def close(self) -> None:
        """Sync and complete the present file, if there is one. The next record opens one again."""
        file, self._file = self._file, None
        if file is None:
            return
        file.complete()
        self.synced = self._written
        if self.settings.moves:
            self._move(file.path)
        os.close(file.descriptor)  # and with it the lock

    # Inside.

    def _put(self, gathered: list[bytes]) -> None:
        if gathered:
            assert self._file is not None
            self._file.write(b"".join(gathered))
            self._written += len(gathered) // 2

    def _rotate_if_due(self, now: Instant) -> None:
        """For time and size; the size is looked at again before each record."""
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
        """None: this revision cannot be used."""
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
        size = os.fstat(descriptor).st_size  # of a file that nobody else writes to any more
        if not ours or 0 < settings.rotate_size < size:
            os.close(descriptor)
            return None
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            _log.warning("%s ends within a line; going on in a new one", path)
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
            except FileExistsError:  # somebody else was faster
                number += 1
                relative = with_revision(self._template, number)
        _sync_folder(target.parent)
        os.unlink(path)
        _log.info("moved %s to %s", path, target)


@attrs.define(eq=False)
class _OpenFile:
    """One file between its opening and its end."""

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
        """All of it is on disk; nothing follows."""
        if self.gzip_level and not self._has_members and self._member is None:
            self.write(b"")  # an empty file in gzip's own form
        self.sync()

    def _end_member(self) -> None:
        if self._member is not None:
            _write_all(self.descriptor, self._member.flush(zlib.Z_FINISH))
            self._member, self._has_members = None, True


def make_folders(folder: Path) -> None:
    """Make this folder and those above it where they are missing, with the mode of this program's folders."""
    if not folder.is_dir():
        make_folders(folder.parent)
        folder.mkdir(_FOLDER_MODE, exist_ok=True)


def _lock(descriptor: int, path: Path) -> bool:
    """Make this file ours. False: somebody else writes to it, or has moved it, perhaps half, since it was opened."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.warning("%s: no locks on this file system, so nobody else may write there", path.parent)
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
