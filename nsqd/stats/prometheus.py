"""GET /metrics: nsqd's page for Prometheus, with all metric families.

The values are those of `/stats` (`nsqd.stats.collect`), collected in slices. An age that is not known yet is omitted.

Labels are the names of topics and channels and a few constants; nothing that a client sends, so that no client can
create series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final, Generic, TypeVar

import attrs

from nsqd.broker import Broker
from nsqd.stats.collect import (
    SLICE_SECONDS,
    ChannelStats,
    Latency,
    LimitStats,
    Stats,
    StatsQuery,
    TopicStats,
    collect,
)
from nsqd.stats.copies import CopiesStats, ScrubStats
from nsqd.stats.source import StatsSource
from nsqkit.options import SECOND
from nsqkit.service.exposition import (
    Family,
    Sample,
    certificates,
    counter,
    gauge,
    label_set,
    of_audit,
    program,
    render,
)
from nsqkit.service.http import Response
from nsqkit.yielder import Yielder

__all__ = ["metrics_page"]

_Stats = TypeVar("_Stats")
_QUERY = StatsQuery(include_clients=False, include_memory=False)


@attrs.frozen
class _Row(Generic[_Stats]):
    """A topic or channel with its labels."""

    labels: str
    stats: _Stats
    age: float | None
    """Age of its oldest message in seconds; None: there is none, or it is not known."""


_TopicRow = _Row[TopicStats]
_ChannelRow = _Row[ChannelStats]


async def metrics_page(daemon: StatsSource, now_ns: int, *, include_topics: bool = True) -> Response:
    """The response, with the families of topics and channels or without. `now_ns`: wall time, for ages.

    Other tasks run between slices of the work.
    """
    if not include_topics:
        return await render(_of_the_daemon(daemon, await _sums(daemon.broker)))
    stats = await collect(daemon, _QUERY)
    topics, channels = await _rows(stats, now_ns)
    return await render(
        chain(
            _of_the_daemon(daemon, await _sums(daemon.broker)),
            _of_topics(topics),
            _of_channels(channels, by_locality=daemon.broker.options.topology is not None),
        )
    )


async def _rows(stats: Stats, now_ns: int) -> tuple[list[_TopicRow], list[_ChannelRow]]:
    topics: list[_TopicRow] = []
    channels: list[_ChannelRow] = []
    yielder = Yielder(SLICE_SECONDS)
    for topic in stats.topics or ():
        topics.append(_TopicRow(label_set({"topic": topic.name}), topic, topic.oldest_age(now_ns)))
        for channel in topic.channels:
            labels = label_set({"topic": topic.name, "channel": channel.name})
            channels.append(_ChannelRow(labels, channel, channel.oldest_age(now_ns)))
            await yielder.maybe_yield()
        await yielder.maybe_yield()
    return topics, channels


@attrs.define
class _Sums:
    """Over all topics."""

    topics: int = 0
    channels: int = 0
    log_bytes: int = 0


async def _sums(broker: Broker) -> _Sums:
    sums, yielder = _Sums(), Yielder(SLICE_SECONDS)
    for topic in list(broker.topics.values()):
        sums.topics += 1
        sums.channels += len(topic.channels)
        sums.log_bytes += topic.store.bytes_on_disk
        await yielder.maybe_yield()
    return sums


# --- the families


def _of_the_daemon(daemon: StatsSource, sums: _Sums) -> Iterator[Family]:
    broker, loop_lag = daemon.broker, daemon.loop_lag
    yield gauge(
        "nsqd_healthy",
        "1 while /ping says OK, 0 while writing to the disk fails.",
        int(broker.health.startswith("OK")),
    )
    yield gauge(
        "nsqd_failing_topics",
        "Topics that are refused, as their files cannot be used.",
        broker.failing_topics,
    )
    yield gauge("nsqd_topics", "Topics.", sums.topics)
    yield gauge("nsqd_channels", "Channels, of all topics.", sums.channels)
    yield gauge("nsqd_connections", "TCP connections of producers and consumers.", daemon.connection_count)
    yield gauge("nsqd_log_bytes", "Size of all topics' logs on disk.", sums.log_bytes)
    if broker.disk_free is not None:
        yield gauge(
            "nsqd_disk_free_bytes", "Free space of the file system with the data path.", broker.disk_free
        )
    yield counter("nsqd_syncs_total", "Syncs of the logs to the disk.", broker.sync_count)
    yield gauge("nsqd_unsynced_appends", "Appends to logs that are not synced yet.", broker.unsynced_appends)
    if loop_lag.last_sync is not None:
        yield gauge(
            "nsqd_last_sync_time_seconds",
            "When the last sync ended, in seconds since 1970.",
            loop_lag.last_sync,
        )
    yield loop_lag.histogram.family(
        "nsqd_loop_lag_seconds", "How late the event loop runs what is due, looked at once a second."
    )
    if (copies := daemon.copies_stats) is not None:
        yield from _of_copies(copies)
    yield from of_audit("nsqd", daemon.audit)
    yield from certificates("nsqd", daemon.tls_files)
    yield from program("nsqd")


def _of_copies(copies: CopiesStats) -> Iterator[Family]:
    yield gauge(
        "nsqd_copies_wanted", "Copies of this nsqd that are configured, its own included.", copies.wanted
    )
    yield gauge(
        "nsqd_copies_in_step", "Copies of this nsqd that have everything, its own included.", copies.in_step
    )
    rows = [(label_set({"follower": follower.address}), follower) for follower in copies.followers]
    yield gauge(
        "nsqd_follower_lag_appends",
        "Appends that a connected follower has not acknowledged.",
        [(labels, follower.lag) for labels, follower in rows if follower.lag is not None],
    )
    yield gauge(
        "nsqd_follower_lag_bytes",
        "Bytes of logs that a connected follower was not sent yet.",
        [(labels, follower.lag_bytes) for labels, follower in rows if follower.lag_bytes is not None],
    )
    yield gauge(
        "nsqd_follower_lag_seconds",
        "For how long a connected follower has owed an acknowledgement.",
        [(labels, follower.lag_seconds) for labels, follower in rows if follower.lag_seconds is not None],
    )
    yield counter(
        "nsqd_follower_sent_bytes_total",
        "Bytes that were sent to a follower.",
        [(labels, follower.sent_bytes) for labels, follower in rows],
    )
    yield counter(
        "nsqd_restored_bytes_total",
        "Bytes that were missing here at the start, and fetched from a follower.",
        copies.restored_bytes,
    )
    yield counter(
        "nsqd_published_again_total",
        "Messages that were lost here, and published again as a follower had them.",
        copies.published_again,
    )
    if (scrub := copies.scrub) is not None:
        yield from _of_scrub(scrub)
    yield counter("nsqd_adoptions_total", "Copies of other nsqds that were adopted here.", copies.adoptions)
    yield gauge(
        "nsqd_copy_clock_skew_seconds",
        "By how much the clock here is ahead of that of the copy's leader, which is connected.",
        [
            # Of one leader there may be copies of two lives.
            (label_set({"leader": held.name, "life": held.life}), held.clock_skew_seconds)
            for held in copies.held
            if held.connected and held.clock_skew_seconds is not None
        ],
    )
    yield gauge(
        "nsqd_copies_undecided",
        "Copies that are here of silent nsqds, and that were not allowed to be adopted by themselves.",
        sum(bool(held.undecided and not held.adopted and not held.connected) for held in copies.held),
    )
    yield gauge(
        "nsqd_takeover_obstacle",
        "1 if --adopt=auto, and the nsqlookupds are too few, or not the right ones, for that.",
        int(copies.obstacle is not None),
    )
    yield gauge("nsqd_copies_held", "Copies of other nsqds that are here.", len(copies.held))
    yield gauge("nsqd_copies_held_bytes", "Bytes of these copies.", sum(held.bytes for held in copies.held))


def _of_scrub(scrub: ScrubStats) -> Iterator[Family]:
    yield counter(
        "nsqd_scrub_checked_bytes_total",
        "Bytes of complete segments that were compared with the followers' copies.",
        scrub.checked_bytes,
    )
    yield gauge(
        "nsqd_scrub_left_bytes",
        "Bytes that this pass has not compared with the followers' copies yet.",
        scrub.left_bytes,
    )
    yield counter(
        "nsqd_scrub_mended_total",
        "Segments that had damage, here or in a follower's copy, and were mended.",
        [
            (label_set({"where": "here"}), scrub.mended),
            (label_set({"where": "follower"}), scrub.mended_there),
        ],
    )
    yield gauge("nsqd_scrub_unmended", "Segments with damage that could not be mended.", scrub.unmended_count)


def _of_topics(rows: list[_TopicRow]) -> Iterator[Family]:
    for name, kind, text, value in _TOPIC_FAMILIES:
        yield Family(f"nsqd_topic_{name}", kind, text, _samples(rows, value))
    text = "Time since the oldest message that no channel has got yet was published."
    yield gauge("nsqd_topic_oldest_message_age_seconds", text, _ages(rows))
    yield from _latencies("nsqd_topic", [(r.labels, r.stats.latency) for r in rows if r.stats.latency.count])
    yield from _of_limits("nsqd_topic", [(r.labels, r.stats.limits) for r in rows if r.stats.limits])
    retained = [(r.labels, r.stats.retained_bytes) for r in rows if r.stats.retained_bytes is not None]
    if retained:
        text = "Of the log, finished messages that are kept for replays."
        yield gauge("nsqd_topic_retained_bytes", text, retained)


def _of_channels(rows: list[_ChannelRow], *, by_locality: bool) -> Iterator[Family]:
    for name, kind, text, value in _CHANNEL_FAMILIES:
        yield Family(f"nsqd_channel_{name}", kind, text, _samples(rows, value))
    text = "Messages sent to consumers, each time they were sent, by where the consumer is."
    yield counter("nsqd_channel_deliveries_total", text, _deliveries(rows, by_locality))
    if dead := [row for row in rows if row.stats.dead_lettered or row.stats.leaving_count]:
        text = "Messages that went to the dead topic, by why."
        yield counter("nsqd_channel_dead_letters_total", text, _dead_letters(dead))
        text = "Messages on their way to the dead topic."
        yield gauge("nsqd_channel_leaving_messages", text, _samples(dead, lambda c: c.leaving_count))
    text = "Time since the oldest message that is not finished was published."
    yield gauge("nsqd_channel_oldest_message_age_seconds", text, _ages(rows))
    yield from _latencies(
        "nsqd_channel", [(r.labels, r.stats.latency) for r in rows if r.stats.latency.count]
    )
    limited = [(r.labels, r.stats.limits) for r in rows if r.stats.limits]
    yield from _of_limits("nsqd_channel", limited)
    yield from _of_channel_limits(limited)


_LimitRows = list[tuple[str, LimitStats]]
"""With labels."""


def _of_limits(prefix: str, rows: _LimitRows) -> Iterator[Family]:
    """Of topics or channels; none where nothing is limited."""
    if rows:
        text = "Messages of publishes that were refused, by the limit."
        rejected = [(labels, limits.rejected) for labels, limits in rows]
        yield counter(f"{prefix}_rejected_messages_total", text, _by_limit(rejected))
        text = "Messages that waited and were dropped, by the limit."
        dropped = [(labels, limits.dropped) for labels, limits in rows]
        yield counter(f"{prefix}_limit_dropped_messages_total", text, _by_limit(dropped))
        text = "Messages that waited until they were older than max_age."
        expired = [(labels, limits.expired) for labels, limits in rows]
        yield counter(f"{prefix}_expired_messages_total", text, expired)


def _of_channel_limits(rows: _LimitRows) -> Iterator[Family]:
    for name, text, value in _LIMIT_GAUGES:
        samples = [(labels, found) for labels, each in rows if (found := value(each)) is not None]
        if samples:
            yield gauge(f"nsqd_channel_{name}", text, samples)


_LIMIT_GAUGES: Final[Sequence[tuple[str, str, Callable[[LimitStats], float | None]]]] = (
    ("max_depth", "The limit of messages that wait.", lambda each: each.max_depth),
    ("max_bytes", "The limit of bytes of messages that wait.", lambda each: each.max_bytes),
    (
        "idle_seconds",
        "For how long a channel with an idle_ttl has had no consumer.",
        lambda each: each.idle.seconds if each.idle else None,
    ),
    (
        "idle_alarm",
        "1 if it is deleted or paused for that soon.",
        lambda each: int(each.idle.alarm) if each.idle else None,
    ),
)


def _by_limit(rows: list[tuple[str, Mapping[str, int]]]) -> Iterator[Sample]:
    for labels, counts in rows:
        for limit, count in counts.items():
            yield f'{labels[:-1]},cause="{limit}"}}', count


def _samples(rows: list[_Row[_Stats]], value: Callable[[_Stats], float]) -> Iterator[Sample]:
    return ((row.labels, value(row.stats)) for row in rows)


def _ages(rows: list[_Row[_Stats]]) -> Iterator[Sample]:
    return ((row.labels, row.age) for row in rows if row.age is not None)


def _deliveries(rows: list[_ChannelRow], by_locality: bool) -> Iterator[Sample]:
    for row in rows:
        zone, region = row.stats.zone_local_count, row.stats.region_local_count
        labels = row.labels[:-1]
        yield f'{labels},place="global"}}', row.stats.delivery_count - zone - region
        if by_locality:
            yield f'{labels},place="zone"}}', zone
            yield f'{labels},place="region"}}', region


def _dead_letters(rows: list[_ChannelRow]) -> Iterator[Sample]:
    for row in rows:
        for cause, count in row.stats.dead_lettered.items():
            yield f'{row.labels[:-1]},cause="{cause}"}}', count


def _latencies(prefix: str, rows: list[tuple[str, Latency]]) -> Iterator[Family]:
    """The latency summary; no family if nothing is measured."""
    samples = (
        (f'{labels[:-1]},quantile="{quantile:g}"}}', ns / SECOND)
        for labels, latency in rows
        for quantile, ns in latency.percentiles or ()
    )
    if rows:
        text = "Time from publish to finish, of the messages finished lately."
        yield Family(f"{prefix}_e2e_latency_seconds", "summary", text, samples)


_TOPIC_FAMILIES: Final[Sequence[tuple[str, str, str, Callable[[TopicStats], float]]]] = (
    ("messages_total", "counter", "Messages published to the topic.", lambda t: t.message_count),
    ("message_bytes_total", "counter", "Bytes of their bodies.", lambda t: t.message_bytes),
    (
        "dropped_messages_total",
        "counter",
        "Messages that no channel had got yet, dropped: the topic was emptied, or is ephemeral and was full.",
        lambda t: t.dropped_count,
    ),
    (
        "depth",
        "gauge",
        "Messages that no channel has got yet: the topic has none, or is paused.",
        lambda t: t.depth,
    ),
    ("backend_depth", "gauge", "Of these, how many are on disk only.", lambda t: t.backend_depth),
    ("log_bytes", "gauge", "Size of the topic's log on disk.", lambda t: t.disk_bytes),
    ("paused", "gauge", "1 while the topic is paused.", lambda t: int(t.paused)),
)

_CHANNEL_FAMILIES: Final[Sequence[tuple[str, str, str, Callable[[ChannelStats], float]]]] = (
    ("messages_total", "counter", "Messages that came from the topic.", lambda c: c.message_count),
    ("finished_messages_total", "counter", "Messages finished (FIN).", lambda c: c.finish_count),
    ("requeues_total", "counter", "Messages given back by consumers (REQ).", lambda c: c.requeue_count),
    (
        "timeouts_total",
        "counter",
        "Deliveries that were not answered in time, or whose connection ended.",
        lambda c: c.timeout_count,
    ),
    (
        "dropped_messages_total",
        "counter",
        "Messages dropped: the channel was emptied, a consumer samples, an ephemeral channel or a limit was full.",
        lambda c: c.dropped_count,
    ),
    (
        "damaged_messages_total",
        "counter",
        "Messages that could not be read back from the disk.",
        lambda c: c.damaged_count,
    ),
    ("depth", "gauge", "Messages ready for a consumer.", lambda c: c.depth),
    ("backend_depth", "gauge", "Of these, how many are on disk only.", lambda c: c.backend_depth),
    ("in_flight_messages", "gauge", "Messages that consumers work on.", lambda c: c.in_flight_count),
    ("deferred_messages", "gauge", "Messages that are not due yet.", lambda c: c.deferred_count),
    ("clients", "gauge", "Consumers.", lambda c: c.client_count),
    ("paused", "gauge", "1 while the channel is paused.", lambda c: int(c.paused)),
)
