"""Draining: taking an nsqd out of service once all its messages are finished.

A draining nsqd refuses publishes with an error, so that producers use another one. It stays registered, so that
consumers find it and go on consuming; when no messages remain, it stops as after SIGTERM. Messages that do not drain by
themselves (see `nsqd.stats.remaining`) are listed in `/stats`. After `--drain-timeout` it stops in any case, and they
stay on disk.

With *hand over* it does not wait for consumers: it stops at once, and a follower serves what remains (see
docs/replication.md).

Until it stops, a drain can be cancelled: publishes are accepted again, as if there had been none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import trio

from nsqd.broker import DRAIN, Broker
from nsqd.stats.remaining import remaining
from nsqkit.logging import get_logger

__all__ = ["REFUSAL", "Drain"]

log = get_logger("nsqd")

REFUSAL: Final = "draining: this nsqd takes no more messages, publish to another one"
POLL_INTERVAL: Final = 0.25  # seconds
LOG_INTERVAL: Final = 10.0  # seconds
NAMED: Final = 10  # blocked topics and channels in one log line


class Drain:
    """The drain of one daemon. `timeout`: seconds; 0: none. `stop`: stops the daemon.

    `for_good`: it cannot be cancelled: a stand-in must never take a message. `answers_wait`: whether publishers still
    wait for an OK that depends on a sync.
    """

    def __init__(
        self,
        broker: Broker,
        timeout: float,
        *,
        stop: Callable[[], None],
        answers_wait: Callable[[], bool] = lambda: False,
        for_good: bool = False,
    ) -> None:
        self.since_ns = 0  # wall time; 0: not draining
        self.hand_over = False
        self._broker = broker
        self._timeout = timeout or math.inf
        self._stop = stop
        self._answers_wait = answers_wait
        self._for_good = for_good
        self._stopping = False
        self._begun = trio.Event()
        self._cancelled = trio.Event()

    @property
    def active(self) -> bool:
        return self.since_ns != 0

    def begin(self, *, hand_over: bool = False) -> None:
        """Refuse publishes, and stop the daemon once it is empty; with `hand_over` at once. A drain may become one."""
        self.hand_over = self.hand_over or hand_over
        if self.active:
            return
        self.since_ns = time.time_ns()
        self._broker.refuse_publishing(DRAIN, REFUSAL)
        self._cancelled = trio.Event()
        self._begun.set()
        log.info("drain: publishes are refused; %s", self._summary())

    def cancel(self) -> bool:
        """Accept publishes again. False: the daemon stops all the same. Without a drain it has no effect."""
        if self._for_good:
            return False
        if self.active and not self._stopping:
            self.since_ns = 0
            self.hand_over = False
            self._broker.refuse_publishing(DRAIN, None)
            self._begun = trio.Event()
            self._cancelled.set()
            log.info("drain: cancelled, publishes are accepted; %s", self._summary())
        return not self._stopping

    async def run(self) -> None:
        """Wait for `begin`, then for the last message or the timeout; then stop the daemon."""
        while not self._stopping:
            await self._begun.wait()
            cancelled = self._cancelled
            with trio.move_on_after(self._timeout):
                await self._wait_until_empty(cancelled)
            if not cancelled.is_set():
                self._stopping = True
        self._say_why_it_stops()
        self._stop()

    async def _wait_until_empty(self, cancelled: trio.Event) -> None:
        """Return when no messages remain, or at once when the drain is cancelled."""
        log_at = trio.current_time() + LOG_INTERVAL
        while self._waits_for_consumers() or self._answers_wait():
            with trio.move_on_after(POLL_INTERVAL):
                await cancelled.wait()
            if cancelled.is_set():
                return
            if trio.current_time() >= log_at:
                log_at += LOG_INTERVAL
                log.info("drain: %s", self._summary())

    def _waits_for_consumers(self) -> bool:
        return not self.hand_over and next(remaining(self._broker), None) is not None

    def _say_why_it_stops(self) -> None:
        if self.hand_over:
            log.info("drain: stopping, a follower takes over; %s", self._summary())
        elif next(remaining(self._broker), None) is None:
            log.info("drain: no messages remaining; stopping")
        else:
            log.warning(
                "drain: stopping after --drain-timeout; all but #ephemeral messages stay on disk; %s",
                self._summary(),
            )

    def _summary(self) -> str:
        places = list(remaining(self._broker))
        text = f"messages remaining: {sum(place.messages for place in places)}"
        blocked = [f"{p.topic}/{p.channel or '-'}: {p.blocked_by}" for p in places if p.blocked_by]
        if blocked:
            text += f", blocked: {', '.join(blocked[:NAMED])}"
        return text + (f" and {len(blocked) - NAMED} more" if len(blocked) > NAMED else "")
