"""Taking an nsqd out of service without leaving a message behind.

A draining nsqd takes no more messages: publishers are told so, and go to another one. It stays known to the registries,
so consumers find it and go on; when nothing is left it stops, as after SIGTERM, and leaves the registries. What cannot
go by itself (see `nsqd.stats.remaining`) is named in `/stats`; when `--drain-timeout` has passed it stops all the same,
and keeps that on disk.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import trio

from nsqd.broker import Broker
from nsqd.stats.remaining import remaining
from nsqkit.logging import get_logger

__all__ = ["REFUSAL", "Drain"]

log = get_logger("nsqd")

REFUSAL: Final = "draining: this nsqd takes no more messages, publish to another one"
LOOK_EVERY: Final = 0.25  # seconds
TELL_EVERY: Final = 10.0
NAMED: Final = 10  # places in a line of the log


class Drain:
    """One for the daemon. `timeout`: seconds, 0 for no end. `stop` ends the daemon.

    `answers_wait`: whether somebody has not been told yet that what was published is safe.
    """

    def __init__(
        self,
        broker: Broker,
        timeout: float,
        *,
        stop: Callable[[], None],
        answers_wait: Callable[[], bool] = lambda: False,
    ) -> None:
        self.since_ns = 0  # wall time; 0: not draining
        self._broker = broker
        self._timeout = timeout or math.inf
        self._stop = stop
        self._answers_wait = answers_wait
        self._begun = trio.Event()

    @property
    def active(self) -> bool:
        return self._begun.is_set()

    def begin(self) -> None:
        """From now on nothing is taken. A second time changes nothing."""
        if self.active:
            return
        self.since_ns = time.time_ns()
        self._broker.stop_publishing(REFUSAL)
        self._begun.set()
        log.info("drain: nothing more is taken; %s", self._tell())

    async def run(self) -> None:
        """Wait for the order, and then for the end."""
        await self._begun.wait()
        with trio.move_on_after(self._timeout):
            tell_at = trio.current_time() + TELL_EVERY
            while next(remaining(self._broker), None) is not None or self._answers_wait():
                await trio.sleep(LOOK_EVERY)
                if trio.current_time() >= tell_at:
                    tell_at += TELL_EVERY
                    log.info("drain: %s", self._tell())
        if next(remaining(self._broker), None) is None:
            log.info("drain: nothing is left; stopping")
        else:
            log.warning(
                "drain: stopping after --drain-timeout; what is not #ephemeral stays on disk; %s",
                self._tell(),
            )
        self._stop()

    def _tell(self) -> str:
        left = list(remaining(self._broker))
        text = f"messages left: {sum(each.messages for each in left)}"
        stuck = [f"{each.topic}/{each.channel or '-'}: {each.blocked_by}" for each in left if each.blocked_by]
        if stuck:
            text += f", not going by themselves: {', '.join(stuck[:NAMED])}"
        return text + (f" and {len(stuck) - NAMED} more places" if len(stuck) > NAMED else "")
