"""When the oldest message of a topic or channel was published: the timestamp in its own frame, so it is exact.

For a message in memory the answer is there at once. One that is only on disk has to be read, and the core does not
wait: the answer is then an `OldestRead`, to be run in a thread and handed back. The answer is kept for as long as the
same message is the oldest one, so a channel without consumers costs one read, not one for each question.
"""

from __future__ import annotations

import attrs

from nsqd.broker.log_view import LogView
from nsqd.log.segment import ReadPlan

__all__ = ["Oldest", "OldestRead", "PublishTime", "published_ns"]

_TIMESTAMP = slice(8, 16)  # of a message frame


def published_ns(frame: bytes) -> int:
    """When a message was published, in nanoseconds since 1970."""
    return int.from_bytes(frame[_TIMESTAMP], "big", signed=True)


@attrs.frozen(eq=False)
class OldestRead:
    """The head of one message, on disk."""

    _oldest: Oldest
    _plan: ReadPlan

    def run(self) -> int | None:
        """Nanoseconds since 1970; None when it cannot be read. *Any thread*; `OSError`."""
        result = self._plan.run()
        # With damage in between it is the next one that can be read.
        return published_ns(result.runs[0].frames[0]) if result is not None and result.runs else None

    def learned(self, published: int) -> None:
        """Remember what `run` returned. On the broker's thread."""
        self._oldest.learn(self._plan.seq, published)


PublishTime = int | OldestRead | None
"""Nanoseconds since 1970, or how to find out; None: there is no message."""


class Oldest:
    """Knows one message of a log at a time."""

    __slots__ = ("_known", "_view")

    def __init__(self, view: LogView) -> None:
        self._view = view
        self._known = (-1, 0)  # number, publish time

    def ask(self, seq: int) -> PublishTime:
        """When this message, which must be in the log, was published. None once the topic is deleted."""
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
