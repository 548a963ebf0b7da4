"""The standard streams of a program: stderr that cannot stop it, and descriptors 0 to 2 that are never reused.

Whoever reads stderr (a pipe, a container runtime, a terminal) may stall. A plain write then blocks, and with it the
event loop. `guard_standard_streams` therefore puts a `BackgroundWriter` in the place of `sys.stderr`, so that log
lines, the progress line, warnings and tracebacks all go through it:

- `write` never blocks. The text goes to a buffer of `BUFFER_BYTES`, and a thread writes it.
- When the buffer is full, lines are dropped. Their number is written in their place as soon as the reader continues.
- A reader that has gone costs the lines, nothing else.
- At exit, what is buffered is written, but for `EXIT_WAIT_S` at most.

stdout is not changed: tools write data to it, and there the reader has to set the pace.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, TextIO, cast

__all__ = ["BUFFER_BYTES", "EXIT_WAIT_S", "BackgroundWriter", "finish_output", "guard_standard_streams"]

BUFFER_BYTES: Final = 1 << 20
"""Text that may wait for the reader of stderr."""
EXIT_WAIT_S: Final = 2.0
"""How long the end of a program waits until its last lines are written."""


def guard_standard_streams() -> None:
    """Make stderr a `BackgroundWriter`, and occupy those of the descriptors 0 to 2 that are closed.

    For programs, first thing. Without effect where `sys.stderr` has no descriptor (in tests), and on later calls.
    """
    _occupy_closed_descriptors()
    if isinstance(sys.stderr, BackgroundWriter):
        return
    descriptor = 2
    if sys.stderr is not None:  # None: it was closed when the program began
        try:
            descriptor = sys.stderr.fileno()
        except (OSError, ValueError):
            return
        sys.stderr.flush()
    sys.stderr = cast(TextIO, _writer_of(descriptor))


def _occupy_closed_descriptors() -> None:
    """Otherwise the next file or socket would get the number, and what is meant for stderr would go into it.

    Opened the wrong way round, so that reading stdin and writing to stdout still fail, as they did before.
    """
    for number, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)


_writers: dict[int, BackgroundWriter] = {}


def _writer_of(descriptor: int) -> BackgroundWriter:
    if descriptor not in _writers:
        _writers[descriptor] = writer = BackgroundWriter(descriptor)
        atexit.register(writer.finish)
    return _writers[descriptor]


def finish_output() -> None:
    """Wait until everything is written, as at the exit: for a process that becomes another program."""
    for writer in _writers.values():
        writer.finish()


def _dropped_line(count: int) -> str:
    return f"{count} log lines were dropped: the reader of stderr did not keep up\n"


class BackgroundWriter(io.TextIOBase):
    """A text stream to a descriptor, written by a thread of its own.

    `limit`: bytes that may wait for the reader. `dropped_line`: makes the line that takes the place of so many lines.
    """

    encoding = "utf-8"

    def __init__(self, descriptor: int, *, limit: int = BUFFER_BYTES) -> None:
        self.dropped_line: Callable[[int], str] = _dropped_line
        self._descriptor = descriptor
        self._limit = limit
        # Reentrant, because a signal handler may write while the main thread holds it.
        self._changed = threading.Condition(threading.RLock())
        self._pending: list[bytes] = []
        self._size = 0
        self._dropped = 0
        self._writing = False
        self._finished = False
        threading.Thread(target=self._run, name="stderr", daemon=True).start()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, text: str, /) -> int:
        """Buffer the text, or drop it if the buffer is full. Text of one call stays together."""
        data = text.encode("utf-8", "backslashreplace")
        with self._changed:
            if self._finished:
                self._write_at_once(data)
            elif self._pending and self._size + len(data) > self._limit:
                self._dropped += 1
            else:
                self._pending.append(data)
                self._size += len(data)
                if len(self._pending) == 1:
                    self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Does not wait: loggers flush after each line."""

    def finish(self, wait_s: float = EXIT_WAIT_S) -> None:
        """Wait until everything is written, `wait_s` at most. Later text is written directly, if it can be."""
        until = time.monotonic() + wait_s
        with self._changed:
            while (self._pending or self._writing) and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            self._finished = True

    def _write_at_once(self, data: bytes) -> None:
        """At the end of the interpreter, when its threads do not run any more. What would block is left out."""
        with contextlib.suppress(OSError):
            while data and not self._writing and _is_writable(self._descriptor, 0):
                data = data[os.write(self._descriptor, data[: select.PIPE_BUF]) :]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                while not self._pending:
                    self._changed.wait()
                lines, self._pending, self._size = self._pending, [], 0
                # Nothing was taken since the first one was dropped: they all belong after these lines.
                dropped, self._dropped = self._dropped, 0
                self._writing = True
            if dropped:
                lines.append(self.dropped_line(dropped).encode("utf-8", "backslashreplace"))
            lost = _write_lines(self._descriptor, lines)
            if lost:
                with self._changed:
                    self._dropped += lost


_AT_ONCE: Final = 64 << 10  # bytes for one write


def _write_lines(descriptor: int, lines: list[bytes]) -> int:
    """Write the lines, waiting for the reader; the number of those that were lost to an error."""
    begin = 0
    while begin < len(lines):
        end, size = begin + 1, len(lines[begin])
        while end < len(lines) and size + len(lines[end]) <= _AT_ONCE:
            size += len(lines[end])
            end += 1
        try:
            _write_all(descriptor, b"".join(lines[begin:end]))
        except OSError:  # the reader has gone, or the disk is full
            return len(lines) - begin
        begin = end
    return 0


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # another process that shares the stream has made it non-blocking
            _is_writable(descriptor, None)


def _is_writable(descriptor: int, timeout_ms: int | None) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(timeout_ms))
