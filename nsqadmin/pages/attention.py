"""What an operator should look at, over all topics: backlogs without a consumer, time-outs, old messages."""

from __future__ import annotations

import time
from collections.abc import Iterable

from attrs import define

from nsqadmin.cluster.snapshot import ChannelSnapshot, TopicSnapshot
from nsqadmin.pages.badges import PAUSED, Badge
from nsqadmin.text import duration_text, number_text

__all__ = ["AttentionItem", "attention_items"]

OLD_SECONDS = 15 * 60


@define(frozen=True)
class AttentionItem:
    """One line of the list."""

    topic: str
    channel: str
    badges: list[Badge]
    text: str
    weight: float
    """Orders the list, the heaviest first."""


def attention_items(topics: Iterable[TopicSnapshot]) -> list[AttentionItem]:
    """All items, the worst first."""
    items = []
    for topic in topics:
        for channel in topic.channels.values():
            item = _channel_item(channel)
            if item is not None:
                items.append(item)
        if not topic.channels and topic.stats.depth:
            text = f"{number_text(topic.stats.depth)} messages wait in a topic without a channel"
            badges = [Badge("no channel", "warn")]
            items.append(AttentionItem(topic.name, "", badges, text, float(topic.stats.depth) / 1000))
    return sorted(items, key=lambda item: -item.weight)


def _channel_item(channel: ChannelSnapshot) -> AttentionItem | None:
    stats = channel.stats
    badges: list[Badge] = []
    reasons: list[str] = []
    # A backlog without a consumer weighs most, then time-outs, then the number and the age of messages.
    weight = 0.0
    if channel.no_consumer_since is not None and (stats.depth or stats.deferred_count):
        badges.append(Badge("no consumer", "bad"))
        since = time.strftime("%H:%M:%S", time.localtime(channel.no_consumer_since))
        reasons.append(f"{number_text(stats.depth)} messages waiting, no consumer since {since}")
        weight += 1e6 + stats.depth
    if stats.paused and stats.depth:
        badges.append(PAUSED)
        reasons.append(f"{number_text(stats.depth)} messages waiting")
        weight += stats.depth
    if channel.timeouts_per_minute:
        badges.append(Badge("time-outs", "warn"))
        reasons.append(f"{number_text(channel.timeouts_per_minute)} in the last minute")
        weight += 1e5 + channel.timeouts_per_minute
    oldest = channel.oldest_unfinished_ms
    if oldest is not None and oldest >= OLD_SECONDS * 1000:
        badges.append(Badge("old messages", "warn"))
        reasons.append(f"the oldest is {duration_text(oldest / 1000)} old")
        weight += oldest / 1000
    if not badges:
        return None
    return AttentionItem(channel.topic, channel.name, badges, "; ".join(reasons), weight)
