"""The publish time of the oldest message of a topic or channel, from the timestamp in its frame.

For a message in memory the time is known at once. One that is only on disk has to be read, and the core does not wait:
the result is then an `OldestRead`, to be run in a thread. The time is cached while the same message is the oldest, so a
channel without consumers costs one read, not one per request.
"""

from __future__ import annotations

import attrs

from nsqd.broker.log_view import LogView
from nsqd.log.moved import MovedPlan
from nsqd.log.segment import ReadPlan
from nsqkit.wire.frames import TIMESTAMP

__all__ = ["Oldest", "OldestRead", "PublishTime", "published_ns"]


def published_ns(frame: bytes) -> int:
    """When a message was published, in nanoseconds since 1970."""
    return int.from_bytes(frame[TIMESTAMP], "big", signed=True)


@attrs.frozen(eq=False)
class OldestRead:
    """A read of one message's head from disk."""

    _oldest: Oldest
    _plan: ReadPlan | MovedPlan

    def run(self) -> int | None:
        """The publish time in nanoseconds since 1970; None when it cannot be read. *Any thread*; `OSError`."""
        result = self._plan.run()
        # If the message is damaged, the first run begins with the next one that is readable.
        return published_ns(result.runs[0].frames[0]) if result is not None and result.runs else None

    def learned(self, published: int) -> None:
        """Cache the result of `run`. On the broker's thread."""
        self._oldest.learn(self._plan.seq, published)


PublishTime = int | OldestRead | None
"""Nanoseconds since 1970, or a read that finds it; None: there is no message."""


class Oldest:
    """The publish time of one message of a log, cached."""

    __slots__ = ("_known", "_view")

    def __init__(self, view: LogView) -> None:
        self._view = view
        self._known = (-1, 0)  # (seq, publish time)

    def ask(self, seq: int) -> PublishTime:
        """The publish time of this message, which must be in the log. None once the topic is deleted."""
        if self._known[0] == seq:
            return self._known[1]
        frame = self._view.window.get(seq)
        if frame is None and self._view.log.deleted:
            return None
        if frame is None:
            return OldestRead(self, self._view.log.plan(seq, 1))
        published = published_ns(frame)
        self.learn(seq, published)
        return published

    def learn(self, seq: int, published: int) -> None:
        self._known = (seq, published)
