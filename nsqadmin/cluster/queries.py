"""Queries that are sent to the daemons now, and not answered from a snapshot: scripts rely on that for the API.

With registries, these tell which nsqds there are; without, the configured nsqds are queried themselves. Every method
takes `Warnings`, to which it adds the errors of daemons that did not answer, step by step, and raises `UpstreamFailed`
if no daemon answered in one of its steps.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import attrs
import trio

from nsqadmin.cluster.merge import (
    attribute_to_node,
    merge_channel,
    merge_nodes,
    merge_topic,
    node_of_info,
    nodes_of_producers,
    tell_apart,
)
from nsqadmin.model import ChannelStats, Node, TopicStats
from nsqadmin.options import AdminOptions
from nsqadmin.upstream import NSQD, NSQLOOKUPD, Upstream, UpstreamFailed, Warnings, query_all, responses
from nsqkit.yielder import Yielder

__all__ = ["ClusterQueries", "UnknownChannel", "UnknownNode"]

ResponseT = TypeVar("ResponseT")

_MAX_TOPICS_AT_ONCE = 32  # whose channels are looked up


class UnknownNode(Exception):
    """There is no nsqd with this address."""


class UnknownChannel(Exception):
    """The topic exists, but has no such channel."""


@attrs.define(eq=False)
class ClusterQueries:
    """Queries the daemons that the options name."""

    options: AdminOptions
    upstream: Upstream

    @property
    def registries(self) -> list[str]:
        """The HTTP addresses of the registries."""
        return self.options.lookupd_http_addresses

    # Names.

    async def topics(self, warnings: Warnings) -> list[str]:
        """The names of all topics, sorted."""
        if self.options.with_registries:
            by_registry = await self._query_registries(
                lambda each: responses.topics(self.upstream, each), warnings
            )
            return sorted({name for _, names in by_registry for name in names})
        by_nsqd = await self._query_nsqds(self._stats, warnings)
        return sorted({topic.topic_name for _, stats in by_nsqd for topic in stats.topics or ()})

    async def inactive_topics(self, warnings: Warnings) -> dict[str, list[str]]:
        """The topics that no nsqd has, with the channels that the registries know; empty without registries."""
        if not self.options.with_registries:
            return {}
        names = await self.topics(warnings)
        # From the list of nodes: a lookup of each topic could take 10,000 requests.
        by_registry = await self._query_registries(
            lambda each: responses.nodes(self.upstream, each), Warnings()
        )
        active = {
            topic.topic
            for registry, producers in by_registry
            for node in nodes_of_producers(registry, producers)
            for topic in node.topics
            if not topic.tombstoned
        }
        inactive = [name for name in names if name not in active]
        found: dict[str, list[str]] = {}

        async def find_channels(name: str) -> None:
            found[name] = await self._channels(name)

        for begin in range(0, len(inactive), _MAX_TOPICS_AT_ONCE):
            async with trio.open_nursery() as nursery:
                for name in inactive[begin : begin + _MAX_TOPICS_AT_ONCE]:
                    nursery.start_soon(find_channels, name)
        return {name: found[name] for name in inactive}

    async def _channels(self, topic: str) -> list[str]:
        try:
            by_registry = await self._query_registries(
                lambda each: responses.channels(self.upstream, each, topic), Warnings()
            )
        except UpstreamFailed:
            return []
        return sorted({name for _, names in by_registry for name in names})

    # Nodes.

    async def nodes(self, warnings: Warnings) -> list[Node]:
        """All nsqds, ordered by host name."""
        if self.options.with_registries:
            by_registry = await self._query_registries(
                lambda each: responses.nodes(self.upstream, each), warnings
            )
            return merge_nodes(nodes_of_producers(*each) for each in by_registry)
        by_nsqd = await self._query_nsqds(self._describe, warnings)
        return sorted(tell_apart(by_nsqd), key=lambda node: node.hostname)

    async def topic_nodes(self, topic: str, warnings: Warnings) -> list[Node]:
        """The nsqds that have the topic."""
        if self.options.with_registries:
            return await self.registered_nodes(topic, warnings)
        by_nsqd = await self._query_nsqds(lambda each: self._describe_if_it_has(each, topic), warnings)
        return tell_apart([(nsqd, node) for nsqd, node in by_nsqd if node is not None])

    async def registered_nodes(self, topic: str, warnings: Warnings) -> list[Node]:
        """The nsqds that the registries list for the topic."""
        by_registry = await self._query_registries(
            lambda each: responses.lookup(self.upstream, each, topic), warnings
        )
        merged: dict[str, Node] = {}
        for registry, producers in by_registry:
            for node in nodes_of_producers(registry, producers):
                merged.setdefault(node.http_address, node)
        return list(merged.values())

    async def find_node(self, address: str, warnings: Warnings) -> Node:
        """The nsqd with this HTTP address. Raises `UnknownNode`."""
        for node in await self.nodes(warnings):
            if node.http_address == address:
                return node
        raise UnknownNode(address)

    async def describe(self, address: str, warnings: Warnings) -> Node:
        """The nsqd at this address, as it describes itself."""
        [(_, node)] = await query_all(NSQD, [address], self._describe, warnings)
        return node

    # Statistics.

    async def topic(self, name: str, warnings: Warnings) -> TopicStats:
        """A topic over all nodes, without clients."""
        nodes = await self.topic_nodes(name, warnings)
        parts = await self._topic_stats(nodes, name, "", warnings, clients=False)
        return merge_topic(name, parts)

    async def channel(self, topic: str, name: str, warnings: Warnings) -> ChannelStats:
        """A channel over all nodes, with its clients. Raises `UnknownChannel`."""
        nodes = await self.topic_nodes(topic, warnings)
        parts = await self._topic_stats(nodes, topic, name, warnings, clients=True)
        found = [channel for part in parts for channel in part.channels or () if channel.channel_name == name]
        if not found:
            raise UnknownChannel(f"{topic}/{name}")
        return merge_channel(topic, name, found)

    async def node(self, address: str, warnings: Warnings) -> list[TopicStats]:
        """All topics of one node, with their clients. Raises `UnknownNode`."""
        node = await self.find_node(address, warnings)
        return await self._topic_stats([node], "", "", warnings, clients=True)

    async def node_channels(self, warnings: Warnings) -> list[ChannelStats]:
        """Every channel of every node, not summed and without clients."""
        nodes = await self.nodes(warnings)
        parts = await self._topic_stats(nodes, "", "", warnings, clients=False)
        return [channel for part in parts for channel in part.channels or ()]

    async def _topic_stats(
        self, nodes: list[Node], topic: str, channel: str, warnings: Warnings, *, clients: bool
    ) -> list[TopicStats]:
        async def topics_of(node: Node) -> list[TopicStats]:
            stats = await responses.stats(self.upstream, node.http_address, topic, channel, clients=clients)
            return [each for each in stats.topics or () if topic in ("", each.topic_name)]

        yielder, found = Yielder(), []
        for node, topics in await query_all(NSQD, nodes, topics_of, warnings):
            for each in topics:
                attribute_to_node(each, node)
                await yielder.maybe_yield()
            found += topics
        return found

    # Requests to all daemons of a kind.

    async def _query_registries(
        self, query: Callable[[str], Awaitable[ResponseT]], warnings: Warnings
    ) -> list[tuple[str, ResponseT]]:
        return await query_all(NSQLOOKUPD, self.options.lookupd_http_addresses, query, warnings)

    async def _query_nsqds(
        self, query: Callable[[str], Awaitable[ResponseT]], warnings: Warnings
    ) -> list[tuple[str, ResponseT]]:
        return await query_all(NSQD, self.options.nsqd_http_addresses, query, warnings)

    async def _stats(self, nsqd: str) -> responses.Stats:
        return await responses.stats(self.upstream, nsqd)

    async def _describe(self, nsqd: str) -> Node:
        info = await responses.info(self.upstream, nsqd)
        stats = await self._stats(nsqd)
        return node_of_info(info, [topic.topic_name for topic in stats.topics or ()])

    async def _describe_if_it_has(self, nsqd: str, topic: str) -> Node | None:
        stats = await responses.stats(self.upstream, nsqd, topic)
        if all(each.topic_name != topic for each in stats.topics or ()):
            return None
        return node_of_info(await responses.info(self.upstream, nsqd), [topic])
