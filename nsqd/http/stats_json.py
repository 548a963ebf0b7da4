"""`/stats?format=json`: the figures of `stats` as the field's tools read them.

The order of the keys is the original's. Keys of our own stand at the end of an object: `durability`; of a topic
`disk_bytes`; of a channel `dropped_count` and `damaged_count`.
"""

from __future__ import annotations

from typing import Any

import attrs
import msgspec

from nsqd.http.gojson import go_float
from nsqd.http.stats import NS_PER_SECOND, ChannelStats, ClientStats, Latency, Stats, TopicStats, in_slices
from nsqkit.http import Response, json_body

__all__ = ["stats_json"]

_encode = msgspec.json.encode


async def stats_json(stats: Stats) -> Response:
    """The whole answer. Gives way where there is much to encode."""
    asked = stats.query.topic
    value: dict[str, Any] = {
        "version": stats.version,
        "health": stats.health,
        "start_time": stats.start_time_ns // NS_PER_SECOND,
        "topics": None,
    }
    if stats.topics is not None:
        value["topics"] = await in_slices(
            stats.topics, lambda topic: msgspec.Raw(_encode(_topic(topic, asked)))
        )
    if stats.memory is not None:
        value["memory"] = attrs.asdict(stats.memory)
    value["producers"] = None
    if stats.producers:
        value["producers"] = await in_slices(
            stats.producers, lambda client: msgspec.Raw(_encode(_client(client, asked)))
        )
    value["durability"] = stats.durability
    return json_body(value)


def _topic(topic: TopicStats, asked: str) -> dict[str, Any]:
    return {
        "topic_name": topic.name,
        "channels": [_channel(channel, asked) for channel in topic.channels],
        "depth": topic.depth,
        "backend_depth": topic.backend_depth,
        "message_count": topic.message_count,
        "message_bytes": topic.message_bytes,
        "paused": topic.paused,
        "e2e_processing_latency": _latency(topic.latency),
        "disk_bytes": topic.disk_bytes,
    }


def _channel(channel: ChannelStats, asked: str) -> dict[str, Any]:
    clients = channel.clients
    # Of three counters by the consumer's place. Without a topology all deliveries are "global"; a 0 is left out.
    global_count = {"global_msg_count": channel.delivery_count} if channel.delivery_count else {}
    return {
        "channel_name": channel.name,
        "depth": channel.depth,
        "backend_depth": channel.backend_depth,
        "in_flight_count": channel.in_flight_count,
        "deferred_count": channel.deferred_count,
        "message_count": channel.message_count,
        **global_count,
        "requeue_count": channel.requeue_count,
        "timeout_count": channel.timeout_count,
        "client_count": channel.client_count,
        "clients": None if clients is None else [_client(client, asked) for client in clients],
        "paused": channel.paused,
        "e2e_processing_latency": _latency(channel.latency),
        "dropped_count": channel.dropped_count,
        "damaged_count": channel.damaged_count,
    }


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
    return value


def _latency(latency: Latency) -> dict[str, Any]:
    percentiles = latency.percentiles
    if percentiles is None:
        return {"count": latency.count, "percentiles": None}
    rows = [{"quantile": go_float(quantile), "value": go_float(ns)} for quantile, ns in percentiles]
    return {"count": latency.count, "percentiles": rows}
