"""Who consumes: queried when a page needs it, and not with every poll, as there may be tens of thousands.

All browsers that look at the same channel or node within an interval share one response.
"""

from __future__ import annotations

from collections.abc import Collection

import attrs
import trio

from nsqadmin.cluster.coalesce import Coalescer
from nsqadmin.cluster.merge import attribute_to_node
from nsqadmin.cluster.poller import ClusterPoller
from nsqadmin.cluster.rates import ChannelKey
from nsqadmin.model import ClientStats, Node, TopicStats
from nsqadmin.upstream import NSQD, UpstreamFailed, Warnings, query_all, responses
from nsqkit.options import SECOND
from nsqkit.yielder import Yielder

__all__ = ["ConsumerQueries"]

_Consumers = dict[ChannelKey, list[ClientStats]]


@attrs.define(eq=False)
class ConsumerQueries:
    """Queries the nsqds that the poller knows. Those that do not answer are left out of the results."""

    poller: ClusterPoller
    _coalescer: Coalescer[_Consumers] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._coalescer = Coalescer(self.poller.options.poll_interval / SECOND)

    async def run(self) -> None:
        """Send the queries until cancelled; RuntimeError for queries before and after."""
        async with trio.open_nursery() as nursery, self._coalescer.running(nursery):
            await trio.sleep_forever()

    async def of_channel(self, topic: str, channel: str) -> list[ClientStats]:
        """The consumers of a channel on all nodes."""
        found = await self._coalescer.get(
            ("channel", topic, channel), lambda: self._query_channel(topic, channel)
        )
        return found.get((topic, channel), [])

    async def of_node(self, address: str) -> dict[ChannelKey, list[ClientStats]]:
        """The consumers of one nsqd by topic and channel; empty if it does not answer."""
        return await self._coalescer.get(("node", address, ""), lambda: self._query({address}, "", ""))

    async def _query_channel(self, topic: str, channel: str) -> _Consumers:
        # Only the nodes that have the channel, of what may be hundreds.
        found = self.poller.snapshot.channel(topic, channel)
        nodes = {part.node for part in found.stats.nodes or ()} if found is not None else set()
        return await self._query(nodes, topic, channel)

    async def _query(self, nodes: Collection[str], topic: str, channel: str) -> _Consumers:
        async def topics_of(nsqd: tuple[str, Node]) -> list[TopicStats]:
            upstream, address = self.poller.upstream, nsqd[0]
            stats = await responses.stats(upstream, address, topic, channel, clients=True, memory=False)
            return stats.topics or []

        found: _Consumers = {}
        yielder = Yielder()
        try:
            by_nsqd = await query_all(NSQD, self.poller.nsqds(nodes), topics_of, Warnings())
        except UpstreamFailed:
            return found
        for (_, node), topics in by_nsqd:
            for each in topics:
                attribute_to_node(each, node)
                for of_channel in each.channels or ():
                    key = each.topic_name, of_channel.channel_name
                    found.setdefault(key, []).extend(of_channel.clients or ())
                await yielder.maybe_yield()
        return found
