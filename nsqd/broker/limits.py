"""What is done about the limits that are set for a topic and its channels.

Three moments:

    a publish            `admit` refuses it, where the policy is `reject`
    after a round        `trim` drops the oldest that wait, where the policy is `drop_oldest`
    once a second        `look`: what is too old expires, channels without consumers are deleted or paused

*Waiting* is what is ready, requeued or deferred; what is in flight is in no limit, and is never dropped. The topic's
own messages wait while it has no channel, or is paused: then its own limits count, not those of its channels.

A topic without any limit has no `TopicLimits`: then a publish and a commit pay for one test of an attribute.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

import attrs

from nsqd.broker.ages import Ages
from nsqd.broker.channel import Channel
from nsqd.broker.context import BrokerContext
from nsqd.broker.errors import LimitReached, Refused
from nsqd.rules import Policy, Settings
from nsqkit.logging import RateLimitedLogger, get_logger
from nsqkit.wire.names import is_ephemeral

__all__ = ["IDLE_ALARM", "Bounded", "LimitedTopic", "TopicLimits"]

log = get_logger("broker")

SECOND_NS: Final = 10**9
IDLE_ALARM: Final = 0.75
"""The part of `idle_ttl` after which a channel without a consumer is an alarm."""
# Steps by which one trim approaches `max_bytes`, as sizes are averages. What is left is for the next round.
TRIM_STEPS: Final = 8


class Bounded(Protocol):
    """A channel, or a topic with its own messages."""

    settings: Settings

    @property
    def trims(self) -> bool:
        """Whether the oldest messages go when a limit is reached; else publishes are refused."""

    @property
    def waiting(self) -> int:
        """Messages that wait."""

    def waiting_bytes(self) -> int:
        """Bytes of their frames, as an estimate."""

    def drop_oldest(self, count: int, cause: str) -> int:
        """Drop so many of those that wait, the oldest first; returns how many there were."""

    def expire(self, before: int) -> None:
        """Drop those that wait and are too old: published with a seq below `before`."""


class LimitedTopic(Bounded, Protocol):
    """The topic, as its limits see it."""

    context: BrokerContext
    name: str
    channels: dict[str, Channel]
    rejected: dict[str, Counter[str]]
    """Messages of refused publishes, by the channel ("": the topic itself) and the limit."""

    @property
    def flowing(self) -> bool: ...
    @property
    def needed_from(self) -> int:
        """A seq such that nobody needs a message below it."""

    def pending(self) -> tuple[int, int]:
        """How many messages the round has taken and not committed yet, and their bytes."""

    def delete_channel(self, name: str) -> None: ...
    def pause_channel(self, name: str, paused: bool) -> None: ...


@attrs.define
class _Room:
    """`left`: what may still be published in this round until a limit is reached."""

    left: float
    limit: str
    most: int
    channel: str


_ENDLESS = _Room(math.inf, "", 0, "")  # whatever is taken from it


class TopicLimits:
    """The limits of one topic and its channels, all of which may change: then another one is made."""

    def __init__(self, topic: LimitedTopic, ages: Ages) -> None:
        self._topic = topic
        self._context = topic.context
        self._ages = ages
        ages.found = self._expire
        self._round = -1
        self._messages = self._bytes = _ENDLESS
        self._refused = RateLimitedLogger(log)
        self._failed = RateLimitedLogger(log)
        self.rejects = self.trims = False
        for bounded in self._all():
            self.include(bounded)

    def include(self, bounded: Bounded) -> None:
        """A channel is new."""
        self._round = -1
        is_bounded = bounded.settings.max_depth is not None or bounded.settings.max_bytes is not None
        self.rejects = self.rejects or (is_bounded and not bounded.trims)
        self.trims = self.trims or (is_bounded and bounded.trims)

    def _all(self) -> list[Bounded]:
        return [self._topic, *self._topic.channels.values()]

    # --- a publish

    def admit(self, count: int, size: int) -> None:
        """Take note of a publish of `count` messages in frames of `size` bytes. `LimitReached`: it must not be."""
        if self._round != self._context.round:
            self._measure()
        messages, room = self._messages, self._bytes
        if count > messages.left:
            self._refuse(messages, count)
        if size > room.left:
            self._refuse(room, count)
        messages.left -= count
        room.left -= size

    def _measure(self) -> None:
        """Find the channels that have the least room. Once a round, so that a publish costs the same with many."""
        self._round = self._context.round
        self._messages = self._bytes = _ENDLESS
        count, size = self._topic.pending()
        bounded: Bounded
        for name, bounded in self._topic.channels.items() if self._topic.flowing else [("", self._topic)]:
            settings = bounded.settings
            if bounded.trims:
                continue
            if settings.max_depth is not None:
                left = settings.max_depth - bounded.waiting - count
                room = _Room(left, "max_depth", settings.max_depth, name)
                self._messages = min(self._messages, room, key=_left)
            if settings.max_bytes is not None:
                left = settings.max_bytes - bounded.waiting_bytes() - size
                room = _Room(left, "max_bytes", settings.max_bytes, name)
                self._bytes = min(self._bytes, room, key=_left)

    def _refuse(self, room: _Room, count: int) -> None:
        self._topic.rejected.setdefault(room.channel, Counter())[room.limit] += count
        whose = f"channel {room.channel}" if room.channel else f"topic {self._topic.name}"
        what = "messages" if room.limit == "max_depth" else "bytes"
        reason = f"{room.limit} of {whose} is {room.most}, and {room.most - room.left} {what} wait"
        self._refused.log(
            self._context.now,
            "TOPIC(%s): publish refused - %s; add consumers, or raise the limit",
            self._topic.name,
            reason,
        )
        raise LimitReached(reason)

    # --- after a round

    def trim(self) -> None:
        """Drop what is too much."""
        for bounded in self._all():
            if bounded.trims:
                self._trim(bounded)

    def _trim(self, bounded: Bounded) -> None:
        settings = bounded.settings
        if settings.max_depth is not None and (over := bounded.waiting - settings.max_depth) > 0:
            bounded.drop_oldest(over, "max_depth")
        if settings.max_bytes is None:
            return
        for _ in range(TRIM_STEPS):
            waiting, size = bounded.waiting, bounded.waiting_bytes()
            if not waiting or size <= settings.max_bytes:
                return
            # Rather too few than too many: one that is larger than the others may be enough.
            bounded.drop_oldest(max(1, int((size - settings.max_bytes) * waiting / size)), "max_bytes")
        self._context.commit_soon(self._topic.name)

    # --- once a second

    def look(self, now: float) -> None:
        """Expire, trim, and see who is without a consumer for how long."""
        self._expire()
        if self.trims:
            self.trim()
        for channel in list(self._topic.channels.values()):
            if channel.settings.idle_ttl is not None and not is_ephemeral(channel.name):
                self._look_at_idle(channel, channel.settings.idle_ttl / SECOND_NS, now)

    def _expire(self) -> None:
        needed_from = self._topic.needed_from
        for bounded in self._all():
            # With the policy `dead_letter` what is too old is not to be lost.
            if bounded.settings.max_age is not None and (
                bounded.trims or bounded.settings.policy != Policy.DEAD_LETTER
            ):
                bounded.expire(self._ages.boundary(bounded.settings.max_age, needed_from))

    def _look_at_idle(self, channel: Channel, idle_ttl: float, now: float) -> None:
        action = channel.settings.idle_action
        if channel.subscriptions or (action == "pause" and channel.paused):
            channel.idle_since, channel.idle_alarm = None, False
            return
        if channel.idle_since is None:
            channel.idle_since = now
        idle = now - channel.idle_since
        if idle >= idle_ttl:
            self._end_idle(channel, action, idle)
        elif idle >= IDLE_ALARM * idle_ttl and not channel.idle_alarm:
            channel.idle_alarm = True
            log.warning(
                "CHANNEL(%s/%s): no consumer for %.0f s; %sd with %d messages in %.0f s unless one comes (idle_ttl)",
                self._topic.name,
                channel.name,
                idle,
                action,
                channel.waiting,
                idle_ttl - idle,
            )

    def _end_idle(self, channel: Channel, action: str, idle: float) -> None:
        act: Callable[[str], None] = self._topic.delete_channel
        if action == "pause":
            act = lambda name: self._topic.pause_channel(name, True)  # noqa: E731
        waiting = channel.waiting
        try:
            act(channel.name)
        except Refused as reason:  # it is tried again in a second
            text = "CHANNEL(%s/%s): without a consumer for %.0f s, and cannot be %sd - %s"
            self._failed.log(self._context.now, text, self._topic.name, channel.name, idle, action, reason)
            return
        channel.idle_since, channel.idle_alarm = None, False
        text = "CHANNEL(%s/%s): %sd with %d messages, after %.0f s without a consumer (idle_ttl)"
        log.warning(text, self._topic.name, channel.name, action, waiting, idle)


def _left(room: _Room) -> float:
    return room.left
