"""The latency of one channel from publish to finish: measured only with `BrokerOptions.latency_window`.

A sample is the time from a message's timestamp (its publish time, in the head of its frame) to its FIN; only a FIN
counts. An entry in flight has no timestamp, so `ChannelLatency` keeps one for each message from its delivery, where the
frame is at hand however the message was stored, to its answer.

Samples are counted in log-spaced buckets. A bucket holds the values that agree in their highest `BITS` bits, so a
quantile is off by at most 1/2**BITS (1.6 %) in value and exact in rank; histograms merge exactly, as buckets are the
same everywhere. (A sketch with bounded rank errors was exact in value, took four times the CPU, and its errors added
up when channels were merged.)

The window consists of two histograms. Samples go into the newer; after each half of the window the older is discarded
and a new one begun. So the result covers between one half and the whole of the window.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from nsqd.broker.oldest import published_ns

__all__ = ["BITS", "ChannelLatency", "LatencyHistogram"]

BITS = 6  # the highest bits of a value, which name its bucket: 32 buckets from one power of two to the next
_HIGHEST_POSSIBLE = 1 << 63  # nanoseconds
ROUNDING = 1e-6  # subtracted before rounding up, as in floating point 0.07 * 100 is a little more than 7


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
        """Add the counts of another histogram."""
        self.count += other.count
        self._lowest, self._highest = min(self._lowest, other._lowest), max(self._highest, other._highest)
        self._buckets.update(other._buckets)

    def quantile(self, fraction: float) -> int:
        """The quantile at `fraction`, in (0, 1]: the middle of its bucket; 0 without values."""
        wanted = max(1, math.ceil(fraction * self.count - ROUNDING))
        for bucket in sorted(self._buckets):
            wanted -= self._buckets[bucket]
            if wanted <= 0:
                middle = bucket + ((1 << max(bucket.bit_length() - BITS, 0)) >> 1)
                return min(max(middle, self._lowest), self._highest)
        return 0

    def __len__(self) -> int:
        """How many buckets are not empty."""
        return len(self._buckets)


class ChannelLatency:
    """The latencies of the last `window` seconds. `now`: the broker's clock."""

    def __init__(self, window: float, now: float) -> None:
        self._half = window / 2
        self._turn_at = now + self._half
        self._older, self._younger = LatencyHistogram(), LatencyHistogram()
        self._published: dict[int, int] = {}  # publish times of the messages in flight, by seq

    def delivered(self, seqs: Iterable[int], frames: Iterable[bytes]) -> None:
        """Note the publish times of messages that are in flight from now on."""
        self._published.update(zip(seqs, map(published_ns, frames), strict=False))

    def forget(self, seq: int) -> None:
        """Drop the publish time of a message that was requeued or dropped: no sample."""
        self._published.pop(seq, None)

    def clear(self) -> None:
        """Drop all publish times, as nothing is in flight any more. Samples are kept."""
        self._published.clear()

    def finished(self, seqs: list[int], now: float, wall_ns: int) -> None:
        """Count the latencies of finished messages."""
        self._turn(now)
        take = self._published.pop
        # Not below 0, as the wall clock may have been set back.
        self._younger.extend([max(0, wall_ns - take(seq, wall_ns)) for seq in seqs])

    def samples(self, now: float) -> LatencyHistogram:
        """All samples of the window, in nanoseconds, as a new histogram."""
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
