"""A file that daemons read again when it has changed, and that commands rewrite as a whole: of tokens, of users.

**Readers** (daemons) look at the file about once a second. What they had stays valid while the new content cannot be
read: a mistake in the file locks nobody out, and is in the log once.

**Writers** (commands) take a lock on the file, write a new one beside it, sync it and rename it. So a reader sees one
or the other, and of two writers the second one sees what the first one wrote. The new file has the mode and, if that is
permitted, the owner of the old one.

Each line is a JSON object; empty lines, and those that begin with `#`, are comments. They stay.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Set, Sized
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import attrs

from nsqkit.decoding import DecodeError, decode_json
from nsqkit.logging import get_logger

__all__ = [
    "MAX_FILE",
    "ContentError",
    "Kind",
    "SharedFile",
    "is_comment",
    "parse_lines",
    "told_as",
    "with_line",
]

_log = get_logger("nsqkit.access")

MAX_FILE: Final = 4 << 20
"""Bytes of a file."""
_LOCK_TIME_S: Final = 10.0
_LOCK_PAUSE_S: Final = 0.05

_Version = tuple[int, ...]
"""What differs after a change of the file."""
ContentT = TypeVar("ContentT", bound=Sized)
EntryT = TypeVar("EntryT")


class ContentError(ValueError):
    """The content of a file is wrong; the message says why, and has no secret in it."""


@contextlib.contextmanager
def told_as(kind: type[Exception], path: str) -> Iterator[None]:
    """Raise this kind of error, with the path in its text, in place of `OSError` and `ContentError`."""
    try:
        yield
    except ContentError as error:
        raise kind(f"{path}: {error}") from error
    except OSError as error:
        raise kind(f"{path}: {error.strerror or error}") from error


@attrs.define(eq=False)
class SharedFile(Generic[ContentT]):
    """A file of some kind, as a daemon has it."""

    path: str
    kind: Kind[ContentT]
    content: ContentT = attrs.field(init=False)
    """The last one that could be read."""
    _seen: _Version | str = attrs.field(default=(), init=False)
    """The last content that was looked at, usable or not; a text is the reason why there was none."""

    def __attrs_post_init__(self) -> None:
        self.content = self.kind.parse(b"")

    def load(self) -> None:
        """Read it for the first time. `OSError`, `ContentError`."""
        read = _read(self.path)
        self.content = self.kind.parse(read.data)
        self._seen = read.version
        self._warn(read.mode)

    def look(self) -> Callable[[], bool]:
        """Look at the file. May block, and changes nothing: what it returns does, and says whether the content did."""
        try:
            status = os.stat(self.path)
            if _version(status) == self._seen:
                return _nothing_new
            read = _read(self.path)
            content = self.kind.parse(read.data)
        except OSError as error:
            reason: _Version | str = error.strerror or str(error)
            return lambda: self._keep(reason, str(reason))
        except ContentError as error:
            text, version = str(error), read.version
            return lambda: self._keep(version, text)
        return lambda: self._replace(content, read)

    def forget_version(self) -> None:
        """Have the file read again, also if it seems to be the same."""
        self._seen = ()

    def _keep(self, seen: _Version | str, reason: str) -> bool:
        if seen != self._seen:
            self._seen = seen
            _log.error(
                "ACCESS: %s: %s; the %d %s that were read before stay valid, and others are not known",
                self.path,
                reason,
                len(self.content),
                self.kind.noun,
            )
        return False

    def _replace(self, content: ContentT, read: _Read) -> bool:
        self.content, self._seen = content, read.version
        _log.info("ACCESS: %s: read again, %s: %d", self.path, self.kind.noun, len(content))
        self._warn(read.mode)
        return True

    def _warn(self, mode: int) -> None:
        for bits, warning in self.kind.warnings.items():
            if mode & bits:
                _log.warning("ACCESS: %s: %s", self.path, warning)


@attrs.frozen
class Kind(Generic[ContentT]):
    """What a file has in it."""

    noun: str
    """Of its entries, in the plural."""
    parse: Callable[[bytes], ContentT]
    """`ContentError`."""
    mode: int
    """Of a new file, less what umask takes away."""
    warnings: dict[int, str]
    """What is wrong with a file whose mode has any of these bits."""

    def rewrite(self, path: str, change: Callable[[bytes], bytes], *, create: bool = False) -> None:
        """Replace the content of a file. If it is wrong, before or after, the file stays as it was.

        `OSError`, `ContentError`.
        """
        target = os.path.realpath(path)  # the link stays
        with _locked(target, self.mode, create) as descriptor:
            before = _all_of(descriptor)
            self.parse(before)
            after = change(before)
            self.parse(after)
            _replace_file(target, after, os.fstat(descriptor))


def parse_lines(
    data: bytes, parse: Callable[[bytes], EntryT], error: type[ContentError] = ContentError
) -> list[EntryT]:
    """The entries of a file's bytes. `parse`: of a line that is no comment; to its error the number is added."""
    if len(data) > MAX_FILE:
        raise error(f"more than {MAX_FILE} bytes")
    entries = []
    for number, line in enumerate(data.splitlines(), 1):
        if is_comment(line):
            continue
        try:
            entries.append(parse(line.strip()))
        except error as wrong:
            raise error(f"line {number}: {wrong}") from None
    return entries


def fields_of(line: bytes, known: Set[str]) -> Mapping[str, Any]:
    """The JSON object in a line. `ContentError`, also for a key that is not known: a misspelt limit is none."""
    try:
        fields = decode_json(line)
    except DecodeError as error:
        raise ContentError(f"no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ContentError("no JSON object")
    if unknown := fields.keys() - known:
        raise ContentError(f"unknown key {shown(min(unknown))}")
    return fields


def shown(value: Any) -> str:
    """A value of a file for people, in some characters."""
    return repr(value[:80]) if isinstance(value, str) else f"({type(value).__name__})"


def is_comment(line: bytes) -> bool:
    """Whether a line has no entry."""
    stripped = line.strip()
    return not stripped or stripped.startswith(b"#")


def with_line(data: bytes, line: bytes) -> bytes:
    """The content with one more line at its end."""
    return (data + b"\n" if data and not data.endswith(b"\n") else data) + line


@attrs.frozen
class _Read:
    data: bytes
    version: _Version
    mode: int


def _read(path: str) -> _Read:
    """`OSError`, also for something that is no file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a file")
        return _Read(_all_of(descriptor), _version(status), status.st_mode)
    finally:
        os.close(descriptor)


def _all_of(descriptor: int) -> bytes:
    """The content, or one byte more than a file may have."""
    pieces = []
    left = MAX_FILE + 1
    while left and (piece := os.read(descriptor, left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _version(status: os.stat_result) -> _Version:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _nothing_new() -> bool:
    return False


@contextlib.contextmanager
def _locked(path: str, mode: int, create: bool) -> Iterator[int]:
    """A descriptor of the file, of which this process has the lock. `OSError`, also if others keep it too long."""
    until = time.monotonic() + _LOCK_TIME_S
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), mode)
        try:
            _lock(descriptor, until)
            # Its content counts only if nobody has put another file in its place meanwhile.
            if _is_at(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _lock(descriptor: int, until: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise OSError(errno.EBUSY, "another process has had the lock for too long") from None
            time.sleep(_LOCK_PAUSE_S)


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _replace_file(path: str, data: bytes, before: os.stat_result) -> None:
    folder = Path(path).parent
    descriptor, temporary = tempfile.mkstemp(prefix=f".{Path(path).name}-", dir=folder)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            with contextlib.suppress(PermissionError):
                os.fchown(descriptor, before.st_uid, before.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    folder_descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder_descriptor)
    finally:
        os.close(folder_descriptor)
