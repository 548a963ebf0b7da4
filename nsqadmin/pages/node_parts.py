"""The table that shows how a topic or a channel is distributed over the nodes."""

from __future__ import annotations

from attrs import define

from nsqadmin.model import ChannelStats, TopicStats
from nsqadmin.pages.badges import Badge, part_badges
from nsqadmin.pages.page_request import PageRequest

__all__ = ["NodePartRow", "node_part_rows"]


@define(frozen=True)
class NodePartRow:
    """The part of a topic or channel on one node."""

    stats: TopicStats | ChannelStats
    path: str
    title: str
    subtitle: str
    badges: list[Badge]


def node_part_rows(request: PageRequest, total: TopicStats | ChannelStats) -> list[NodePartRow]:
    """A row for each node."""
    return [
        NodePartRow(
            stats,
            request.node_url(stats.node),
            stats.hostname or stats.node,
            stats.node if stats.hostname else "",
            part_badges(stats, request.snapshot.nodes.get(stats.node), request.snapshot.at),
        )
        for stats in total.nodes or ()
    ]
