"""`/stats?format=json`: the statistics in the form that tools for NSQ read.

The order of the keys is the original's. Additional keys are at the end of an object: `durability`, `draining` in a
drain, and `copies` if there are copies on other nodes, or of others here; of a topic `disk_bytes`; of a channel
`dropped_count` and `damaged_count`, and if it has dead letters `leaving_count` and `dead_lettered` (by cause); of both
`oldest_unfinished_ms`, the age of the oldest message, if there is one and it is known. A consumer has
`since_finish_ms`, `handling_time_ms` and `oldest_in_flight_ms` only on request (`include_timings=true`); null: there is
nothing to tell. A topic or channel with limits, or that had some, has `limits` (the settings), `dropped_by_limits` and
`rejected` (messages, by the limit) and `expired_count`; a channel with an `idle_ttl` has `idle` while it has no
consumer.
"""

from __future__ import annotations

from typing import Any

import attrs
import msgspec

from nsqd.protocol_v2.client_stats import ClientStats, Timings
from nsqd.stats.collect import (
    SLICE_SECONDS,
    ChannelStats,
    DrainStats,
    Latency,
    LimitStats,
    Stats,
    TopicStats,
)
from nsqkit.options import SECOND
from nsqkit.service.gojson import float_text
from nsqkit.service.http import Response, json_body
from nsqkit.yielder import Yielder

__all__ = ["stats_json"]

_encode = msgspec.json.encode


async def stats_json(stats: Stats, now_ns: int) -> Response:
    """The response. `now_ns`: wall time, for ages. Other tasks run between slices of the work."""
    asked, yielder = stats.query.topic, Yielder(SLICE_SECONDS)
    value: dict[str, Any] = {
        "version": stats.version,
        "health": stats.health,
        "start_time": stats.start_time_ns // SECOND,
        "topics": None,
    }
    if stats.topics is not None:
        value["topics"] = [await _topic(topic, now_ns, asked, yielder) for topic in stats.topics]
    if stats.memory is not None:
        value["memory"] = attrs.asdict(stats.memory)
    value["producers"] = None
    if stats.producers:
        value["producers"] = await yielder.map(
            lambda client: msgspec.Raw(_encode(_client(client, asked))), stats.producers
        )
    value["durability"] = stats.durability
    if stats.draining is not None:
        value["draining"] = _draining(stats.draining)
    if stats.copies is not None:
        value["copies"] = stats.copies.as_json()
    return json_body(value)


async def _topic(topic: TopicStats, now_ns: int, asked: str, yielder: Yielder) -> msgspec.Raw:
    channels = []
    for channel in topic.channels:
        channels.append(msgspec.Raw(_encode(_channel(channel, now_ns, asked))))
        await yielder.maybe_yield()
    await yielder.maybe_yield()
    value = {
        "topic_name": topic.name,
        "channels": channels,
        "depth": topic.depth,
        "backend_depth": topic.backend_depth,
        "message_count": topic.message_count,
        "message_bytes": topic.message_bytes,
        "paused": topic.paused,
        "e2e_processing_latency": _latency(topic.latency),
        "disk_bytes": topic.disk_bytes,
        **({} if topic.retained_bytes is None else {"retained_bytes": topic.retained_bytes}),
        **_limits(topic.limits),
        **_age(topic.oldest_age(now_ns)),
    }
    return msgspec.Raw(_encode(value))


def _channel(channel: ChannelStats, now_ns: int, asked: str) -> dict[str, Any]:
    clients = channel.clients
    return {
        "channel_name": channel.name,
        "depth": channel.depth,
        "backend_depth": channel.backend_depth,
        "in_flight_count": channel.in_flight_count,
        "deferred_count": channel.deferred_count,
        "message_count": channel.message_count,
        **_deliveries_by_locality(channel),
        "requeue_count": channel.requeue_count,
        "timeout_count": channel.timeout_count,
        "client_count": channel.client_count,
        "clients": None if clients is None else [_client(client, asked) for client in clients],
        "paused": channel.paused,
        "e2e_processing_latency": _latency(channel.latency),
        "dropped_count": channel.dropped_count,
        "damaged_count": channel.damaged_count,
        **_dead_letters(channel),
        **_limits(channel.limits),
        **_age(channel.oldest_age(now_ns)),
    }


def _dead_letters(channel: ChannelStats) -> dict[str, Any]:
    """Only of channels that have some: others have what the original has."""
    if not (channel.leaving_count or channel.dead_lettered):
        return {}
    return {"leaving_count": channel.leaving_count, "dead_lettered": channel.dead_lettered}


def _age(seconds: float | None) -> dict[str, int]:
    return {} if seconds is None else {"oldest_unfinished_ms": int(seconds * 1000)}


def _limits(limits: LimitStats | None) -> dict[str, Any]:
    if limits is None:
        return {}
    value = {
        "limits": limits.settings,
        "dropped_by_limits": limits.dropped,
        "expired_count": limits.expired,
        "rejected": limits.rejected,
    }
    if (idle := limits.idle) is not None:
        value["idle"] = {
            "idle_ms": int(idle.seconds * 1000),
            "ttl_ms": int(idle.ttl_seconds * 1000),
            "action": idle.action,
            "alarm": idle.alarm,
        }
    return value


def _draining(drain: DrainStats) -> dict[str, Any]:
    """The number of remaining messages, and the places that do not drain by themselves, with the reason."""
    return {
        "since": drain.since_ns // SECOND,
        "messages_left": sum(place.messages for place in drain.remaining),
        "stuck": [
            {
                "topic": place.topic,
                "channel": place.channel,
                "messages": place.messages,
                "reason": place.blocked_by,
            }
            for place in drain.remaining
            if place.blocked_by
        ],
    }


def _deliveries_by_locality(channel: ChannelStats) -> dict[str, int]:
    """Deliveries by the consumer's locality; without topology-aware consumption all are "global". Zeros are omitted."""
    near = channel.zone_local_count + channel.region_local_count
    counts = {
        "zone_local_msg_count": channel.zone_local_count,
        "region_local_msg_count": channel.region_local_count,
        "global_msg_count": channel.delivery_count - near,
    }
    return {name: count for name, count in counts.items() if count}


def _client(client: ClientStats, asked: str) -> dict[str, Any]:
    value: dict[str, Any] = {
        "client_id": client.client_id,
        "hostname": client.hostname,
        "version": client.version,
        "remote_address": client.remote_address,
        "state": client.state,
        "ready_count": client.ready_count,
        "in_flight_count": client.in_flight_count,
        "message_count": client.message_count,
        "finish_count": client.finish_count,
        "requeue_count": client.requeue_count,
        "connect_ts": client.connect_time,
        "sample_rate": client.sample_rate,
        "deflate": client.deflate,
        "snappy": client.snappy,
        "user_agent": client.user_agent,
    }
    for name in ("authed", "auth_identity", "auth_identity_url"):
        if set_to := getattr(client, name):
            value[name] = set_to
    value["topology_zone"] = client.topology_zone
    value["topology_region"] = client.topology_region
    published = client.shown_pub_count(asked)
    if published is not None:
        value["pub_counts"] = [{"topic": published[0], "count": published[1]}]
    value["tls"] = client.tls
    value["tls_cipher_suite"] = client.tls_cipher_suite
    value["tls_version"] = client.tls_version
    value["tls_negotiated_protocol"] = ""
    value["tls_negotiated_protocol_is_mutual"] = client.tls
    if client.timings is not None:
        value |= _timings(client.timings)
    return value


def _timings(timings: Timings) -> dict[str, float | None]:
    return {
        "since_finish_ms": _ms(timings.since_finish),
        "handling_time_ms": _ms(timings.handling_time),
        "oldest_in_flight_ms": _ms(timings.oldest_in_flight),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _latency(latency: Latency) -> dict[str, Any]:
    percentiles = latency.percentiles
    if percentiles is None:
        return {"count": latency.count, "percentiles": None}
    rows = [
        {"quantile": msgspec.Raw(float_text(quantile)), "value": msgspec.Raw(float_text(ns))}
        for quantile, ns in percentiles
    ]
    return {"count": latency.count, "percentiles": rows}
