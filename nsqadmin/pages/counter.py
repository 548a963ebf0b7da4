"""The page with one number: the messages that all channels have received."""

from __future__ import annotations

from nsqadmin.cluster.snapshot import ClusterSnapshot
from nsqadmin.pages.page_request import Page, PageRequest

__all__ = ["CounterPage"]


class CounterPage:
    """Sums up the channels once for each snapshot."""

    def __init__(self) -> None:
        self._snapshot: ClusterSnapshot | None = None
        self._count = 0
        self._rate = 0.0

    async def __call__(self, request: PageRequest) -> Page:
        """The sum and its rate."""
        if request.snapshot is not self._snapshot:
            channels = [
                channel for topic in request.snapshot.topics.values() for channel in topic.channels.values()
            ]
            self._count = sum(channel.stats.message_count for channel in channels)
            self._rate = sum(channel.in_rate or 0.0 for channel in channels)
            self._snapshot = request.snapshot
        values = {"count": self._count, "count_rate": self._rate, "totals": request.snapshot.totals}
        return Page("counter.html", "counter", values)
