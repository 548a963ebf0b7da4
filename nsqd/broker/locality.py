"""Consumers that are near before those that are far: the experiment `topology-aware-consumption`.

A consumer is in the daemon's own zone when it names the same zone, else in its region when it names the same region
(plain texts, empty ones too), else elsewhere. Of those who have room, the ones in the zone are served first, as long as
one of them has room, then those in the region, then the others. So whoever is far gets what the near ones leave: there
is no promise beyond that, and no order of messages.

`LocalFirst` is a channel's queue of those that have room, in the place of the plain one: without the experiment none
is made, and nothing looks at places.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from nsqd.broker.subscription import Subscription

__all__ = ["LocalFirst", "Locality", "Topology", "WaitingQueue"]


class Locality(enum.IntEnum):
    """Where a consumer is, seen from the daemon; the nearest has the lowest number."""

    ZONE = 0
    REGION = 1
    REMOTE = 2


@attrs.frozen
class Topology:
    """Where the daemon or a client says it is."""

    region: str
    zone: str

    def locality_of(self, client: Topology | None) -> Locality:
        """None: a client that has not said anything of itself."""
        if client is None:
            return Locality.REMOTE
        if client.zone == self.zone:
            return Locality.ZONE
        return Locality.REGION if client.region == self.region else Locality.REMOTE


class WaitingQueue(Protocol):
    """What a channel does with those that have room: the part of `OrderedDict` that it needs."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Subscription]: ...
    def __setitem__(self, subscription: Subscription, value: None, /) -> None: ...
    def popitem(self, last: bool = True) -> tuple[Subscription, None]: ...
    def move_to_end(self, subscription: Subscription, /, last: bool = True) -> None: ...
    def pop(self, subscription: Subscription, default: None, /) -> None: ...
    def clear(self) -> None: ...


class LocalFirst:
    """A queue for each nearness, as one. Length and first are those of the nearest queue with somebody in it."""

    def __init__(self) -> None:
        self._queues: list[OrderedDict[Subscription, None]] = [OrderedDict() for _ in Locality]

    def __len__(self) -> int:
        return len(self._nearest())

    def __iter__(self) -> Iterator[Subscription]:
        return chain.from_iterable(self._queues)

    def __setitem__(self, subscription: Subscription, value: None, /) -> None:
        self._queues[subscription.locality][subscription] = value

    def popitem(self, last: bool = True) -> tuple[Subscription, None]:
        return self._nearest().popitem(last)

    def move_to_end(self, subscription: Subscription, /, last: bool = True) -> None:
        self._queues[subscription.locality].move_to_end(subscription, last)

    def pop(self, subscription: Subscription, default: None, /) -> None:
        self._queues[subscription.locality].pop(subscription, default)

    def clear(self) -> None:
        for queue in self._queues:
            queue.clear()

    def _nearest(self) -> OrderedDict[Subscription, None]:
        for queue in self._queues:
            if queue:
                return queue
        return self._queues[-1]
