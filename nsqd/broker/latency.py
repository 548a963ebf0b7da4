"""How long messages take from publish to finish, for one channel: only with `BrokerOptions.latency_window`.

A sample is the time from a message's timestamp (its publish, in its frame's head) to its FIN; nothing but a FIN counts.
What is in flight carries no timestamp, so this keeps one for each message handed out: from the delivery, where the
frame is in hand whatever way the message came (fresh, requeued, deferred, from memory or from disk), to the answer.

The window has two sketches. Samples go into the younger; every half of the window the older is thrown away and a new
one begun. So what is shown covers between a half and the whole of the window.
"""

from __future__ import annotations

from collections.abc import Iterable

from nsqd.broker.oldest import published_ns
from nsqd.broker.quantiles import Sketch

__all__ = ["ChannelLatency"]


class ChannelLatency:
    """`window`: how far back it reaches, in seconds; `now` is the broker's clock."""

    def __init__(self, window: float, now: float) -> None:
        self._half = window / 2
        self._turn_at = now + self._half
        self._older, self._younger = Sketch(), Sketch()
        self._published: dict[int, int] = {}  # of what is in flight, by number

    def delivered(self, seqs: Iterable[int], frames: Iterable[bytes]) -> None:
        """These are in flight from now on."""
        self._published.update(zip(seqs, map(published_ns, frames), strict=False))

    def forget(self, seq: int) -> None:
        """It was not finished."""
        self._published.pop(seq, None)

    def clear(self) -> None:
        """Nothing is in flight any more. What was measured stays."""
        self._published.clear()

    def finished(self, seqs: list[int], now: float, wall_ns: int) -> None:
        """A clock on the wall that was set back makes no negative times."""
        self._turn(now)
        take = self._published.pop
        self._younger.extend([max(0, wall_ns - take(seq, wall_ns)) for seq in seqs])

    def samples(self, now: float) -> Sketch:
        """All of the window: a sketch of its own, in nanoseconds."""
        self._turn(now)
        both = Sketch()
        both.merge(self._older)
        both.merge(self._younger)
        return both

    def _turn(self, now: float) -> None:
        if now < self._turn_at:
            return
        if now < self._turn_at + self._half:
            self._older = self._younger
        else:
            self._older = Sketch()
        self._younger = Sketch()
        self._turn_at = now + self._half - (now - self._turn_at) % self._half
