"""Who consumes: queried when a page needs it, and not with every poll, as there may be tens of thousands.

All browsers that look at the same channel or node within an interval share one response. While anybody looks, each
response is compared with the one before, which gives the rate of each consumer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable
from typing import Final

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

UNIX_SOCKET: Final = "@"
"""The remote address of every client of a unix socket."""
_COMPARED: Final = 16
"""Queries whose last response is kept for the next one."""
_COMPARED_S: Final = 60.0
"""A rate is not the average over a longer time."""


@attrs.frozen(eq=False)
class _Response:
    received_at: float
    """On trio's clock."""
    consumers: _Consumers


@attrs.define(eq=False)
class ConsumerQueries:
    """Queries the nsqds that the poller knows. Those that do not answer are left out of the results."""

    poller: ClusterPoller
    _coalescer: Coalescer[_Consumers] = attrs.field(init=False)
    _last: OrderedDict[Hashable, _Response] = attrs.field(factory=OrderedDict, init=False)
    """The least recently used query first."""

    def __attrs_post_init__(self) -> None:
        self._coalescer = Coalescer(self.poller.options.poll_interval / SECOND)

    async def run(self) -> None:
        """Send the queries until cancelled; RuntimeError for queries before and after."""
        async with trio.open_nursery() as nursery, self._coalescer.running(nursery):
            await trio.sleep_forever()

    async def of_channel(self, topic: str, channel: str) -> list[ClientStats]:
        """The consumers of a channel on all nodes."""
        key = "channel", topic, channel
        found = await self._coalescer.get(key, lambda: self._query_channel(key, topic, channel))
        return found.get((topic, channel), [])

    async def of_node(self, address: str) -> dict[ChannelKey, list[ClientStats]]:
        """The consumers of one nsqd by topic and channel; empty if it does not answer."""
        key = "node", address
        return await self._coalescer.get(key, lambda: self._query(key, {address}, "", ""))

    async def _query_channel(self, key: Hashable, topic: str, channel: str) -> _Consumers:
        # Only the nodes that have the channel, of what may be hundreds.
        found = self.poller.snapshot.channel(topic, channel)
        nodes = {part.node for part in found.stats.nodes or ()} if found is not None else set()
        return await self._query(key, nodes, topic, channel)

    async def _query(self, key: Hashable, nodes: Collection[str], topic: str, channel: str) -> _Consumers:
        async def topics_of(nsqd: tuple[str, Node]) -> list[TopicStats]:
            upstream, address = self.poller.upstream, nsqd[0]
            stats = await responses.stats(
                upstream, address, topic, channel, clients=True, timings=True, memory=False
            )
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
        await self._compare(key, found, yielder)
        return found

    async def _compare(self, key: Hashable, found: _Consumers, yielder: Yielder) -> None:
        """Set the rates since the last response to the same query, if there was one lately."""
        last, new = self._last.pop(key, None), _Response(trio.current_time(), found)
        self._last[key] = new
        if len(self._last) > _COMPARED:
            self._last.popitem(last=False)
        if last is None or not 0 < new.received_at - last.received_at <= _COMPARED_S:
            return
        seconds = new.received_at - last.received_at
        before: dict[_Connection, int] = {}
        for clients in last.consumers.values():
            for client in clients:
                before[_connection(client)] = client.message_count
                await yielder.maybe_yield()
        for clients in found.values():
            for client in clients:
                known = before.get(_connection(client))
                # On a unix socket, all that connect within a second look the same.
                distinct = client.remote_address != UNIX_SOCKET
                if distinct and known is not None and known <= client.message_count:
                    client.delivery_rate = (client.message_count - known) / seconds
                await yielder.maybe_yield()


_Connection = tuple[str, str, int]


def _connection(client: ClientStats) -> _Connection:
    """What tells it from others."""
    return client.node, client.remote_address, client.connect_ts
