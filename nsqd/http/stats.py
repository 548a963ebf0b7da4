"""The daemon's state in plain figures: what `/stats` shows and what metrics are made of.

`collect` takes them from the broker. It works through the topics a slice at a time and lets other tasks run between
two slices, so ten thousand topics hold nobody up; a topic's own figures fit one another, those of two topics may be
some milliseconds apart. Clients are gone through once, not once for each channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import attrs
import trio

from nsqd.broker import Channel, Topic
from nsqd.broker.log_topic import LogTopic
from nsqd.http.context import Daemon
from nsqd.http.memory import MemoryStats, memory_stats

__all__ = [
    "ChannelStats",
    "ClientStats",
    "Latency",
    "Stats",
    "StatsQuery",
    "TopicStats",
    "collect",
    "in_slices",
]

_T = TypeVar("_T")
_R = TypeVar("_R")

SLICE = 50  # topics, or clients: about a millisecond

ChannelKey = tuple[str, str]
"""Names of a topic and of one of its channels."""

NS_PER_SECOND = 1_000_000_000


@attrs.frozen
class Latency:
    """From publish to finish. `percentiles`: (quantile, nanoseconds) in the option's order; None: not measured."""

    count: int = 0
    percentiles: Sequence[tuple[float, float]] | None = None


NOT_MEASURED = Latency()


@attrs.define(kw_only=True, eq=False)
class ClientStats:
    """One TCP connection."""

    client_id: str
    hostname: str
    remote_address: str
    """`ip:port`; `@` on a unix socket."""
    state: int
    """0 init (also of one that only publishes), 2 connected, 3 subscribed, 4 closing."""
    connect_time: int
    """Unix time, seconds."""
    version: str = "V2"
    subscribed: ChannelKey | None = None
    ready_count: int = 0
    in_flight_count: int = 0
    message_count: int = 0
    finish_count: int = 0
    requeue_count: int = 0
    sample_rate: int = 0
    deflate: bool = False
    snappy: bool = False
    user_agent: str = ""
    authed: bool = False
    auth_identity: str = ""
    auth_identity_url: str = ""
    topology_zone: str = ""
    topology_region: str = ""
    pub_counts: Mapping[str, int] = attrs.field(factory=dict)
    """Messages published, by topic."""
    tls: bool = False
    tls_cipher_suite: str = ""
    tls_version: str = ""
    """`TLS1.0` to `TLS1.3`."""

    def shown_pub_count(self, topic: str) -> tuple[str, int] | None:
        """The one entry of `pub_counts` that is shown: that of the topic asked for, without one just any."""
        if topic:
            return (topic, self.pub_counts[topic]) if topic in self.pub_counts else None
        return next(iter(self.pub_counts.items()), None)


@attrs.frozen(kw_only=True, eq=False)
class ChannelStats:
    """One channel. `clients` is None when they were not asked for; `client_count` is right all the same."""

    name: str
    depth: int
    backend_depth: int
    in_flight_count: int
    deferred_count: int
    message_count: int
    delivery_count: int
    requeue_count: int
    timeout_count: int
    finish_count: int
    dropped_count: int
    damaged_count: int
    client_count: int
    clients: list[ClientStats] | None
    paused: bool
    latency: Latency = NOT_MEASURED


@attrs.frozen(kw_only=True, eq=False)
class TopicStats:
    """One topic; channels by name. `disk_bytes`: the size of its log."""

    name: str
    channels: list[ChannelStats]
    depth: int
    backend_depth: int
    message_count: int
    message_bytes: int
    disk_bytes: int
    paused: bool
    latency: Latency = NOT_MEASURED


@attrs.frozen(kw_only=True)
class StatsQuery:
    """What is asked for. An empty name: all."""

    topic: str = ""
    channel: str = ""
    include_clients: bool = True
    include_memory: bool = True


@attrs.frozen(kw_only=True, eq=False)
class Stats:
    """The answer to `query`.

    `topics`: by name; None when the one asked for does not exist. `producers`: clients that have published, to any
    topic; None when there are none, or clients were not asked for, or the topic does not exist.
    """

    query: StatsQuery
    version: str
    health: str
    start_time_ns: int
    topics: list[TopicStats] | None
    producers: list[ClientStats] | None
    memory: MemoryStats | None
    durability: str


async def collect(daemon: Daemon, query: StatsQuery) -> Stats:
    """The figures that are asked for. Gives way where there are many."""
    topics = producers = None
    if not query.topic or query.topic in daemon.broker.topics:
        clients = list(daemon.clients()) if query.include_clients else []
        producers = [client for client in clients if client.pub_counts] or None
        topics = await _collect_topics(daemon, query, _by_channel(clients))
    return Stats(
        query=query,
        version=daemon.version,
        health=daemon.broker.store.health,
        start_time_ns=daemon.start_time_ns,
        topics=topics,
        producers=producers,
        memory=memory_stats() if query.include_memory else None,
        durability=daemon.options.durability,
    )


async def _collect_topics(
    daemon: Daemon, query: StatsQuery, clients: Mapping[ChannelKey, list[ClientStats]]
) -> list[TopicStats]:
    topics = daemon.broker.topics

    def one(name: str) -> TopicStats | None:
        topic = topics.get(name)  # it may have gone since the names were taken
        return None if topic is None else _topic_stats(topic, query, clients)

    found = await in_slices([query.topic] if query.topic else sorted(topics), one)
    return [topic for topic in found if topic is not None]


def _topic_stats(
    topic: Topic, query: StatsQuery, clients: Mapping[ChannelKey, list[ClientStats]]
) -> TopicStats | None:
    """None when the channel that is asked for is not there."""
    if not query.channel:
        channels = [topic.channels[name] for name in sorted(topic.channels)]
    elif query.channel in topic.channels:
        channels = [topic.channels[query.channel]]
    else:
        return None
    return TopicStats(
        name=topic.name,
        channels=[
            _channel_stats(
                channel, clients.get((topic.name, channel.name), []) if query.include_clients else None
            )
            for channel in channels
        ],
        depth=topic.depth,
        backend_depth=topic.backend_depth,
        message_count=topic.message_count,
        message_bytes=topic.message_bytes,
        disk_bytes=topic.log.bytes_on_disk if isinstance(topic, LogTopic) else 0,
        paused=topic.paused,
    )


def _channel_stats(channel: Channel, clients: list[ClientStats] | None) -> ChannelStats:
    return ChannelStats(
        name=channel.name,
        depth=channel.depth,
        backend_depth=channel.backend_depth,
        in_flight_count=channel.in_flight_count,
        deferred_count=len(channel.deferred),
        message_count=channel.message_count,
        delivery_count=channel.delivery_count,
        requeue_count=channel.requeue_count,
        timeout_count=channel.timeout_count,
        finish_count=channel.finish_count,
        dropped_count=channel.dropped_count,
        damaged_count=channel.damaged_count,
        client_count=len(channel.subscriptions),
        clients=clients,
        paused=channel.paused,
    )


def _by_channel(clients: Iterable[ClientStats]) -> dict[ChannelKey, list[ClientStats]]:
    groups: dict[ChannelKey, list[ClientStats]] = {}
    for client in clients:
        if client.subscribed is not None:
            groups.setdefault(client.subscribed, []).append(client)
    return groups


async def in_slices(items: Sequence[_T], function: Callable[[_T], _R]) -> list[_R]:
    """`function` of every item, with a checkpoint after every `SLICE` of them."""
    results: list[_R] = []
    for start in range(0, len(items), SLICE):
        if start:
            await trio.lowlevel.checkpoint()
        results += map(function, items[start : start + SLICE])
    return results
