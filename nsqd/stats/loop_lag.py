"""How late the event loop runs, measured by a task that sleeps; and when the disk was last synced.

Anything that blocks the event loop delays this task by as long, so its delay is what any client may have to wait. It
measures once a second (four times a second would multiply the cost of an idle daemon by four): a shorter delay between
two measurements is missed, and the time of a sync is known to a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from nsqkit.service.exposition import Histogram

__all__ = ["EventLoopLag"]

PERIOD = 1.0  # seconds
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class EventLoopLag:
    """`syncs` returns how many syncs have been done. `last_sync`: seconds since 1970; None before the first."""

    def __init__(self, syncs: Callable[[], int]) -> None:
        self.histogram = Histogram(BOUNDS)
        self.last_sync: float | None = None
        self._syncs = syncs
        self._seen = syncs()

    async def run(self) -> None:
        """Measure once a second until cancelled."""
        while True:
            due = trio.current_time() + PERIOD
            await trio.sleep_until(due)
            self.measure(trio.current_time() - due)

    def measure(self, late: float) -> None:
        """One measurement; the task was woken `late` seconds late."""
        self.histogram.observe(late)
        syncs = self._syncs()
        if syncs != self._seen:
            self._seen = syncs
            self.last_sync = time.time()
