"""What of a topic's log stays although nobody needs it any more, for replays: the setting `retain` of the topic.

The newest complete segments are kept: those whose newest message is not older than the age, and that are together, with
what is written to now, not larger than the size. When the disk has no room, the oldest of them are given up for good.

The age of a segment is that of its last message. Only the oldest segment that is kept has to be known, so one message
is read when a segment is about to go, in a job if it is not in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from nsqd.broker.context import BrokerContext
from nsqd.broker.log_view import LogView
from nsqd.broker.oldest import published_ns
from nsqd.broker.topic import Topic
from nsqd.log.jobs import Job
from nsqd.log.segment import Segment

__all__ = ["Retained"]

LOOK_EVERY = 60.0  # seconds, at most: the wall clock may be set
NOT_KNOWN = 0


class Retained:
    """The segments of one log that stay. `learned` is called when a time that had to be read is known.

    `oldest_ns`: when the last message of the oldest of them was published; 0: not known yet.
    """

    def __init__(
        self, context: BrokerContext, topic: Topic, view: LogView, learned: Callable[[], None]
    ) -> None:
        self._context = context
        self._topic = topic
        self._view = view
        self._learned = learned
        self._kept: list[Segment] = []
        self._given_up = 0  # the position up to which nothing stays
        self._newest: dict[Segment, int] = {}  # publish time of its last message, ns
        self._reading = False
        self.oldest_ns = NOT_KNOWN

    def choose(self) -> list[Segment]:
        """The complete segments that stay now, oldest first, needed or not."""
        retain = self._topic.settings.retain
        self._kept = []
        if retain is None:
            return []
        *complete, last = self._view.log.segments
        first = 0
        while first < len(complete) and complete[first].position < self._given_up:
            first += 1
        if retain.size is not None:
            size, start = last.file.size, len(complete)
            while start > first and (size := size + complete[start - 1].file.size) <= retain.size:
                start -= 1
            first = start
        if retain.age is not None:
            since_ns = self._context.wall_ns - retain.age
            while first < len(complete) and NOT_KNOWN < self._newest_of(complete[first]) < since_ns:
                first += 1
        self._kept = complete[first:]
        # Also of segments that are too old: somebody may need them for long.
        self._newest = {at: self._newest[at] for at in complete if at in self._newest}
        if self._kept:
            self.oldest_ns = self._newest_of(self._kept[0]) or self.oldest_ns
        return self._kept

    @property
    def is_kept(self) -> bool:
        """Whether any segment is kept."""
        return bool(self._kept)

    def next_look(self) -> float:
        """When the oldest segment may have to go, in seconds of the broker's clock; infinity: at no time."""
        retain = self._topic.settings.retain
        if retain is None or retain.age is None or not self._kept:
            return math.inf
        left = (self.oldest_ns + retain.age - self._context.wall_ns) / 1e9
        return self._context.now + min(max(left, 1.0), LOOK_EVERY)

    def give_up_oldest(self) -> int:
        """Let the oldest segment go; returns its bytes, 0 if there is none."""
        if not self._kept:
            return 0
        segment = self._kept.pop(0)
        self._given_up = segment.end
        if self._kept:
            self.oldest_ns = self._newest.get(self._kept[0], self.oldest_ns)
        return segment.file.size

    def _newest_of(self, segment: Segment) -> int:
        """The publish time of a segment's last message; 0: it is being read."""
        known = self._newest.get(segment)
        if known is not None:
            return known
        assert segment.next_first is not None
        frame = self._view.window.get(segment.next_first - 1) if segment.next_first > segment.first else None
        if frame is not None:
            newest = self._newest[segment] = published_ns(frame)
            return newest
        if not self._reading:
            self._read(segment)
        return NOT_KNOWN

    def _read(self, segment: Segment) -> None:
        look = self._view.log.look([])

        def done(newest: int | None) -> None:
            self._reading = False
            # Without any message that can be read, nothing is kept for it.
            self._newest[segment] = NOT_KNOWN + 1 if newest is None else newest
            self._learned()

        def failed(error: OSError) -> None:
            self._reading = False
            if not self._view.log.deleted and segment in self._view.log.segments:
                self._context.report_read_error(self._topic.name, error)
                self._context.schedule_maintenance(self._topic.name)

        self._reading = True
        self._context.store.jobs.append(Job("read", lambda: look.newest(segment), done, failed))
