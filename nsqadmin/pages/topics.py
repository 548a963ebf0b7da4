"""The front page (all topics) and the page of one topic."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define

from nsqadmin.cluster.history import Metric
from nsqadmin.cluster.snapshot import ChannelSnapshot, ClusterSnapshot, TopicSnapshot
from nsqadmin.pages.action_buttons import ActionButton, tombstone_button, topic_buttons
from nsqadmin.pages.alarms import alarm_row
from nsqadmin.pages.badges import Badge, channel_badges, row_class, topic_badges
from nsqadmin.pages.charts import Sparkline, charts_of, series_url, sparkline, time_range_choices
from nsqadmin.pages.graphite import graphite_panel, topic_graphs
from nsqadmin.pages.node_parts import NodePartRow, node_part_rows
from nsqadmin.pages.page_request import Page, PageRequest
from nsqadmin.pages.tables import Column, read_table_query, select_page

__all__ = ["FrontPage", "topic_page"]

SPARKLINE_POINTS = 60
ALARMS_SHOWN = 5


@define(frozen=True)
class TopicRow:
    """One topic on the front page."""

    topic: TopicSnapshot
    path: str
    badges: list[Badge]
    row_class: str
    sparkline: Sparkline | None


@define(frozen=True)
class ChannelRow:
    """One channel on the page of its topic."""

    channel: ChannelSnapshot
    path: str
    badges: list[Badge]
    row_class: str


@define(frozen=True)
class TopicNodeRow:
    """One node on the page of a topic."""

    part: NodePartRow
    tombstone: ActionButton


TOPIC_COLUMNS: tuple[Column[TopicSnapshot], ...] = (
    Column(key="name", title="Topic", value=lambda each: each.name, numeric=False),
    Column(
        key="depth",
        title="Depth",
        value=lambda each: each.depth,
        hint="Messages ready in the topic and in its channels",
    ),
    Column(
        key="inflight",
        title="In flight",
        value=lambda each: each.in_flight_count,
        hint="Sent to consumers, not finished yet",
        optional="opt",
    ),
    Column(
        key="in", title="In /s", value=lambda each: each.in_rate or 0.0, hint="Messages published per second"
    ),
    Column(
        key="out",
        title="Out /s",
        value=lambda each: each.out_rate or 0.0,
        hint="Messages finished per second, all channels together",
    ),
    Column(key="channels", title="Channels", value=lambda each: len(each.channels), optional="opt"),
    Column(key="clients", title="Consumers", value=lambda each: each.client_count, optional="opt"),
    Column(
        key="messages",
        title="Messages",
        value=lambda each: each.stats.message_count,
        hint="Messages published since the nodes started",
        optional="opt-2",
    ),
)

TOPIC_FILTERS = (
    ("", "All topics"),
    ("backlog", "With messages waiting"),
    ("idle", "Without a consumer"),
    ("busy", "With traffic now"),
    ("paused", "Paused"),
    ("trouble", "With time-outs"),
)
_MATCHES = {
    "backlog": lambda each: each.depth > 0,
    "idle": lambda each: bool(each.idle_channels) or not each.channels,
    "busy": lambda each: bool(each.in_rate or each.out_rate),
    "paused": lambda each: each.stats.paused or any(c.stats.paused for c in each.channels.values()),
    "trouble": lambda each: each.timeouts_per_minute > 0,
}

CHANNEL_COLUMNS: tuple[Column[ChannelSnapshot], ...] = (
    Column(key="name", title="Channel", value=lambda each: each.name, numeric=False),
    Column(
        key="depth", title="Depth", value=lambda each: each.stats.depth, hint="Messages ready for delivery"
    ),
    Column(
        key="disk",
        title="Memory + disk",
        value=lambda each: each.stats.backend_depth,
        hint="The depth: messages in memory, and on disk only",
        optional="opt-2",
    ),
    Column(
        key="inflight",
        title="In flight",
        value=lambda each: each.stats.in_flight_count,
        optional="opt-3",
    ),
    Column(key="deferred", title="Deferred", value=lambda each: each.stats.deferred_count, optional="opt"),
    Column(
        key="out",
        title="Out /s",
        value=lambda each: each.out_rate or 0.0,
        hint="Messages finished per second",
    ),
    Column(key="requeued", title="Requeued", value=lambda each: each.stats.requeue_count, optional="opt"),
    Column(key="timedout", title="Timed out", value=lambda each: each.stats.timeout_count, optional="opt"),
    Column(key="messages", title="Messages", value=lambda each: each.stats.message_count, optional="opt"),
    Column(key="clients", title="Consumers", value=lambda each: each.stats.client_count, optional="opt-3"),
)


class FrontPage:
    """The page of all topics. Keeps what is the same for every request with one snapshot."""

    def __init__(self) -> None:
        self._snapshot: ClusterSnapshot | None = None
        self._topics: list[TopicSnapshot] = []
        self._draining_nodes = 0

    async def __call__(self, request: PageRequest) -> Page:
        """The page, with search, order and paging as in its address."""
        self._update(request.snapshot)
        query = read_table_query(
            request.own_url, request.query, TOPIC_COLUMNS, sort="name", filters=_MATCHES, keep=("span",)
        )
        table = select_page(
            self._topics, query, TOPIC_COLUMNS, text=lambda each: each.name, matches=_MATCHES.get(query.show)
        )
        rates = request.console.history.sparklines(
            Metric.IN_RATE, [each.name for each in table.rows], points=SPARKLINE_POINTS
        )
        values = {
            "totals": request.snapshot.totals,
            "draining_nodes": self._draining_nodes,
            "table": table,
            "rows": [_topic_row(request, each, rates.get(each.name, ())) for each in table.rows],
            "filters": TOPIC_FILTERS,
            "time_ranges": time_range_choices(request),
            "charts": charts_of(request.snapshot.totals)[:2] if request.identity.topics.are_all else (),
            "series": series_url(request),
            "alarms": [alarm_row(request, each) for each in request.alarms[:ALARMS_SHOWN]],
        }
        return Page("front.html", "topics", values)

    def _update(self, snapshot: ClusterSnapshot) -> None:
        if snapshot is not self._snapshot:
            self._topics = list(snapshot.topics.values())
            self._draining_nodes = sum(
                node.draining is not None and node.problem is None for node in snapshot.nodes.values()
            )
            self._snapshot = snapshot


async def topic_page(request: PageRequest) -> Page:
    """The page of one topic: its channels and its nodes."""
    name = request.path_params["topic"]
    topic = request.snapshot.topics.get(name)
    paused = topic is not None and topic.stats.paused
    values: dict[str, object] = {
        "name": name,
        "topic": topic,
        "paused": paused,
        "badges": topic_badges(topic) if topic else [],
        "actions": topic_buttons(request, name, paused=paused),
        "time_ranges": time_range_choices(request),
        "series": series_url(request, name),
        "graphite": graphite_panel(request, topic_graphs(name)),
    }
    if topic is not None:
        values["charts"] = charts_of(topic)
        values |= _channels_table(request, topic)
        values["nodes"] = [
            TopicNodeRow(part, tombstone_button(request, name, part.stats.node))
            for part in node_part_rows(request, topic.stats)
        ]
    return Page("topic.html", "topics", values, request.status_of(topic))


def _topic_row(request: PageRequest, topic: TopicSnapshot, rates: Sequence[float]) -> TopicRow:
    badges = topic_badges(topic)
    return TopicRow(topic, request.topic_url(topic.name), badges, row_class(badges), sparkline(rates))


def _channels_table(request: PageRequest, topic: TopicSnapshot) -> dict[str, object]:
    query = read_table_query(request.own_url, request.query, CHANNEL_COLUMNS, sort="name", keep=("span", "t"))
    channels = list(topic.channels.values())
    table = select_page(channels, query, CHANNEL_COLUMNS, text=lambda each: each.name)
    return {"table": table, "rows": [_channel_row(request, each) for each in table.rows]}


def _channel_row(request: PageRequest, channel: ChannelSnapshot) -> ChannelRow:
    badges = channel_badges(channel, request.snapshot.at)
    path = request.channel_url(channel.topic, channel.name)
    return ChannelRow(channel, path, badges, row_class(badges))
