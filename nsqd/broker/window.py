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
        self._more = max_bytes // 64  # is dropped than must be, so that not every message drops one
        self.used = 0
        self._by_age: OrderedDict[Window, None] = OrderedDict()

    def grew(self, window: Window, size: int) -> None:
        self.used += size
        self._by_age[window] = None
        self._by_age.move_to_end(window)
        while self.used > self.max_bytes and self._by_age:
            oldest = next(iter(self._by_age))
            oldest.drop_bytes(self.used - self.max_bytes + self._more)
            if oldest.is_empty:
                self._by_age.pop(oldest, None)

    def shrank(self, size: int) -> None:
        self.used -= size

    def forget(self, window: Window) -> None:
        self._by_age.pop(window, None)


class Window:
    """Frames with the seqs from `base` to the log's end.

    `let_go(first, frames)` is called with frames that are dropped because there is no room.

    The list keeps the places of dropped frames, empty, until they are half of it: to move the rest at each drop would
    cost as much as the window is large.
    """

    __slots__ = ("_budget", "_frames", "_max_messages", "_origin", "_slack", "base", "let_go", "size")

    def __init__(self, base: int, max_messages: int, budget: WindowBudget) -> None:
        self.base = base
        self.size = 0  # bytes
        self._frames: list[bytes] = []
        self._origin = base  # the seq of the first place
        self._max_messages = max_messages
        self._slack = max_messages // 8  # likewise
        self._budget = budget
        self.let_go: Callable[[int, list[bytes]], None] = lambda _first, _frames: None

    @property
    def frames(self) -> list[bytes]:
        """All of them, in a new list."""
        return self._frames[self.base - self._origin :]

    @property
    def is_empty(self) -> bool:
        return self.base - self._origin == len(self._frames)

    def extend(self, frames: list[bytes], size: int) -> None:
        """Add frames that were appended to the log; `size`: their bytes."""
        self._frames += frames
        self.size += size
        over = self._origin + len(self._frames) - self.base - self._max_messages
        if over > self._slack or not self._max_messages:
            self._drop(over)
        self._budget.grew(self, size)

    def reset(self, base: int) -> None:
        """Drop all, and begin anew at `base`: a failed append has given up seqs, so there is a gap."""
        self._drop(len(self._frames))
        self.base = self._origin = base

    def close(self) -> None:
        """Drop all: the topic is deleted."""
        self.let_go = lambda _first, _frames: None
        self._drop(len(self._frames))
        self._budget.forget(self)

    def get(self, seq: int) -> bytes | None:
        return self._frames[seq - self._origin] if seq >= self.base else None

    def slice(self, seq: int, count: int) -> list[bytes]:
        """Up to `count` frames from `seq` on, which must be in the window."""
        at = seq - self._origin
        return self._frames[at : at + count]

    def drop_bytes(self, size: int) -> None:
        """Drop the oldest frames until at least `size` bytes are released or the window is empty."""
        frames = self._frames
        at = first = self.base - self._origin
        while size > 0 and at < len(frames):
            size -= len(frames[at])
            at += 1
        self._drop(at - first)

    def _drop(self, count: int) -> None:
        """Drop up to so many of the oldest ones."""
        if count <= 0:
            return
        frames, at = self._frames, self.base - self._origin
        first, dropped = self.base, frames[at : at + count]
        size = sum(map(len, dropped))
        at += len(dropped)
        if 2 * at >= len(frames):
            del frames[:at]
            self._origin = first + len(dropped)
        else:
            frames[at - len(dropped) : at] = [b""] * len(dropped)
        self.base = first + len(dropped)
        self.size -= size
        self._budget.shrank(size)
        self.let_go(first, dropped)
