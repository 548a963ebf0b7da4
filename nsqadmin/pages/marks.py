"""Badges: what about a topic, channel, node or consumer deserves a look, in a word; and how loud it is said."""

from __future__ import annotations

import time
from collections.abc import Iterable

from attrs import define

from nsqadmin.cluster.model import ChannelStats, ClientStats, TopicStats
from nsqadmin.cluster.views import ChannelView, NodeView, TopicView
from nsqadmin.pages.human import duration_text, number_text

__all__ = [
    "Attention",
    "Mark",
    "alarm",
    "attention",
    "channel_marks",
    "client_marks",
    "node_marks",
    "part_marks",
    "stats_marks",
    "topic_marks",
]

EPHEMERAL = "#ephemeral"
OLD_SECONDS = 15 * 60


@define(frozen=True)
class Mark:
    """One badge."""

    text: str
    kind: str = ""
    """`bad`, `warn`, `good`, or nothing of note."""
    title: str = ""


PAUSED = Mark("paused", "warn", "Messages are kept, and not handed on")


def topic_marks(topic: TopicView) -> list[Mark]:
    """What is special about a topic."""
    marks = [PAUSED] if topic.stats.paused else []
    if topic.name.endswith(EPHEMERAL):
        marks.append(Mark("ephemeral", title="In memory only; gone with its last channel"))
    idle = len(topic.idle_channels)
    if idle:
        marks.append(Mark("no consumer" if len(topic.channels) == 1 else f"{idle} without consumer", "bad"))
    if not topic.channels and topic.stats.nodes:
        marks.append(Mark("no channel", "warn", "Messages wait in the topic"))
    if not topic.stats.nodes:
        marks.append(Mark("no node", title="Known to the registries only"))
    return marks


def channel_marks(channel: ChannelView, now: float) -> list[Mark]:
    """What is special about a channel."""
    marks = stats_marks(channel.stats)
    if channel.name.endswith(EPHEMERAL):
        marks.append(Mark("ephemeral", title="In memory only; gone with its last consumer"))
    if channel.no_consumer_since is not None:
        age = duration_text(now - channel.no_consumer_since)
        marks.append(Mark("no consumer", "bad", f"None for at least {age}"))
    return marks


def stats_marks(stats: ChannelStats | TopicStats) -> list[Mark]:
    """What is special about one of them, on one node or on all."""
    return [PAUSED] if stats.paused else []


def node_marks(node: NodeView, now: float) -> list[Mark]:
    """What is special about a node."""
    marks: list[Mark] = []
    if node.problem is not None:
        marks.append(Mark("no answer", "bad", f"{node.problem.error}, for {_age(now, node.problem.since)}"))
    elif node.health and node.health != "OK":
        marks.append(Mark("unhealthy", "bad", node.health))
    return [*marks, *_draining_marks(node, with_amount=True)]


def part_marks(stats: ChannelStats | TopicStats, node: NodeView | None, now: float) -> list[Mark]:
    """What is special about the part of a topic or channel that is on one node, and about the node."""
    marks = stats_marks(stats)
    if node is None:
        return marks
    if node.problem is not None:
        age = _age(now, node.problem.since)
        marks.append(Mark("old figures", "bad", f"The node does not answer for {age}"))
    return [*marks, *_draining_marks(node)]


def _draining_marks(node: NodeView, *, with_amount: bool = False) -> list[Mark]:
    drain = node.draining
    if drain is None:
        return []
    if node.problem is not None:
        return [Mark("was draining", "warn", "It may have ended, as it should after a drain")]
    title = "It takes no more messages, and ends when the last one is finished"
    if drain.messages_left is None or not with_amount:
        return [Mark("draining", "warn", title)]
    return [Mark(f"draining, {number_text(drain.messages_left)} left", "warn", title)]


def client_marks(client: ClientStats) -> list[Mark]:
    """What a consumer has agreed on."""
    marks = []
    if client.sample_rate:
        marks.append(Mark(f"sampled {client.sample_rate} %"))
    if client.tls:
        marks.append(Mark("TLS", "good", _tls_details(client)))
    if client.deflate:
        marks.append(Mark("Deflate"))
    if client.snappy:
        marks.append(Mark("Snappy"))
    return marks


def alarm(marks: Iterable[Mark]) -> str:
    """The class of a table's row: the loudest of its badges."""
    kinds = {mark.kind for mark in marks}
    return "trouble" if "bad" in kinds else "caution" if "warn" in kinds else ""


@define(frozen=True)
class Attention:
    """One line of what needs somebody."""

    topic: str
    channel: str
    marks: list[Mark]
    text: str
    weight: float
    """What counts more is shown first."""


def attention(topics: Iterable[TopicView]) -> list[Attention]:
    """Everything that needs somebody, worst first: backlogs without a consumer, time-outs, old messages."""
    found = []
    for topic in topics:
        for channel in topic.channels.values():
            line = _channel_attention(channel)
            if line is not None:
                found.append(line)
        if not topic.channels and topic.stats.depth:
            text = f"{number_text(topic.stats.depth)} messages wait in a topic without a channel"
            found.append(
                Attention(topic.name, "", [Mark("no channel", "warn")], text, float(topic.stats.depth) / 1000)
            )
    return sorted(found, key=lambda line: -line.weight)


def _channel_attention(channel: ChannelView) -> Attention | None:
    stats = channel.stats
    marks: list[Mark] = []
    words: list[str] = []
    weight = 0.0
    if channel.no_consumer_since is not None and (stats.depth or stats.deferred_count):
        marks.append(Mark("no consumer", "bad"))
        words.append(
            f"{number_text(stats.depth)} messages wait, nobody takes them since "
            f"{time.strftime('%H:%M:%S', time.localtime(channel.no_consumer_since))}"
        )
        weight += 1e6 + stats.depth
    if stats.paused and stats.depth:
        marks.append(PAUSED)
        words.append(f"{number_text(stats.depth)} messages wait")
        weight += stats.depth
    if channel.timeouts_per_minute:
        marks.append(Mark("time-outs", "warn"))
        words.append(f"{number_text(channel.timeouts_per_minute)} in the last minute")
        weight += 1e5 + channel.timeouts_per_minute
    oldest = channel.oldest_unfinished_ms
    if oldest is not None and oldest >= OLD_SECONDS * 1000:
        marks.append(Mark("old messages", "warn"))
        words.append(f"the oldest is {duration_text(oldest / 1000)} old")
        weight += oldest / 1000
    return Attention(channel.topic, channel.name, marks, "; ".join(words), weight) if marks else None


def _age(now: float, then: float) -> str:
    return duration_text(max(0.0, now - then))


def _tls_details(client: ClientStats) -> str:
    protocol = client.tls_negotiated_protocol
    parts = [client.tls_version, client.tls_cipher_suite, protocol and f"protocol {protocol}"]
    if client.tls_negotiated_protocol_is_mutual:
        parts.append("mutual")
    return ", ".join(part for part in parts if part)
