"""Merging the responses of many daemons into one: pure functions on the model.

The parts of a sum are not changed: a sum is always a new object, and its `nodes` are the parts themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from nsqadmin.addresses import host_and_port
from nsqadmin.model import (
    ALL_NODES,
    ChannelStats,
    ClientStats,
    Latency,
    Node,
    NodeTopic,
    Percentile,
    TopicStats,
)
from nsqadmin.upstream.responses import Info, Producer

__all__ = [
    "attribute_to_node",
    "by_closeness",
    "max_age",
    "merge_channel",
    "merge_latency",
    "merge_nodes",
    "merge_topic",
    "node_of_info",
    "nodes_of_producers",
    "tell_apart",
]

# --- Nodes ------------------------------------------------------------------------------------------------------------


def nodes_of_producers(registry: str, producers: Iterable[Producer]) -> list[Node]:
    """The nodes in a response of one registry (its HTTP address) to /nodes or /lookup."""
    return [_node_of_producer(registry, producer) for producer in producers]


def _node_of_producer(registry: str, producer: Producer) -> Node:
    node = node_of_info(producer, ())
    node.remote_address = producer.remote_address
    node.remote_addresses = [f"{registry}/{producer.remote_address}"]
    node.topics = producer.topics
    return node


def node_of_info(info: Info, topics: Iterable[str]) -> Node:
    """One nsqd as it describes itself, where there are no registries."""
    return Node(
        broadcast_address=info.broadcast_address,
        http_port=info.http_port,
        tcp_port=info.tcp_port,
        hostname=info.hostname,
        version=info.version,
        topology_region=info.topology_region,
        topology_zone=info.topology_zone,
        topics=[NodeTopic(name) for name in sorted(topics)],
    )


def tell_apart(described: Sequence[tuple[str, Node]]) -> list[Node]:
    """Nodes that describe themselves, each with the address at which it answered: no two with the same HTTP address.

    One that calls itself by the address at which another one answers, or by which another one calls itself, too, gets
    the address at which it answered.
    """
    answered = {address for address, _ in described}
    taken: set[str] = set()
    nodes = []
    for address, node in described:
        if node.http_address != address and (node.http_address in answered or node.http_address in taken):
            host, port = host_and_port(address)
            node = msgspec.structs.replace(node, broadcast_address=host, http_port=port)
        taken.add(node.http_address)
        nodes.append(node)
    return nodes


def merge_nodes(nodes_by_registry: Iterable[Iterable[Node]]) -> list[Node]:
    """The nodes that several registries list, each once, ordered by host name.

    A node is identified by its broadcast address and TCP port, and also by its HTTP address, at which it is polled. The
    first registry that lists it describes it; the others only add the addresses at which they see it. Outdated nodes
    are marked.
    """
    merged: dict[tuple[str, int], Node] = {}
    for nodes in nodes_by_registry:
        for node in nodes:
            known = merged.setdefault((node.broadcast_address, node.tcp_port), node)
            if known is not node:
                known.remote_addresses = [*(known.remote_addresses or []), *(node.remote_addresses or [])]
    by_http_address: dict[str, Node] = {}
    for node in merged.values():
        by_http_address.setdefault(node.http_address, node)
    found = sorted(by_http_address.values(), key=lambda node: node.hostname)
    newest = max((_version_key(node.version) for node in found), default=_UNKNOWN_VERSION)
    for node in found:
        node.out_of_date = _version_key(node.version) < newest
    return found


_VersionKey = tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]
_SEMVER = re.compile(
    r"(0|[1-9]\d{0,18})\.(0|[1-9]\d{0,18})\.(0|[1-9]\d{0,18})(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?"
)
_UNKNOWN_VERSION: Final[_VersionKey] = (0, 0, 0, True, ())


def _version_key(version: str) -> _VersionKey:
    """A key in the order of semantic versions; an invalid version counts as 0.0.0."""
    match = _SEMVER.fullmatch(version)
    if match is None:
        return _UNKNOWN_VERSION
    major, minor, patch, before = match.groups()
    words = before.split(".") if before else []
    ranks = tuple((not word.isdigit(), int(word[:18]) if word.isdigit() else 0, word) for word in words)
    return int(major), int(minor), int(patch), before is None, ranks


# --- Statistics -------------------------------------------------------------------------------------------------------


def attribute_to_node(topic: TopicStats, node: Node) -> None:
    """Set in the statistics of a topic, down to its clients, which node they are from."""
    address, hostname = node.http_address, node.hostname
    topic.node, topic.hostname = address, hostname
    _set_percentiles(topic.e2e_processing_latency)
    for channel in topic.channels or ():
        channel.node, channel.hostname, channel.topic_name = address, hostname, topic.topic_name
        _set_percentiles(channel.e2e_processing_latency)
        for client in channel.clients or ():
            client.node = address
            client.node_topology_region, client.node_topology_zone = node.topology_region, node.topology_zone


def _set_percentiles(latency: Latency) -> None:
    # One node's percentile in the form of a sum, so that parts and sums are merged alike.
    for percentile in latency.percentiles or ():
        percentile.average = percentile.min = percentile.max = percentile.value
        percentile.count = latency.count


def merge_topic(name: str, parts: Iterable[TopicStats]) -> TopicStats:
    """The sum of a topic over all nodes, its channels merged by name."""
    nodes = sorted(parts, key=_by_hostname)
    channels: dict[str, list[ChannelStats]] = {}
    for part in nodes:
        for channel in part.channels or ():
            channels.setdefault(channel.channel_name, []).append(channel)
    merged = [merge_channel(name, channel, of_nodes) for channel, of_nodes in sorted(channels.items())]
    return TopicStats(
        topic_name=name,
        channels=merged or None,
        depth=sum([part.depth for part in nodes]),
        backend_depth=sum([part.backend_depth for part in nodes]),
        message_count=sum([part.message_count for part in nodes]),
        message_bytes=sum([part.message_bytes for part in nodes]),
        delivery_msg_count=sum([part.delivery_msg_count for part in nodes]),
        zone_local_msg_count=sum([part.zone_local_msg_count for part in nodes]),
        region_local_msg_count=sum([part.region_local_msg_count for part in nodes]),
        global_msg_count=sum([part.global_msg_count for part in nodes]),
        paused=any(part.paused for part in nodes),
        e2e_processing_latency=merge_latency([part.e2e_processing_latency for part in nodes]),
        oldest_unfinished_ms=max_age(part.oldest_unfinished_ms for part in nodes),
        node=ALL_NODES,
        nodes=nodes,
    )


def merge_channel(topic: str, name: str, parts: Iterable[ChannelStats]) -> ChannelStats:
    """The sum of a channel over all nodes, with the clients of all nodes."""
    nodes = sorted(parts, key=_by_hostname)
    clients = [client for part in nodes for client in part.clients or ()]
    return ChannelStats(
        channel_name=name,
        depth=sum([part.depth for part in nodes]),
        backend_depth=sum([part.backend_depth for part in nodes]),
        in_flight_count=sum([part.in_flight_count for part in nodes]),
        deferred_count=sum([part.deferred_count for part in nodes]),
        message_count=sum([part.message_count for part in nodes]),
        requeue_count=sum([part.requeue_count for part in nodes]),
        timeout_count=sum([part.timeout_count for part in nodes]),
        damaged_count=sum([part.damaged_count for part in nodes]),
        limits=next((part.limits for part in nodes if part.limits is not None), None),
        dropped_by_limits=_sum_counts([part.dropped_by_limits for part in nodes]),
        expired_count=sum([part.expired_count for part in nodes]),
        rejected=_sum_counts([part.rejected for part in nodes]),
        zone_local_msg_count=sum([part.zone_local_msg_count for part in nodes]),
        region_local_msg_count=sum([part.region_local_msg_count for part in nodes]),
        global_msg_count=sum([part.global_msg_count for part in nodes]),
        client_count=sum([part.client_count for part in nodes]),
        clients=clients or None,
        paused=any(part.paused for part in nodes),
        e2e_processing_latency=merge_latency([part.e2e_processing_latency for part in nodes]),
        oldest_unfinished_ms=max_age(part.oldest_unfinished_ms for part in nodes),
        node=ALL_NODES,
        topic_name=topic,
        nodes=nodes,
    )


def _sum_counts(parts: Iterable[Mapping[str, int] | None]) -> dict[str, int] | None:
    total: dict[str, int] = {}
    for part in parts:
        for name, count in (part or {}).items():
            total[name] = total.get(name, 0) + count
    return total or None


def max_age(ages: Iterable[int | None]) -> int | None:
    """The greatest of the ages that are known; None if none is."""
    return max((age for age in ages if age is not None), default=None)


def _by_hostname(stats: TopicStats | ChannelStats) -> tuple[str, str]:
    return stats.hostname, stats.node


def merge_latency(parts: Sequence[Latency]) -> Latency:
    """For each quantile: the average weighted by count, the minimum, the maximum, and the sum of the counts."""
    merged: dict[float, Percentile] = {}
    for part in parts:
        for one in part.percentiles or ():
            known = merged.get(one.quantile)
            if known is None:
                merged[one.quantile] = Percentile(
                    one.quantile, average=one.average, min=one.min, max=one.max, count=one.count
                )
            else:
                _add_percentile(known, one)
    percentiles = sorted(merged.values(), key=lambda one: -one.quantile)
    return Latency(sum([part.count for part in parts]), percentiles or None)


def _add_percentile(known: Percentile, one: Percentile) -> None:
    if one.count == 0:
        return  # nothing was measured on that node: its zeros are no values
    if known.count == 0:
        known.average, known.min, known.max = one.average, one.min, one.max
    else:
        weight = one.count / (known.count + one.count)
        known.average += (one.average - known.average) * weight
        known.min, known.max = min(known.min, one.min), max(known.max, one.max)
    known.count += one.count


def by_closeness(clients: Iterable[ClientStats]) -> list[ClientStats]:
    """Ordered by node, and within a node the closest first: same zone, same region, then by region and zone."""

    def key(client: ClientStats) -> tuple[str, int, str, str]:
        same_region = client.topology_region == client.node_topology_region
        same_zone = same_region and client.topology_zone == client.node_topology_zone
        distance = 0 if same_zone else 1 if same_region else 2
        return client.node, distance, client.topology_region, client.topology_zone

    return sorted(clients, key=key)
