"""The page with one number: the messages that all channels were given."""

from __future__ import annotations

from nsqadmin.cluster.views import Snapshot
from nsqadmin.pages.visit import Page, Visit

__all__ = ["CounterPage"]


class CounterPage:
    """Adds the channels up once for each snapshot."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._count = 0
        self._rate = 0.0

    async def __call__(self, visit: Visit) -> Page:
        """Show the sum and its rate."""
        if visit.snapshot is not self._snapshot:
            channels = [
                channel for topic in visit.snapshot.topics.values() for channel in topic.channels.values()
            ]
            self._count = sum(channel.stats.message_count for channel in channels)
            self._rate = sum(channel.in_rate or 0.0 for channel in channels)
            self._snapshot = visit.snapshot
        values = {"count": self._count, "count_rate": self._rate, "totals": visit.snapshot.totals}
        return Page("counter.html", "counter", values)
