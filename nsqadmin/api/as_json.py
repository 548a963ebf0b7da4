"""The JSON objects of the API. The keys, their order, and which of them are left out or null follow the original.

Arrays whose length depends on the cluster are `Each`, so that nobody has to wait while a long one is made.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nsqadmin.api.json_pieces import Each
from nsqadmin.model import ALL_NODES, ChannelStats, ClientStats, Latency, Node, Percentile, TopicStats
from nsqkit.options import SECOND

__all__ = ["channel_as_json", "counter_as_json", "counter_key", "node_as_json", "topic_as_json"]

_DELIVERIES = ("zone_local_msg_count", "region_local_msg_count", "global_msg_count")


def node_as_json(node: Node) -> dict[str, Any]:
    """One node."""
    value: dict[str, Any] = {
        "remote_addresses": node.remote_addresses,
        "remote_address": node.remote_address,
        "hostname": node.hostname,
        "broadcast_address": node.broadcast_address,
        "tcp_port": node.tcp_port,
        "http_port": node.http_port,
        "version": node.version,
    }
    _add_unless_empty(value, node, ("topology_zone", "topology_region"))
    topics = [{"topic": each.topic, "tombstoned": each.tombstoned} for each in node.topics]
    value["topics"] = topics or None
    value["out_of_date"] = node.out_of_date
    return value


def topic_as_json(topic: TopicStats, now: float = 0.0) -> dict[str, Any]:
    """A topic of one node or of all, with its channels. `now` (unix seconds) is for the age of clients."""
    value: dict[str, Any] = {
        "node": topic.node,
        "hostname": topic.hostname,
        "topic_name": topic.topic_name,
        "depth": topic.depth,
        "memory_depth": topic.memory_depth,
        "backend_depth": topic.backend_depth,
        "message_count": topic.message_count,
        "delivery_msg_count": topic.delivery_msg_count,
    }
    _add_unless_empty(value, topic, _DELIVERIES)
    value["nodes"] = None if topic.nodes is None else Each(topic_as_json(part, now) for part in topic.nodes)
    value["channels"] = (
        None if topic.channels is None else Each(channel_as_json(each, now) for each in topic.channels)
    )
    value["paused"] = topic.paused
    value["e2e_processing_latency"] = _latency_as_json(topic, topic.e2e_processing_latency)
    return value


def channel_as_json(channel: ChannelStats, now: float = 0.0) -> dict[str, Any]:
    """A channel of one node or of all. `now` (unix seconds) is for the age of clients."""
    value: dict[str, Any] = {
        "node": channel.node,
        "hostname": channel.hostname,
        "topic_name": channel.topic_name,
        "channel_name": channel.channel_name,
        "depth": channel.depth,
        "memory_depth": channel.memory_depth,
        "backend_depth": channel.backend_depth,
        "in_flight_count": channel.in_flight_count,
        "deferred_count": channel.deferred_count,
        "requeue_count": channel.requeue_count,
        "timeout_count": channel.timeout_count,
        "message_count": channel.message_count,
    }
    _add_unless_empty(value, channel, ("delivery_msg_count", *_DELIVERIES))
    value["client_count"] = channel.client_count
    value["nodes"] = (
        None if channel.nodes is None else Each(channel_as_json(part, now) for part in channel.nodes)
    )
    value["clients"] = (
        None if channel.clients is None else Each(_client_as_json(each, now) for each in channel.clients)
    )
    value["paused"] = channel.paused
    value["e2e_processing_latency"] = _latency_as_json(channel, channel.e2e_processing_latency)
    return value


def _client_as_json(client: ClientStats, now: float) -> dict[str, Any]:
    value: dict[str, Any] = {
        "node": client.node,
        "remote_address": client.remote_address,
        "version": client.version,
        "client_id": client.client_id,
        "hostname": client.hostname,
        "user_agent": client.user_agent,
        "connect_ts": client.connect_ts,
        "connected": max(0, int(now) - client.connect_ts) * SECOND,
        "in_flight_count": client.in_flight_count,
        "ready_count": client.ready_count,
        "finish_count": client.finish_count,
        "requeue_count": client.requeue_count,
        "message_count": client.message_count,
        "sample_rate": client.sample_rate,
        "deflate": client.deflate,
        "snappy": client.snappy,
        "authed": client.authed,
        "auth_identity": client.auth_identity,
        "auth_identity_url": client.auth_identity_url,
    }
    places = ("node_topology_region", "node_topology_zone", "topology_region", "topology_zone")
    _add_unless_empty(value, client, places)
    value["tls"] = client.tls
    value["tls_cipher_suite"] = client.tls_cipher_suite
    value["tls_version"] = client.tls_version
    value["tls_negotiated_protocol"] = client.tls_negotiated_protocol
    value["tls_negotiated_protocol_is_mutual"] = client.tls_negotiated_protocol_is_mutual
    return value


def _latency_as_json(owner: TopicStats | ChannelStats, latency: Latency) -> dict[str, Any]:
    summed = owner.node == ALL_NODES
    percentiles = latency.percentiles
    return {
        "count": latency.count,
        "percentiles": None
        if percentiles is None
        else [_percentile_as_json(each, summed) for each in percentiles],
        "topic": owner.topic_name if summed else "",
        "channel": owner.channel_name if summed and isinstance(owner, ChannelStats) else "",
        "host": ALL_NODES if summed else "",
    }


def _percentile_as_json(percentile: Percentile, summed: bool) -> dict[str, Any]:
    value = {
        "average": _number(percentile.average),
        "count": percentile.count,
        "max": _number(percentile.max),
        "min": _number(percentile.min),
        "quantile": _number(percentile.quantile),
    }
    if not summed:
        value["value"] = _number(percentile.value)
    return value


def _number(value: float) -> float | int:
    """An integral number without `.0`, as the daemons encode it."""
    return int(value) if value == int(value) else value


def _add_unless_empty(value: dict[str, Any], owner: object, names: Iterable[str]) -> None:
    for name in names:
        if content := getattr(owner, name):
            value[name] = content


def counter_key(channel: ChannelStats) -> str:
    """The key of a channel of one node in /api/counter."""
    return f"{channel.topic_name}:{channel.channel_name}:{channel.node}"


def counter_as_json(channel: ChannelStats) -> dict[str, Any]:
    """A channel of one node in /api/counter."""
    return {
        "node": channel.node,
        "topic_name": channel.topic_name,
        "channel_name": channel.channel_name,
        "message_count": channel.message_count,
    }
