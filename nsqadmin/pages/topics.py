"""The front page (all topics) and the page of one topic."""

from __future__ import annotations

from attrs import define

from nsqadmin.cluster.history import Kind
from nsqadmin.cluster.model import TopicStats
from nsqadmin.cluster.views import ChannelView, Snapshot, TopicView
from nsqadmin.pages.asking import Action, tombstone, topic_actions
from nsqadmin.pages.graphite import graphite_panel, topic_graphs
from nsqadmin.pages.marks import (
    Attention,
    Mark,
    alarm,
    attention,
    channel_marks,
    part_marks,
    topic_marks,
)
from nsqadmin.pages.spans import series_link, span_links
from nsqadmin.pages.sparkline import Sparkline, sparkline
from nsqadmin.pages.tables import Column, read_choice, take
from nsqadmin.pages.visit import Page, Visit

__all__ = ["FrontPage", "topic_page"]

SPARK_POINTS = 60
ATTENTION_SHOWN = 5


@define(frozen=True)
class TopicRow:
    """One line of the front page."""

    view: TopicView
    path: str
    marks: list[Mark]
    alarm: str
    spark: Sparkline | None


@define(frozen=True)
class AttentionRow:
    """One line of what needs somebody."""

    line: Attention
    path: str


@define(frozen=True)
class ChannelRow:
    """One channel on the page of its topic."""

    view: ChannelView
    path: str
    marks: list[Mark]
    alarm: str


@define(frozen=True)
class TopicNodeRow:
    """One node on the page of a topic."""

    stats: TopicStats
    path: str
    title: str
    subtitle: str
    marks: list[Mark]
    tombstone: Action


TOPIC_COLUMNS: tuple[Column[TopicView], ...] = (
    Column(key="name", title="Topic", value=lambda each: each.name, numeric=False),
    Column(
        key="depth",
        title="Depth",
        value=lambda each: each.stats.depth + each.channel_depth,
        hint="Messages that are ready, in the topic and in its channels",
    ),
    Column(
        key="inflight",
        title="In flight",
        value=lambda each: each.in_flight_count,
        hint="With consumers, not finished yet",
        optional="opt",
    ),
    Column(
        key="in", title="In /s", value=lambda each: each.in_rate or 0.0, hint="Messages published a second"
    ),
    Column(
        key="out",
        title="Done /s",
        value=lambda each: each.out_rate or 0.0,
        hint="Messages finished a second, all channels together",
    ),
    Column(key="channels", title="Channels", value=lambda each: len(each.channels), optional="opt"),
    Column(key="clients", title="Consumers", value=lambda each: each.client_count, optional="opt"),
    Column(
        key="messages",
        title="Messages",
        value=lambda each: each.stats.message_count,
        hint="Published since the nodes started",
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
_FITS = {
    "backlog": lambda each: each.stats.depth + each.channel_depth > 0,
    "idle": lambda each: bool(each.idle_channels) or not each.channels,
    "busy": lambda each: bool(each.in_rate or each.out_rate),
    "paused": lambda each: each.stats.paused or any(c.stats.paused for c in each.channels.values()),
    "trouble": lambda each: each.timeouts_per_minute > 0,
}

CHANNEL_COLUMNS: tuple[Column[ChannelView], ...] = (
    Column(key="name", title="Channel", value=lambda each: each.name, numeric=False),
    Column(key="depth", title="Depth", value=lambda each: each.stats.depth, hint="Messages that are ready"),
    Column(
        key="disk",
        title="Memory + disk",
        value=lambda each: each.stats.backend_depth,
        hint="The depth: in memory, and on disk only",
        optional="opt-2",
    ),
    Column(key="inflight", title="In flight", value=lambda each: each.stats.in_flight_count),
    Column(key="deferred", title="Deferred", value=lambda each: each.stats.deferred_count, optional="opt"),
    Column(
        key="out",
        title="Done /s",
        value=lambda each: each.out_rate or 0.0,
        hint="Messages finished a second",
    ),
    Column(key="requeued", title="Requeued", value=lambda each: each.stats.requeue_count, optional="opt"),
    Column(key="timedout", title="Timed out", value=lambda each: each.stats.timeout_count, optional="opt"),
    Column(key="messages", title="Messages", value=lambda each: each.stats.message_count, optional="opt"),
    Column(key="clients", title="Consumers", value=lambda each: each.stats.client_count),
)


class FrontPage:
    """All topics. Keeps what is the same for everybody who looks at one snapshot."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._topics: list[TopicView] = []
        self._attention: list[Attention] = []
        self._draining_nodes = 0

    async def __call__(self, visit: Visit) -> Page:
        """Show search, order and page that the address asks for."""
        self._look_at(visit.snapshot)
        choice = read_choice(
            visit.here, visit.params, TOPIC_COLUMNS, sort="name", filters=_FITS, keep=("span",)
        )
        table = take(
            self._topics, choice, TOPIC_COLUMNS, text=lambda each: each.name, fits=_FITS.get(choice.show)
        )
        sparks = visit.console.history.sparklines(
            Kind.IN_RATE, [each.name for each in table.rows], points=SPARK_POINTS
        )
        rows = [
            TopicRow(
                each, visit.topic_url(each.name), marks, alarm(marks), sparkline(sparks.get(each.name, ()))
            )
            for each in table.rows
            for marks in [topic_marks(each)]
        ]
        values = {
            "totals": visit.snapshot.totals,
            "draining_nodes": self._draining_nodes,
            "table": table,
            "rows": rows,
            "filters": TOPIC_FILTERS,
            "spans": span_links(visit),
            "series": series_link(visit),
            "attention": [_attention_row(visit, line) for line in self._attention[:ATTENTION_SHOWN]],
            "attention_total": len(self._attention),
        }
        return Page("front.html", "topics", values)

    def _look_at(self, snapshot: Snapshot) -> None:
        if snapshot is not self._snapshot:
            self._topics = list(snapshot.topics.values())
            self._attention = attention(self._topics)
            self._draining_nodes = sum(
                node.draining is not None and node.problem is None for node in snapshot.nodes.values()
            )
            self._snapshot = snapshot


async def topic_page(visit: Visit) -> Page:
    """One topic: its channels, and what of it is on each node."""
    name = visit.names["topic"]
    topic = visit.snapshot.topics.get(name)
    paused = topic is not None and topic.stats.paused
    values: dict[str, object] = {
        "name": name,
        "topic": topic,
        "paused": paused,
        "marks": topic_marks(topic) if topic else [],
        "actions": topic_actions(visit, name, paused=paused),
        "spans": span_links(visit),
        "series": series_link(visit, name),
        "graphite": graphite_panel(visit, topic_graphs(name)),
    }
    if topic is not None:
        values |= _channels_table(visit, topic)
        values["nodes"] = [_node_row(visit, stats) for stats in topic.stats.nodes or ()]
    return Page("topic.html", "topics", values)


def _channels_table(visit: Visit, topic: TopicView) -> dict[str, object]:
    choice = read_choice(visit.here, visit.params, CHANNEL_COLUMNS, sort="name", keep=("span", "t"))
    channels = list(topic.channels.values())
    table = take(channels, choice, CHANNEL_COLUMNS, text=lambda each: each.name)
    rows = [
        ChannelRow(each, visit.channel_url(topic.name, each.name), marks, alarm(marks))
        for each in table.rows
        for marks in [channel_marks(each, visit.snapshot.at)]
    ]
    return {"table": table, "rows": rows}


def _node_row(visit: Visit, stats: TopicStats) -> TopicNodeRow:
    node = visit.snapshot.nodes.get(stats.node)
    return TopicNodeRow(
        stats,
        visit.node_url(stats.node),
        stats.hostname or stats.node,
        stats.node if stats.hostname else "",
        part_marks(stats, node, visit.snapshot.at),
        tombstone(visit, stats.topic_name, stats.node),
    )


def _attention_row(visit: Visit, line: Attention) -> AttentionRow:
    return AttentionRow(
        line,
        visit.channel_url(line.topic, line.channel) if line.channel else visit.topic_url(line.topic),
    )
