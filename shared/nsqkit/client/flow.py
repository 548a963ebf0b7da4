"""The RDY count of each connection of a consumer: sharing, redistribution and backoff. No I/O, no clock.

RDY n on a connection allows nsqd n unanswered messages. The sum over all connections never exceeds `max_in_flight`,
and no connection gets more than its nsqd allows.

**In the normal state** each connection has `max_in_flight / connections`, at least 1. With more connections than
`max_in_flight`, some have 1 and the others 0. Every few seconds (`tick`) those that were idle for too long, or had
their turn for long enough, pass it to others, chosen at random.

**Backoff.** The level n counts failures. A failure raises it, a success lowers it; while it is above 0:

    failure or success -> RDY 0 everywhere -> a pause of multiplier * 2^n seconds -> RDY 1 on one connection -> the
    result of that message decides

Results of messages that were in flight when a pause began are not counted. At n = 0 the normal state returns. RDY is
sent **before** the FIN or REQ that caused it: otherwise nsqd would answer that FIN with another message.

All times are seconds of one monotonic clock, given as `now`. `next_at` is when `tick` has something to do.
"""

from __future__ import annotations

import math
import random as _random
from collections.abc import Callable
from typing import Protocol

import attrs

from nsqkit.client.options import ClientOptions

__all__ = ["Flow", "Link"]

RETRY_S = 1.0
"""Between two attempts to resume after a pause while there is no connection."""
STARVED = 0.85
"""Part of its RDY that a starved connection has in flight."""
HIGHEST_LEVEL = 60
"""Of backoff. Reached only with a multiplier of nearly 0."""


class Link(Protocol):
    """A connection as `Flow` sees it."""

    rdy: int
    """The count that was sent last; 0 at first."""
    rdy_since: float
    """When `rdy` last rose from 0."""
    last_message_at: float

    @property
    def max_rdy(self) -> int: ...
    @property
    def unanswered(self) -> int: ...
    def send_rdy(self, count: int) -> None: ...


@attrs.define(eq=False)
class Flow:
    """Decides the RDY of all connections of one consumer."""

    options: ClientOptions
    random: _random.Random = attrs.field(factory=_random.Random)
    on_pause: Callable[[int, float], None] = lambda _level, _pause_s: None
    """Called when a backoff pause begins, with the level and the length of the pause in seconds."""
    on_normal: Callable[[], None] = lambda: None
    """Called when backoff ends."""
    max_in_flight: int = attrs.field(init=False)
    level: int = attrs.field(default=0, init=False)
    """Of backoff; 0 is the normal state."""
    links: list[Link] = attrs.field(factory=list, init=False)
    _resume_at: float | None = attrs.field(default=None, init=False)
    _redistribute_at: float = attrs.field(default=math.inf, init=False)
    _stopped: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.max_in_flight = self.options.max_in_flight

    # Events.

    def add(self, link: Link, now: float) -> None:
        """A connection has subscribed; its RDY is 0."""
        self.links.append(link)
        self._share(now)

    def remove(self, link: Link, now: float) -> None:
        """A connection is lost or gets no more messages. Its share goes to the others."""
        if link not in self.links:
            return
        self.links.remove(link)
        link.rdy = 0
        self._share(now)

    def change_max_in_flight(self, count: int, now: float) -> None:
        """Set the sum of all RDYs from now on; 0 pauses the consumer."""
        self.max_in_flight = count
        self._share(now)

    def stop(self) -> None:
        """Send no RDY from now on."""
        self._stopped = True

    def failed(self, now: float) -> None:
        """A message was requeued as a failure. To be called before the REQ is sent."""
        if self._resume_at is not None or self.options.max_backoff_duration == 0 or self._stopped:
            return
        if self._longest_pause(self.level + 1) <= self.options.max_backoff_duration:
            self.level = min(self.level + 1, HIGHEST_LEVEL)
        if self.level:
            self._pause(now)

    def succeeded(self, now: float) -> None:
        """A message was finished. To be called before the FIN is sent; needed only while `level` is above 0."""
        if self._resume_at is not None or self.level == 0 or self._stopped:
            return
        self.level -= 1
        if self.level:
            self._pause(now)
        else:
            self.on_normal()
            self._share(now)

    def neutral(self, now: float) -> None:
        """A message was requeued, but not as a failure: the level stays, and a backoff continues."""
        if self._resume_at is None and self.level and not self._stopped:
            self._pause(now)

    def tick(self, now: float) -> None:
        """End a pause and redistribute, if it is time."""
        if self._stopped:
            return
        if self._resume_at is not None and now >= self._resume_at:
            self._resume(now)
        if now >= self._redistribute_at:
            self._redistribute(now)
            self._plan(now)

    @property
    def next_at(self) -> float:
        """When `tick` must be called; infinity: not before another event."""
        if self._stopped:
            return math.inf
        return min(math.inf if self._resume_at is None else self._resume_at, self._redistribute_at)

    @property
    def pausing(self) -> bool:
        """Whether a backoff pause is under way."""
        return self._resume_at is not None

    @property
    def is_starved(self) -> bool:
        """Whether a connection has nearly as many unanswered messages as its RDY allows."""
        return any(
            link.unanswered > 0 and link.unanswered >= STARVED * link.rdy for link in self.links if link.rdy
        )

    # Shares.

    def _share(self, now: float) -> None:
        """Give every connection its share. RDYs are lowered first, so that the sum is never exceeded."""
        if self._stopped or self._resume_at is not None:
            return
        if self.level:
            self._probe_again(now)
        else:
            target = self._target()
            for link in self.links:
                if link.rdy > target:
                    self._set(link, target, now)
            for link in self.links:
                self._set(link, target, now)
        self._plan(now)

    def _target(self) -> int:
        each = self.max_in_flight // max(1, len(self.links))
        return min(max(1, each), self.max_in_flight)

    def _set(self, link: Link, count: int, now: float) -> None:
        """Send RDY if it differs; less than `count` if nsqd or `max_in_flight` allows no more."""
        room = self.max_in_flight - self._total() + link.rdy
        count = max(0, min(count, link.max_rdy, room))
        if count == link.rdy:
            return
        if link.rdy == 0:
            link.rdy_since = now
        link.rdy = count
        link.send_rdy(count)

    def _total(self) -> int:
        return sum(link.rdy for link in self.links)

    # Redistribution.

    def _plan(self, now: float) -> None:
        """Schedule a redistribution while there are connections without a share.

        One that is scheduled is not moved: connections that come and go must not put it off for ever.
        """
        needed = len(self.links) > self.max_in_flight > 0 or (self.level > 0 and len(self.links) > 1)
        if not needed:
            self._redistribute_at = math.inf
        elif not now < self._redistribute_at < math.inf:
            self._redistribute_at = now + self.options.rdy_redistribute_interval

    def _redistribute(self, now: float) -> None:
        if self._resume_at is not None:
            return
        had = [link for link in self.links if link.rdy > 0]
        for link in had:
            if self._had_its_turn(link, now):
                self._set(link, 0, now)
        sum_wanted = min(1, self.max_in_flight) if self.level else self.max_in_flight
        # Those that have just lost their share come last: otherwise they could get it back at once.
        waiting = [link for link in self.links if link.rdy == 0]
        self.random.shuffle(waiting)
        waiting.sort(key=lambda link: link in had)
        for link in waiting[: max(0, sum_wanted - self._total())]:
            self._set(link, 1, now)

    def _had_its_turn(self, link: Link, now: float) -> bool:
        idle_since = max(link.last_message_at, link.rdy_since)
        return (
            now - idle_since > self.options.low_rdy_idle_timeout
            or now - link.rdy_since > self.options.low_rdy_timeout
        )

    # Backoff.

    def _pause(self, now: float) -> None:
        pause_s = min(self._pause_length(), self.options.max_backoff_duration)
        self._resume_at = now + pause_s
        for link in self.links:
            self._set(link, 0, now)
        self.on_pause(self.level, pause_s)

    def _longest_pause(self, level: int) -> float:
        return self.options.backoff_multiplier * 2.0**level

    def _pause_length(self) -> float:
        longest = self._longest_pause(self.level)
        if self.options.backoff_strategy == "full_jitter":
            return longest * self.random.random()
        return longest

    def _resume(self, now: float) -> None:
        if not self.links:
            self._resume_at = now + RETRY_S
            return
        self._resume_at = None
        if self.level:
            self._probe_again(now)
            self._plan(now)
        else:
            self._share(now)

    def _probe_again(self, now: float) -> None:
        """Give one connection RDY 1, unless one has it already."""
        if self.max_in_flight == 0:
            for link in self.links:
                self._set(link, 0, now)
        elif self.links and self._total() == 0:
            self._set(self.random.choice(self.links), 1, now)
