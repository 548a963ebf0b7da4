"""The thread that writes audit lines, so that no disk can hold up the event loop.

Rules:

- Lines are written in the order of their events, and each is on the disk before it counts as written.
- While the file cannot be written, `failing` says why, and it is tried again every `RETRY_S`. Lines wait in a buffer of
  `BUFFER_BYTES`; those that find it full are lost and counted, and a line says how many as soon as there is one.
- A write that takes longer than `HANG_S` counts as failing, too, as long as it takes.
- The log has a line when that begins, and one when it is over.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import attrs

from nsqkit.audit.event import NOBODY, Event, Result
from nsqkit.audit.refusals import Refusals
from nsqkit.audit.target import Target
from nsqkit.logging import get_logger

__all__ = ["BUFFER_BYTES", "CLOSE_WAIT_S", "HANG_S", "LOST", "RETRY_S", "AuditWriter"]

_log = get_logger("nsqkit.audit")

BUFFER_BYTES: Final = 1 << 20
RETRY_S: Final = 1.0
HANG_S: Final = 5.0
CLOSE_WAIT_S: Final = 2.0
"""How long the end of a daemon waits until its last lines are written."""
LOST: Final = "audit lines lost"
"""The `what` of the line that takes the place of those that were lost."""


@attrs.define(eq=False)
class AuditWriter:
    """Its thread runs from `start` to `close`. All methods may be called from any thread, and none waits for the disk,
    but `close`.
    """

    target: Target
    name: str
    """Of the file, for the log."""
    line_of: Callable[[Event], bytes]
    clock: Callable[[], float] = time.time
    """Seconds since 1970."""
    limit: int = BUFFER_BYTES
    retry_s: float = RETRY_S
    hang_s: float = HANG_S
    written: int = attrs.field(default=0, init=False)
    """Lines, since the start."""
    lost: int = attrs.field(default=0, init=False)
    """The same of those that found the buffer full."""
    _error: str = attrs.field(default="", init=False)
    """Of the last write."""
    _writing_since: float = attrs.field(default=math.inf, init=False)
    """Of the monotonic clock; infinite while nothing is written."""
    _hang_is_logged: bool = attrs.field(default=False, init=False)
    _changed: threading.Condition = attrs.field(factory=threading.Condition, init=False)
    _pending: deque[bytes] = attrs.field(factory=deque, init=False)
    _size: int = attrs.field(default=0, init=False)
    _taken: int = attrs.field(default=0, init=False)
    """Lines that got a place in the buffer, since the start: the ticket of the last one."""
    _unsaid: int = attrs.field(default=0, init=False)
    """Lines that were lost, and of which no line says so yet."""
    _refusals: Refusals = attrs.field(factory=Refusals, init=False)
    _waiting: list[tuple[int, Callable[[], object]]] = attrs.field(factory=list, init=False)
    """By ticket: what is to be called when it is settled."""
    _reopen: bool = attrs.field(default=False, init=False)
    _closing: bool = attrs.field(default=False, init=False)
    _thread: threading.Thread = attrs.field(init=False)

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    @property
    def failing(self) -> str:
        """Why lines cannot be written; empty: they can."""
        if time.monotonic() - self._writing_since > self.hang_s:
            return f"a write takes longer than {self.hang_s:g} s"
        return self._error

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def put(self, event: Event) -> int | None:
        """Have an event written. Returns its ticket, with which it counts among `written`; None: it is lost."""
        line = self.line_of(event)
        if not self._hang_is_logged and time.monotonic() - self._writing_since > self.hang_s:
            self._hang_is_logged = True  # not by the thread, which waits for the disk
            self._log_failure(self.failing)
        with self._changed:
            # Before it: their second may have ended, and the thread has yet to look.
            self._add_due(time.monotonic())
            return self._add(line)

    def put_refusal(self, event: Event) -> None:
        """Have a refusal written, or counted: see `Refusals`."""
        now = time.monotonic()
        with self._changed:
            self._add_due(now)
            if (own := self._refusals.add(event, now)) is not None:
                self._add(self.line_of(own))
            else:
                self._changed.notify_all()

    def when_settled(self, ticket: int, call: Callable[[], object]) -> None:
        """Call a function, which must not block, when a line is written or cannot be: perhaps in the thread."""
        with self._changed:
            if self.written < ticket and not self.failing:
                self._waiting.append((ticket, call))
                return
        call()

    def reopen(self) -> None:
        """Let go of the file: the next line goes to the one that has its name then."""
        with self._changed:
            self._reopen = True
            self._changed.notify_all()

    def close(self, last: Event, wait_s: float = CLOSE_WAIT_S) -> None:
        """Write what there is, and this event, for some seconds at most, and end the thread."""
        with self._changed:
            self._add_due(math.inf)
            self._add(self.line_of(last))
            self._closing = True
            self._changed.notify_all()
        self._thread.join(wait_s)

    def _add(self, line: bytes) -> int | None:
        if self._pending and self._size + len(line) > self.limit:
            self.lost += 1
            self._unsaid += 1
            return None
        self._pending.append(line)
        self._size += len(line)
        self._taken += 1
        self._changed.notify_all()
        return self._taken

    def _add_due(self, now: float) -> None:
        for event in self._refusals.due(now):
            # Its time is now, so that lines are in the order of their times.
            self._add(self.line_of(attrs.evolve(event, time=self.clock())))

    # --- the thread

    def _run(self) -> None:
        while (lines := self._next()) is not None:
            try:
                if not lines:
                    self.target.reopen()
                    continue
                self._writing_since = time.monotonic()
                self._wrote(self.target.write(lines))
            except OSError as error:
                self._failed(error.strerror or str(error))
        self.target.reopen()

    def _next(self) -> list[bytes] | None:
        """Wait for lines; none of them: the file is to be opened anew. None: the end."""
        with self._changed:
            while True:
                self._add_due(now := time.monotonic())
                if self._reopen:
                    self._reopen = False
                    return []
                if self._pending:
                    return list(self._pending)
                if self._closing:
                    return None
                self._changed.wait(self._refusals.wait(now))

    def _wrote(self, count: int) -> None:
        with self._changed:
            for _ in range(count):
                self._size -= len(self._pending.popleft())
            self.written += count
            recovered = bool(self._error) or self._hang_is_logged
            self._error, self._hang_is_logged, self._writing_since = "", False, math.inf
            lost, self._unsaid = self._unsaid, 0
            if lost:
                self._add(self.line_of(_lost(lost, self.clock())))
        if recovered:
            _log.info("AUDIT: %s can be written again; lines lost: %d", self.name, lost)
        self._settle(self.written)

    def _failed(self, reason: str) -> None:
        self._writing_since = math.inf
        if reason != self._error:
            self._log_failure(reason)
        with self._changed:
            self._error, was_last_try = reason, self._closing
        self._settle(self._taken)
        with self._changed:
            if was_last_try:
                _log.error("AUDIT: %s: lines lost at the end: %d", self.name, len(self._pending))
                self._pending.clear()
            until = time.monotonic() + self.retry_s
            while not self._closing and not self._reopen and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)

    def _log_failure(self, reason: str) -> None:
        text = "AUDIT: %s cannot be written - %s; lines wait in memory, make room or mend it"
        _log.error(text, self.name, reason)

    def _settle(self, ticket: int) -> None:
        with self._changed:
            settled = [call for waiting, call in self._waiting if waiting <= ticket]
            self._waiting = [each for each in self._waiting if each[0] > ticket]
        for call in settled:
            call()


def _lost(count: int, now: float) -> Event:
    text = "the buffer was full while the file could not be written"
    return Event(time=now, who=NOBODY, what=LOST, result=Result.FAILED, error=text, count=count)
