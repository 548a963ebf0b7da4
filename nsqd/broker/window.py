"""The newest messages of a topic in memory: a window on the end of its log.

A message dropped from the window can be read from the log. So the window is bounded by dropping the oldest messages:
`max_messages` for each topic, and a number of bytes for all topics together.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

__all__ = ["Window", "WindowBudget"]


class WindowBudget:
    """Bytes that all windows may hold together. The window that grew longest ago shrinks first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = 0
        self._by_age: OrderedDict[Window, None] = OrderedDict()

    def grew(self, window: Window, size: int) -> None:
        self.used += size
        self._by_age[window] = None
        self._by_age.move_to_end(window)
        while self.used > self.max_bytes and self._by_age:
            oldest = next(iter(self._by_age))
            oldest.drop_bytes(self.used - self.max_bytes)
            if not oldest.frames:
                self._by_age.pop(oldest, None)

    def shrank(self, size: int) -> None:
        self.used -= size

    def forget(self, window: Window) -> None:
        self._by_age.pop(window, None)


class Window:
    """Frames with the seqs `[base, base + len(frames))`, which always reach to the log's end.

    `let_go(first, frames)` is called with frames that are dropped because there is no room.
    """

    __slots__ = ("_budget", "_max_messages", "_slack", "base", "frames", "let_go", "size")

    def __init__(self, base: int, max_messages: int, budget: WindowBudget) -> None:
        self.base = base
        self.frames: list[bytes] = []
        self.size = 0  # bytes
        self._max_messages = max_messages
        self._slack = max_messages // 8  # dropping one at a time would move the whole list each time
        self._budget = budget
        self.let_go: Callable[[int, list[bytes]], None] = lambda _first, _frames: None

    def extend(self, frames: list[bytes], size: int) -> None:
        """Add frames that were appended to the log; `size`: their bytes."""
        self.frames += frames
        self.size += size
        over = len(self.frames) - self._max_messages
        if over > self._slack or not self._max_messages:
            self._drop(over)
        self._budget.grew(self, size)

    def reset(self, base: int) -> None:
        """Drop all, and begin anew at `base`: a failed append has given up seqs, so there is a gap."""
        self._drop(len(self.frames))
        self.base = base

    def close(self) -> None:
        """Drop all: the topic is deleted."""
        self.let_go = lambda _first, _frames: None
        self._drop(len(self.frames))
        self._budget.forget(self)

    def get(self, seq: int) -> bytes | None:
        return self.frames[seq - self.base] if seq >= self.base else None

    def slice(self, seq: int, count: int) -> list[bytes]:
        """Up to `count` frames from `seq` on, which must be in the window."""
        at = seq - self.base
        return self.frames[at : at + count]

    def drop_bytes(self, size: int) -> None:
        """Drop the oldest frames until at least `size` bytes are released or the window is empty."""
        count = 0
        for frame in self.frames:
            if size <= 0:
                break
            size -= len(frame)
            count += 1
        self._drop(count)

    def _drop(self, count: int) -> None:
        if count <= 0:
            return
        first, dropped = self.base, self.frames[:count]
        size = sum(map(len, dropped))
        del self.frames[:count]
        self.base += count
        self.size -= size
        self._budget.shrank(size)
        self.let_go(first, dropped)
