"""A small task that looks at its own daemon: how late it is woken, and whether the disk was synced since the last look.

Whatever holds the event loop up holds this task up as long, so its delay is what any client may have to wait. It looks
once a second (four times a second would multiply what an idle daemon costs by four); so a delay counts when it meets a
look, and the time of a sync is known to a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from nsqkit.exposition import Histogram

__all__ = ["Pulse"]

PERIOD = 1.0  # seconds
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Pulse:
    """`syncs` tells how many syncs have been done. `last_sync`: seconds since 1970; None before the first."""

    def __init__(self, syncs: Callable[[], int]) -> None:
        self.lag = Histogram(BOUNDS)
        self.last_sync: float | None = None
        self._syncs = syncs
        self._seen = syncs()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            due = trio.current_time() + PERIOD
            await trio.sleep_until(due)
            self.look(trio.current_time() - due)

    def look(self, late: float) -> None:
        """One look, which came `late` seconds late."""
        self.lag.observe(late)
        syncs = self._syncs()
        if syncs != self._seen:
            self._seen = syncs
            self.last_sync = time.time()
