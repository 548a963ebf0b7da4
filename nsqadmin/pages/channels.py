"""The page of one channel: its nodes and its consumers."""

from __future__ import annotations

import time

import trio
from attrs import define

from nsqadmin.cluster.model import ChannelStats, ClientStats
from nsqadmin.cluster.views import ChannelView
from nsqadmin.pages.asking import channel_actions
from nsqadmin.pages.graphite import channel_graphs, graphite_panel
from nsqadmin.pages.human import UNKNOWN, duration_text
from nsqadmin.pages.marks import Mark, channel_marks, client_marks, part_marks
from nsqadmin.pages.spans import series_link, span_links
from nsqadmin.pages.tables import Column, read_choice, take
from nsqadmin.pages.visit import Page, Visit

__all__ = ["ClientRow", "channel_page", "client_row"]

CLIENTS_SECONDS = 3.0
"""How long a page waits for the list of its consumers; it comes without them then."""


@define(frozen=True)
class ChannelNodeRow:
    """One node on the page of a channel."""

    stats: ChannelStats
    path: str
    title: str
    subtitle: str
    marks: list[Mark]


@define(frozen=True)
class ClientRow:
    """One consumer."""

    client: ClientStats
    node_path: str
    marks: list[Mark]
    identity: str
    identity_url: str
    connected: str
    topology: str


@define(frozen=True)
class Pace:
    """How the channel is doing, in words."""

    oldest: str
    """Age of the oldest unfinished message; empty when nobody tells."""
    no_consumer_for: str
    """Empty while there is one."""
    drained_in: str
    """When its backlog will be gone at the present rates; empty when there is none or it does not shrink."""
    falling_behind: bool
    """There is a backlog, and more comes in than goes out."""


CLIENT_COLUMNS: tuple[Column[ClientStats], ...] = (
    Column(
        key="host", title="Consumer", value=lambda each: (each.hostname, each.remote_address), numeric=False
    ),
    Column(
        key="agent", title="User agent", value=lambda each: each.user_agent, numeric=False, optional="opt"
    ),
    Column(key="node", title="Node", value=lambda each: each.node, numeric=False, optional="opt"),
    Column(key="inflight", title="In flight", value=lambda each: each.in_flight_count),
    Column(
        key="ready",
        title="Ready",
        value=lambda each: each.ready_count,
        hint="How many messages it takes at one time (RDY)",
    ),
    Column(key="finished", title="Finished", value=lambda each: each.finish_count),
    Column(key="requeued", title="Requeued", value=lambda each: each.requeue_count, optional="opt"),
    Column(key="messages", title="Messages", value=lambda each: each.message_count, optional="opt"),
    Column(key="connected", title="Connected", value=lambda each: -each.connect_ts),
    Column(
        key="topology",
        title="Topology",
        value=lambda each: (each.topology_region, each.topology_zone),
        numeric=False,
        optional="opt-2",
    ),
)


async def channel_page(visit: Visit) -> Page:
    """One channel."""
    topic_name, name = visit.names["topic"], visit.names["channel"]
    topic = visit.snapshot.topics.get(topic_name)
    channel = topic.channels.get(name) if topic is not None else None
    paused = channel is not None and channel.stats.paused
    now = visit.snapshot.at
    values: dict[str, object] = {
        "topic_name": topic_name,
        "topic_path": visit.topic_url(topic_name),
        "name": name,
        "channel": channel,
        "paused": paused,
        "marks": channel_marks(channel, now) if channel else [],
        "actions": channel_actions(visit, topic_name, name, paused=paused),
        "spans": span_links(visit),
        "series": series_link(visit, topic_name, name),
        "graphite": graphite_panel(visit, channel_graphs(topic_name, name)),
    }
    if channel is not None:
        values["pace"] = pace_of(channel, now)
        values["nodes"] = [_node_row(visit, stats) for stats in channel.stats.nodes or ()]
        values |= await _clients_table(visit, channel)
    return Page("channel.html", "topics", values)


def pace_of(channel: ChannelView, now: float) -> Pace:
    """Work out how the channel is doing."""
    oldest, since = channel.oldest_unfinished_ms, channel.no_consumer_since
    drained_in, behind = "", False
    if channel.stats.depth and channel.in_rate is not None and channel.out_rate is not None:
        gain = channel.out_rate - channel.in_rate
        if gain > 0:
            drained_in = duration_text(channel.stats.depth / gain)
        else:
            behind = gain < 0
    return Pace(
        oldest="" if oldest is None else duration_text(oldest / 1000),
        no_consumer_for="" if since is None else duration_text(max(0.0, now - since)),
        drained_in=drained_in,
        falling_behind=behind,
    )


def client_row(visit: Visit, client: ClientStats) -> ClientRow:
    """One consumer as a line. A link to its identity is one only when it leads to a web page."""
    url = client.auth_identity_url
    identity = (client.auth_identity or "authorized") if client.authed else ""
    age = duration_text(max(0.0, time.time() - client.connect_ts)) if client.connect_ts else UNKNOWN
    return ClientRow(
        client=client,
        node_path=visit.node_url(client.node),
        marks=client_marks(client),
        identity=identity,
        identity_url=url if url.startswith(("https://", "http://")) else "",
        connected=age,
        topology=_topology(client),
    )


async def _clients_table(visit: Visit, channel: ChannelView) -> dict[str, object]:
    clients: list[ClientStats] = []
    waited_long = True
    with trio.move_on_after(CLIENTS_SECONDS):
        clients = await visit.console.picture.channel_clients(channel.topic, channel.name)
        waited_long = False
    choice = read_choice(visit.here, visit.params, CLIENT_COLUMNS, sort="host", keep=("span", "t"))
    table = take(clients, choice, CLIENT_COLUMNS, text=_client_text)
    return {
        "table": table,
        "rows": [client_row(visit, each) for each in table.rows],
        "clients_missing": waited_long,
    }


def _client_text(client: ClientStats) -> str:
    return f"{client.hostname} {client.remote_address} {client.client_id} {client.user_agent} {client.node}"


def _node_row(visit: Visit, stats: ChannelStats) -> ChannelNodeRow:
    node = visit.snapshot.nodes.get(stats.node)
    return ChannelNodeRow(
        stats,
        visit.node_url(stats.node),
        stats.hostname or stats.node,
        stats.node if stats.hostname else "",
        part_marks(stats, node, visit.snapshot.at),
    )


def _topology(client: ClientStats) -> str:
    """Where the consumer is, and how near to its node."""
    if not client.topology_region and not client.topology_zone:
        return ""
    place = " / ".join(part for part in (client.topology_region, client.topology_zone) if part)
    same_region = client.topology_region == client.node_topology_region
    if same_region and client.topology_zone and client.topology_zone == client.node_topology_zone:
        return f"{place} (same zone)"
    return f"{place} (same region)" if client.topology_region and same_region else place
