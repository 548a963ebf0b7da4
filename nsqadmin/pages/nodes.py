"""The page of all nodes, and the page of one with what is on it."""

from __future__ import annotations

from collections.abc import Mapping

import trio
from attrs import define

from nsqadmin.cluster.model import ChannelStats, ClientStats, TopicStats
from nsqadmin.cluster.views import NodeView
from nsqadmin.pages.asking import Action, tombstone
from nsqadmin.pages.channels import CLIENTS_SECONDS, ClientRow, client_row
from nsqadmin.pages.draining import drain_panel
from nsqadmin.pages.graphite import graphite_panel, node_graphs
from nsqadmin.pages.marks import Mark, alarm, node_marks, stats_marks
from nsqadmin.pages.tables import Column, read_choice, take
from nsqadmin.pages.visit import Page, Visit

__all__ = ["node_page", "nodes_page"]

TOPICS_NAMED = 24
"""Topics that the page of all nodes names for each."""
TOPICS_A_PAGE = 25
CHANNELS_SHOWN = 20
CLIENTS_SHOWN = 10


@define(frozen=True)
class TopicLink:
    """A topic on the page of all nodes."""

    name: str
    path: str


@define(frozen=True)
class NodeRow:
    """One line on the page of all nodes."""

    view: NodeView
    path: str
    marks: list[Mark]
    alarm: str
    registered: int
    """How many registries know it."""
    registered_title: str
    topics: list[TopicLink]
    more_topics: int
    tombstoned: list[TopicLink]


@define(frozen=True)
class ChannelRow:
    """One channel on the page of a node."""

    stats: ChannelStats
    path: str
    marks: list[Mark]
    clients: list[ClientRow]
    more_clients: int


@define(frozen=True)
class TopicRow:
    """One topic on the page of a node."""

    stats: TopicStats
    path: str
    marks: list[Mark]
    tombstone: Action
    channels: list[ChannelRow]
    more_channels: int


_HOST: Column[NodeView] = Column(
    key="host",
    title="Node",
    value=lambda each: (each.node.hostname, each.node.broadcast_address, each.node.http_port),
    numeric=False,
)
NODE_COLUMNS: tuple[Column[NodeView], ...] = (
    _HOST,
    Column(key="tcp", title="TCP port", value=lambda each: each.node.tcp_port, optional="opt"),
    Column(key="http", title="HTTP port", value=lambda each: each.node.http_port),
    Column(key="version", title="Version", value=lambda each: each.node.version, numeric=False),
    Column(key="depth", title="Depth", value=lambda each: each.depth, hint="Ready in topics and channels"),
    Column(
        key="in", title="In /s", value=lambda each: each.in_rate or 0.0, hint="Messages published a second"
    ),
    Column(key="messages", title="Messages", value=lambda each: each.message_count, optional="opt"),
    Column(key="clients", title="Consumers", value=lambda each: each.client_count),
    Column(
        key="region",
        title="Region",
        value=lambda each: each.node.topology_region,
        numeric=False,
        optional="opt-2",
    ),
    Column(
        key="zone", title="Zone", value=lambda each: each.node.topology_zone, numeric=False, optional="opt-2"
    ),
)
REGISTRIES_COLUMN: Column[NodeView] = Column(
    key="registries",
    title="Registries",
    value=lambda each: len(each.node.remote_addresses or ()),
    hint="How many nsqlookupds know it",
    optional="opt",
)
STATS_COLUMNS: tuple[Column[TopicStats], ...] = (
    Column(key="name", title="Topic", value=lambda each: each.topic_name, numeric=False),
    Column(key="depth", title="Depth", value=lambda each: each.depth),
    Column(key="disk", title="Memory + disk", value=lambda each: each.backend_depth, optional="opt"),
    Column(key="messages", title="Messages", value=lambda each: each.message_count),
)


async def nodes_page(visit: Visit) -> Page:
    """All nodes."""
    registries = len(visit.console.options.lookupd_http_addresses)
    columns = (*NODE_COLUMNS, REGISTRIES_COLUMN) if registries else NODE_COLUMNS
    choice = read_choice(visit.here, visit.params, columns, sort="host")
    table = take(list(visit.snapshot.nodes.values()), choice, columns, text=_node_text)
    rows = [_node_row(visit, each) for each in table.rows]
    return Page("nodes.html", "nodes", {"table": table, "rows": rows, "registries": registries})


async def node_page(visit: Visit) -> Page:
    """One node, with its topics, their channels and consumers."""
    address = visit.names["node"]
    view = visit.snapshot.nodes.get(address)
    registries = len(visit.console.options.lookupd_http_addresses)
    values: dict[str, object] = {
        "address": address,
        "view": view,
        "marks": node_marks(view, visit.snapshot.at) if view else [],
        "registries": registries,
        "registered": len(view.node.remote_addresses or ()) if view else 0,
        "graphite": graphite_panel(visit, node_graphs(address)),
        "now": visit.snapshot.at,
    }
    if view is not None:
        values["sums"] = _sums(view)
        values["drain"] = drain_panel(visit, view)
        values |= await _topics_table(visit, view)
    return Page("node.html", "nodes", values)


async def _topics_table(visit: Visit, view: NodeView) -> dict[str, object]:
    clients: Mapping[tuple[str, str], list[ClientStats]] = {}
    with trio.move_on_after(CLIENTS_SECONDS):
        clients = await visit.console.picture.node_clients(view.address)
    choice = read_choice(visit.here, visit.params, STATS_COLUMNS, sort="name", keep=("t",))
    table = take(
        list(view.topics.values()),
        choice,
        STATS_COLUMNS,
        text=lambda each: each.topic_name,
        per_page=TOPICS_A_PAGE,
    )
    tombstoned = {each.topic for each in view.node.topics if each.tombstoned}
    rows = [_topic_row(visit, view, stats, clients, tombstoned) for stats in table.rows]
    return {"table": table, "rows": rows}


def _topic_row(
    visit: Visit,
    view: NodeView,
    stats: TopicStats,
    clients: Mapping[tuple[str, str], list[ClientStats]],
    tombstoned: set[str],
) -> TopicRow:
    name = stats.topic_name
    channels = stats.channels or []
    marks = stats_marks(stats)
    if name in tombstoned:
        marks.append(Mark("tombstoned", "warn", "The registries do not name this node for it"))
    return TopicRow(
        stats,
        visit.topic_url(name),
        marks,
        tombstone(visit, name, view.address),
        [
            _channel_row(visit, name, channel, clients.get((name, channel.channel_name), []))
            for channel in channels[:CHANNELS_SHOWN]
        ],
        max(0, len(channels) - CHANNELS_SHOWN),
    )


def _channel_row(visit: Visit, topic: str, stats: ChannelStats, clients: list[ClientStats]) -> ChannelRow:
    shown = clients[:CLIENTS_SHOWN]
    return ChannelRow(
        stats,
        visit.channel_url(topic, stats.channel_name),
        stats_marks(stats),
        [client_row(visit, client) for client in shown],
        max(0, len(clients) - len(shown)),
    )


def _node_row(visit: Visit, view: NodeView) -> NodeRow:
    marks = node_marks(view, visit.snapshot.at)
    known = view.node.remote_addresses or []
    links = [TopicLink(each.topic, visit.topic_url(each.topic)) for each in view.node.topics[:TOPICS_NAMED]]
    gone = [each.topic for each in view.node.topics if each.tombstoned][:TOPICS_NAMED]
    return NodeRow(
        view,
        visit.node_url(view.address),
        marks,
        alarm(marks),
        len(known),
        ", ".join(known) or "No registry knows it",
        links,
        max(0, len(view.node.topics) - len(links)),
        [TopicLink(name, visit.topic_url(name)) for name in gone],
    )


def _sums(view: NodeView) -> dict[str, int]:
    """What the node's view has no sums of."""
    channels = [channel for topic in view.topics.values() for channel in topic.channels or ()]
    return {
        "channels": len(channels),
        "deferred": sum(channel.deferred_count for channel in channels),
        "on_disk": sum(channel.backend_depth for channel in channels)
        + sum(topic.backend_depth for topic in view.topics.values()),
    }


def _node_text(view: NodeView) -> str:
    node = view.node
    place = f"{node.topology_region} {node.topology_zone}"
    return f"{node.hostname} {node.http_address} {node.tcp_address} {node.version} {place}"
