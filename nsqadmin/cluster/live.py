"""Fresh answers: each question is put to the daemons now, as tools that script the console rely on.

With registries, they tell which nsqds there are; without, the nsqds that were named are asked themselves. Every method
takes `Warnings`, to which it adds the errors of daemons that did not answer, step by step, and raises `UpstreamFailed`
when in one of its steps nobody answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import attrs
import trio

from nsqadmin.cluster.merge import (
    merge_channel,
    merge_nodes,
    merge_topic,
    node_of_info,
    nodes_of_producers,
    place,
)
from nsqadmin.cluster.model import ChannelStats, Node, TopicStats
from nsqadmin.options import AdminOptions
from nsqadmin.upstream import Upstream, UpstreamFailed, Warnings, answers, ask_all
from nsqkit.yielder import Yielder

__all__ = ["NSQD", "NSQLOOKUPD", "Live", "UnknownChannel", "UnknownNode"]

AnswerT = TypeVar("AnswerT")

NSQLOOKUPD = "nsqlookupd"
NSQD = "nsqd"

_AT_ONCE = 32  # topics whose channels are asked for


class UnknownNode(Exception):
    """No nsqd of this address is known."""


class UnknownChannel(Exception):
    """The topic is there, and has no such channel."""


@attrs.define(eq=False)
class Live:
    """Asks the daemons that the options name."""

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
            told = await self._ask_registries(lambda each: answers.topics(self.upstream, each), warnings)
            return sorted({name for _, names in told for name in names})
        given = await self._ask_nsqds(self._stats, warnings)
        return sorted({topic.topic_name for _, stats in given for topic in stats.topics or ()})

    async def inactive_topics(self, warnings: Warnings) -> dict[str, list[str]]:
        """The topics that no nsqd has, with the channels that the registries know; nothing without registries.

        One look at the nodes tells them, where a look-up of each topic would be 10,000 requests.
        """
        if not self.options.with_registries:
            return {}
        names = await self.topics(warnings)
        told = await self._ask_registries(lambda each: answers.nodes(self.upstream, each), Warnings())
        active = {
            topic.topic
            for registry, producers in told
            for node in nodes_of_producers(registry, producers)
            for topic in node.topics
            if not topic.tombstoned
        }
        inactive = [name for name in names if name not in active]
        found: dict[str, list[str]] = {}

        async def ask(name: str) -> None:
            found[name] = await self._channels(name)

        for begin in range(0, len(inactive), _AT_ONCE):
            async with trio.open_nursery() as nursery:
                for name in inactive[begin : begin + _AT_ONCE]:
                    nursery.start_soon(ask, name)
        return {name: found[name] for name in inactive}

    async def _channels(self, topic: str) -> list[str]:
        try:
            told = await self._ask_registries(
                lambda each: answers.channels(self.upstream, each, topic), Warnings()
            )
        except UpstreamFailed:
            return []
        return sorted({name for _, names in told for name in names})

    # Nodes.

    async def nodes(self, warnings: Warnings) -> list[Node]:
        """All nsqds, by host name."""
        if self.options.with_registries:
            told = await self._ask_registries(lambda each: answers.nodes(self.upstream, each), warnings)
            return merge_nodes(nodes_of_producers(*each) for each in told)
        given = await self._ask_nsqds(self._self_description, warnings)
        return sorted((node for _, node in given), key=lambda node: node.hostname)

    async def topic_nodes(self, topic: str, warnings: Warnings) -> list[Node]:
        """The nsqds that have the topic."""
        if self.options.with_registries:
            return await self.registered_nodes(topic, warnings)
        given = await self._ask_nsqds(lambda each: self._self_description_with(each, topic), warnings)
        return [node for _, node in given if node is not None]

    async def registered_nodes(self, topic: str, warnings: Warnings) -> list[Node]:
        """The nsqds that the registries know for the topic."""
        told = await self._ask_registries(lambda each: answers.lookup(self.upstream, each, topic), warnings)
        merged: dict[str, Node] = {}
        for registry, producers in told:
            for node in nodes_of_producers(registry, producers):
                merged.setdefault(node.http_address, node)
        return list(merged.values())

    async def named_node(self, address: str, warnings: Warnings) -> Node:
        """The nsqd at this very address, as it describes itself."""
        [(_, node)] = await ask_all(NSQD, [address], self._self_description, warnings)
        return node

    # Statistics.

    async def topic(self, name: str, warnings: Warnings) -> TopicStats:
        """A topic over all nodes, without clients."""
        nodes = await self.topic_nodes(name, warnings)
        parts = await self._topic_stats(nodes, name, "", warnings, clients=False)
        return merge_topic(name, parts)

    async def channel(self, topic: str, name: str, warnings: Warnings) -> ChannelStats:
        """A channel over all nodes, with its clients. `UnknownChannel`."""
        nodes = await self.topic_nodes(topic, warnings)
        parts = await self._topic_stats(nodes, topic, name, warnings, clients=True)
        found = [channel for part in parts for channel in part.channels or () if channel.channel_name == name]
        if not found:
            raise UnknownChannel(f"{topic}/{name}")
        return merge_channel(topic, name, found)

    async def node(self, address: str, warnings: Warnings) -> list[TopicStats]:
        """All topics of one node, with their clients. `UnknownNode`."""
        nodes = [node for node in await self.nodes(warnings) if node.http_address == address]
        if not nodes:
            raise UnknownNode(address)
        return await self._topic_stats(nodes[:1], "", "", warnings, clients=True)

    async def node_channels(self, warnings: Warnings) -> list[ChannelStats]:
        """Every channel of every node, one by one, without clients."""
        nodes = await self.nodes(warnings)
        parts = await self._topic_stats(nodes, "", "", warnings, clients=False)
        return [channel for part in parts for channel in part.channels or ()]

    async def _topic_stats(
        self, nodes: list[Node], topic: str, channel: str, warnings: Warnings, *, clients: bool
    ) -> list[TopicStats]:
        async def ask(node: Node) -> list[TopicStats]:
            stats = await answers.stats(self.upstream, node.http_address, topic, channel, clients=clients)
            return [each for each in stats.topics or () if topic in ("", each.topic_name)]

        yielder, found = Yielder(), []
        for node, given in await ask_all(NSQD, nodes, ask, warnings):
            for each in given:
                place(each, node)
                await yielder.maybe_yield()
            found += given
        return found

    # Questions to the daemons.

    async def _ask_registries(
        self, ask: Callable[[str], Awaitable[AnswerT]], warnings: Warnings
    ) -> list[tuple[str, AnswerT]]:
        return await ask_all(NSQLOOKUPD, self.options.lookupd_http_addresses, ask, warnings)

    async def _ask_nsqds(
        self, ask: Callable[[str], Awaitable[AnswerT]], warnings: Warnings
    ) -> list[tuple[str, AnswerT]]:
        return await ask_all(NSQD, self.options.nsqd_http_addresses, ask, warnings)

    async def _stats(self, nsqd: str) -> answers.Stats:
        return await answers.stats(self.upstream, nsqd)

    async def _self_description(self, nsqd: str) -> Node:
        info = await answers.info(self.upstream, nsqd)
        stats = await self._stats(nsqd)
        return node_of_info(info, [topic.topic_name for topic in stats.topics or ()])

    async def _self_description_with(self, nsqd: str, topic: str) -> Node | None:
        stats = await answers.stats(self.upstream, nsqd, topic)
        if all(each.topic_name != topic for each in stats.topics or ()):
            return None
        return node_of_info(await answers.info(self.upstream, nsqd), [topic])
