"""The figures of a consumer."""

from __future__ import annotations

import attrs

__all__ = ["ConnectionStats", "ConsumerStats", "Counters"]


@attrs.frozen
class ConnectionStats:
    """One connection of a consumer."""

    address: str
    rdy: int
    in_flight: int
    messages: int
    """Received on this connection."""
    version: str
    """That of the nsqd."""


@attrs.frozen
class ConsumerStats:
    """Counters of a consumer since its start, and its current state."""

    received: int
    finished: int
    requeued: int
    given_up: int
    """Deliveries of messages above `max_attempts`."""
    failed_answers: int
    """FINs, REQs and TOUCHs that nsqd refused because they came too late."""
    lost_answers: int
    """Answers to messages whose connection was lost; nsqd delivers those messages again."""
    timed_out: int
    """Messages that were not answered in time; nsqd delivers them again."""
    connects: int
    failed_connects: int
    queued: int
    """Received, and not yet passed to a handler."""
    in_flight: int
    backoff_level: int
    is_starved: bool
    """Whether a larger `max_in_flight` would increase the throughput."""
    connections: tuple[ConnectionStats, ...]


@attrs.define(eq=False)
class Counters:
    """The counters of `ConsumerStats`, with the same names."""

    received: int = 0
    finished: int = 0
    requeued: int = 0
    given_up: int = 0
    failed_answers: int = 0
    lost_answers: int = 0
    timed_out: int = 0
    connects: int = 0
    failed_connects: int = 0
