"""One heap of deadlines for the whole broker.

An object with deadlines has at most one entry here, its earliest. When it fires, the object examines its own tables and
sets the next. So a busy subscription costs one heap operation per time-out period instead of one per message.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import Any, Protocol

__all__ = ["Alarm", "Timers"]


class Alarm(Protocol):
    """An object that is called at a time it has set."""

    alarm_at: float
    """When it is called next; `math.inf`: not at all. Only `Timers` writes it."""

    def alarm(self, now: float) -> None:
        """Called at that time or later."""


_Entry = list[Any]
"""[when, order, alarm or None]: mutable, so that `cancel` can drop its reference to the alarm."""


class Timers:
    """Alarms by time, in seconds of the broker's monotonic clock."""

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._entries: dict[Alarm, _Entry] = {}
        self._order = itertools.count()  # breaks ties in the heap, as alarms cannot be compared

    def set(self, alarm: Alarm, when: float) -> None:
        """Call `alarm` at `when`, unless it is to be called earlier: it can then set the next time."""
        if when < alarm.alarm_at:
            self.cancel(alarm)
            alarm.alarm_at = when
            entry = self._entries[alarm] = [when, next(self._order), alarm]
            heapq.heappush(self._heap, entry)

    def cancel(self, alarm: Alarm) -> None:
        """Do not call `alarm`, and drop the reference to it."""
        alarm.alarm_at = math.inf
        entry = self._entries.pop(alarm, None)
        if entry is not None:
            entry[2] = None

    def next(self) -> float:
        """The earliest time; `math.inf` when there is none."""
        heap = self._heap
        while heap and heap[0][2] is None:
            heapq.heappop(heap)
        return float(heap[0][0]) if heap else math.inf

    def fire(self, now: float) -> None:
        """Call every alarm that is due, once: one that sets a time in the past is called by the next `fire`."""
        begun = next(self._order)
        set_again: list[_Entry] = []
        while self.next() <= now:
            entry = heapq.heappop(self._heap)
            if entry[1] > begun:
                set_again.append(entry)
                continue
            alarm: Alarm = entry[2]
            del self._entries[alarm]
            alarm.alarm_at = math.inf
            alarm.alarm(now)
        for entry in set_again:
            heapq.heappush(self._heap, entry)
