"""The files of one topic: writing, syncing, rotating, moving. Synchronous; time is an argument.

Rules:

- A record is a body and a newline. `synced` counts the records that are durable; only those may be finished. It grows
  after an fsync of the file (and of the folders in which it is new), never before.
- A record is not durable in a file that nobody can find. After the fsync the name must still lead to the file, with all
  that was written to it. If the file was removed, replaced or truncated, or its folder was, then the records since the
  last sync are written again, to a new file of this name. They may be there twice, if it was only renamed.
- Nothing below the folders is reached through a link, which another user may have placed there: not a file through a
  symbolic or second hard link, and no folder through a symbolic one. The folders themselves may be links.
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

import contextlib
import errno
import fcntl
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath

import attrs

from nsqkit.logging import get_logger
from nsqtools.nsq_to_file.names import with_revision

__all__ = ["FileSettings", "Instant", "TopicFiles"]

_log = get_logger(__name__)

_GZIP_FORMAT = 31  # zlib's value for its largest window with a gzip header
_FOLDER_MODE = 0o770
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_LOCKS = frozenset([errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])  # of file systems without locks
_FILE_MODE = 0o666
_MOST_LOSSES = 10
"""Files that may be lost in a row, before somebody must be told."""


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
    _unsynced: list[bytes] = attrs.field(factory=list)
    """The bodies of the records since the last sync: references to those of the caller's messages."""
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
            file = self._file or self._open(now.monotonic)
            if limit and file.size > limit:
                self._put(gathered)
                gathered.clear()
                self._rotate()
                file = self._open(now.monotonic)
            gathered.append(body)
            file.size += len(body) + 1
        self._put(gathered)

    def tick(self, now: Instant) -> None:
        """Do what is due without a message: rotate, and begin a file if empty ones are wanted."""
        self._rotate_if_due(now)
        if self._file is not None and not self._unsynced and not self._file.is_in_place():
            self._drop()
        if self._file is None and not self.settings.skip_empty:
            self._open(now.monotonic)

    def sync(self) -> None:
        """Sync all written records, and update `synced`."""
        if self._unsynced:
            self._make_durable(_OpenFile.sync)

    def close(self, *, hang_up: bool = False) -> None:
        """Sync and complete the open file, if there is one. The next record opens another one.

        `hang_up`: the file may have been renamed, as logrotate does, and is complete under its new name.
        """
        if self._file is None:
            return
        self._make_durable(_OpenFile.complete, renamed=hang_up)
        file = self._file
        if self.settings.moves and file.is_in_place():
            self._move(file.path)
        self._drop()  # which also releases the lock

    # --- helpers

    def _put(self, gathered: list[bytes]) -> None:
        if gathered:
            assert self._file is not None
            self._file.write(b"".join([part for body in gathered for part in (body, b"\n")]))
            self._unsynced += gathered

    def _make_durable(self, sync: Callable[[_OpenFile], None], *, renamed: bool = False) -> None:
        """Sync what was written to the open file, or write it to another one if that file was lost."""
        for _ in range(_MOST_LOSSES):
            file = self._file
            assert file is not None
            sync(file)
            if not self._unsynced or file.is_in_place() or (renamed and file.has_name()):
                self.synced += len(self._unsynced)
                self._unsynced.clear()
                return
            _log.warning(
                "%s was removed, replaced or truncated while it was written; writing %d records again",
                file.path,
                len(self._unsynced),
            )
            records, self._unsynced = self._unsynced, []
            self._drop()
            self._open(file.opened_at).size += sum(map(len, records)) + len(records)
            self._put(records)
        raise OSError(errno.ENOENT, "removed again and again while it was written", str(self.path))

    def _drop(self) -> None:
        """Close the open file as it is."""
        assert self._file is not None
        os.close(self._file.descriptor)
        self._file = None

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

    def _open(self, opened_at: float) -> _OpenFile:
        while True:
            relative = with_revision(self._template, self._revision if self.settings.revisions else None)
            file = self._try_open(relative, opened_at)
            if file is not None:
                _log.info("writing to %s", file.path)
                self._file = file
                return file
            self._revision += 1

    def _try_open(self, relative: str, opened_at: float) -> _OpenFile | None:
        """Open the file with this name; None if it cannot be used, and another revision may be."""
        settings = self.settings
        if settings.moves and os.path.lexists(settings.output_dir / relative):
            return None
        path = settings.work_dir / relative
        flags = os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        flags |= os.O_WRONLY | os.O_EXCL if settings.must_be_new else os.O_RDWR
        with open_folder(settings.work_dir, relative) as folder:
            try:
                descriptor = os.open(path.name, flags, _FILE_MODE, dir_fd=folder)
            except FileExistsError:
                return None
            except OSError as error:
                if error.errno != errno.ELOOP:
                    error.filename = str(path)
                    raise
                self._refuse(path)
                return None
        status = os.fstat(descriptor)
        # A device is allowed: only root can place one.
        is_device = stat.S_ISCHR(status.st_mode)
        if not (is_device or stat.S_ISREG(status.st_mode)) or (status.st_nlink > 1 and not settings.moves):
            os.close(descriptor)
            self._refuse(path)
            return None
        ours = not settings.moves or _lock(descriptor, path)
        size = os.fstat(descriptor).st_size  # after the lock, as another writer may have appended before
        if not ours or 0 < settings.rotate_size < size:
            os.close(descriptor)
            return None
        file = _OpenFile(path, descriptor, settings.gzip_level, size, opened_at, least_size=size)
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            _log.warning("%s ends within a line; appending to it on a new line", path)
            file.write(b"\n")
            file.size += 1
        return file

    def _refuse(self, path: Path) -> None:
        """The name is taken by a link or a pipe. Raises `OSError` if there is no other revision of it."""
        reason = "not a file with one name (no links are followed)"
        if not self.settings.revisions:
            raise OSError(errno.ELOOP, reason, str(path))
        _log.warning("%s is %s; taking the next revision", path, reason)

    def _move(self, path: Path) -> None:
        settings = self.settings
        old = str(path.relative_to(settings.work_dir))
        new, number = old, self._revision
        with open_folder(settings.work_dir, old) as old_folder:
            while True:
                with open_folder(settings.output_dir, new) as folder:
                    target = settings.output_dir / new
                    try:
                        os.link(path.name, target.name, src_dir_fd=old_folder, dst_dir_fd=folder)
                    except FileExistsError:  # another process has created it meanwhile
                        number += 1
                        new = with_revision(self._template, number)
                        continue
                    os.fsync(folder)
                    break
            os.unlink(path.name, dir_fd=old_folder)
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
    """Seconds of the monotonic clock."""
    least_size: int
    """Bytes that it must have: those that were there, and those that were written. Others may append to it, too."""
    _member: zlib._Compress | None = None
    _has_members: bool = False
    _folder_synced: bool = False

    def write(self, data: bytes) -> None:
        if self.gzip_level:
            if self._member is None:
                self._member = zlib.compressobj(self.gzip_level, wbits=_GZIP_FORMAT)
            data = self._member.compress(data)
        self._write(data)

    def sync(self) -> None:
        self._end_member()
        os.fsync(self.descriptor)
        if not self._folder_synced:
            with contextlib.suppress(
                FileNotFoundError, NotADirectoryError
            ):  # the file is lost; `is_in_place` tells
                _sync_folder(self.path.parent)
            self._folder_synced = True

    def complete(self) -> None:
        """Sync the file; nothing is written to it after that."""
        if self.gzip_level and not self._has_members and self._member is None:
            self.write(b"")  # a valid gzip file without content
        self.sync()

    def is_in_place(self) -> bool:
        """Whether the name leads to this file, and all is in it that was written."""
        try:
            named = os.stat(self.path, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        status = os.fstat(self.descriptor)
        return os.path.samestat(named, status) and self._is_whole(status)

    def has_name(self) -> bool:
        """Whether the file has any name, and all is in it that was written."""
        status = os.fstat(self.descriptor)
        return status.st_nlink > 0 and self._is_whole(status)

    def _is_whole(self, status: os.stat_result) -> bool:
        return status.st_size >= self.least_size or not stat.S_ISREG(status.st_mode)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]
        self.least_size += len(data)

    def _end_member(self) -> None:
        if self._member is not None:
            self._write(self._member.flush(zlib.Z_FINISH))
            self._member, self._has_members = None, True


def make_folders(folder: Path) -> None:
    """Create this folder and missing parents, all with the same mode (`Path.mkdir` uses its mode for the last only)."""
    if not folder.is_dir():
        make_folders(folder.parent)
        folder.mkdir(_FOLDER_MODE, exist_ok=True)


@contextlib.contextmanager
def open_folder(base: Path, relative: str) -> Iterator[int]:
    """A descriptor of the folder of the file `relative` below `base`; missing folders are made.

    A folder below `base` that is a symbolic link is an `OSError`.
    """
    make_folders(base)
    descriptor = os.open(base, _FOLDER_FLAGS)
    try:
        for part in PurePath(relative).parent.parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, _FOLDER_MODE, dir_fd=descriptor)
            try:
                inner = os.open(part, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=descriptor)
            except OSError as error:
                error.filename = str(base / PurePath(relative).parent)
                raise
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


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


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, _FOLDER_FLAGS)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
