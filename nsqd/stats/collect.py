"""The statistics of the daemon, as plain data: the source of `/stats`, `/metrics` and statsd.

`collect` takes them from the broker in slices and lets other tasks run between two slices, so that ten thousand
channels do not block the event loop. The figures of one channel are consistent; those of two channels may be some
milliseconds apart. The clients are grouped by channel in one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import trio

from nsqd.broker import Channel, Locality, Topic
from nsqd.broker.latency import LatencyHistogram
from nsqd.protocol_v2.client_stats import ClientStats
from nsqd.rules import NOTHING_SET, Settings, in_effect
from nsqd.stats.copies import CopiesStats
from nsqd.stats.memory import MemoryStats, memory_stats
from nsqd.stats.oldest import PlaceKey, publish_times
from nsqd.stats.remaining import Remaining, remaining
from nsqd.stats.source import StatsSource
from nsqkit.options import SECOND
from nsqkit.yielder import Yielder

__all__ = [
    "SLICE_SECONDS",
    "ChannelStats",
    "DrainStats",
    "IdleStats",
    "Latency",
    "LimitStats",
    "Stats",
    "StatsQuery",
    "TopicStats",
    "collect",
    "health_of",
]

SLICE_SECONDS = 0.00025
"""Length of a slice of collecting or encoding: about fifty channels."""

ChannelKey = tuple[str, str]
"""Names of a topic and of one of its channels."""


@attrs.frozen
class Latency:
    """Time from publish to finish. `percentiles`: (quantile, nanoseconds) in option order; None: not measured."""

    count: int = 0
    percentiles: Sequence[tuple[float, float]] | None = None


NOT_MEASURED = Latency()


@attrs.frozen(kw_only=True, eq=False)
class IdleStats:
    """A channel with an `idle_ttl` that has no consumer: for how long, in seconds, and what comes after how long.

    `alarm`: that is soon.
    """

    seconds: float
    ttl_seconds: float
    action: str
    alarm: bool


@attrs.frozen(kw_only=True, eq=False)
class LimitStats:
    """What is set for a channel, or a topic, and what the limits have done since the start.

    `settings`: as JSON. `dropped`: messages by the name of the limit; `rejected`: messages of refused publishes.
    """

    settings: Mapping[str, Any]
    max_depth: int | None
    max_bytes: int | None
    dropped: Mapping[str, int]
    expired: int
    rejected: Mapping[str, int]
    idle: IdleStats | None = None


@attrs.frozen(kw_only=True, eq=False)
class ChannelStats:
    """One channel. `clients`: None if the query excludes them; `client_count` is always set."""

    name: str
    depth: int
    backend_depth: int
    in_flight_count: int
    deferred_count: int
    message_count: int
    delivery_count: int
    zone_local_count: int = 0
    """Deliveries to consumers in this daemon's zone."""
    region_local_count: int = 0
    """Deliveries to consumers in another zone of its region."""
    requeue_count: int
    timeout_count: int
    finish_count: int
    dropped_count: int
    damaged_count: int
    leaving_count: int = 0
    """Messages on their way to the dead topic."""
    dead_lettered: Mapping[str, int] = attrs.field(factory=dict)
    """Messages that went there, by cause; empty if there were none."""
    limits: LimitStats | None = None
    """None: nothing is limited, and nothing was."""
    client_count: int
    clients: list[ClientStats] | None
    paused: bool
    latency: Latency = NOT_MEASURED
    oldest_ns: int | None = None
    """When the oldest unfinished message was published; None: there is none, or it is not known."""

    def oldest_age(self, now_ns: int) -> float | None:
        """Seconds since that publish."""
        return _age(self.oldest_ns, now_ns)


@attrs.frozen(kw_only=True, eq=False)
class TopicStats:
    """One topic; channels by name. `disk_bytes`: the size of its log. `retained_bytes`: of that, finished messages that
    the setting `retain` keeps; None without it.
    """

    name: str
    channels: list[ChannelStats]
    depth: int
    backend_depth: int
    message_count: int
    message_bytes: int
    disk_bytes: int
    retained_bytes: int | None = None
    dropped_count: int = 0
    limits: LimitStats | None = None
    """Of its own messages; None as for a channel."""
    paused: bool
    latency: Latency = NOT_MEASURED
    oldest_ns: int | None = None
    """The same for the messages that no channel has been given."""

    def oldest_age(self, now_ns: int) -> float | None:
        """Seconds since that publish."""
        return _age(self.oldest_ns, now_ns)


def _age(published_ns: int | None, now_ns: int) -> float | None:
    return None if published_ns is None else max(0, now_ns - published_ns) / SECOND


@attrs.frozen(kw_only=True)
class StatsQuery:
    """The selection. An empty name selects all."""

    topic: str = ""
    channel: str = ""
    include_clients: bool = True
    include_timings: bool = False
    """Of the clients."""
    include_memory: bool = True
    include_ages: bool = True


@attrs.frozen(kw_only=True, eq=False)
class Stats:
    """The result of `query`.

    `topics`: sorted by name; None if the requested one does not exist. `producers`: clients that have published to any
    topic; None if there are none, the query excludes clients, or the topic does not exist. `draining`: during a drain.
    """

    query: StatsQuery
    version: str
    health: str
    start_time_ns: int
    topics: list[TopicStats] | None
    producers: list[ClientStats] | None
    memory: MemoryStats | None
    durability: str
    draining: DrainStats | None = None
    copies: CopiesStats | None = None


@attrs.frozen
class DrainStats:
    """A drain in progress, since `since_ns` (wall time). `remaining`: the topics and channels that hold messages."""

    since_ns: int
    remaining: list[Remaining]


async def collect(daemon: StatsSource, query: StatsQuery) -> Stats:
    """Collect the statistics. Other tasks run between slices of the work."""
    topics = producers = None
    if not query.topic or query.topic in daemon.broker.topics:
        # Taken in one go, as connections come and end while `_collect_topics` lets other tasks run.
        timings_at = trio.current_time() if query.include_timings else None
        clients = list(daemon.clients(timings_at)) if query.include_clients else []
        producers = [client for client in clients if client.pub_counts] or None
        topics = await _collect_topics(daemon, query, _by_channel(clients))
    return Stats(
        query=query,
        version=daemon.version,
        health=health_of(daemon),
        start_time_ns=daemon.start_time_ns,
        topics=topics,
        producers=producers,
        memory=memory_stats() if query.include_memory else None,
        durability=daemon.options.durability,
        draining=_drain_stats(daemon),
        copies=daemon.copies_stats,
    )


def health_of(daemon: StatsSource) -> str:
    """OK, perhaps with what is wrong all the same; or NOK, and why publishes are refused."""
    health = daemon.broker.health
    reason = daemon.audit.failing
    if reason and not health.startswith(("NOK", "OK - topic")):  # more harmful, and there is room for one
        return f"OK - audit file cannot be written: {reason}"
    return health


def _drain_stats(daemon: StatsSource) -> DrainStats | None:
    if not daemon.drain.active:
        return None
    return DrainStats(daemon.drain.since_ns, list(remaining(daemon.broker)))


async def _collect_topics(
    daemon: StatsSource, query: StatsQuery, clients: Mapping[ChannelKey, list[ClientStats]]
) -> list[TopicStats]:
    topics = daemon.broker.topics
    percentiles = daemon.options.e2e_processing_latency_percentiles
    found, yielder = [], Yielder(SLICE_SECONDS)
    asked = [topics[query.topic]] if query.topic else list(topics.values())
    oldest = await publish_times(asked, yielder) if query.include_ages else {}
    for name in [query.topic] if query.topic else sorted(topics):
        topic = topics.get(name)  # it may have been deleted since the names were sorted
        if topic is not None and (not query.channel or query.channel in topic.channels):
            stats = await _topic_stats(topic, query, clients, percentiles, oldest, yielder)
            retention = daemon.broker.retentions.get(name)
            if retention is not None and topic.settings.retain is not None:
                stats = attrs.evolve(stats, retained_bytes=retention.retained_bytes)
            found.append(stats)
    return found


async def _topic_stats(
    topic: Topic,
    query: StatsQuery,
    clients: Mapping[ChannelKey, list[ClientStats]],
    percentiles: Sequence[float],
    oldest: Mapping[PlaceKey, int],
    yielder: Yielder,
) -> TopicStats:
    channels = []
    samples: LatencyHistogram | None = None  # of all channels; without channels nothing is measured
    for name, channel in sorted(topic.channels.items()):
        its_samples = channel.latency.samples(channel.context.now) if channel.latency is not None else None
        if its_samples is not None:
            samples = samples or LatencyHistogram()
            samples.merge(its_samples)
        if query.channel in ("", name):
            its_clients = clients.get((topic.name, name), []) if query.include_clients else None
            latency = _latency(its_samples, percentiles)
            channels.append(
                _channel_stats(topic, channel, its_clients, latency, oldest.get((topic.name, name)))
            )
        await yielder.maybe_yield()
    await yielder.maybe_yield()
    return TopicStats(
        name=topic.name,
        channels=channels,
        depth=topic.depth,
        backend_depth=topic.backend_depth,
        message_count=topic.message_count,
        message_bytes=topic.message_bytes,
        disk_bytes=topic.store.bytes_on_disk,
        dropped_count=topic.dropped_count,
        limits=_limit_stats(
            topic.settings, topic.dropped_by, topic.expired_count, topic.rejected.get("", {})
        ),
        paused=topic.paused,
        latency=_latency(samples, percentiles),
        oldest_ns=oldest.get((topic.name, "")),
    )


def _limit_stats(
    settings: Settings,
    dropped: Mapping[str, int],
    expired: int,
    rejected: Mapping[str, int],
    idle: IdleStats | None = None,
) -> LimitStats | None:
    if settings is NOTHING_SET and not (dropped or expired or rejected):
        return None
    return LimitStats(
        settings=in_effect(settings),
        max_depth=settings.max_depth,
        max_bytes=settings.max_bytes,
        dropped=dict(dropped),
        expired=expired,
        rejected=dict(rejected),
        idle=idle,
    )


def _idle_stats(channel: Channel) -> IdleStats | None:
    settings, since = channel.settings, channel.idle_since
    if since is None or settings.idle_ttl is None or channel.subscriptions:
        return None
    return IdleStats(
        seconds=channel.context.now - since,
        ttl_seconds=settings.idle_ttl / SECOND,
        action=settings.idle_action,
        alarm=channel.idle_alarm,
    )


def _channel_stats(
    topic: Topic, channel: Channel, clients: list[ClientStats] | None, latency: Latency, oldest_ns: int | None
) -> ChannelStats:
    return ChannelStats(
        name=channel.name,
        depth=channel.depth,
        backend_depth=channel.backend_depth,
        in_flight_count=channel.in_flight_count,
        deferred_count=len(channel.deferred),
        message_count=channel.counts.entered,
        delivery_count=channel.counts.delivered,
        zone_local_count=channel.deliveries_to(Locality.ZONE),
        region_local_count=channel.deliveries_to(Locality.REGION),
        requeue_count=channel.counts.requeued,
        timeout_count=channel.counts.timed_out,
        finish_count=channel.counts.finished,
        dropped_count=channel.counts.dropped,
        damaged_count=channel.counts.damaged,
        leaving_count=len(channel.leaving),
        dead_lettered={cause.value: count for cause, count in channel.counts.dead_lettered.items()},
        limits=_limit_stats(
            channel.settings,
            channel.counts.dropped_by,
            channel.counts.expired,
            topic.rejected.get(channel.name, {}),
            _idle_stats(channel),
        ),
        client_count=len(channel.subscriptions),
        clients=clients,
        paused=channel.paused,
        latency=latency,
        oldest_ns=oldest_ns,
    )


def _latency(samples: LatencyHistogram | None, percentiles: Sequence[float]) -> Latency:
    if samples is None or not percentiles:
        return NOT_MEASURED
    return Latency(samples.count, [(quantile, samples.quantile(quantile)) for quantile in percentiles])


def _by_channel(clients: Iterable[ClientStats]) -> dict[ChannelKey, list[ClientStats]]:
    groups: dict[ChannelKey, list[ClientStats]] = {}
    for client in clients:
        if client.subscribed is not None:
            groups.setdefault(client.subscribed, []).append(client)
    return groups
