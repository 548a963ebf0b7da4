"""One daemon that is polled: its last answer, and what is wrong with it now."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, TypeVar

import attrs
import trio

from nsqadmin.cluster.views import Problem
from nsqadmin.upstream import UpstreamError
from nsqkit.logging import get_logger

__all__ = ["Source", "settle"]

_log = get_logger("nsqadmin.poll")

AnswerT = TypeVar("AnswerT")

_MOMENT_S = 0.2


@attrs.define(eq=False)
class Source(Generic[AnswerT]):
    """Asked again and again, never twice at a time. A failure leaves the last answer in its place."""

    kind: str
    """As in `Problem`."""
    address: str
    ask: Callable[[], Awaitable[AnswerT]]
    """Raises `UpstreamError`."""
    clock: Callable[[], float] = time.time
    """Unix seconds."""

    answer: AnswerT | None = attrs.field(default=None, init=False)
    answered_at: float | None = attrs.field(default=None, init=False)
    received_at: float = attrs.field(default=0.0, init=False)
    """The same moment on trio's clock, which nobody sets back."""
    answers: int = attrs.field(default=0, init=False)
    """How many there have been."""
    _error: str = attrs.field(default="", init=False)
    _failing_since: float | None = attrs.field(default=None, init=False)
    _asked_at: float = attrs.field(default=0.0, init=False)
    _idle: trio.Event | None = attrs.field(default=None, init=False)
    """Set when the question under way has ended; None when there is none."""

    def begin(self, nursery: trio.Nursery) -> bool:
        """Ask, unless it is being asked still; whether this was a new question."""
        if self._idle is not None:
            return False
        self._idle = trio.Event()
        self._asked_at = self.clock()
        nursery.start_soon(self._poll)
        return True

    async def wait(self) -> None:
        """Wait for the end of the question under way."""
        if self._idle is not None:
            await self._idle.wait()

    @property
    def problem(self) -> Problem | None:
        """What is wrong with it now."""
        if self._failing_since is None:
            return None
        return Problem(self.kind, self.address, self._error, self._failing_since, self.answered_at)

    def note_silence(self) -> None:
        """It has been waited for long enough."""
        if self._idle is not None and self._failing_since is None:
            self._fail(f"no answer within {self.clock() - self._asked_at:.1f} s", since=self._asked_at)

    async def _poll(self) -> None:
        assert self._idle is not None
        try:
            answer = await self.ask()
        except UpstreamError as error:
            self._fail(str(error), since=self._asked_at)
        except Exception:
            _log.exception("%s %s: its answer cannot be worked with", self.kind, self.address)
            self._fail("its answer cannot be worked with", since=self._asked_at)
        else:
            self.answer, self.answered_at = answer, self.clock()
            self.received_at = trio.current_time()
            self.answers += 1
            if self._failing_since is not None:
                _log.info("%s %s: answers again", self.kind, self.address)
            self._failing_since = None
        finally:
            self._idle.set()
            self._idle = None

    def _fail(self, error: str, since: float) -> None:
        if self._failing_since is None:  # once for each time that it goes away, not for each poll
            _log.warning("%s %s: no answer: %s", self.kind, self.address, error)
            self._failing_since = since
        self._error = error


async def settle(sources: Iterable[Source[Any]], nursery: trio.Nursery, patience_s: float) -> None:
    """Ask all, and wait for them, but not for longer than this.

    Those that have failed before are waited for only a moment, and those that still owe an answer not at all: a dead
    daemon must not slow down every round.
    """
    trusted: list[Source[Any]] = []
    doubtful: list[Source[Any]] = []
    for source in sources:
        failing = source.problem is not None
        if source.begin(nursery) or not failing:
            (doubtful if failing else trusted).append(source)
    with trio.move_on_after(_MOMENT_S):
        for source in doubtful:
            await source.wait()
    with trio.move_on_after(patience_s):
        for source in trusted:
            await source.wait()
    for source in trusted:
        source.note_silence()
