"""Refusals, and requests that were in vain: a client can cause as many as it likes, but their lines are few.

The first of a kind has a line at once. The others of the same second are counted, and are one line at its end. A kind
is who, from which address, wanted what and why not; names of topics do not matter. Of more than `MAX_KINDS` in a second
all others are one kind. So there are 2 * `MAX_KINDS` + 1 lines a second at most.
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias

import attrs

from nsqkit.audit.event import Event, Result, Who

__all__ = ["MAX_KINDS", "OTHERS", "WINDOW_S", "Refusals"]

WINDOW_S: Final = 1.0
MAX_KINDS: Final = 5
OTHERS: Final = "others"
"""The `what` of a line that stands for several kinds."""

_Kind: TypeAlias = tuple[object, ...]


@attrs.define(eq=False)
class Refusals:
    """Those of the present second. Times are seconds of a monotonic clock."""

    _repeated: dict[_Kind, Event | None] = attrs.field(factory=dict, init=False)
    """By kind: the last of those that are to have a line together."""
    _others: Event | None = attrs.field(default=None, init=False)
    _ends: float = attrs.field(default=math.inf, init=False)

    def add(self, event: Event, now: float) -> Event | None:
        """One more, to which `due` was applied before. Returned if it is to have a line of its own now."""
        if not self._repeated:
            self._ends = now + WINDOW_S
        kind = _kind_of(event)
        if kind in self._repeated:
            self._repeated[kind] = _one_more(event, self._repeated[kind])
            return None
        if len(self._repeated) < MAX_KINDS:
            self._repeated[kind] = None
            return event
        other = attrs.evolve(event, who=Who(), what=OTHERS, on={}, error="", status=None)
        self._others = _one_more(other, self._others)
        return None

    def wait(self, now: float) -> float | None:
        """Seconds until `due` has something to say; None if it has not."""
        return None if self._ends == math.inf else max(0.0, self._ends - now)

    def due(self, now: float) -> list[Event]:
        """What has to be written for the second that has ended; nothing before it has. `now` may be infinite."""
        if now < self._ends or not self._repeated:
            return []
        lines = [event for event in (*self._repeated.values(), self._others) if event is not None]
        self._repeated, self._others, self._ends = {}, None, math.inf
        return lines


def _kind_of(event: Event) -> _Kind:
    address = event.who.remote.rpartition(":")[0]
    return event.who.name, event.who.means, address, event.what, event.error


def _one_more(event: Event, before: Event | None) -> Event:
    assert event.result is not Result.OK
    return event if before is None else attrs.evolve(event, count=before.count + event.count)
