"""When the oldest message of a topic or channel was published: read from its own head, so it is exact.

What is in memory tells at once. What is only on disk has to be read, and the core does not wait: the answer is then an
`OldestRead` that somebody may run in a thread and hand back. What was learned is kept as long as the same message is
the oldest one, so a channel that nobody consumes costs one read, not one for each question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nsqd.broker.latency import published_ns
from nsqd.log.segment import ReadPlan

if TYPE_CHECKING:
    from nsqd.broker.log_topic import LogTopic

__all__ = ["Oldest", "OldestRead", "PublishTime"]


@attrs.frozen(eq=False)
class OldestRead:
    """The head of one message, on disk."""

    _memory: Oldest
    _plan: ReadPlan

    def run(self) -> int | None:
        """Nanoseconds since 1970; None when it cannot be read. *Any thread*; `OSError`."""
        result = self._plan.run()
        # With damage in between it is the next one that can be read.
        return published_ns(result.runs[0].frames[0]) if result is not None and result.runs else None

    def learned(self, published: int) -> None:
        """`run` has said so: remember it. In the broker's thread."""
        self._memory.learn(self._plan.seq, published)


PublishTime = int | OldestRead | None
"""Nanoseconds since 1970, or how to find out; None: there is no message."""


class Oldest:
    """Knows one message of a log at a time."""

    __slots__ = ("_known", "_topic")

    def __init__(self, topic: LogTopic) -> None:
        self._topic = topic
        self._known = (-1, 0)  # number, publish time

    def ask(self, seq: int) -> PublishTime:
        """When this message, which must be in the log, was published. None once the topic is deleted."""
        if self._known[0] == seq:
            return self._known[1]
        frame = self._topic.window.get(seq)
        if frame is None and self._topic.log.deleted:
            return None
        if frame is None:
            return OldestRead(self, self._topic.log.plan(seq, 1))
        published = published_ns(frame)
        self.learn(seq, published)
        return published

    def learn(self, seq: int, published: int) -> None:
        self._known = (seq, published)
