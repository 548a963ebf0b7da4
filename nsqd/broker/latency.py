"""How long messages take from publish to finish, for one channel: only with `BrokerOptions.latency_window`.

A sample is the time from a message's timestamp (its publish, in its frame's head) to its FIN; only a FIN counts. What
is in flight carries no timestamp, so `ChannelLatency` keeps one for each message delivered: from the delivery, where
the frame is at hand whatever way the message came (ready, requeued, deferred, from memory or from disk), to the answer.

Samples are counted in log-spaced buckets. A bucket holds the values that agree in their highest `BITS` bits, so a
quantile is off by at most 1/2**BITS (1.6 %) in value and exact in rank; histograms merge exactly, as buckets are the
same everywhere. (A sketch with bounded rank errors was exact in value, took four times the CPU, and its errors added
up when channels were merged.)

The window has two histograms. Samples go into the younger; every half of the window the older is thrown away and a new
one begun. So what is shown covers between a half and the whole of the window.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from nsqd.broker.oldest import published_ns

__all__ = ["BITS", "ChannelLatency", "LatencyHistogram"]

BITS = 6  # of a value that its bucket keeps: 32 buckets from one power of two to the next
_HIGHEST_POSSIBLE = 1 << 63  # nanoseconds
ROUNDING = 1e-6  # 0.07 * 100 is a little more than 7


class LatencyHistogram:
    """How many values fell into each bucket. A bucket is named by its lowest value.

    `count`: all of them. The lowest and the highest value are kept exactly: no quantile lies outside of them.
    """

    __slots__ = ("_buckets", "_highest", "_lowest", "count")

    def __init__(self) -> None:
        self.count = 0
        self._buckets: Counter[int] = Counter()
        self._lowest, self._highest = _HIGHEST_POSSIBLE, 0

    def extend(self, values: list[int]) -> None:
        """Count some values, none of them negative."""
        if not values:
            return
        self.count += len(values)
        self._lowest, self._highest = min(self._lowest, *values), max(self._highest, *values)
        self._buckets.update([v >> s << s if (s := v.bit_length() - BITS) > 0 else v for v in values])

    def merge(self, other: LatencyHistogram) -> None:
        """Count all that another one has counted."""
        self.count += other.count
        self._lowest, self._highest = min(self._lowest, other._lowest), max(self._highest, other._highest)
        self._buckets.update(other._buckets)

    def quantile(self, fraction: float) -> int:
        """The value at this fraction of all, in (0, 1]: the middle of its bucket. 0 when there is none."""
        wanted = max(1, math.ceil(fraction * self.count - ROUNDING))
        for bucket in sorted(self._buckets):
            wanted -= self._buckets[bucket]
            if wanted <= 0:
                middle = bucket + ((1 << max(bucket.bit_length() - BITS, 0)) >> 1)
                return min(max(middle, self._lowest), self._highest)
        return 0

    def __len__(self) -> int:
        """How many buckets hold something."""
        return len(self._buckets)


class ChannelLatency:
    """`window`: how far back it reaches, in seconds; `now` is the broker's clock."""

    def __init__(self, window: float, now: float) -> None:
        self._half = window / 2
        self._turn_at = now + self._half
        self._older, self._younger = LatencyHistogram(), LatencyHistogram()
        self._published: dict[int, int] = {}  # of what is in flight, by seq

    def delivered(self, seqs: Iterable[int], frames: Iterable[bytes]) -> None:
        """These are in flight from now on."""
        self._published.update(zip(seqs, map(published_ns, frames), strict=False))

    def forget(self, seq: int) -> None:
        """This one was not finished."""
        self._published.pop(seq, None)

    def clear(self) -> None:
        """Nothing is in flight any more. What was measured stays."""
        self._published.clear()

    def finished(self, seqs: list[int], now: float, wall_ns: int) -> None:
        """These were finished. A wall clock that was set back makes no negative times."""
        self._turn(now)
        take = self._published.pop
        self._younger.extend([max(0, wall_ns - take(seq, wall_ns)) for seq in seqs])

    def samples(self, now: float) -> LatencyHistogram:
        """All of the window: a histogram of its own, in nanoseconds."""
        self._turn(now)
        both = LatencyHistogram()
        both.merge(self._older)
        both.merge(self._younger)
        return both

    def _turn(self, now: float) -> None:
        if now < self._turn_at:
            return
        self._older = self._younger if now < self._turn_at + self._half else LatencyHistogram()
        self._younger = LatencyHistogram()
        self._turn_at = now + self._half - (now - self._turn_at) % self._half
