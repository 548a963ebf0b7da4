"""One heap of moments for the whole broker.

What has a deadline keeps at most one entry here, its earliest; when it fires, it looks at its own tables and asks for
the next moment. So a busy subscription costs one heap operation a time-out period, not one a message.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import Any, Protocol

__all__ = ["Alarm", "Timers"]


class Alarm(Protocol):
    """Something that wants to be called at a moment."""

    alarm_at: float
    """When it is called next; `math.inf`: not at all. Only `Timers` writes it."""

    def alarm(self, now: float) -> None:
        """The moment has come (or passed)."""


_Entry = list[Any]
"""[when, order, alarm or None]: a list, so that a cancelled one can let go of what it would have called."""


class Timers:
    """Moments in seconds of the broker's monotonic clock."""

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._entries: dict[Alarm, _Entry] = {}
        self._order = itertools.count()

    def set(self, alarm: Alarm, when: float) -> None:
        """Call it at `when`, unless it is to be called earlier anyway (it will then ask again)."""
        if when < alarm.alarm_at:
            self.cancel(alarm)
            alarm.alarm_at = when
            entry = self._entries[alarm] = [when, next(self._order), alarm]
            heapq.heappush(self._heap, entry)

    def cancel(self, alarm: Alarm) -> None:
        """Do not call it any more, and let go of it."""
        alarm.alarm_at = math.inf
        entry = self._entries.pop(alarm, None)
        if entry is not None:
            entry[2] = None

    def next(self) -> float:
        """The earliest moment; `math.inf` when there is none."""
        heap = self._heap
        while heap and heap[0][2] is None:
            heapq.heappop(heap)
        return float(heap[0][0]) if heap else math.inf

    def fire(self, now: float) -> None:
        """Call all whose moment has come, once: whoever asks for a moment that has passed is called the next time."""
        begun = next(self._order)
        asked_again: list[_Entry] = []
        while self.next() <= now:
            entry = heapq.heappop(self._heap)
            if entry[1] > begun:
                asked_again.append(entry)
                continue
            alarm: Alarm = entry[2]
            del self._entries[alarm]
            alarm.alarm_at = math.inf
            alarm.alarm(now)
        for entry in asked_again:
            heapq.heappush(self._heap, entry)
