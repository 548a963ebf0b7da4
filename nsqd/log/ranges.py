"""A set of whole numbers, kept as sorted ranges that neither touch nor overlap.

What a channel has finished is nearly always one long range and a few short ones, whatever the number of messages: so
the set costs memory for each *range*, and a lookup a binary search.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

__all__ = ["RangeSet", "runs"]


def runs(numbers: list[int]) -> list[tuple[int, int]]:
    """The half-open ranges that distinct numbers make up; `numbers` is sorted in place.

    One finished chunk of a consumer is as a rule one run: that case takes no loop.
    """
    numbers.sort()
    first, last = numbers[0], numbers[-1]
    if last - first + 1 == len(numbers):
        return [(first, last + 1)]
    out = []
    start = previous = first
    for number in numbers:
        if number > previous + 1:
            out.append((start, previous + 1))
            start = number
        previous = number
    out.append((start, previous + 1))
    return out


class RangeSet:
    """Disjoint half-open ranges `[start, end)` in rising order, in two parallel lists."""

    __slots__ = ("_ends", "_starts", "count")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.count = 0  # numbers in the set
        for start, end in ranges:
            self.add(start, end)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __len__(self) -> int:
        """How many ranges there are."""
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts[:], self._ends[:], strict=True))

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._ends[at]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RangeSet):
            return NotImplemented
        return self._starts == other._starts and self._ends == other._ends

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RangeSet({list(self)!r})"

    def add(self, start: int, end: int) -> int:
        """Add `[start, end)`; returns how many of its numbers were new."""
        if start >= end:
            return 0
        starts, ends = self._starts, self._ends
        if ends and start == ends[-1]:  # the usual case: the last range grows
            ends[-1] = end
            self.count += end - start
            return end - start
        low = bisect_left(ends, start)  # first range that ends at `start` or later: it touches or follows
        high = bisect_right(starts, end)  # first range that begins after `end`
        covered = sum(ends[low:high]) - sum(starts[low:high])
        if low < high:
            start, end = min(start, starts[low]), max(end, ends[high - 1])
        starts[low:high] = [start]
        ends[low:high] = [end]
        new = end - start - covered
        self.count += new
        return new

    def discard_below(self, number: int) -> None:
        """Remove all numbers under `number`."""
        starts, ends = self._starts, self._ends
        if not starts or starts[0] >= number:
            return
        at = bisect_right(ends, number)  # ranges that end at or before it go whole
        self.count -= sum(ends[:at]) - sum(starts[:at])
        del starts[:at], ends[:at]
        if starts and starts[0] < number:
            self.count -= number - starts[0]
            starts[0] = number

    def remove(self, start: int, end: int) -> None:
        """Remove `[start, end)`."""
        common = self.common(start, end)
        if not common:
            return
        self.count -= sum(last - first for first, last in common)
        low, high = bisect_right(self._ends, start), bisect_left(self._starts, end)
        before = [(self._starts[low], start)] if self._starts[low] < start else []
        after = [(end, self._ends[high - 1])] if self._ends[high - 1] > end else []
        rest = before + after
        self._starts[low:high] = [first for first, _ in rest]
        self._ends[low:high] = [last for _, last in rest]

    def common(self, start: int, end: int) -> list[tuple[int, int]]:
        """The ranges of what is in the set and in `[start, end)`."""
        if start >= end:
            return []
        low, high = bisect_right(self._ends, start), bisect_left(self._starts, end)
        pairs = zip(self._starts[low:high], self._ends[low:high], strict=True)
        return [(max(first, start), min(last, end)) for first, last in pairs]

    def first_range(self) -> tuple[int, int]:
        """The lowest range. `IndexError` for an empty set."""
        return self._starts[0], self._ends[0]

    def end_of(self, number: int) -> int:
        """The end of the range that holds `number`; `number` itself where none does."""
        at = bisect_right(self._starts, number) - 1
        return self._ends[at] if at >= 0 and number < self._ends[at] else number

    def next_start(self, number: int) -> int | None:
        """Where the first range that begins at `number` or above begins."""
        at = bisect_left(self._starts, number)
        return self._starts[at] if at < len(self._starts) else None

    def gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        """The ranges of `[start, end)` that are not in the set."""
        out = []
        at = max(0, bisect_right(self._ends, start))
        while start < end:
            next_start = self._starts[at] if at < len(self._starts) else end
            if next_start > start:
                out.append((start, min(next_start, end)))
            start = self._ends[at] if at < len(self._ends) else end
            at += 1
        return out

    def count_between(self, start: int, end: int) -> int:
        """How many numbers of the set lie in `[start, end)`."""
        if start >= end:
            return 0
        low, high = bisect_right(self._ends, start), bisect_left(self._starts, end)
        if low >= high:
            return 0
        total = sum(self._ends[low:high]) - sum(self._starts[low:high])
        return total - max(0, start - self._starts[low]) - max(0, self._ends[high - 1] - end)
