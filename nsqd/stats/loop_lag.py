"""The lag of the event loop, measured by a task that sleeps; and the time of the last sync.

Anything that blocks the event loop delays this task by the same time, and any client too. It measures once a second (a
measurement is most of what an idle daemon costs): a block between two measurements is missed, and the time of a sync is
known to the second.
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
    """`syncs`: returns the number of syncs so far. `last_sync`: seconds since 1970; None before the first."""

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
        """Record a measurement: the task was woken `late` seconds too late."""
        self.histogram.observe(late)
        syncs = self._syncs()
        if syncs != self._seen:
            self._seen = syncs
            self.last_sync = time.time()
