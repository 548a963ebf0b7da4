"""One client's place on a channel: its window (RDY) and the messages it has in flight.

An entry in flight is a tuple `(seq, attempts, deadline, limit, frame)`: `limit` is the moment that no TOUCH can
pass; `frame` is kept only where no log has it (ephemeral channels). All of a client's deliveries have the same
time-out, so the table, a dict, is sorted by deadline by itself: a delivery goes to its end, and so does a TOUCH. Only
a TOUCH that hits the limit has a nearer deadline than its place says; those few are in a small heap as well.

When its connection ends, a subscription that still has messages in flight stays with the channel as *departed*, until
they have timed out.
"""

from __future__ import annotations

import heapq
import math
import random
from typing import TYPE_CHECKING

import attrs

from nsqd.broker.errors import NotInFlight, NotOwner
from nsqd.broker.locality import Locality

if TYPE_CHECKING:
    from nsqd.broker.channel import Channel
    from nsqd.broker.outbox import Outbox

__all__ = ["InFlight", "Subscription"]

InFlight = tuple[int, int, float, float, bytes | None]

CAPPED_SLACK = 100

_NOT_THERE: InFlight = (-1, 0, 0.0, 0.0, None)


@attrs.define(eq=False)
class Subscription:
    """`timeout`: seconds a delivery may stay unanswered. `sample`: percent of messages to deliver, 0 for all."""

    channel: Channel
    outbox: Outbox
    timeout: float
    sample: int = 0
    locality: Locality = Locality.REMOTE
    rdy: int = 0
    in_flight: dict[bytes, InFlight] = attrs.field(factory=dict)  # by message id
    gone: bool = False  # the connection has ended
    waiting: bool = False  # in the channel's queue of those that may take messages
    held: bool = False  # its SUB is not answered yet, so nothing may be delivered
    message_count: int = 0  # deliveries
    finish_count: int = 0
    requeue_count: int = 0
    alarm_at: float = math.inf
    _capped: list[tuple[float, bytes]] = attrs.field(factory=list)

    @property
    def room(self) -> int:
        """How many messages it may get now. 0 or less: none."""
        if self.held or self.gone or self.outbox.size >= self.outbox.limit:
            return 0
        return self.rdy - len(self.in_flight)

    def sampled_out(self) -> bool:
        """Whether this message is one of those that a sampling client does not get."""
        return self.sample > 0 and random.randrange(100) > self.sample

    # --- commands of the client

    def set_rdy(self, count: int) -> None:
        self.rdy = count
        self.channel.offer(self)

    def finish(self, ids: list[bytes]) -> list[bytes]:
        """FIN for several messages; returns those ids that were not in flight here."""
        pop = self.in_flight.pop
        seqs = [pop(message_id, _NOT_THERE)[0] for message_id in ids]
        missing: list[bytes] = []
        if -1 in seqs:
            missing = [message_id for message_id, seq in zip(ids, seqs, strict=True) if seq < 0]
            seqs = [seq for seq in seqs if seq >= 0]
        if seqs:
            self.finish_count += len(seqs)
            self.channel.finished(seqs)
            self.channel.offer(self)
        return missing

    def requeue(self, message_id: bytes, delay: float) -> None:
        """REQ. `delay` in seconds; 0: at once. `NotInFlight`, `NotOwner`."""
        entry = self._pop(message_id)
        self.requeue_count += 1
        self.channel.requeue_count += 1
        self.channel.requeue(entry, delay)
        self.channel.offer(self)

    def touch(self, message_id: bytes) -> None:
        """TOUCH: the time-out begins anew, but never passes the limit. `NotInFlight`, `NotOwner`."""
        seq, attempts, _, limit, frame = self._pop(message_id)
        deadline = self.channel.now + self.timeout
        if deadline > limit:
            deadline = limit
            self._cap(limit, message_id)
        self.in_flight[message_id] = (seq, attempts, deadline, limit, frame)
        self.channel.timers.set(self, deadline)

    def _cap(self, limit: float, message_id: bytes) -> None:
        """Note that this one comes back at its limit. Notes on what was answered since must not pile up."""
        if len(self._capped) > 2 * len(self.in_flight) + CAPPED_SLACK:
            live = {
                (when, noted)
                for when, noted in self._capped
                if self.in_flight.get(noted, _NOT_THERE)[2] == when
            }
            self._capped = sorted(live)  # a sorted list is a heap
        heapq.heappush(self._capped, (limit, message_id))

    def close_window(self) -> None:
        """CLS: nothing more is delivered."""
        self.rdy = 0

    def _pop(self, message_id: bytes) -> InFlight:
        entry = self.in_flight.pop(message_id, None)
        if entry is None:
            raise self.why_missing(message_id)
        return entry

    def why_missing(self, message_id: bytes) -> NotInFlight | NotOwner:
        """The error for an id that is not in flight here."""
        return NotOwner() if self.channel.has_in_flight(message_id) else NotInFlight()

    # --- time

    def alarm(self, now: float) -> None:
        """Take back what has not been answered in time."""
        late = []
        for message_id, entry in self.in_flight.items():
            if entry[2] > now:
                break
            late.append(message_id)
        while self._capped and self._capped[0][0] <= now:
            _, message_id = heapq.heappop(self._capped)
            entry_or_none = self.in_flight.get(message_id)
            if entry_or_none is not None and entry_or_none[2] <= now:
                late.append(message_id)
        for message_id in late:
            entry_or_none = self.in_flight.pop(message_id, None)
            if entry_or_none is not None:
                self.channel.timed_out(entry_or_none)
        if late:
            self.channel.offer(self)
        self._next_alarm()

    def _next_alarm(self) -> None:
        when = self._capped[0][0] if self._capped else math.inf
        for entry in self.in_flight.values():
            when = min(when, entry[2])
            break
        if when < math.inf:
            self.channel.timers.set(self, when)
        elif self.gone:
            self.channel.forget(self)
