"""One client's subscription to a channel: its window (RDY) and its messages in flight.

An entry in flight is a tuple `(seq, attempts, deadline, limit)`: `limit` is the latest deadline that TOUCH can set. All
deliveries to a client have the same time-out, so the table, a dict, is ordered by deadline without any sorting: a
delivery is inserted at its end, and so is a TOUCH. Only a TOUCH that hits the limit gets an earlier deadline than its
position implies; those few are in a small heap as well.

How long a client works on a message is sampled: of the messages that it finishes with one write, the first one. That
costs one look-up for each run of FINs, and the average of such samples is shown by `/stats`.

When its connection ends, a subscription that still has messages in flight stays with the channel as *disconnected*
until they have timed out.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from itertools import islice

import attrs

from nsqd.broker.locality import Locality
from nsqd.broker.outbox import Outbox

__all__ = ["InFlight", "Subscription"]

InFlight = tuple[int, int, float, float]

# Entries that `_capped` may have beyond twice the messages in flight, before it is cleaned up.
CAPPED_SLACK = 100
# Messages that time out in one round, which bounds its length; the next round has more.
LATE_AT_ONCE = 2000
# Samples in the average of the handling time, about: a new one weighs this part.
SAMPLES = 16
# Entries that are examined for the oldest delivery, which bounds the cost of `/stats`.
EXAMINED = 1000

_MISSING: InFlight = (-1, 0, 0.0, 0.0)


@attrs.define(eq=False)
class Subscription:
    """`timeout`: seconds until an unanswered delivery times out, `max_timeout`: the same, however often it is touched.
    `sample`: percent of messages to deliver; 0: all.

    `on_timeout` gets the entries that were not answered in time and are no longer in flight.
    """

    outbox: Outbox
    timeout: float
    max_timeout: float
    on_timeout: Callable[[Subscription, list[InFlight]], None]
    sample: int = 0
    locality: Locality = Locality.REMOTE
    rdy: int = 0
    in_flight: dict[bytes, InFlight] = attrs.field(factory=dict)  # by message id
    disconnected: bool = False
    waiting: bool = False  # in the queue of `Delivery`
    awaiting_commit: bool = False  # its SUB is not answered yet, and the OK must precede the first message
    message_count: int = 0  # deliveries
    finish_count: int = 0
    requeue_count: int = 0
    finished_at: float | None = None  # of its last FIN
    handling_time: float | None = None  # average seconds from delivery to FIN; None: not measured yet
    alarm_at: float = math.inf
    _capped: list[tuple[float, bytes]] = attrs.field(factory=list)  # heap of (limit, message id)

    @property
    def room(self) -> int:
        """How many messages it may get now; none if 0 or negative."""
        if self.awaiting_commit or self.disconnected or self.outbox.size >= self.outbox.limit:
            return 0
        return self.rdy - len(self.in_flight)

    def close_window(self) -> None:
        """CLS: stop deliveries."""
        self.rdy = 0

    def is_sampled_out(self) -> bool:
        """Draw whether a client that samples does not get the next message."""
        # With `>`, a rate of n delivers n + 1 of 100.
        return self.sample > 0 and random.randrange(100) > self.sample

    # --- messages in flight

    def finish(self, ids: list[bytes], now: float) -> tuple[list[int], list[bytes]]:
        """FIN: remove messages; the seqs of those that were in flight here, the ids of those that were not."""
        first = self.in_flight.get(ids[0]) if ids else None
        if first is not None:
            handled, average = now - first[3] + self.max_timeout, self.handling_time
            self.handling_time = handled if average is None else average + (handled - average) / SAMPLES
            self.finished_at = now
        pop = self.in_flight.pop
        seqs = [pop(message_id, _MISSING)[0] for message_id in ids]
        if -1 not in seqs:  # as a rule: one test for all of them instead of one for each
            return seqs, []
        missing = [message_id for message_id, seq in zip(ids, seqs, strict=True) if seq < 0]
        return [seq for seq in seqs if seq >= 0], missing

    def touch(self, message_id: bytes, now: float) -> float | None:
        """Restart the time-out, within the limit. Returns the new deadline, or None if it is not in flight here."""
        entry = self.in_flight.pop(message_id, None)
        if entry is None:
            return None
        seq, attempts, _, limit = entry
        deadline = now + self.timeout
        if deadline > limit:
            deadline = limit
            self._cap(limit, message_id)
        self.in_flight[message_id] = (seq, attempts, deadline, limit)
        return deadline

    def _cap(self, limit: float, message_id: bytes) -> None:
        """Note that this message times out at its limit, and discard notes on messages answered since."""
        if len(self._capped) > 2 * len(self.in_flight) + CAPPED_SLACK:
            live = {
                (when, noted)
                for when, noted in self._capped
                if self.in_flight.get(noted, _MISSING)[2] == when
            }
            self._capped = sorted(live)  # a sorted list is a heap
        heapq.heappush(self._capped, (limit, message_id))

    def oldest_delivery(self) -> float | None:
        """When the oldest message in flight was delivered; None: there is none. Of many, those that time out first are
        examined: only messages that were touched can be older.
        """
        limits = [entry[3] for entry in islice(self.in_flight.values(), EXAMINED)]
        return min(limits) - self.max_timeout if limits else None

    # --- time

    def alarm(self, now: float) -> None:
        """Remove the messages that were not answered in time, and pass them to `on_timeout`."""
        late: list[bytes] = []
        for message_id, entry in self.in_flight.items():
            if entry[2] > now or len(late) >= LATE_AT_ONCE:  # the table is in the order of deadlines
                break
            late.append(message_id)
        while self._capped and self._capped[0][0] <= now:
            _, message_id = heapq.heappop(self._capped)
            if self.in_flight.get(message_id, (0, 0, math.inf))[2] <= now:
                late.append(message_id)
        # A message may be listed twice: by its position in the table, and by its limit.
        popped = [self.in_flight.pop(message_id, _MISSING) for message_id in late]
        self.on_timeout(self, [entry for entry in popped if entry is not _MISSING])

    @property
    def next_timeout(self) -> float:
        """The earliest deadline; infinity when nothing is in flight."""
        when = self._capped[0][0] if self._capped else math.inf
        for entry in self.in_flight.values():
            return min(when, entry[2])
        return when
