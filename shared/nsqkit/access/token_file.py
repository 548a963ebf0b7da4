"""The file of tokens: read again when it has changed, and rewritten as a whole.

**Readers** (daemons) look at the file about once a second. What they had stays valid while the new content cannot be
read: a mistake in the file locks nobody out, and is in the log once.

**Writers** (`nsqd token`) take a lock on the file, write a new one beside it, sync it and rename it. So a reader sees
one or the other, and of two writers the second one sees what the first one wrote. The new file has the mode and, if
that is permitted, the owner of the old one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import attrs

from nsqkit.access.tokens import MAX_FILE, Token, TokenError, Tokens, name_in
from nsqkit.logging import get_logger
from nsqkit.options import did_you_mean

__all__ = ["TokenFile", "TokenFileError", "add", "remove"]

_log = get_logger("nsqkit.access")

MODE: Final = 0o644
"""Of a new file, less what umask takes away. Its content is no secret, and daemons have users of their own."""
_LOCK_TIME_S: Final = 10.0
_LOCK_PAUSE_S: Final = 0.05

_Version = tuple[int, ...]
"""What differs after a change of the file."""


class TokenFileError(Exception):
    """The file cannot be read or written; the text, with its path, is for the operator."""


@attrs.define(eq=False)
class TokenFile:
    """The tokens of a file, as a daemon has them."""

    path: str
    tokens: Tokens = attrs.field(factory=Tokens, init=False)
    """Those of the last content that could be read."""
    _seen: _Version | str = attrs.field(default=(), init=False)
    """The last content that was looked at, usable or not; a text is the reason why there was none."""

    def load(self) -> None:
        """Read it for the first time. `TokenFileError`."""
        try:
            content = _read(self.path)
        except OSError as error:
            raise TokenFileError(f"{self.path}: {error.strerror}") from error
        try:
            self.tokens = Tokens.parse(content.data)
        except TokenError as error:
            raise TokenFileError(f"{self.path}: {error}") from error
        self._seen = content.version
        _warn_of_writers(self.path, content.mode)

    def look(self) -> Callable[[], bool]:
        """Look at the file. May block, and changes nothing: what it returns does, and says whether the tokens did."""
        try:
            status = os.stat(self.path)
            if _version(status) == self._seen:
                return _nothing_new
            content = _read(self.path)
            tokens = Tokens.parse(content.data)
        except OSError as error:
            reason: _Version | str = error.strerror or str(error)
            return lambda: self._keep(reason, str(reason))
        except TokenError as error:
            text, version = str(error), content.version
            return lambda: self._keep(version, text)
        return lambda: self._replace(tokens, content)

    def forget_version(self) -> None:
        """Have the file read again, also if it seems to be the same."""
        self._seen = ()

    def _keep(self, seen: _Version | str, reason: str) -> bool:
        if seen != self._seen:
            self._seen = seen
            _log.error(
                "ACCESS: %s: %s; the %d tokens that were read before stay valid, and others are not known",
                self.path,
                reason,
                len(self.tokens.by_name),
            )
        return False

    def _replace(self, tokens: Tokens, content: _Content) -> bool:
        self.tokens, self._seen = tokens, content.version
        _log.info("ACCESS: %s: read again, tokens: %d", self.path, len(tokens.by_name))
        _warn_of_writers(self.path, content.mode)
        return True


def add(path: str, token: Token) -> None:
    """Add a token, to a new file if there is none. `TokenFileError`, also if it has one of this name."""

    def with_token(data: bytes) -> bytes:
        if token.name in Tokens.parse(data).by_name:
            raise TokenError(
                f"a token has the name {token.name!r} already; take another, or revoke that one first"
            )
        return _with_end_of_line(data) + token.line().encode()

    _rewrite(path, with_token, create=True)


def remove(path: str, name: str) -> None:
    """Remove a token. `TokenFileError`, also if there is none of this name."""

    def without(data: bytes) -> bytes:
        if name not in (tokens := Tokens.parse(data)).by_name:
            raise TokenError(f"no token has the name {name!r}{did_you_mean(name, tokens.by_name)}")
        return b"".join(line for line in data.splitlines(keepends=True) if name_in(line) != name)

    _rewrite(path, without)


def _rewrite(path: str, change: Callable[[bytes], bytes], *, create: bool = False) -> None:
    """Replace the content of the file. If it is wrong, before or after, the file stays as it was."""
    target = os.path.realpath(path)  # the link stays
    try:
        with _locked(target, create) as descriptor:
            before = _all_of(descriptor)
            Tokens.parse(before)
            after = change(before)
            Tokens.parse(after)
            _replace_file(target, after, os.fstat(descriptor))
    except TokenError as error:
        raise TokenFileError(f"{path}: {error}") from error
    except OSError as error:
        raise TokenFileError(f"{path}: {error.strerror or error}") from error


def _with_end_of_line(data: bytes) -> bytes:
    return data + b"\n" if data and not data.endswith(b"\n") else data


@attrs.frozen
class _Content:
    data: bytes
    version: _Version
    mode: int


def _read(path: str) -> _Content:
    """`OSError`, also for something that is no file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a file")
        return _Content(_all_of(descriptor), _version(status), status.st_mode)
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


def _warn_of_writers(path: str, mode: int) -> None:
    if mode & stat.S_IWOTH:
        _log.warning("ACCESS: %s: every user of this machine may write it, and so give himself a token", path)


@contextlib.contextmanager
def _locked(path: str, create: bool) -> Iterator[int]:
    """A descriptor of the file, of which this process has the lock. `OSError`, also if others keep it too long."""
    until = time.monotonic() + _LOCK_TIME_S
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), MODE)
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
    descriptor, temporary = tempfile.mkstemp(prefix=".tokens-", dir=folder)
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
