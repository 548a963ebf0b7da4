"""The choice of the subscription that gets the next messages of a channel.

Subscriptions that have room wait in a queue. `pump` takes the first, gives it its share of the deliverable messages
(the source limits the bytes of one turn), and puts it back at the end: round robin. With topology-aware consumption
there is one queue for each locality, and the nearest queue that is not empty is served.
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
# Clients in which to look for a message id that is not in flight at the client that sent it.
OWNERS_SEARCHED = 64


class MessageSource(Protocol):
    """The channel, as `Delivery` uses it."""

    paused: bool

    @property
    def depth(self) -> int:
        """Messages that can be delivered."""

    def serve(self, subscription: Subscription, limit: int) -> bool:
        """Deliver up to `limit` messages to this subscription; False if bodies have to be read first."""


class Delivery:
    """The subscriptions of one channel. `disconnected`: closed with messages in flight.

    `queues`: those that have room, one queue for each locality or, where localities do not count, one for all.
    """

    __slots__ = ("_deliveries_before", "disconnected", "queues", "subscriptions")

    def __init__(self, *, by_locality: bool) -> None:
        self.subscriptions: dict[Subscription, None] = {}
        self.disconnected: dict[Subscription, None] = {}
        self.queues: list[OrderedDict[Subscription, None]] = [
            OrderedDict() for _ in (Locality if by_locality else (Locality.REMOTE,))
        ]
        self._deliveries_before = [0 for _ in Locality]  # to subscriptions removed since

    def _queue_of(self, subscription: Subscription) -> OrderedDict[Subscription, None]:
        return self.queues[subscription.locality if len(self.queues) > 1 else 0]

    def _next_queue(self) -> OrderedDict[Subscription, None]:
        for queue in self.queues:
            if queue:
                return queue
        return self.queues[-1]

    # --- turns

    def offer(self, subscription: Subscription) -> bool:
        """Queue a subscription if it has room. Returns whether it is in the queue."""
        if not subscription.waiting and subscription.room > 0:
            subscription.waiting = True
            self._queue_of(subscription)[subscription] = None
        return subscription.waiting

    @property
    def demand(self) -> int:
        """How many messages the queued subscriptions would take."""
        return sum(subscription.room for subscription in chain.from_iterable(self.queues))

    def pump(self, source: MessageSource) -> bool:
        """Deliver to the subscriptions that have room. True when it stopped at `PUMP_BYTES` with more to deliver."""
        budget, share, turns = PUMP_BYTES, 0, 0
        while (queue := self._next_queue()) and not source.paused:
            depth = source.depth
            if depth <= 0:
                return False
            if budget <= 0:
                return True
            if turns <= 0:  # once in each pass over the queue: shrinking shares would favour the first ones
                turns = len(queue)
                share = max(1, depth // turns)
            turns -= 1
            subscription = queue.popitem(last=False)[0]
            room = subscription.room
            if room > 0:
                before = subscription.outbox.size
                if not source.serve(subscription, min(room, share)):
                    # It keeps its turn.
                    queue[subscription] = None
                    queue.move_to_end(subscription, last=False)
                    return False  # bodies are being read; the end of the read pumps the channel again
                # Plus 1, as a turn whose messages are all sampled out adds no bytes.
                budget -= subscription.outbox.size - before + 1
                if subscription.room > 0:
                    queue[subscription] = None
                    continue
            subscription.waiting = False
        return False

    # --- subscriptions

    def add(self, subscription: Subscription) -> None:
        self.subscriptions[subscription] = None

    def remove(self, subscription: Subscription) -> bool:
        """Remove the subscription of a closed connection; False when it was removed before."""
        if self.subscriptions.pop(subscription, 0) == 0:
            return False
        subscription.disconnected = True
        subscription.waiting = False
        self._queue_of(subscription).pop(subscription, None)
        self._deliveries_before[subscription.locality] += subscription.message_count
        return True

    def clear(self) -> None:
        """Disconnect all clients: the channel is deleted."""
        for subscription in list(self.subscriptions):
            subscription.disconnected = True
            subscription.in_flight.clear()
            subscription.outbox.client.disconnect()
        for subscription in self.disconnected:
            subscription.in_flight.clear()
        self.subscriptions.clear()
        self.disconnected.clear()
        for queue in self.queues:
            queue.clear()

    # --- messages in flight

    @property
    def in_flight_count(self) -> int:
        return sum(len(subscription.in_flight) for subscription in self._all())

    def in_flight(self) -> Iterator[InFlight]:
        for subscription in list(self._all()):
            yield from list(subscription.in_flight.values())

    def owner_of(self, message_id: bytes, seq: int | None = None) -> Subscription | None:
        """Who has this message in flight, connected or not. All are searched: not for a command of a client.

        `seq`: of the message; without it, of several messages with this id the first one is found.
        """
        for owner in self._all():
            entry = owner.in_flight.get(message_id)
            if entry is not None and seq in (None, entry[0]):
                return owner
        return None

    def in_flight_page(self, start: int, limit: int) -> list[tuple[Subscription, InFlight]]:
        """Up to `limit` messages in flight with their owners, after `start` others: client by client."""
        page: list[tuple[Subscription, InFlight]] = []
        for owner in self._all():
            count = len(owner.in_flight)
            if start < count:
                entries = islice(owner.in_flight.values(), start, start + limit - len(page))
                page += [(owner, entry) for entry in entries]
                if len(page) == limit:
                    break
            start = max(0, start - count)
        return page

    def has_in_flight(self, message_id: bytes) -> bool:
        """Whether a client has it. Few clients are searched, so that a flood of invalid ids costs little."""
        return any(message_id in owner.in_flight for owner in islice(self._all(), OWNERS_SEARCHED))

    def _all(self) -> Iterator[Subscription]:
        return chain(self.subscriptions, self.disconnected)

    def deliveries_to(self, locality: Locality) -> int:
        """How many deliveries went to consumers in `locality`."""
        present = sum(s.message_count for s in self.subscriptions if s.locality is locality)
        return self._deliveries_before[locality] + present
