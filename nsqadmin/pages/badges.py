"""Badges: what about a topic, channel, node or consumer deserves attention, in a word or two."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from attrs import define

from nsqadmin.cluster.snapshot import ChannelSnapshot, NodeSnapshot, TopicSnapshot
from nsqadmin.model import ChannelStats, ClientStats, HeldCopy, TopicStats
from nsqadmin.text import duration_text, number_text

__all__ = [
    "PAUSED",
    "Badge",
    "channel_badges",
    "client_badges",
    "copy_badges",
    "node_badges",
    "part_badges",
    "row_class",
    "stats_badges",
    "topic_badges",
]

EPHEMERAL = "#ephemeral"
_HEALTHY = re.compile(r"OK(?: - [0-9]+ of [0-9]+ copies)?")
"""Missing copies have a badge of their own, and publishes are accepted all the same."""


@define(frozen=True)
class Badge:
    """One badge."""

    text: str
    kind: str = ""
    """`bad`, `warn`, `good`, or empty for neutral ones."""
    title: str = ""


PAUSED = Badge("paused", "warn", "Messages are kept, but not delivered")


def topic_badges(topic: TopicSnapshot) -> list[Badge]:
    """The badges of a topic."""
    badges = [PAUSED] if topic.stats.paused else []
    if topic.name.endswith(EPHEMERAL):
        badges.append(Badge("ephemeral", title="In memory only; deleted with its last channel"))
    idle = topic.idle_channels
    if idle:
        text = "no consumer" if len(topic.channels) == 1 else f"{len(idle)} without consumer"
        badges.append(Badge(text, "bad" if any(channel.stats.depth for channel in idle) else ""))
    if not topic.channels and topic.stats.nodes:
        badges.append(Badge("no channel", "warn", "Messages wait in the topic"))
    if not topic.stats.nodes:
        badges.append(Badge("no node", title="Known to the registries only"))
    return badges


def channel_badges(channel: ChannelSnapshot, now: float) -> list[Badge]:
    """The badges of a channel."""
    badges = stats_badges(channel.stats)
    if channel.name.endswith(EPHEMERAL):
        badges.append(Badge("ephemeral", title="In memory only; deleted with its last consumer"))
    if channel.no_consumer_since is not None:
        age = duration_text(now - channel.no_consumer_since)
        # An idle channel without messages harms nobody.
        badges.append(Badge("no consumer", "bad" if channel.stats.depth else "", f"For at least {age}"))
    return badges


def stats_badges(stats: ChannelStats | TopicStats) -> list[Badge]:
    """The badges of a topic or channel, of one node or of all."""
    return [PAUSED] if stats.paused else []


def node_badges(node: NodeSnapshot, now: float) -> list[Badge]:
    """The badges of a node."""
    badges: list[Badge] = []
    if node.problem is not None:
        badges.append(Badge("no answer", "bad", f"{node.problem.error}, for {_age(now, node.problem.since)}"))
    elif node.is_not_audited:
        badges.append(Badge("not audited", "warn", node.health))
    elif node.health and not _HEALTHY.fullmatch(node.health):
        badges.append(Badge("unhealthy", "bad", node.health))
    return [*badges, *_under_replicated_badges(node), *_draining_badges(node, with_amount=True)]


CLOCK_SKEW: Final = 5.0  # seconds between two nodes that are worth a word


def copy_badges(copy: HeldCopy) -> list[Badge]:
    """The badges of a copy that a node holds of another one."""
    if copy.adopted:
        return [
            Badge("adopted", "warn", "It takes nothing more from its leader, whose messages are served here")
        ]
    if copy.connected:
        badges = [Badge("connected", "good", "Its leader is")]
    elif copy.silent_seconds is None:
        badges = [Badge("not connected", "warn", "Its leader was not heard since this node has started")]
    else:
        silent = f"silent for {duration_text(copy.silent_seconds)}"
        badges = [Badge(silent, "warn", "Its leader has no connection")]
    if not copy.complete:
        badges.append(Badge("not complete", "bad", "Messages of its leader are missing in it"))
    skew = copy.clock_skew_seconds
    if skew is not None and abs(skew) > CLOCK_SKEW:
        where = "ahead of" if skew > 0 else "behind"
        title = f"The clock here is {duration_text(abs(skew))} {where} its leader's: due times would differ"
        badges.append(Badge("clocks differ", "warn", title))
    return badges


def part_badges(stats: ChannelStats | TopicStats, node: NodeSnapshot | None, now: float) -> list[Badge]:
    """The badges of a topic's or channel's part on one node, and of the node."""
    badges = stats_badges(stats)
    if node is None:
        return badges
    if node.problem is not None:
        age = _age(now, node.problem.since)
        badges.append(Badge("stale", "bad", f"The node has not answered for {age}"))
    return [*badges, *_draining_badges(node)]


def _under_replicated_badges(node: NodeSnapshot) -> list[Badge]:
    copies = node.copies
    if node.problem is not None or copies is None or not copies.missing:
        return []
    reasons = [f"{each.address}: {each.state}" for each in copies.followers if not each.in_step]
    title = "; ".join(["Copies of its messages that are in step, its own included", *reasons])
    return [Badge(f"{copies.in_step} of {copies.wanted} copies", "warn", title)]


def _draining_badges(node: NodeSnapshot, *, with_amount: bool = False) -> list[Badge]:
    drain = node.draining
    if drain is None:
        return []
    if node.problem is not None:
        return [Badge("was draining", "warn", "It may have exited, as expected after a drain")]
    title = "It accepts no more messages, and exits when the last one is finished"
    if drain.messages_left is None or not with_amount:
        return [Badge("draining", "warn", title)]
    return [Badge(f"draining, {number_text(drain.messages_left)} left", "warn", title)]


def client_badges(client: ClientStats) -> list[Badge]:
    """The features that a consumer has negotiated."""
    badges = []
    if client.sample_rate:
        badges.append(Badge(f"sampled {client.sample_rate} %"))
    if client.tls:
        badges.append(Badge("TLS", "good", _tls_details(client)))
    if client.deflate:
        badges.append(Badge("Deflate"))
    if client.snappy:
        badges.append(Badge("Snappy"))
    return badges


def row_class(badges: Iterable[Badge]) -> str:
    """The CSS class of a table row with these badges."""
    kinds = {badge.kind for badge in badges}
    return "trouble" if "bad" in kinds else "caution" if "warn" in kinds else ""


def _age(now: float, then: float) -> str:
    return duration_text(max(0.0, now - then))


def _tls_details(client: ClientStats) -> str:
    protocol = client.tls_negotiated_protocol
    parts = [client.tls_version, client.tls_cipher_suite, protocol and f"protocol {protocol}"]
    if client.tls_negotiated_protocol_is_mutual:
        parts.append("mutual")
    return ", ".join(part for part in parts if part)
