"""One heap of moments for the whole broker.

What has a deadline keeps at most one entry here, its earliest; when it fires, it looks at its own tables and asks for
the next moment. So a busy subscription costs one heap operation a time-out period, not one a message.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import Protocol

__all__ = ["Alarm", "Timers"]


class Alarm(Protocol):
    """Something that wants to be called at a moment."""

    alarm_at: float
    """When it is called next; `math.inf`: not at all. Only `Timers` writes it."""

    def alarm(self, now: float) -> None:
        """The moment has come (or passed)."""


class Timers:
    """Moments in seconds of the broker's monotonic clock."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Alarm]] = []
        self._order = itertools.count()

    def set(self, alarm: Alarm, when: float) -> None:
        """Call it at `when`, unless it is to be called earlier anyway (it will then ask again)."""
        if when < alarm.alarm_at:
            alarm.alarm_at = when
            heapq.heappush(self._heap, (when, next(self._order), alarm))

    def cancel(self, alarm: Alarm) -> None:
        """Do not call it any more. What it holds should be let go: its entry stays until its moment."""
        alarm.alarm_at = math.inf

    def next(self) -> float:
        """The earliest moment; `math.inf` when there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def fire(self, now: float) -> None:
        """Call all whose moment has come."""
        while self._heap and self._heap[0][0] <= now:
            when, _, alarm = heapq.heappop(self._heap)
            if alarm.alarm_at == when:  # else it was set to an earlier moment, and has fired
                alarm.alarm_at = math.inf
                alarm.alarm(now)
