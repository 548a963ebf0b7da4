"""The memory that connections take while they keep us waiting, and who gives way when it is used up.

Counted are the bytes of commands that have not arrived in full, what layers have not decoded yet, and what a socket
does not take. A limit that refused whoever comes next could be filled by one stranger and kept for ever. So when
`capacity` is exceeded, those give way that have held most for longest, until a sixteenth is free:

- of the address that holds most, so that a peer gains nothing by many connections with little each;
- in it the connection with the largest product of bytes and time, as many honest clients may share an address with a
  stranger: a command that is on its way for a moment counts little beside one that does not arrive.

A connection holds a few bytes at a time, and far most of them none: only those that hold something are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import attrs

from nsqkit.service.shares import Shares

__all__ = ["Buffers", "Holding"]

_MIN_AGE: Final = 0.005  # seconds: of those that have just begun the one that holds most is the worst
_MAX_AGE: Final = 60.0  # seconds: who has held something for longer is no worse
_FREED: Final = 16  # this part of the capacity is free again once some had to give way


@attrs.define(eq=False, repr=False)
class Holding:
    """What one connection holds. `give_way` ends that connection; called within a round."""

    buffers: Buffers
    group: str
    give_way: Callable[[], None]
    since: float = math.inf
    """When it began to hold anything."""
    ended: bool = False
    """It has had to give way, or its connection has ended: it counts no more."""

    def add(self, size: int) -> None:
        """It holds so many bytes more; less, if negative."""
        if not self.ended and size:
            self.buffers.add(self, size)

    def move_to(self, buffers: Buffers) -> None:
        """Count in another limit from now on."""
        if self.ended or buffers is self.buffers:
            return
        size = self.buffers.shares.of(self.group).get(self, 0)
        self.buffers.add(self, -size)
        self.buffers = buffers
        self.add(size)

    def end(self) -> None:
        """The connection has ended."""
        if not self.ended:
            self.ended = True
            self.buffers.shares.remove(self.group, self)


class Buffers:
    """One limit, in bytes. `now` is the time in seconds."""

    def __init__(self, capacity: int, now: Callable[[], float]) -> None:
        self.capacity = capacity
        self.shares: Shares[Holding] = Shares()
        self._now = now

    @property
    def used(self) -> int:
        """The bytes that are held, in total."""
        return self.shares.total

    def add(self, holding: Holding, size: int) -> None:
        """For `Holding`."""
        if holding not in self.shares.of(holding.group):
            holding.since = self._now()
        self.shares.add(holding.group, holding, size)
        if size > 0 and self.shares.total > self.capacity:
            self._relieve()

    def _relieve(self) -> None:
        shares, target = self.shares, self.capacity - self.capacity // _FREED
        worst_last: dict[str, list[Holding]] = {}
        while shares.total > target:
            group = shares.largest()
            if group not in worst_last:
                oldest_last = reversed([*shares.of(group)])  # of equals the oldest gives way
                worst_last[group] = sorted(oldest_last, key=self._weight)
            holding = worst_last[group].pop()
            holding.end()
            holding.give_way()

    def _weight(self, holding: Holding) -> float:
        size = self.shares.of(holding.group)[holding]
        return size * min(max(self._now() - holding.since, _MIN_AGE), _MAX_AGE)
