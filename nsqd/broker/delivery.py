"""Who gets the next message of a channel.

Subscriptions that have room wait in a queue. `pump` takes the first, gives it its share of what can be delivered (the
source decides how much fits into one turn), and puts it back at the end: the load is shared by turns. With
topology-aware consumption there is one queue for each locality, and the nearest queue that is not empty is served.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain, islice
from typing import Protocol

from nsqd.broker.locality import Locality
from nsqd.broker.subscription import InFlight, Subscription

__all__ = ["Delivery", "MessageSource"]

PUMP_BYTES = 1024 * 1024  # delivered by one pump of a channel, before other channels have their turn
OWNERS_SEARCHED = 64  # clients that are searched for a message id that is not in flight where it was answered


class MessageSource(Protocol):
    """The channel, as delivery sees it."""

    paused: bool

    @property
    def depth(self) -> int:
        """Messages that can be delivered."""

    def serve(self, subscription: Subscription, limit: int) -> bool:
        """Deliver up to `limit` messages to this subscription; False when bodies have to be read first."""


class Delivery:
    """The subscriptions of one channel. `disconnected`: those whose connection has ended with messages in flight."""

    __slots__ = ("_deliveries_before", "_queues", "disconnected", "subscriptions")

    def __init__(self, *, by_locality: bool) -> None:
        self.subscriptions: dict[Subscription, None] = {}
        self.disconnected: dict[Subscription, None] = {}
        # One queue serves everybody where localities do not count.
        self._queues: list[OrderedDict[Subscription, None]] = [
            OrderedDict() for _ in (Locality if by_locality else (Locality.REMOTE,))
        ]
        self._deliveries_before = [0 for _ in Locality]  # to those whose connection has ended

    def _queue_of(self, subscription: Subscription) -> OrderedDict[Subscription, None]:
        return self._queues[subscription.locality if len(self._queues) > 1 else 0]

    def _next_queue(self) -> OrderedDict[Subscription, None]:
        for queue in self._queues:
            if queue:
                return queue
        return self._queues[-1]

    # --- turns

    def offer(self, subscription: Subscription) -> bool:
        """Queue a subscription if it has room; whether it is queued."""
        if not subscription.waiting and subscription.room > 0:
            subscription.waiting = True
            self._queue_of(subscription)[subscription] = None
        return subscription.waiting

    @property
    def has_waiting(self) -> bool:
        """Whether anybody has room."""
        return bool(self._next_queue())

    @property
    def demand(self) -> int:
        """How many messages the queued subscriptions would take."""
        return sum(subscription.room for subscription in chain.from_iterable(self._queues))

    def pump(self, source: MessageSource) -> bool:
        """Deliver to those who have room. True when it stopped at `PUMP_BYTES` and there is more to deliver."""
        budget, share, turns = PUMP_BYTES, 0, 0
        while (queue := self._next_queue()) and not source.paused:
            depth = source.depth
            if depth <= 0:
                return False
            if budget <= 0:
                return True
            if turns <= 0:  # once a lap: shares that shrink with what is left would favour the first
                turns = len(queue)
                share = max(1, depth // turns)
            turns -= 1
            subscription = queue.popitem(last=False)[0]
            room = subscription.room
            if room > 0:
                before = subscription.outbox.size
                if not source.serve(subscription, min(room, share)):
                    queue[subscription] = None
                    queue.move_to_end(subscription, last=False)
                    return False  # bodies are being read; the channel is pumped again then
                budget -= subscription.outbox.size - before + 1
                if subscription.room > 0:
                    queue[subscription] = None
                    continue
            subscription.waiting = False
        return False

    # --- coming and going

    def add(self, subscription: Subscription) -> None:
        self.subscriptions[subscription] = None

    def remove(self, subscription: Subscription) -> bool:
        """A connection has ended; False when the subscription was not here any more."""
        if self.subscriptions.pop(subscription, 0) == 0:
            return False
        subscription.disconnected = True
        subscription.waiting = False
        self._queue_of(subscription).pop(subscription, None)
        self._deliveries_before[subscription.locality] += subscription.message_count
        return True

    def clear(self) -> None:
        """The channel is deleted: disconnect everybody."""
        for subscription in list(self.subscriptions):
            subscription.disconnected = True
            subscription.in_flight.clear()
            subscription.outbox.client.disconnect()
        for subscription in self.disconnected:
            subscription.in_flight.clear()
        self.subscriptions.clear()
        self.disconnected.clear()
        for queue in self._queues:
            queue.clear()

    # --- what is in flight

    @property
    def in_flight_count(self) -> int:
        return sum(len(subscription.in_flight) for subscription in self._all())

    def in_flight(self) -> Iterator[InFlight]:
        for subscription in list(self._all()):
            yield from list(subscription.in_flight.values())

    def has_in_flight(self, message_id: bytes) -> bool:
        """Whether some client has it; a few are asked, for a flood of bad ids must cost little."""
        return any(message_id in owner.in_flight for owner in islice(self._all(), OWNERS_SEARCHED))

    def _all(self) -> Iterator[Subscription]:
        return chain(self.subscriptions, self.disconnected)

    def deliveries_to(self, locality: Locality) -> int:
        """How many messages went to consumers there, counting each delivery."""
        present = sum(s.message_count for s in self.subscriptions if s.locality is locality)
        return self._deliveries_before[locality] + present
