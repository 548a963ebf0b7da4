"""The page of one channel: its nodes and its consumers."""

from __future__ import annotations

import msgspec
import trio
from attrs import define

from nsqadmin.cluster.snapshot import ChannelSnapshot
from nsqadmin.model import ChannelStats, ClientStats
from nsqadmin.pages.action_buttons import channel_buttons
from nsqadmin.pages.badges import channel_badges
from nsqadmin.pages.charts import charts_of, series_url, time_range_choices
from nsqadmin.pages.consumers import CONSUMERS_TIMEOUT_SECONDS, consumer_row
from nsqadmin.pages.graphite import channel_graphs, graphite_panel
from nsqadmin.pages.messages import state_tabs
from nsqadmin.pages.node_parts import node_part_rows
from nsqadmin.pages.page_request import Page, PageRequest
from nsqadmin.pages.tables import Column, read_table_query, select_page
from nsqadmin.text import duration_text, number_text

__all__ = ["ChannelLimits", "ChannelProgress", "channel_limits", "channel_page", "channel_progress"]


@define(frozen=True)
class ChannelProgress:
    """Whether the consumers of a channel keep up."""

    oldest: str
    """Age of the oldest unfinished message; empty if no node reports it."""
    no_consumer_for: str
    """Empty if there is a consumer."""
    drained_in: str
    """When the backlog will be gone at the present rates; empty if there is none or it does not shrink."""
    falling_behind: bool
    """The backlog grows."""


@define(frozen=True)
class ChannelLimits:
    """The limits of a channel, and what they have done since the nsqds started."""

    settings: str
    """Those that are set; empty if none is any more."""
    dropped: int
    dropped_by: str
    """By which limit."""
    rejected: int
    rejected_by: str


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
        hint="Messages that it accepts at a time (RDY)",
    ),
    Column(
        key="rate",
        title="Sent /s",
        value=lambda each: each.delivery_rate or 0.0,
        hint="Messages sent to it per second, between the last two updates",
    ),
    Column(
        key="handling",
        title="Handling",
        value=lambda each: each.handling_time_ms or 0.0,
        hint="Average time from delivery to FIN, lately",
        optional="opt",
    ),
    Column(
        key="last",
        title="Last FIN",
        value=lambda each: each.since_finish_ms or 0.0,
        hint="Time since its last FIN",
    ),
    Column(
        key="oldest",
        title="Oldest",
        value=lambda each: each.oldest_in_flight_ms or 0.0,
        hint="Time since the oldest message that it has not answered was delivered",
        optional="opt",
    ),
    Column(key="finished", title="Finished", value=lambda each: each.finish_count),
    Column(key="requeued", title="Requeued", value=lambda each: each.requeue_count, optional="opt"),
    Column(key="connected", title="Connected", value=lambda each: -each.connect_ts),
)
TOPOLOGY_COLUMN: Column[ClientStats] = Column(
    key="topology",
    title="Topology",
    value=lambda each: (each.topology_region, each.topology_zone),
    numeric=False,
    optional="opt-2",
)


async def channel_page(request: PageRequest) -> Page:
    """The page of one channel."""
    topic_name, name = request.path_params["topic"], request.path_params["channel"]
    channel = request.snapshot.channel(topic_name, name)
    paused = channel is not None and channel.stats.paused
    now = request.snapshot.at
    values: dict[str, object] = {
        "topic_name": topic_name,
        "topic_path": request.topic_url(topic_name),
        "name": name,
        "channel": channel,
        "paused": paused,
        "badges": channel_badges(channel, now) if channel else [],
        "actions": channel_buttons(request, topic_name, name, paused=paused),
        "time_ranges": time_range_choices(request),
        "series": series_url(request, topic_name, name),
        "graphite": graphite_panel(request, channel_graphs(topic_name, name)),
    }
    if channel is not None:
        values["charts"] = charts_of(channel)
        values["tabs"] = state_tabs(request, topic_name, channel.stats)
        values["replay_path"] = request.messages_url(topic_name, name) + "#replay"
        values["progress"] = channel_progress(channel, now)
        values["limits"] = channel_limits(channel.stats)
        values["nodes"] = node_part_rows(request, channel.stats)
        values |= await _consumers_table(request, channel)
    return Page("channel.html", "topics", values, request.status_of(channel))


def channel_progress(channel: ChannelSnapshot, now: float) -> ChannelProgress:
    """The progress at this time (unix seconds)."""
    oldest, since = channel.oldest_unfinished_ms, channel.no_consumer_since
    drained_in, falling_behind = "", False
    if channel.stats.depth and channel.in_rate is not None and channel.out_rate is not None:
        gain = channel.out_rate - channel.in_rate
        if gain > 0:
            drained_in = duration_text(channel.stats.depth / gain)
        else:
            falling_behind = gain < 0
    return ChannelProgress(
        oldest="" if oldest is None else duration_text(oldest / 1000),
        no_consumer_for="" if since is None else duration_text(max(0.0, now - since)),
        drained_in=drained_in,
        falling_behind=falling_behind,
    )


def channel_limits(stats: ChannelStats) -> ChannelLimits | None:
    """None if nothing is limited, and nothing was."""
    dropped = dict(stats.dropped_by_limits or {})
    if stats.expired_count:
        dropped["max_age"] = stats.expired_count
    rejected = stats.rejected or {}
    if stats.limits is None and not dropped and not rejected:
        return None
    settings = msgspec.structs.asdict(stats.limits) if stats.limits is not None else {}
    return ChannelLimits(
        settings=", ".join(f"{name} {_limit_text(value)}" for name, value in settings.items() if value),
        dropped=sum(dropped.values()),
        dropped_by=", ".join(dropped),
        rejected=sum(rejected.values()),
        rejected_by=", ".join(rejected),
    )


def _limit_text(value: int | str) -> str:
    return number_text(value) if isinstance(value, int) else value


async def _consumers_table(request: PageRequest, channel: ChannelSnapshot) -> dict[str, object]:
    clients: list[ClientStats] = []
    timed_out = True
    with trio.move_on_after(CONSUMERS_TIMEOUT_SECONDS):
        clients = await request.console.consumers.of_channel(channel.topic, channel.name)
        timed_out = False
    topology = any(each.topology_region or each.topology_zone for each in clients)
    columns = (*CLIENT_COLUMNS, TOPOLOGY_COLUMN) if topology else CLIENT_COLUMNS
    query = read_table_query(request.own_url, request.query, columns, sort="host", keep=("span", "t"))
    table = select_page(clients, query, columns, text=_client_text)
    return {
        "table": table,
        "rows": [consumer_row(request, each) for each in table.rows],
        "topology": topology,
        "consumers_timed_out": timed_out,
    }


def _client_text(client: ClientStats) -> str:
    return f"{client.hostname} {client.remote_address} {client.client_id} {client.user_agent} {client.node}"
