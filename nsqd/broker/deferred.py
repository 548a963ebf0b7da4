"""The deferred messages of a channel."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator

__all__ = ["Deferred"]


class Deferred:
    """Seqs with their attempts so far and the moment they become due, in seconds of the broker's clock.

    A heap finds the next one. Its entries may be outdated (the message was removed or deferred anew): only those that
    agree with the table count.
    """

    __slots__ = ("_entries", "_heap")

    def __init__(self) -> None:
        self._entries: dict[int, tuple[int, float]] = {}
        self._heap: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[int]:
        return iter(self._entries)

    def get(self, seq: int) -> tuple[int, float] | None:
        """(attempts, due) of a message that is deferred here."""
        return self._entries.get(seq)

    def add(self, seq: int, attempts: int, due: float) -> None:
        """Keep a message back until `due`."""
        self._entries[seq] = (attempts, due)
        heapq.heappush(self._heap, (due, seq))

    def pop_due(self, now: float) -> list[tuple[int, int]]:
        """Remove the messages that are due; returns (seq, attempts) of each, the earliest first."""
        heap, entries = self._heap, self._entries
        out = []
        while heap and heap[0][0] <= now:
            due, seq = heapq.heappop(heap)
            entry = entries.get(seq)
            if entry is not None and entry[1] == due:
                del entries[seq]
                out.append((seq, entry[0]))
        return out

    @property
    def next_due(self) -> float:
        """A lower bound of the next due time; infinity when nothing is deferred."""
        return self._heap[0][0] if self._heap else math.inf

    def clear(self) -> None:
        self._entries.clear()
        self._heap.clear()
