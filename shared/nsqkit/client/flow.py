"""The RDY count of each connection of a consumer: sharing, redistribution and backoff. No I/O, no clock.

RDY n on a connection allows nsqd n unanswered messages. No connection gets more than its nsqd allows.

**Unanswered messages never exceed `max_in_flight`**, over all connections. A lower RDY takes nothing back: messages
that are unanswered stay with their handlers, and others may be on their way while nsqd has not read the new RDY. So a
connection *holds* the larger of its RDY and its unanswered messages, with those that may still come for `transit_s`
after its RDY was lowered. What it holds is not given to others. While a lowered connection holds more than its RDY,
`holding` is set, and `answered` and `arrived` are to be called.

**In the normal state** each connection has `max_in_flight / connections`, at least 1. With more connections than
`max_in_flight`, some have 1 and the others 0. Every few seconds (`tick`) those that were idle for too long, or had
their turn for long enough, pass it to those that have waited longest. So nobody waits for more turns than there are
connections. A connection with an unanswered message is not idle, however long its handler takes.

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

    transit_s: float
    """For how long after a lower RDY was sent messages for the old one may come."""

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
    """In the order of their turns: the first has waited longest."""
    holding: bool = attrs.field(default=False, init=False)
    """Whether a connection holds more than its RDY."""
    _may_come: dict[Link, tuple[int, float]] = attrs.field(factory=dict, init=False)
    """Connection whose RDY was lowered -> messages that may still come, until when."""
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
        self._may_come.pop(link, None)
        link.rdy = 0
        self._share(now)

    def arrived(self, link: Link, count: int, now: float) -> None:
        """Messages came, and count as unanswered now. Needed only while `holding`."""
        if link in self._may_come:
            expected, until = self._may_come.pop(link)
            if expected > count:
                self._may_come[link] = expected - count, until
            self._share(now)

    def answered(self, now: float) -> None:
        """A message was answered, or timed out. Needed only while `holding`."""
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
        if now >= self._transit_end:
            self._forget_arrived(now)
            self._share(now)

    @property
    def next_at(self) -> float:
        """When `tick` must be called; infinity: not before another event."""
        if self._stopped:
            return math.inf
        resume_at = math.inf if self._resume_at is None else self._resume_at
        return min(resume_at, self._redistribute_at, self._transit_end)

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
        """Give every connection its share. RDYs are lowered first; what is held by others is not given."""
        if self._stopped or self._resume_at is not None:
            return
        if self.level:
            self._probe_again(now)
        else:
            target, room = self._target(), self.max_in_flight
            for link in self.links:
                if link.rdy > min(target, room):
                    self._set(link, min(target, room), now)
                room -= link.rdy
            self._raise(target, now)
        self._plan(now)

    def _target(self) -> int:
        each = self.max_in_flight // max(1, len(self.links))
        return min(max(1, each), self.max_in_flight)

    def _raise(self, target: int, now: float) -> None:
        """Raise connections to `target` in the order of their turns, as far as there is room."""
        self._forget_arrived(now)
        room = self.max_in_flight
        self.holding = False
        for link in self.links:
            held = self._held(link)
            room -= held
            self.holding = self.holding or held > link.rdy
        for link in self.links:
            if room <= 0:
                return
            if link.rdy < target:
                before = self._held(link)
                self._set(link, min(target, before + room), now)
                room -= self._held(link) - before

    def _held(self, link: Link) -> int:
        """Messages that the connection has or may still get."""
        expected, _ = self._may_come.get(link, (0, 0.0))
        return max(link.rdy, link.unanswered + expected)

    def _set(self, link: Link, count: int, now: float) -> None:
        """Send RDY if it differs; less than `count` if nsqd allows no more."""
        count = max(0, min(count, link.max_rdy))
        if count == link.rdy:
            return
        if count < link.rdy:
            # Those that came before are seen: at most the rest of the old window is on its way.
            expected, _ = self._may_come.get(link, (0, 0.0))
            expected = max(expected, link.rdy - link.unanswered)
            if expected > 0:
                self._may_come[link] = expected, now + link.transit_s
            self.holding = True
        if link.rdy == 0:
            link.rdy_since = now
        link.rdy = count
        link.send_rdy(count)

    def _forget_arrived(self, now: float) -> None:
        for link in [link for link, (_, until) in self._may_come.items() if until <= now]:
            del self._may_come[link]

    @property
    def _transit_end(self) -> float:
        if self._resume_at is not None:
            return math.inf
        return min((until for _, until in self._may_come.values()), default=math.inf)

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
        for link in [link for link in self.links if link.rdy > 0 and self._had_its_turn(link, now)]:
            self._set(link, 0, now)
            self.links.remove(link)
            self.links.append(link)
        self._share(now)

    def _had_its_turn(self, link: Link, now: float) -> bool:
        idle_since = max(link.last_message_at, link.rdy_since)
        return (
            link.unanswered == 0 and now - idle_since > self.options.low_rdy_idle_timeout
        ) or now - link.rdy_since > self.options.low_rdy_timeout

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
        self._forget_arrived(now)
        if self.links and self._total() == 0:
            free = self.max_in_flight - sum(self._held(link) for link in self.links)
            self.holding = free < self.max_in_flight
            if free > 0:
                link = self.links.pop(0)
                self.links.append(link)
                self._set(link, 1, now)
