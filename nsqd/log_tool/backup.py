"""A backup of a data path, also of a running daemon: each topic as it was at one moment while the backup was made.

Rules:

- Nothing is written below the data path, and nothing of the daemon is asked or locked.
- The daemon never changes a complete segment or a snapshot: they are linked, or copied where links are not possible.
  Only the last segment of a topic grows; so that it does not grow in the backup too, it is copied.
- What says whose data path it is, or that somebody has it in use, has no place in a backup: another life begins on it,
  and its ids continue after those in the logs. So `nsqd.import` is all that is taken from the root.
- The target shows no topic before all of them are there and synced. What fails is removed.

How a moment is found. The names in the folder of a topic are not used twice as long as it is this folder. So the names
are listed, the manifest is read, the size of the last segment is taken, and the names are listed again: if they are the
same, then these were the files at the moment when the size was taken. What a snapshot or a manifest speaks of was in
the log before they had their names, hence it is below that size; and so are the finishes, and the moved messages, that
made a segment needless which is not there any more. A file that is gone before it was linked, or a folder that is
another one by the end, means that this moment is over, and the next look finds another one. Files that an earlier look
has copied are not copied again, so that even with a slow target there is less to do at each look.

A record that was being written at the moment is left out, as after a kill. Other damage is copied as it is: it is for
the recovery to say what is lost.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from typing import Final

import attrs

from nsqd.importing.journal import JOURNAL, ImportRefused, Journal
from nsqd.log.file_storage import FileStorage
from nsqd.log.manifest import MANIFEST
from nsqd.log.records import FILE_HEADER_SIZE, RECORD_HEAD_SIZE, FormatError, NewerFormat, RecordHead
from nsqd.log.scan import Damaged, scan
from nsqd.log.store import TOPIC, is_of_the_original
from nsqd.log_tool.inspect import LogFile, Progress
from nsqd.replication.keep import NOTE, CopyNote
from nsqd.replication.noted_storage import ROOT_FILES, is_copied, is_copied_folder

__all__ = ["BackupRefused", "BackupReport", "back_up"]

LOOKS: Final = 100  # at a topic whose files come and go
PIECE: Final = 8 << 20  # bytes that are copied between two reports of progress
RESERVE: Final = 128 << 20  # bytes of the target's file system that stay free: it may be that of the daemon
_COPIES: Final = "copies"
_UNFINISHED: Final = ".backup.new"
_NOT_LINKABLE: Final = frozenset((errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS))
_NOT_CLONABLE: Final = frozenset((errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM))


class BackupRefused(Exception):
    """There is no backup, and nothing was written; the text is for the operator."""


class _Changed(Exception):
    """The files of a topic are not those that they were when they were listed."""


@attrs.define
class BackupReport:
    """What a backup has. `linked`, `copied`: files. `copied_bytes`: that take room of their own.

    `gap`: the data path is a copy of another node's that has not everything. `notes`: remarks for an operator.
    """

    topics: int = 0
    linked: int = 0
    copied: int = 0
    bytes: int = 0
    copied_bytes: int = 0
    gap: bool = False
    notes: list[str] = attrs.field(factory=list)


def back_up(source: str, target: str, progress: Progress | None = None) -> BackupReport:
    """Back up the data path `source`, a daemon's or a copy, to the new or empty folder `target`.

    `progress` is told about the bytes of all files together. `BackupRefused`; `OSError`: the target is as it was.
    """
    _refuse_unless_data_path(source)
    _refuse_inside(source, target)
    created = _make_target(target)
    unfinished = f"{target}/{_UNFINISHED}"
    os.mkdir(unfinished, 0o700)
    try:
        report = _Backup(source, unfinished, progress or (lambda _path, _done, _size: None)).run()
        # A sync of the folder makes all of these renames last, or a power loss leaves the first few of them.
        for name in os.listdir(unfinished):
            os.rename(f"{unfinished}/{name}", f"{target}/{name}")
        os.rmdir(unfinished)
        _sync(target)
        if created:
            _sync(os.path.dirname(os.path.abspath(target)))
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        if created:
            with contextlib.suppress(OSError):
                os.rmdir(target)
        raise
    return report


# --- what is refused


def _refuse_unless_data_path(source: str) -> None:
    names = os.listdir(source)
    if foreign := next(filter(is_of_the_original, names), None):
        raise BackupRefused(
            f"{source} has {foreign}, a file of the original nsqd: stop it, and copy the folder"
        )
    if os.path.basename(os.path.abspath(source)).startswith(TOPIC):
        raise BackupRefused(
            f"{source} is the folder of one topic; a backup is made of the data path that it is in"
        )
    if not any(name in (*ROOT_FILES, NOTE) or is_copied_folder(name) for name in names):
        raise BackupRefused(f"{source} is no data path of nsqd")
    with contextlib.closing(FileStorage(source)) as storage:
        try:
            journal = Journal.load(storage)
        except ImportRefused as error:
            raise BackupRefused(str(error)) from error
    if journal is not None and not journal.complete:
        raise BackupRefused(f"the import of {journal.source} into {source} is not complete")


def _refuse_inside(source: str, target: str) -> None:
    """Refuse a target in a folder that the daemon removes, or reads names from."""
    root, parts = os.path.realpath(source), os.path.realpath(target).split("/")
    holder, folder = os.path.split(os.path.dirname(root))
    for data_path in (root, holder) if folder == _COPIES else (root,):  # of a copy: also that of its follower
        depth = data_path.count("/") + 1
        inside = parts[depth] if parts[:depth] == data_path.split("/") and len(parts) > depth else ""
        if inside == _COPIES or inside.startswith((TOPIC, "trash-")):
            raise BackupRefused(f"{target} is in a folder that belongs to nsqd; give it a folder of its own")


def _make_target(target: str) -> bool:
    """Whether it was made. `BackupRefused` when something is in it."""
    try:
        os.mkdir(target, 0o700)
    except FileExistsError:
        if _UNFINISHED in (names := os.listdir(target)):
            raise BackupRefused(
                f"{target} has the rest of a backup that was killed, or one that is being made; "
                "give another folder, or remove it"
            ) from None
        if names:
            raise BackupRefused(f"{target} is not empty; give a new folder, or an empty one") from None
        return False
    return True


# --- the moment


@attrs.frozen
class _Moment:
    """The files of a topic's folder at one moment. `fixed`: names of those that never change, in order.

    `last`: the name of the last segment, empty without any; `size`: its bytes. `manifest`: None without one.
    """

    fixed: list[str]
    last: str
    size: int
    manifest: bytes | None


def _look(folder: str) -> _Moment:
    """`_Changed` or ENOENT when the files have changed meanwhile."""
    names = _names(folder)
    manifest = None
    if MANIFEST in names:
        with open(f"{folder}/{MANIFEST}", "rb") as file:
            manifest = file.read()
    segments = [name for name in names if name.endswith(".log")]
    last, size = "", 0
    while segments and size < FILE_HEADER_SIZE:  # with less, it has only been begun, and holds nothing
        last = segments.pop()
        size = os.stat(f"{folder}/{last}").st_size
    if size < FILE_HEADER_SIZE:
        last = ""
    if _names(folder) != names:
        raise _Changed
    snapshots = [name for name in names if name.endswith(".snap")]
    return _Moment([*segments, *snapshots], last, size, manifest)


def _names(folder: str) -> list[str]:
    """Of the files that count, sorted."""
    topic = os.path.basename(folder)
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if is_copied(f"{topic}/{entry.name}") and entry.is_file(follow_symlinks=False)
        )


# --- the backup


@attrs.define
class _Backup:
    """`target`: an empty folder for it. `copied`: bytes of the files there that are no links, by their paths."""

    source: str
    target: str
    progress: Progress
    report: BackupReport = attrs.field(factory=BackupReport)
    linking: bool = True
    copied: dict[str, int] = attrs.field(factory=dict)
    linked: dict[str, int] = attrs.field(factory=dict)
    done: int = 0
    total: int = 0

    def run(self) -> BackupReport:
        report = self.report
        report.gap = self._has_gap()
        with os.scandir(self.source) as entries:
            folders = sorted(
                entry.name
                for entry in entries
                if is_copied_folder(entry.name) and entry.is_dir(follow_symlinks=False)
            )
        self.total = sum(self._size(folder) for folder in folders)
        with contextlib.suppress(FileNotFoundError):
            self._copy(f"{self.source}/{JOURNAL}", f"{self.target}/{JOURNAL}")
        for folder in folders:
            if self._back_up_topic(folder):
                report.topics += 1
        _sync(self.target)
        report.gap = report.gap or self._has_gap()
        report.linked, report.copied = len(self.linked), len(self.copied)
        report.copied_bytes = sum(self.copied.values())
        report.bytes = report.copied_bytes + sum(self.linked.values())
        return report

    def _has_gap(self) -> bool:
        with contextlib.closing(FileStorage(self.source)) as storage:
            note = CopyNote.read(storage)
        return note is not None and not note.complete

    def _size(self, folder: str) -> int:
        """Bytes of its files, about, for the progress."""
        size = 0
        with contextlib.suppress(FileNotFoundError):
            for name in _names(f"{self.source}/{folder}"):
                size += os.stat(f"{self.source}/{folder}/{name}").st_size
        return size

    def _back_up_topic(self, folder: str) -> bool:
        """False when the topic was deleted, or has no files yet. `OSError`."""
        source, target = f"{self.source}/{folder}", f"{self.target}/{folder}"
        for _ in range(LOOKS):
            try:
                pinned = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                self._discard(target, set())
                return False
            try:
                moment = _look(source)
                self._take(source, target, moment)
                # While a folder is open, no other one can have its inode.
                if os.path.samestat(os.fstat(pinned), os.stat(source)):
                    return os.path.isdir(target)
            except (_Changed, FileNotFoundError):
                pass
            finally:
                os.close(pinned)
        raise OSError(errno.EBUSY, f"its files have changed during each of {LOOKS} looks at them", source)

    def _take(self, source: str, target: str, moment: _Moment) -> None:
        """Bring the files of a moment into the target, and what an earlier look has left there, out of it."""
        self._discard(target, {*moment.fixed})
        if not (moment.fixed or moment.last):
            return
        if not os.path.isdir(target):
            os.mkdir(target, 0o700)
            _give_owner(target, os.stat(source))
        for name in moment.fixed:
            self._place(f"{source}/{name}", f"{target}/{name}")
        if moment.last:
            path = f"{target}/{moment.last}"
            self._copy(f"{source}/{moment.last}", path, moment.size)
            try:
                self._leave_torn_record_out(path)
            except NewerFormat as error:
                raise BackupRefused(str(error).replace(path, f"{source}/{moment.last}")) from error
        if moment.manifest is not None:
            path = f"{target}/{MANIFEST}"
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(moment.manifest)
            _give_owner(path, os.stat(source))
            self.copied[path] = len(moment.manifest)
        for path in [target, *(f"{target}/{name}" for name in os.listdir(target))]:
            _sync(path)

    def _discard(self, target: str, but: set[str]) -> None:
        """Remove a topic's files but for some, and the folder with the last of them."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(target):
                if name not in but:
                    self._remove(f"{target}/{name}")
            if not but:
                os.rmdir(target)

    def _remove(self, path: str) -> None:
        os.unlink(path)
        self.copied.pop(path, None)
        self.linked.pop(path, None)

    def _place(self, source: str, target: str) -> None:
        """Link a file that never changes, or copy it, unless an earlier look has."""
        status = os.stat(source)
        with contextlib.suppress(FileNotFoundError):
            there = os.stat(target)
            if (there.st_size, there.st_mtime_ns) == (status.st_size, status.st_mtime_ns):
                return
            self._remove(target)
        if self.linking:
            try:
                os.link(source, target)
            except OSError as error:
                if error.errno not in _NOT_LINKABLE:
                    raise
                self._say_why_not_linked(error)
            else:
                self.linked[target] = status.st_size
                self._advance(source, status.st_size)
                return
        self._copy(source, target)

    def _say_why_not_linked(self, error: OSError) -> None:
        self.linking = error.errno == errno.EMLINK  # that of one file only
        if error.errno == errno.EXDEV:
            self.report.notes.append("the target is on another file system: all files were copied")
        elif not self.linking:
            self.report.notes.append(f"files were copied, as they cannot be linked: {error.strerror}")

    # --- copies

    def _copy(self, source: str, target: str, size: int | None = None) -> None:
        """Copy a file, or the first `size` bytes of it. Times and, where that is allowed, the owner are kept."""
        with _opened(source, os.O_RDONLY) as reader:
            status = os.fstat(reader)
            left = status.st_size if size is None else min(size, status.st_size)
            self._refuse_when_full(left)
            with _opened(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as writer:
                self.copied[target] = left
                while left and (count := _copy_piece(reader, writer, min(left, PIECE))):
                    left -= count
                    self._advance(source, count)
                self.copied[target] -= left
                os.utime(writer, ns=(status.st_atime_ns, status.st_mtime_ns))
                _give_owner(writer, status)

    def _refuse_when_full(self, size: int) -> None:
        status = os.statvfs(self.target)
        if status.f_bavail * status.f_frsize < size + RESERVE:
            reason = (
                f"{os.strerror(errno.ENOSPC)}: {size} bytes would leave less than {RESERVE >> 20} MiB free"
            )
            raise OSError(errno.ENOSPC, reason, os.path.dirname(self.target))

    def _leave_torn_record_out(self, path: str) -> None:
        """Cut off a record at the end of a copied segment that was not complete when its size was taken.

        `NewerFormat`.
        """
        file = LogFile.open(path)
        try:
            if file.header is None:
                return
            size, salt = file.size, file.header.salt
            torn: Damaged | None = None
            for item in scan(file.read, FILE_HEADER_SIZE, size, salt, 0):
                torn = item if isinstance(item, Damaged) and item.next_first is None else None
            if torn is not None and _is_incomplete(
                file.read(torn.offset, RECORD_HEAD_SIZE), salt, size - torn.offset
            ):
                status = os.fstat(file.descriptor)
                os.truncate(path, torn.offset)
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
                self.copied[path] = torn.offset
        finally:
            file.close()

    def _advance(self, path: str, size: int) -> None:
        self.done = min(self.done + size, self.total)
        self.progress(path, self.done, self.total)


def _is_incomplete(head: bytes, salt: int, size: int) -> bool:
    """Whether `size` bytes that begin with `head` are the beginning of a record, and not all of it."""
    if len(head) < RECORD_HEAD_SIZE:
        return True
    try:
        return RecordHead.decode(head, 0, salt).size > size
    except FormatError:
        return False


def _copy_piece(reader: int, writer: int, size: int) -> int:
    """Copy up to `size` bytes on; returns how many, 0 at the end. Blocks are shared where the file system can."""
    try:
        count = os.copy_file_range(reader, writer, size)
    except OSError as error:
        if error.errno not in _NOT_CLONABLE:
            raise
        count = 0
    # Some file systems do not copy, and give no error.
    return count or os.sendfile(writer, reader, None, size)


def _give_owner(path: str | int, status: os.stat_result) -> None:
    """Root makes backups too, and nsqd must be able to read what is restored."""
    with contextlib.suppress(PermissionError):
        os.chown(path, status.st_uid, status.st_gid)


def _sync(path: str) -> None:
    with _opened(path, os.O_RDONLY) as descriptor:
        os.fsync(descriptor)


@contextlib.contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
