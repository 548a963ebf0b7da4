"""One daemon that is polled: its last response, and its present problem."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, TypeVar

import attrs
import trio

from nsqadmin.cluster.snapshot import Problem
from nsqadmin.upstream import UpstreamError
from nsqkit.logging import get_logger

__all__ = ["PolledDaemon", "poll_all"]

_log = get_logger("nsqadmin.poll")

ResponseT = TypeVar("ResponseT")

_FAILED_TIMEOUT_S = 0.2


@attrs.define(eq=False)
class PolledDaemon(Generic[ResponseT]):
    """Polled repeatedly, with one request at a time. A failed request leaves the last response in place."""

    kind: str
    """As in `Problem`."""
    address: str
    request: Callable[[], Awaitable[ResponseT]]
    """Raises `UpstreamError`."""
    clock: Callable[[], float] = time.time
    """Unix seconds."""

    response: ResponseT | None = attrs.field(default=None, init=False)
    answered_at: float | None = attrs.field(default=None, init=False)
    """When `response` arrived, by `clock`."""
    received_at: float = attrs.field(default=0.0, init=False)
    """The same on trio's clock, which is never set back."""
    response_count: int = attrs.field(default=0, init=False)
    _error: str = attrs.field(default="", init=False)
    _failing_since: float | None = attrs.field(default=None, init=False)
    _requested_at: float = attrs.field(default=0.0, init=False)
    _done: trio.Event | None = attrs.field(default=None, init=False)
    """Set at the end of the pending request; None while there is none."""

    def begin(self, nursery: trio.Nursery) -> bool:
        """Send a request unless one is pending; returns whether it was sent."""
        if self._done is not None:
            return False
        self._done = trio.Event()
        self._requested_at = self.clock()
        nursery.start_soon(self._poll)
        return True

    async def wait(self) -> None:
        """Wait for the end of the pending request."""
        if self._done is not None:
            await self._done.wait()

    @property
    def problem(self) -> Problem | None:
        """Why its last request failed; None if it did not."""
        if self._failing_since is None:
            return None
        return Problem(self.kind, self.address, self._error, self._failing_since, self.answered_at)

    def note_timeout(self) -> None:
        """Record a problem if the request is still pending."""
        if self._done is not None and self._failing_since is None:
            self._fail(
                f"no answer within {self.clock() - self._requested_at:.1f} s", since=self._requested_at
            )

    async def _poll(self) -> None:
        assert self._done is not None
        try:
            response = await self.request()
        except UpstreamError as error:
            self._fail(str(error), since=self._requested_at)
        except Exception:
            # A response that no code path expects must not end the polling of the other daemons.
            _log.exception("POLL: %s %s: cannot process its response", self.kind, self.address)
            self._fail("its response cannot be processed", since=self._requested_at)
        else:
            self.response, self.answered_at = response, self.clock()
            self.received_at = trio.current_time()
            self.response_count += 1
            if self._failing_since is not None:
                _log.info("POLL: %s %s answers again", self.kind, self.address)
            self._failing_since = None
        finally:
            self._done.set()
            self._done = None

    def _fail(self, error: str, since: float) -> None:
        if self._failing_since is None:  # logged once for each outage, not for each poll
            _log.warning("POLL: %s %s does not answer: %s", self.kind, self.address, error)
            self._failing_since = since
        self._error = error


async def poll_all(daemons: Iterable[PolledDaemon[Any]], nursery: trio.Nursery, timeout_s: float) -> None:
    """Poll all daemons at once, and wait for their responses for at most `timeout_s`.

    A daemon whose last request failed is waited for only briefly, and one that has not answered an earlier poll not
    at all: a dead daemon must not delay every round.
    """
    healthy: list[PolledDaemon[Any]] = []
    failing: list[PolledDaemon[Any]] = []
    for daemon in daemons:
        has_failed = daemon.problem is not None
        if daemon.begin(nursery) or not has_failed:
            (failing if has_failed else healthy).append(daemon)
    # The requests have all been sent: waiting for one after the other takes as long as the slowest.
    with trio.move_on_after(_FAILED_TIMEOUT_S):
        for daemon in failing:
            await daemon.wait()
    with trio.move_on_after(timeout_s):
        for daemon in healthy:
            await daemon.wait()
    for daemon in healthy:
        daemon.note_timeout()
