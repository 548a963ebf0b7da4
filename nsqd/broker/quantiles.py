"""Quantiles of a stream of whole numbers in little memory, with an error that is known.

The sketch is that of Cormode, Korn, Muthukrishnan and Srivastava ("Effective computation of biased quantiles over
data streams"): a sorted list of a few of the values seen. Each entry is `(value, gap, slack)`: the lowest rank that the
value can have is the sum of the gaps up to it, the highest is `slack` more. Two neighbours become one when that leaves
their gap and slack within what the error allows at that place.

The error allowed at rank r of n, counted in ranks, is the smaller of `ERROR * n` and `TAIL_ERROR * (n - r)`. So a
quantile is off by one percent of all values at the most, and much less where people look: 0.99 lies between 0.989 and
0.991. (One percent alone would let 0.99 be the maximum.) Below about fifty values nothing is left out and the answer
is exact.

Errors add up when sketches are merged, and so do the numbers of values: what is allowed for a merged sketch is never
less than the sum of what its parts were allowed.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from operator import itemgetter

__all__ = ["ERROR", "TAIL_ERROR", "Sketch"]

ERROR = 0.01
TAIL_ERROR = 0.1
ROUNDING = 1e-6  # 0.07 * 100 is a little more than 7
BUFFER = 500  # values that are taken in together: sorting and one walk for all of them

_Entry = tuple[int, int, int]
_VALUE = itemgetter(0)


class Sketch:
    """`count`: how many values it has seen."""

    __slots__ = ("_buffer", "_entries", "count")

    def __init__(self) -> None:
        self.count = 0
        self._entries: list[_Entry] = []
        self._buffer: list[int] = []

    def extend(self, values: list[int]) -> None:
        """Take in some values."""
        self._buffer += values
        self.count += len(values)
        if len(self._buffer) >= BUFFER:
            self._flush()

    def merge(self, other: Sketch) -> None:
        """Take in all that another one has seen."""
        other._flush()
        self._flush()
        if not self.count or not other.count:
            # Lists of entries are replaced, never changed: they may be shared.
            self._entries = self._entries or other._entries
            self.count += other.count
            return
        self.count += other.count
        self._entries = _compressed(_merged(self._entries, other._entries), self.count)

    def quantile(self, fraction: float) -> int:
        """The value at this fraction of all, in (0, 1]; 0 when there is none."""
        self._flush()
        wanted = max(1, math.ceil(fraction * self.count - ROUNDING))
        best, least, rank = 0, math.inf, 0
        for value, gap, slack in self._entries:
            rank += gap
            if rank - wanted >= least:
                break
            error = max(wanted - rank, rank + slack - wanted)
            if error < least:
                best, least = value, error
        return best

    def __len__(self) -> int:
        """How many entries it keeps."""
        self._flush()
        return len(self._entries)

    def _flush(self) -> None:
        if self._buffer:
            self._buffer.sort()
            added = [(value, 1, 0) for value in self._buffer]
            self._buffer = []
            self._entries = _compressed(_merged(self._entries, added), self.count)


def _merged(left: list[_Entry], right: list[_Entry]) -> list[_Entry]:
    """Both in one order; of equal values those of `left` come first."""
    if not left or not right:
        return left or right
    placed = _placed(left, right, bisect_left) + _placed(right, left, bisect_right)
    placed.sort(key=_VALUE)
    return placed


def _placed(
    entries: list[_Entry], others: list[_Entry], before: Callable[[list[int], int], int]
) -> list[_Entry]:
    """The entries, each with the slack that its place among `others` adds.

    `before` says how many of the others stand before a value; how many values those stand for is known only up to the
    gap and slack of the next one.
    """
    values = [value for value, _, _ in others]
    added = [gap + slack - 1 for _, gap, slack in others]
    added.append(0)  # behind the last one
    return [(value, gap, slack + added[before(values, value)]) for value, gap, slack in entries]


def _compressed(entries: list[_Entry], count: int) -> list[_Entry]:
    """Neighbours become one where the error allows it. The lowest and the highest value stay exact."""
    kept: list[_Entry] = []
    value, gap, slack = entries[-1]
    rank = count - gap  # the lowest rank that the entry before can have
    for below, its_gap, its_slack in reversed(entries[:-1]):
        rank -= its_gap
        allowed = 2 * min(ERROR * count, TAIL_ERROR * (count - rank - its_gap))
        if its_gap + gap + slack <= allowed and rank > 0:
            gap += its_gap
        else:
            kept.append((value, gap, slack))
            value, gap, slack = below, its_gap, its_slack
    kept.append((value, gap, slack))
    kept.reverse()
    return kept
