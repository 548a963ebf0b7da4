"""The page of all nodes, and the page of one node."""

from __future__ import annotations

from collections.abc import Mapping

import trio
from attrs import define

from nsqadmin.cluster.rates import ChannelKey
from nsqadmin.cluster.snapshot import NodeSnapshot
from nsqadmin.model import ChannelStats, ClientStats, TopicStats
from nsqadmin.pages.action_buttons import ActionButton, drain_button, hand_over_button, tombstone_button
from nsqadmin.pages.badges import Badge, node_badges, row_class, stats_badges
from nsqadmin.pages.consumers import CONSUMERS_TIMEOUT_SECONDS, ConsumerRow, consumer_row
from nsqadmin.pages.copies import copies_panel, leaders_by_stand_in, stand_in_badges
from nsqadmin.pages.draining import drain_panel
from nsqadmin.pages.figures import UsageFigures, usage_figures
from nsqadmin.pages.graphite import graphite_panel, node_graphs
from nsqadmin.pages.node_parts import node_titles
from nsqadmin.pages.page_request import Page, PageRequest
from nsqadmin.pages.tables import Column, read_table_query, select_page

__all__ = ["node_page", "nodes_page"]

TOPICS_NAMED = 24
"""Per node, on the page of all nodes."""
TOPICS_PER_PAGE = 25
CHANNELS_SHOWN = 20
CONSUMERS_SHOWN = 10


@define(frozen=True)
class TopicLink:
    """A topic on the page of all nodes."""

    name: str
    path: str


@define(frozen=True)
class NodeRow:
    """One node on the page of all nodes."""

    view: NodeSnapshot
    title: str
    path: str
    badges: list[Badge]
    row_class: str
    usage: UsageFigures
    registered: int
    """The number of registries that list it."""
    registered_title: str
    topics: list[TopicLink]
    more_topics: int
    tombstoned: list[TopicLink]


@define(frozen=True)
class NodeChannelRow:
    """One channel on the page of a node."""

    stats: ChannelStats
    path: str
    badges: list[Badge]
    consumers: list[ConsumerRow]
    more_consumers: int


@define(frozen=True)
class NodeTopicRow:
    """One topic on the page of a node."""

    stats: TopicStats
    path: str
    badges: list[Badge]
    tombstone: ActionButton
    channels: list[NodeChannelRow]
    more_channels: int


_HOST: Column[NodeSnapshot] = Column(
    key="host",
    title="Node",
    value=lambda each: (each.node.hostname, each.node.broadcast_address, each.node.http_port),
    numeric=False,
)
NODE_COLUMNS: tuple[Column[NodeSnapshot], ...] = (
    _HOST,
    Column(key="tcp", title="TCP port", value=lambda each: each.node.tcp_port, optional="opt"),
    Column(key="http", title="HTTP port", value=lambda each: each.node.http_port, optional="opt"),
    Column(
        key="version", title="Version", value=lambda each: each.node.version, numeric=False, optional="opt"
    ),
    Column(
        key="depth",
        title="Depth",
        value=lambda each: each.depth,
        hint="Messages ready in topics and channels",
    ),
    Column(
        key="in", title="In /s", value=lambda each: each.in_rate or 0.0, hint="Messages published per second"
    ),
    Column(key="messages", title="Messages", value=lambda each: each.message_count, optional="opt-2"),
    Column(
        key="cpu",
        title="CPU",
        value=lambda each: each.usage.cpu or 0.0,
        hint="Of one core, between the last two updates",
        optional="opt",
    ),
    Column(
        key="memory",
        title="Memory",
        value=lambda each: each.usage.memory_bytes or 0.0,
        hint="Resident memory",
        optional="opt",
    ),
    Column(
        key="disk",
        title="Disk free",
        value=lambda each: each.usage.disk_free_bytes or 0.0,
        hint="Free space of the file system with its data path",
        optional="opt",
    ),
    Column(
        key="lag",
        title="Loop lag",
        value=lambda each: each.usage.loop_lag_s or 0.0,
        hint="How late its event loop was on average, between the last two updates",
        optional="opt-2",
    ),
    Column(key="clients", title="Consumers", value=lambda each: each.client_count),
)
TOPOLOGY_COLUMNS: tuple[Column[NodeSnapshot], ...] = (
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
REGISTRIES_COLUMN: Column[NodeSnapshot] = Column(
    key="registries",
    title="Registries",
    value=lambda each: len(each.node.remote_addresses or ()),
    hint="The number of nsqlookupds that list it",
    optional="opt",
)
STATS_COLUMNS: tuple[Column[TopicStats], ...] = (
    Column(key="name", title="Topic", value=lambda each: each.topic_name, numeric=False),
    Column(key="depth", title="Depth", value=lambda each: each.depth),
    Column(key="disk", title="Memory + disk", value=lambda each: each.backend_depth, optional="opt"),
    Column(key="messages", title="Messages", value=lambda each: each.message_count, optional="opt-3"),
)


async def nodes_page(request: PageRequest) -> Page:
    """The page of all nodes."""
    registries = len(request.console.options.lookupd_http_addresses)
    nodes = list(request.snapshot.nodes.values())
    topology = any(each.node.topology_region or each.node.topology_zone for each in nodes)
    columns = (
        *NODE_COLUMNS,
        *(TOPOLOGY_COLUMNS if topology else ()),
        *((REGISTRIES_COLUMN,) if registries else ()),
    )
    query = read_table_query(request.own_url, request.query, columns, sort="host")
    table = select_page(nodes, query, columns, text=_node_text)
    titles = node_titles(request.snapshot)
    leaders = leaders_by_stand_in(request.snapshot)
    rows = [_node_row(request, each, titles[each.address], leaders) for each in table.rows]
    return Page(
        "nodes.html", "nodes", {"table": table, "rows": rows, "registries": registries, "topology": topology}
    )


async def node_page(request: PageRequest) -> Page:
    """The page of one node: its topics, their channels and consumers."""
    address = request.path_params["node"]
    view = request.snapshot.nodes.get(address)
    registries = len(request.console.options.lookupd_http_addresses)
    values: dict[str, object] = {
        "address": address,
        "title": node_titles(request.snapshot).get(address, address),
        "view": view,
        "badges": [],
        "registries": registries,
        "registered": len(view.node.remote_addresses or ()) if view else 0,
        "graphite": graphite_panel(request, node_graphs(address)),
        "now": request.snapshot.at,
        "drain_button": None,
        "hand_over_button": None,
    }
    if view is not None:
        stand_in = stand_in_badges(view, leaders_by_stand_in(request.snapshot))
        values["badges"] = [*node_badges(view, request.snapshot.at), *stand_in]
        values["sums"] = _sums(view)
        values["usage"] = usage_figures(view.usage)
        values["drain"] = drain_panel(request, view)
        values["copies"] = copies_panel(request, view)
        # A stand-in drains from its start to its end.
        if view.can_drain and view.problem is None and not stand_in:
            values["drain_button"] = drain_button(request, view.node, draining=view.draining is not None)
            if view.copies is not None and view.copies.in_step > 1:
                values["hand_over_button"] = hand_over_button(request, view.node)
        values |= await _topics_table(request, view)
    return Page("node.html", "nodes", values, request.status_of(view))


async def _topics_table(request: PageRequest, view: NodeSnapshot) -> dict[str, object]:
    # A page without the consumers is better than one that hangs with its node.
    consumers: Mapping[ChannelKey, list[ClientStats]] = {}
    with trio.move_on_after(CONSUMERS_TIMEOUT_SECONDS):
        consumers = await request.console.consumers.of_node(view.address)
    query = read_table_query(request.own_url, request.query, STATS_COLUMNS, sort="name", keep=("t",))
    table = select_page(
        list(view.topics.values()),
        query,
        STATS_COLUMNS,
        text=lambda each: each.topic_name,
        per_page=TOPICS_PER_PAGE,
    )
    tombstoned = {each.topic for each in view.node.topics if each.tombstoned}
    rows = [_topic_row(request, view, stats, consumers, tombstoned) for stats in table.rows]
    return {"table": table, "rows": rows}


def _topic_row(
    request: PageRequest,
    view: NodeSnapshot,
    stats: TopicStats,
    consumers: Mapping[ChannelKey, list[ClientStats]],
    tombstoned: set[str],
) -> NodeTopicRow:
    name = stats.topic_name
    channels = stats.channels or []
    badges = stats_badges(stats)
    if name in tombstoned:
        badges.append(Badge("tombstoned", "warn", "The registries do not list this node for the topic"))
    return NodeTopicRow(
        stats,
        request.topic_url(name),
        badges,
        tombstone_button(request, name, view.address),
        [
            _channel_row(request, name, channel, consumers.get((name, channel.channel_name), []))
            for channel in channels[:CHANNELS_SHOWN]
        ],
        max(0, len(channels) - CHANNELS_SHOWN),
    )


def _channel_row(
    request: PageRequest, topic: str, stats: ChannelStats, consumers: list[ClientStats]
) -> NodeChannelRow:
    shown = consumers[:CONSUMERS_SHOWN]
    return NodeChannelRow(
        stats,
        request.channel_url(topic, stats.channel_name),
        stats_badges(stats),
        [consumer_row(request, client) for client in shown],
        len(consumers) - len(shown),
    )


def _node_row(request: PageRequest, view: NodeSnapshot, title: str, leaders: dict[str, str]) -> NodeRow:
    badges = [*node_badges(view, request.snapshot.at), *stand_in_badges(view, leaders)]
    registered = view.node.remote_addresses or []
    named = [each.topic for each in view.node.topics[:TOPICS_NAMED]]
    tombstoned = [each.topic for each in view.node.topics if each.tombstoned][:TOPICS_NAMED]
    return NodeRow(
        view,
        title,
        request.node_url(view.address),
        badges,
        row_class(badges),
        usage_figures(view.usage),
        len(registered),
        ", ".join(registered) or "No registry lists it",
        [TopicLink(name, request.topic_url(name)) for name in named],
        len(view.node.topics) - len(named),
        [TopicLink(name, request.topic_url(name)) for name in tombstoned],
    )


def _sums(view: NodeSnapshot) -> dict[str, int]:
    """Sums that are not in the snapshot."""
    channels = [channel for topic in view.topics.values() for channel in topic.channels or ()]
    return {
        "channels": len(channels),
        "deferred": sum(channel.deferred_count for channel in channels),
        "on_disk": sum(channel.backend_depth for channel in channels)
        + sum(topic.backend_depth for topic in view.topics.values()),
    }


def _node_text(view: NodeSnapshot) -> str:
    node = view.node
    topology = f"{node.topology_region} {node.topology_zone}"
    return f"{node.hostname} {node.http_address} {node.tcp_address} {node.version} {topology}"
