"""What nodes are called, and the table that shows how a topic or a channel is distributed over them."""

from __future__ import annotations

from collections import Counter

from attrs import define

from nsqadmin.cluster.snapshot import ClusterSnapshot
from nsqadmin.model import ChannelStats, TopicStats
from nsqadmin.pages.badges import Badge, part_badges
from nsqadmin.pages.page_request import PageRequest

__all__ = ["NodePartRow", "node_part_rows", "node_titles"]


@define(frozen=True)
class NodePartRow:
    """The part of a topic or channel on one node."""

    stats: TopicStats | ChannelStats
    depth: int
    """Of a topic: in the topic and in its channels, as everywhere on its page; so is `on_disk`."""
    on_disk: int
    """Messages of the depth that are on disk only."""
    path: str
    title: str
    subtitle: str
    badges: list[Badge]


def node_titles(snapshot: ClusterSnapshot) -> dict[str, str]:
    """What to call each node, by its address: its host name, with the HTTP port if nodes share the host.

    A node without a host name is called by its address.
    """
    hosts = Counter(view.node.hostname for view in snapshot.nodes.values())
    titles = {}
    for address, view in snapshot.nodes.items():
        host, port = view.node.hostname, view.node.http_port
        titles[address] = address if not host else f"{host}:{port}" if hosts[host] > 1 else host
    return titles


def node_part_rows(request: PageRequest, total: TopicStats | ChannelStats) -> list[NodePartRow]:
    """A row for each node."""
    titles = node_titles(request.snapshot)
    return [
        _node_part_row(request, stats, titles.get(stats.node, stats.hostname or stats.node))
        for stats in total.nodes or ()
    ]


def _node_part_row(request: PageRequest, stats: TopicStats | ChannelStats, title: str) -> NodePartRow:
    channels = (stats.channels or ()) if isinstance(stats, TopicStats) else ()
    return NodePartRow(
        stats,
        stats.depth + sum(channel.depth for channel in channels),
        stats.backend_depth + sum(channel.backend_depth for channel in channels),
        request.node_url(stats.node),
        title,
        stats.node if title != stats.node else "",
        part_badges(stats, request.snapshot.nodes.get(stats.node), request.snapshot.at),
    )
