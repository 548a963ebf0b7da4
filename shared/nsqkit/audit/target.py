"""Where audit lines are written: a file that may be renamed at any time, or stderr."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Sequence
from typing import Final, Protocol

import attrs

__all__ = ["STDERR", "FileTarget", "StderrTarget", "Target"]

STDERR: Final = "-"
"""As the name of a file."""
MODE: Final = 0o640
"""Of a new file: names and addresses are not for every user of the machine."""
_AT_ONCE: Final = 64 << 10  # bytes of one write


class Target(Protocol):
    """All methods are called by one thread, and may block."""

    def write(self, lines: Sequence[bytes]) -> int:
        """Write some of the lines, the first one at least, for good; how many. `OSError`: none of them."""

    def reopen(self) -> None:
        """Close the file, if it is open: a new one may be in its place. It is open again after the next `write`."""


@attrs.define(eq=False)
class FileTarget:
    """A file that is appended to, and synced.

    Before each write it is compared with what has its name now, so it may be renamed (logrotate) or removed without a
    word: the line goes to a new file. A part of a line, left by a crash or a full disk, gets an end before the next
    line; a line that was written, but not synced, is written again.
    """

    path: str
    _descriptor: int | None = attrs.field(default=None, init=False)
    _torn: bool = attrs.field(default=False, init=False)
    """Whether the file ends within a line."""

    def write(self, lines: Sequence[bytes]) -> int:
        descriptor = self._opened()
        taken, size = 0, 0
        for line in lines:
            if taken and size + len(line) > _AT_ONCE:
                break
            taken, size = taken + 1, size + len(line)
        data = (b"\n" if self._torn else b"") + b"".join(lines[:taken])
        self._torn = True
        while data:
            data = data[os.write(descriptor, data) :]
        self._torn = False
        os.fdatasync(descriptor)
        return taken

    def reopen(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _opened(self) -> int:
        if self._descriptor is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self.path), os.fstat(self._descriptor)):
                    return self._descriptor
            self.reopen()
        # Without waiting for the reader of a pipe, which is refused anyway.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self.path, flags, MODE)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            self._torn = status.st_size > 0 and os.pread(descriptor, 1, status.st_size - 1) != b"\n"
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return descriptor


class StderrTarget:
    """The stream of the log, which does not block (`nsqkit.standard_streams`), so it has no errors either."""

    def write(self, lines: Sequence[bytes]) -> int:
        if sys.stderr is not None:
            sys.stderr.write(b"".join(lines).decode())
        return len(lines)

    def reopen(self) -> None: ...
