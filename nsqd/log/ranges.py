"""A set of whole numbers, kept as sorted ranges that neither touch nor overlap.

What a channel has finished is nearly always one long range and a few short ones, whatever the number of messages: so
the set costs memory for each *range*, and a lookup a binary search.

When messages are finished in random order there are as many ranges as messages. The ranges are therefore kept in blocks
of a bounded size: in one list of a million ranges, each insertion would move megabytes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain

__all__ = ["RangeSet", "runs"]

BLOCK_RANGES = 1024  # a block with more ranges is split


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
    """Disjoint half-open ranges `[start, end)` in rising order.

    A block is two parallel lists, the starts and the ends of its ranges; no block is empty. `_firsts` has the first
    start of each block.
    """

    __slots__ = ("_blocks", "_firsts", "count")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._blocks: list[tuple[list[int], list[int]]] = []
        self._firsts: list[int] = []
        self.count = 0  # numbers in the set
        for start, end in ranges:
            self.add(start, end)

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __len__(self) -> int:
        """How many ranges there are."""
        return sum(len(starts) for starts, _ in self._blocks)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        # A copy: the set may change meanwhile.
        blocks = [(starts[:], ends[:]) for starts, ends in self._blocks]
        return chain.from_iterable(zip(starts, ends, strict=True) for starts, ends in blocks)

    def __contains__(self, number: int) -> bool:
        return self.end_of(number) > number

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RangeSet):
            return NotImplemented
        return list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RangeSet({list(self)!r})"

    def _block_of(self, number: int) -> int:
        """The block that has the last range that begins at or before `number`; the first block if there is none."""
        return max(0, bisect_right(self._firsts, number) - 1)

    def add(self, start: int, end: int) -> int:
        """Add `[start, end)`; returns how many of its numbers were new."""
        if start >= end:
            return 0
        blocks = self._blocks
        if not blocks:
            blocks.append(([start], [end]))
            self._firsts.append(start)
            self.count = end - start
            return self.count
        last_ends = blocks[-1][1]
        if start == last_ends[-1]:  # the usual case: the last range grows
            last_ends[-1] = end
            self.count += end - start
            return end - start
        firsts = self._firsts
        at = max(0, bisect_right(firsts, start) - 1)
        if at + 1 < len(firsts) and firsts[at + 1] <= end:
            self._join(at, end)
        starts, ends = blocks[at]
        low = bisect_left(ends, start)  # first range that ends at `start` or later: it touches or follows
        high = bisect_right(starts, end, low)  # first range that begins after `end`
        if low == high:
            starts.insert(low, start)
            ends.insert(low, end)
            new = end - start
            if len(starts) > BLOCK_RANGES:
                self._split(at)
        elif low + 1 == high:  # one range grows
            old_start, old_end = starts[low], ends[low]
            if start < old_start:
                starts[low] = start
            else:
                start = old_start
            if end > old_end:
                ends[low] = end
            else:
                end = old_end
            new = end - start - (old_end - old_start)
        else:
            covered = sum(ends[low:high]) - sum(starts[low:high])
            start, end = min(start, starts[low]), max(end, ends[high - 1])
            starts[low:high] = [start]
            ends[low:high] = [end]
            new = end - start - covered
        firsts[at] = blocks[at][0][0]
        self.count += new
        return new

    def _join(self, at: int, end: int) -> None:
        """Move ranges of later blocks that begin at or before `end` to block `at`."""
        starts, ends = self._blocks[at]
        stop = at + 1
        while stop < len(self._firsts) and self._firsts[stop] <= end:
            starts += self._blocks[stop][0]
            ends += self._blocks[stop][1]
            stop += 1
        del self._blocks[at + 1 : stop], self._firsts[at + 1 : stop]

    def _split(self, at: int) -> None:
        starts, ends = self._blocks[at]
        half = BLOCK_RANGES // 2
        cuts = range(0, len(starts), half)
        self._blocks[at : at + 1] = [(starts[cut : cut + half], ends[cut : cut + half]) for cut in cuts]
        self._firsts[at : at + 1] = starts[::half]

    def discard_below(self, number: int) -> None:
        """Remove all numbers under `number`."""
        blocks, whole = self._blocks, 0
        while whole < len(blocks) and blocks[whole][1][-1] <= number:
            starts, ends = blocks[whole]
            self.count -= sum(ends) - sum(starts)
            whole += 1
        del blocks[:whole], self._firsts[:whole]
        if not blocks or self._firsts[0] >= number:
            return
        starts, ends = blocks[0]
        at = bisect_right(ends, number)  # ranges that end at or before it go whole
        self.count -= sum(ends[:at]) - sum(starts[:at])
        del starts[:at], ends[:at]
        if starts[0] < number:
            self.count -= number - starts[0]
            starts[0] = number
        self._firsts[0] = starts[0]

    def common(self, start: int, end: int) -> list[tuple[int, int]]:
        """The ranges of what is in the set and in `[start, end)`."""
        return [(max(first, start), min(last, end)) for first, last in self.overlapping(start, end)]

    def without(self, start: int, end: int) -> RangeSet:
        """The set without the numbers of `[start, end)`: itself, or a new one."""
        if not self.common(start, end):
            return self
        return RangeSet(
            part for first, last in self for part in ((first, min(last, start)), (max(first, end), last))
        )

    def first_range(self) -> tuple[int, int]:
        """The lowest range. `IndexError` for an empty set."""
        starts, ends = self._blocks[0]
        return starts[0], ends[0]

    def end_of(self, number: int) -> int:
        """The end of the range that holds `number`; `number` itself where none does."""
        if not self._blocks:
            return number
        starts, ends = self._blocks[self._block_of(number)]
        at = bisect_right(starts, number) - 1
        return ends[at] if at >= 0 and number < ends[at] else number

    def next_start(self, number: int) -> int | None:
        """Where the first range that begins at `number` or above begins."""
        if not self._blocks:
            return None
        block = self._block_of(number)
        starts = self._blocks[block][0]
        at = bisect_left(starts, number)
        if at < len(starts):
            return starts[at]
        return self._firsts[block + 1] if block + 1 < len(self._firsts) else None

    def overlapping(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The ranges that have numbers of `[start, end)`, whole."""
        for block in range(self._block_of(start), len(self._blocks)):
            starts, ends = self._blocks[block]
            low, high = bisect_right(ends, start), bisect_left(starts, end)
            yield from zip(starts[low:high], ends[low:high], strict=True)
            if high < len(starts):
                return

    def gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        """The ranges of `[start, end)` that are not in the set."""
        out = []
        for range_start, range_end in self.overlapping(start, end):
            if range_start > start:
                out.append((start, range_start))
            start = range_end
        if start < end:
            out.append((start, end))
        return out

    def first_outside(self, start: int, end: int, limit: int) -> list[int]:
        """The lowest numbers of `[start, end)` that are not in the set, up to `limit`, rising.

        As `gaps`, without a look at ranges after them.
        """
        out: list[int] = []
        for range_start, range_end in self.overlapping(start, end):
            out += range(start, min(range_start, start + limit - len(out)))
            start = range_end
            if len(out) == limit:
                return out
        out += range(start, min(end, start + limit - len(out)))
        return out

    def count_between(self, start: int, end: int) -> int:
        """How many numbers of the set lie in `[start, end)`."""
        total = 0
        for block in range(self._block_of(start), len(self._blocks)) if start < end else ():
            starts, ends = self._blocks[block]
            low, high = bisect_right(ends, start), bisect_left(starts, end)
            if low < high:
                total += sum(ends[low:high]) - sum(starts[low:high])
                total -= max(0, start - starts[low]) + max(0, ends[high - 1] - end)
            if high < len(starts):
                break
        return total
