"""How many topics and channels clients may create.

A loop that makes up a name for each message (with a number in it, or a time) would fill the disk with folders, and the
registries with names that nobody consumes. So there are limits, far above what a node is used for: for all, and for one
connection, so that one wrong program reaches its own limit first and the others go on. What exists is served whatever
the limits are.

This is no part of the broker, which also creates what copies, registries and the disk tell it to: those are not
refused.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

import attrs

from nsqd.broker import Broker, Refused
from nsqkit.logging import RateLimitedLogger, get_logger

__all__ = ["Creator", "NameLimits", "TooManyNames"]

_COUNT_EVERY_S: Final = 1.0


class TooManyNames(Refused):
    """A topic or channel is not created, as there are too many. `code`: for HTTP."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


class Creator(Protocol):
    """A connection."""

    created_names: int
    """Topics and channels that it has created."""


@attrs.define(eq=False)
class NameLimits:
    """The limits of one daemon; 0: none."""

    broker: Broker
    max_topics: int = 0
    max_channels: int = 0
    max_per_connection: int = 0
    _channels: int = attrs.field(default=0, init=False)
    """How many there are, or a few more: as counted, and with those that were allowed since."""
    _counted_at: float = attrs.field(default=-math.inf, init=False)
    _refusals: RateLimitedLogger = attrs.field(
        factory=lambda: RateLimitedLogger(get_logger("nsqd")), init=False
    )

    def allow_topic(self, topic: str, creator: Creator | None = None) -> None:
        """Return if the topic exists or may be created, and `TooManyNames` otherwise."""
        if topic in self.broker.topics:
            return
        if self.max_topics and len(self.broker.topics) >= self.max_topics:
            raise self._too_many("TOPICS", topic, f"there are {self.max_topics} topics (--max-topics)")
        self._count_for(topic, creator)

    def allow_channel(self, topic: str, channel: str, creator: Creator | None = None) -> None:
        """The same for a channel, and before it for its topic."""
        self.allow_topic(topic, creator)
        found = self.broker.topics.get(topic)
        if found is not None and channel in found.channels:
            return
        if self.max_channels and self._channel_count() >= self.max_channels:
            reason = f"there are {self.max_channels} channels (--max-channels)"
            raise self._too_many("CHANNELS", f"{topic}/{channel}", reason)
        self._count_for(f"{topic}/{channel}", creator)
        self._channels += 1

    def _count_for(self, name: str, creator: Creator | None) -> None:
        if creator is None:
            return
        if self.max_per_connection and creator.created_names >= self.max_per_connection:
            limit = self.max_per_connection
            reason = f"this connection has created {limit} (--max-names-per-connection)"
            raise self._too_many("NAMES", name, reason)
        creator.created_names += 1

    def _channel_count(self) -> int:
        """Counted once a second at most: there may be 100,000 topics."""
        if self.broker.now >= self._counted_at + _COUNT_EVERY_S:
            self._channels = sum(len(topic.channels) for topic in self.broker.topics.values())
            self._counted_at = self.broker.now
        return self._channels

    def _too_many(self, what: str, name: str, reason: str) -> TooManyNames:
        text = f"too many {what.lower()}: {reason}"
        self._refusals.log(self.broker.now, "LIMITS: %s is not created: %s", name, text)
        return TooManyNames(text, f"TOO_MANY_{what}")
