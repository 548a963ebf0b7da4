"""What a consumer has done, in numbers."""

from __future__ import annotations

import attrs

__all__ = ["ConnectionStats", "ConsumerStats", "Counters"]


@attrs.frozen
class ConnectionStats:
    """One connection of a consumer, as it is now."""

    address: str
    rdy: int
    in_flight: int
    messages: int
    """Received since it connected."""
    version: str
    """Of the nsqd."""


@attrs.frozen
class ConsumerStats:
    """What a consumer has done since it started."""

    received: int
    finished: int
    requeued: int
    given_up: int
    """Messages above `max_attempts`, counted each time that they come."""
    failed_answers: int
    """FIN, REQ and TOUCH that nsqd refused because they came too late."""
    lost_answers: int
    """Answers to messages whose connection was gone: those messages come again."""
    timed_out: int
    """Messages that nsqd took back before they were answered."""
    connects: int
    failed_connects: int
    queued: int
    """Received and not handed out yet."""
    in_flight: int
    backoff_level: int
    is_starved: bool
    """Whether a larger `max_in_flight` would bring more."""
    connections: tuple[ConnectionStats, ...]


@attrs.define(eq=False)
class Counters:
    """What `ConsumerStats` counts, while it counts."""

    received: int = 0
    finished: int = 0
    requeued: int = 0
    given_up: int = 0
    failed_answers: int = 0
    lost_answers: int = 0
    timed_out: int = 0
    connects: int = 0
    failed_connects: int = 0
