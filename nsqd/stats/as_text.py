"""`/stats` as text: blocks separated by empty lines, in columns that are aligned as long as names are short."""

from __future__ import annotations

import platform
import time

import attrs

from nsqd.protocol_v2.client_stats import ClientStats
from nsqd.stats.collect import (
    SLICE_SECONDS,
    ChannelStats,
    DrainStats,
    Latency,
    Stats,
    TopicStats,
)
from nsqd.stats.memory import MemoryStats
from nsqkit.options import SECOND, format_duration
from nsqkit.yielder import Yielder

__all__ = ["stats_text"]


async def stats_text(stats: Stats, now_ns: int) -> str:
    """The whole page. `now_ns`: wall time, for uptime and ages. Other tasks run between slices of the work."""
    now, asked, yielder = now_ns // SECOND, stats.query.topic, Yielder(SLICE_SECONDS)
    topics = [await _topic(topic, now, asked, yielder) for topic in stats.topics or ()]
    producers = await yielder.map(
        lambda client: "   " + _client(client, now, asked) + "\n", stats.producers or []
    )
    return "".join(
        (
            _head(stats, now_ns),
            "" if stats.memory is None else _memory(stats.memory),
            "\nTopics:" if topics else "\nTopics: None\n",
            *topics,
            "\nProducers:\n" if producers else "\nProducers: None\n",
            *producers,
        )
    )


def _head(stats: Stats, now_ns: int) -> str:
    uptime = format_duration(max(0, now_ns - stats.start_time_ns))
    return (
        f"nsqd v{stats.version} (built w/python{platform.python_version()})\n"
        f"start_time {_rfc3339(stats.start_time_ns // SECOND)}\n"
        f"uptime {uptime}\n"
        f"\nHealth: {stats.health}\n"
    ) + ("" if stats.draining is None else _draining(stats.draining))


def _draining(drain: DrainStats) -> str:
    lines = [
        f"   [{place.topic:<15}] [{place.channel:<25}] stuck: {place.messages}, {place.blocked_by}\n"
        for place in drain.remaining
        if place.blocked_by
    ]
    return f"\nDraining, messages left: {sum(place.messages for place in drain.remaining)}\n" + "".join(lines)


def _rfc3339(seconds: int) -> str:
    local = time.localtime(seconds)
    zone = time.strftime("%z", local)
    zone = "Z" if zone in ("+0000", "-0000") else f"{zone[:3]}:{zone[3:5]}"
    return time.strftime("%Y-%m-%dT%H:%M:%S", local) + zone


def _memory(memory: MemoryStats) -> str:
    lines = [f"   {name:<25}\t{value}\n" for name, value in attrs.asdict(memory).items()]
    return "\nMemory:\n" + "".join(lines)


async def _topic(topic: TopicStats, now: int, asked: str, yielder: Yielder) -> str:
    start = "*P " if topic.paused else "   "
    line = (
        f"\n{start}[{topic.name:<15}] depth: {topic.depth:<5} be-depth: {topic.backend_depth:<5} "
        f"msgs: {topic.message_count:<8} e2e%: {_latency(topic.latency)}\n"
    )
    await yielder.maybe_yield()
    channels = []
    for channel in topic.channels:
        channels.append(_channel(channel, now, asked))
        await yielder.maybe_yield()
    return line + "".join(channels)


def _channel(channel: ChannelStats, now: int, asked: str) -> str:
    start = "   *P " if channel.paused else "      "
    line = (
        f"{start}[{channel.name:<25}] depth: {channel.depth:<5} be-depth: {channel.backend_depth:<5} "
        f"inflt: {channel.in_flight_count:<4} def: {channel.deferred_count:<4} "
        f"re-q: {channel.requeue_count:<5} timeout: {channel.timeout_count:<5} "
        f"msgs: {channel.message_count:<8} e2e%: {_latency(channel.latency)}\n"
    )
    return line + "".join([f"        {_client(client, now, asked)}\n" for client in channel.clients or []])


def _client(client: ClientStats, now: int, asked: str) -> str:
    """One line: publish counts for a client that has published, also in a channel's list; else how it consumes."""
    port = client.remote_address.rpartition(":")[2] if ":" in client.remote_address else ""
    who = f"{client.hostname}:{port} {client.user_agent}"
    age = format_duration(max(0, now - client.connect_time) * SECOND)
    published = client.shown_pub_count(asked)
    if published is not None:
        topic, count = published
        return f"[{client.version} {who:<21}] msgs: {count:<8} topics: {topic}={count} connected: {age}"
    return (
        f"[{client.version} {who:<21}] state: {client.state} inflt: {client.in_flight_count:<4} "
        f"rdy: {client.ready_count:<4} fin: {client.finish_count:<8} re-q: {client.requeue_count:<8} "
        f"msgs: {client.message_count:<8} connected: {age}"
    )


def _latency(latency: Latency) -> str:
    return ", ".join([_short_duration(ns) for _, ns in latency.percentiles or ()])


def _short_duration(ns: float) -> str:
    for unit, scale in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns > scale:
            return f"{ns / scale:.1f}{unit}"
    return f"{ns:.1f}ns"
