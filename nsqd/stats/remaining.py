"""The messages that a broker still holds during a drain, by topic and channel, and what blocks them.

Messages leave when they are finished. They do not drain by themselves from a topic without a channel, from a channel
without a consumer, or while the topic or channel is paused; and deferred messages not before they are due.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from nsqd.broker.channel import Channel
from nsqd.broker.topic import Topic

if TYPE_CHECKING:
    from nsqd.broker.broker import Broker

__all__ = ["Remaining", "remaining"]


@attrs.frozen
class Remaining:
    """Messages in one topic or channel. `channel`: empty for those that the topic has not given to any channel.

    `blocked_by`: why they do not drain by themselves (`no channel`, `no consumer`, `paused`, `deferred`), or empty.
    """

    topic: str
    channel: str
    messages: int
    blocked_by: str


def remaining(broker: Broker) -> Iterator[Remaining]:
    """The topics and channels that hold messages, sorted by topic."""
    for name in sorted(broker.topics):
        topic = broker.topics.get(name)
        if topic is None:  # deleted since the names were sorted
            continue
        if topic.depth:
            yield Remaining(name, "", topic.depth, _why_topic(topic))
        for channel in list(topic.channels.values()):
            waiting = channel.depth + len(channel.deferred) + len(channel.leaving)
            messages = waiting + channel.in_flight_count
            if messages:
                yield Remaining(name, channel.name, messages, _why_channel(channel))


def _why_topic(topic: Topic) -> str:
    if topic.paused:
        return "paused"
    return "" if topic.channels else "no channel"


def _why_channel(channel: Channel) -> str:
    if channel.paused:
        return "paused"
    if channel.leaving and not channel.depth + channel.in_flight_count + len(channel.deferred):
        return "dead letters cannot be written"
    if not channel.subscriptions:
        return "no consumer"
    return "" if channel.depth or channel.in_flight_count else "deferred"
