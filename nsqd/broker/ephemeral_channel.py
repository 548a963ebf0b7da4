"""Channels that live in memory only: `#ephemeral` ones, and every channel of an ephemeral topic.

A queue of at most `mem-queue-size` messages, and `mem-queue-bytes` for all such queues; what comes when it is full is
dropped, and counted. Nothing of it is in any record, and it keeps no segment from being deleted. The one exception is
the backlog of a topic on disk whose first channel is ephemeral: those messages stand in the queue by number, and their
bodies are read when they are due; as long as one is missing, its segment stays.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from itertools import chain, islice
from typing import TYPE_CHECKING

from nsqd.broker.channel import TURN_BYTES, Channel, Entry
from nsqd.broker.context import BrokerContext
from nsqd.broker.latency import published_ns
from nsqd.broker.log_reader import FETCH_AHEAD, LogReader
from nsqd.broker.oldest import Oldest, PublishTime

if TYPE_CHECKING:
    from nsqd.broker.log_topic import LogTopic

__all__ = ["EphemeralChannel"]


class EphemeralChannel(Channel):
    """`backlog`: the topic on disk whose backlog it may get; None on an ephemeral topic, which has no log."""

    __slots__ = (
        "_oldest",
        "_queue",
        "_reader",
        "_sizes",
        "_unread",
    )

    def __init__(self, broker: BrokerContext, topic_name: str, name: str, backlog: LogTopic | None) -> None:
        super().__init__(broker, topic_name, name)
        self._reader = LogReader(backlog, lambda: broker.pump_soon(self)) if backlog else None
        self._oldest = Oldest(backlog) if backlog else None
        self._queue: deque[tuple[int, bytes | None]] = deque()
        self._sizes: dict[int, int] = {}  # of the frames that it holds, in flight and deferred ones too
        self._unread: set[int] = set()  # whose bodies are still to be read from the log

    @property
    def fresh(self) -> int:
        return len(self._queue)

    @property
    def backend_depth(self) -> int:
        return 0

    def oldest(self) -> PublishTime:
        seq = min(min(self._sizes, default=math.inf), min(self._unread, default=math.inf))
        if seq == math.inf:
            return None
        if seq in self._unread:
            assert self._oldest is not None
            return self._oldest.ask(int(seq))
        frame = self._frame_of(int(seq))
        return None if frame is None else published_ns(frame)

    def _frame_of(self, seq: int) -> bytes | None:
        """The frame of the oldest message that it holds, wherever that is."""
        if self._queue and self._queue[0][0] == seq:
            return self._queue[0][1]
        if seq in self.deferred:
            return self.deferred[seq][2]
        waiting = ((entry[0], entry[2]) for entry in self.requeued)
        given = ((entry[0], entry[4]) for entry in self.in_flight_entries())
        return next((frame for other, frame in chain(waiting, given) if other == seq), None)

    @property
    def pinned(self) -> int | None:
        """The lowest number whose body is still to be read from the log."""
        return min(self._unread, default=None)

    def room_for(self, count: int) -> int:
        """How many of so many messages find room."""
        room = max(0, self.broker.mem_queue_size - len(self._queue))
        if room < count and not self.paused:  # what is handed over at once needs no queue
            room = max(room, sum(s.room for s in self._waiting) - len(self._queue))
        return min(room, count)

    def enqueue(self, first: int, frames: list[bytes]) -> None:
        """Messages entered from the topic."""
        self.message_count += len(frames)
        taken = 0
        for seq, frame in enumerate(frames[: self.room_for(len(frames))], first):
            if not self._hold(seq, frame):
                break
            self._queue.append((seq, frame))
            taken += 1
        self.dropped_count += len(frames) - taken
        self.broker.pump_soon(self)

    def enqueue_backlog(self, seqs: list[int], dropped: int) -> None:
        """The topic's backlog: these are read when their turn comes, `dropped` more found no room."""
        self.message_count += len(seqs) + dropped
        self.dropped_count += dropped
        self._queue.extend((seq, None) for seq in seqs)
        self._unread.update(seqs)
        self.broker.pump_soon(self)

    def enqueue_deferred(self, seq: int, frame: bytes | None, due: float) -> None:
        """A deferred message entered; without its frame (it is of a backlog) its body is read when it is due."""
        self.message_count += 1
        if frame is None:  # the topic had all their numbers, too
            self._unread.add(seq)
        elif not self._hold(seq, frame):
            self.dropped_count += 1
            return
        self.defer(seq, 0, due, frame)

    def _hold(self, seq: int, frame: bytes) -> bool:
        if not self.broker.ephemeral.take(len(frame)):
            return False
        self._sizes[seq] = len(frame)
        return True

    def _take_fresh(self, limit: int) -> tuple[int, list[bytes]] | None:
        queue = self._queue
        if not queue:
            return None
        first, size = queue[0][0], 0
        frames: list[bytes] = []
        while queue and len(frames) < limit and size < TURN_BYTES:
            seq, frame = queue[0]
            if seq != first + len(frames):
                break
            if frame is None and (frame := self._read(seq)) is None:
                break
            queue.popleft()
            frames.append(frame)
            size += len(frame)
        return (first, frames) if frames else None

    def _read(self, seq: int) -> bytes | None:
        """The body of the first message of the queue, from the log."""
        frame = self._from_log(seq, (n for n, f in islice(self._queue, FETCH_AHEAD) if f is None))
        if frame is None and seq not in self._unread:
            self._queue.popleft()
        return frame

    def _body(self, entry: Entry) -> bytes | None:
        """That of the first requeued one."""
        frame = self._from_log(entry[0], (n for n, _, f in islice(self.requeued, FETCH_AHEAD) if f is None))
        if frame is None and entry[0] not in self._unread:
            self.requeued.popleft()
        return frame

    def _from_log(self, seq: int, others: Iterable[int]) -> bytes | None:
        """None while it is being read, or, when it is no more in `_unread`, because it is lost."""
        assert self._reader is not None
        frame = self._reader.get(seq, others)
        if frame is not None:
            self._unread.discard(seq)
            self._sizes[seq] = len(frame)
            self.broker.ephemeral.used += len(frame)  # it is on its way out
        elif self._reader.is_lost(seq):
            self._unread.discard(seq)
            self.damaged_count += 1
            self.broker.pump_soon(self)
        return frame

    def _keep_frames(self) -> bool:
        return True

    def _settled(self, seqs: list[int]) -> None:
        pop = self._sizes.pop
        self.broker.ephemeral.used -= sum([pop(seq, 0) for seq in seqs])

    def _awaits_redelivery(self, seq: int, attempts: int, delay: float) -> None:
        pass  # nothing of it is kept

    def empty(self) -> None:
        self.dropped_count += self._clear() + len(self._queue)
        self._let_go()

    def _let_go(self) -> None:
        self._queue.clear()
        self._unread.clear()
        self.broker.ephemeral.used -= sum(self._sizes.values())
        self._sizes.clear()

    def close(self) -> None:
        self._let_go()
        if self._reader is not None:
            self._reader.close()
