"""The deferred messages of a channel."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping

from nsqd.broker.paging import part_of

__all__ = ["AHEAD", "Deferred"]

# Seconds. Messages that are due within this time are due soon; they are looked for when half of it is left, so that
# many are found at once.
AHEAD = 1.0

_Entry = tuple[float, int, int]
"""(due, seq, attempts)"""


class Deferred:
    """Seqs with their attempts so far and the moment they become due, in seconds of the broker's clock.

    Two heaps find the next one: `_soon` has those that `pop_soon` has returned, `_later` the others. Entries may be
    outdated (the message was removed or deferred anew): only those that are in the table count.
    """

    __slots__ = ("_entries", "_later", "_soon")

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}
        self._later: list[_Entry] = []
        self._soon: list[_Entry] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[int]:
        return iter(self._entries)

    def get(self, seq: int) -> tuple[int, float] | None:
        """(attempts, due) of a message that is deferred here."""
        entry = self._entries.get(seq)
        return (entry[2], entry[0]) if entry is not None else None

    def attempts(self) -> Iterator[tuple[int, int]]:
        """(seq, attempts) of each message."""
        return ((seq, attempts) for _, seq, attempts in self._entries.values())

    def add(self, seq: int, attempts: int, due: float) -> None:
        """Keep a message back until `due`."""
        entry = self._entries[seq] = (due, seq, attempts)
        heapq.heappush(self._later, entry)

    def add_all(self, due: Mapping[int, float]) -> None:
        """Keep messages that were not delivered yet back until their times, by seq. In one go: they may be millions."""
        entries = [(when, seq, 0) for seq, when in due.items()]
        self._entries.update(zip(due, entries, strict=True))
        self._later += entries
        heapq.heapify(self._later)

    def remove(self, seq: int) -> int | None:
        """Remove a message before it is due; returns its attempts, or None if it is not deferred here."""
        entry = self._entries.pop(seq, None)
        return None if entry is None else entry[2]

    def page(self, start: int, limit: int) -> list[tuple[int, int, float]]:
        """(seq, attempts, due) of up to `limit` messages, in the order in which they were deferred, after `start`."""
        part = part_of(self._entries.values(), start, limit)
        return [(seq, attempts, due) for due, seq, attempts in part]

    def pop_due(self, now: float, limit: int) -> list[tuple[int, int]]:
        """Remove up to `limit` messages that are due; returns (seq, attempts) of each, the earliest first."""
        out: list[tuple[int, int]] = []
        while len(out) < limit and self.next_due <= now:
            later = not self._soon or (self._later and self._later[0] < self._soon[0])
            entry = heapq.heappop(self._later if later else self._soon)
            _, seq, attempts = entry
            if self._entries.get(seq) is entry:
                del self._entries[seq]
                out.append((seq, attempts))
        return out

    def pop_soon(self, now: float, limit: int) -> list[int]:
        """Messages that are due soon and were not returned before, the earliest first.

        At most `limit` that were returned are not due yet.
        """
        later, soon = self._later, self._soon
        if not later or later[0][0] > now + AHEAD / 2 or len(soon) > limit // 2:
            return []
        out = []
        while later and later[0][0] <= now + AHEAD and len(soon) < limit:
            entry = heapq.heappop(later)
            if self._entries.get(entry[1]) is entry:
                heapq.heappush(soon, entry)
                out.append(entry[1])
        return out

    @property
    def next_due(self) -> float:
        """A lower bound of the next due time; infinity when nothing is deferred."""
        due = self._later[0][0] if self._later else math.inf
        return min(due, self._soon[0][0]) if self._soon else due

    def next_alarm(self, now: float) -> float:
        """When to call `pop_due` or `pop_soon` next; infinity when nothing is deferred."""
        look = self._later[0][0] - AHEAD / 2 if self._later else math.inf
        # Where those that are due soon cannot all be held, some are not returned by `pop_soon`.
        return min(look, self.next_due) if look > now else self.next_due

    def clear(self) -> None:
        self._entries.clear()
        self._later.clear()
        self._soon.clear()
