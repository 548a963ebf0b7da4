"""The backlog of a channel that lives in memory only: an `#ephemeral` one, or any channel of an ephemeral topic.

A queue of at most `mem-queue-size` messages, and `mem-queue-bytes` for all such queues together. Messages that do not
fit are dropped and counted. Nothing is recorded, and segments of the log may be removed regardless of this channel. The
one exception is the first channel of a topic on disk, if it is ephemeral: messages that the topic has gathered are in
the queue by seq, and their bodies are read from the log when their turn comes; until then their segment is kept.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

from nsqd.broker.backlog import TURN_BYTES, ChannelCounts
from nsqd.broker.body_cache import BodyCache
from nsqd.broker.context import BrokerContext
from nsqd.broker.log_view import LogView
from nsqd.broker.oldest import Oldest, PublishTime, published_ns
from nsqd.log.look import Look
from nsqd.log.ranges import RangeSet
from nsqd.log.state import Change, Code
from nsqkit.wire.frames import ID

__all__ = ["MemoryBacklog"]

_NOTHING_SETTLED = RangeSet()


class MemoryBacklog:
    """`source`: the topic's log, from which it may take over gathered messages; None on an ephemeral topic."""

    __slots__ = (
        "_budget",
        "_frames",
        "_held_bytes",
        "_oldest",
        "_queue",
        "_queue_size",
        "_reader",
        "_source",
        "_unread",
        "counts",
        "generation",
        "wake",
    )

    def __init__(self, context: BrokerContext, source: LogView | None) -> None:
        self.counts = ChannelCounts()
        self.generation = 0
        self.wake: Callable[[], None] = lambda: None
        self._source = source
        self._budget = context.ephemeral_bytes
        self._queue_size = context.options.mem_queue_size
        self._reader = (
            BodyCache(source, lambda: self.wake(), lambda seq: seq not in self._unread) if source else None
        )
        self._oldest = Oldest(source) if source else None
        self._queue: deque[int] = deque()  # ready seqs
        self._held_bytes = 0  # of `_frames`
        self._frames: dict[int, bytes] = {}  # of all messages it holds: ready, in flight, requeued, deferred
        self._unread: set[int] = set()  # held by seq only: their bodies are still in the log

    @property
    def repeats_ids(self) -> bool:
        return self._source is not None and self._source.repeats_ids

    # --- figures

    @property
    def ready(self) -> int:
        return len(self._queue)

    def on_disk_only(self, requeued: Iterable[int]) -> int:
        return 0

    def oldest(self) -> PublishTime:
        held, unread = min(self._frames, default=math.inf), min(self._unread, default=math.inf)
        if unread < held:
            assert self._oldest is not None
            return self._oldest.ask(int(unread))
        return published_ns(self._frames[int(held)]) if held < math.inf else None

    def waiting_bytes(self, others: int) -> int:
        held = len(self._frames)
        waiting = len(self._queue) + others - len(self._unread)
        return self._held_bytes * max(0, min(waiting, held)) // held if held else 0

    @property
    def needed_from(self) -> int:
        return min(self._unread, default=0)

    def needed(self, start: int, end: int) -> list[tuple[int, int]]:
        return [(seq, seq + 1) for seq in sorted(self._unread) if start <= seq < end]

    def needed_count(self, start: int, end: int) -> int:
        return sum(1 for seq in self._unread if start <= seq < end)

    def needs(self, seq: int) -> bool:
        return seq in self._unread

    # --- looking in

    def ready_from(self, start: int, limit: int) -> list[int]:
        at = bisect_left(self._queue, start)
        return list(islice(self._queue, at, at + limit))

    def is_ready(self, seq: int) -> bool:
        at = bisect_left(self._queue, seq)
        return at < len(self._queue) and self._queue[at] == seq

    def look(self, seqs: Sequence[int]) -> tuple[dict[int, bytes], Look | None]:
        if self._source is None:
            return {seq: self._frames[seq] for seq in seqs}, None
        # Without origins: the log may have removed what is held here.
        return self._source.look(seqs, self._frames.get, with_origins=False)

    def find(self, message_id: bytes) -> tuple[int, bytes] | None:
        return next((item for item in self._frames.items() if item[1][ID] == message_id), None)

    # --- bodies

    def take(self, limit: int) -> tuple[int, list[bytes]] | None:
        queue = self._queue
        if not queue:
            return None
        first, size = queue[0], 0
        frames: list[bytes] = []
        while queue and len(frames) < limit and size < TURN_BYTES:
            seq = queue[0]
            if seq != first + len(frames):
                break
            frame = self._frames.get(seq) or self._read(seq, lambda: queue)
            if frame is None:
                if seq not in self._unread:  # lost
                    queue.popleft()
                    self.counts.damaged += 1
                    self.wake()
                break
            queue.popleft()
            frames.append(frame)
            size += len(frame)
        return (first, frames) if frames else None

    def bodies(self, queue: Sequence[tuple[int, int]], limit: int) -> list[bytes]:
        frames: list[bytes] = []
        size = 0
        for seq, _ in islice(queue, limit):
            frame = self._frames.get(seq) or self._read(seq, lambda: (seq for seq, _ in queue))
            if frame is None:
                break
            frames.append(frame)
            size += len(frame)
            if size >= TURN_BYTES:
                break
        return frames

    def fetch_ahead(self, seqs: Iterable[int]) -> None:
        """Nothing to do: most of them are in memory."""

    @property
    def most_ahead(self) -> int:
        return 0

    def is_lost(self, seq: int) -> bool:
        return self._reader is not None and self._reader.is_lost(seq)

    def _read(self, seq: int, queue: Callable[[], Iterable[int]]) -> bytes | None:
        """Read a frame from the log. None while it is being read, or if it is lost: then it leaves `_unread`."""
        assert self._reader is not None
        unread = self._unread
        frame = self._reader.get(seq) or self._reader.fetch(
            lambda: (each for each in queue() if each in unread), seq
        )
        if frame is not None:
            self._reader.forget((seq,))
            unread.discard(seq)
            self._frames[seq] = frame
            self._held_bytes += len(frame)
            self._budget.used += len(frame)  # even above the limit: it is delivered at once
        elif self._reader.is_lost(seq):
            unread.discard(seq)
        return frame

    # --- new messages

    def _room_for(self, count: int, demand: Callable[[], int]) -> int:
        """How many of `count` new messages fit."""
        room = max(0, self._queue_size - len(self._queue))
        if room < count:  # messages that are delivered at once need no room in the queue
            room = max(room, demand() - len(self._queue))
        return min(room, count)

    def enter(self, first: int, frames: list[bytes], demand: Callable[[], int]) -> None:
        self.counts.entered += len(frames)
        taken = 0
        for seq, frame in enumerate(frames[: self._room_for(len(frames), demand)], first):
            if not self._hold(seq, frame):
                break
            self._queue.append(seq)
            taken += 1
        self.counts.dropped += len(frames) - taken

    def enter_deferred(self, seq: int, frame: bytes | None) -> bool:
        if frame is None:  # it is in the log, and costs no memory yet
            self._unread.add(seq)
            return True
        return self._hold(seq, frame)

    def advance(
        self, start: int, end: int, not_ready: RangeSet, held: Mapping[int, bytes], demand: Callable[[], int]
    ) -> None:
        count = end - start - not_ready.count
        room = self._room_for(count, demand)
        self.counts.entered += count
        taken = 0
        for seq in islice((n for n in range(start, end) if n not in not_ready), room):
            frame = held.get(seq)
            if frame is None:
                self._unread.add(seq)
            elif not self._hold(seq, frame):
                break
            self._queue.append(seq)
            taken += 1
        self.counts.dropped += count - taken

    def _hold(self, seq: int, frame: bytes) -> bool:
        if not self._budget.take(len(frame)):
            return False
        self._frames[seq] = frame
        self._held_bytes += len(frame)
        return True

    def skip_aborted(self, start: int, end: int) -> None:
        """Nothing to do: such seqs never enter the queue."""

    def lose(self, start: int, end: int, damaged: bool) -> None:
        """Nothing to do: `take` detects and counts lost messages when it reads their bodies."""

    def finish_ready(self, ranges: Iterable[tuple[int, int]]) -> int:
        """Nothing to do: what is in memory only is in no copy."""
        return 0

    # --- outcomes

    def finish_one(self, seq: int) -> bool:
        if not self.withdraw_ready(seq):
            return False
        self.settle([seq])
        return True

    def withdraw_ready(self, seq: int) -> bool:
        if not self.is_ready(seq):
            return False
        self._queue.remove(seq)
        return True

    def drop_ready(self, limit: int, before: int) -> int:
        dropped: list[int] = []
        while len(dropped) < limit and self._queue and self._queue[0] < before:
            dropped.append(self._queue.popleft())
        self.settle(dropped)
        return len(dropped)

    def settle(self, seqs: list[int]) -> None:
        if self._unread:
            assert self._reader is not None
            self._unread.difference_update(seqs)
            self._reader.forget(seqs)
        pop, size = self._frames.pop, 0
        for seq in seqs:
            size += len(pop(seq, b""))
        self._held_bytes -= size
        self._budget.release(size)

    def await_redelivery(self, seq: int, attempts: int, delay: float, not_counted: int = 0) -> None:
        """Nothing to do: nothing is recorded."""

    def empty(self) -> int:
        ready = len(self._queue)
        self._queue.clear()
        self._unread.clear()
        self._budget.release(self._held_bytes)
        self._held_bytes = 0
        self._frames.clear()
        return ready

    def close(self) -> None:
        self.empty()
        if self._reader is not None:
            self._reader.clear()

    # --- records

    @property
    def settled(self) -> RangeSet:
        return _NOTHING_SETTLED

    def record(self, code: Code, *items: object) -> list[Change]:
        return []

    @property
    def has_unwritten(self) -> bool:
        return False

    # --- checks

    def invariant(self, waiting: set[int]) -> None:
        assert waiting.isdisjoint(self._queue), "a waiting message is also ready"
        assert {*waiting, *self._queue} == {*self._frames, *self._unread}, "a frame without a message"
        assert self._unread.isdisjoint(self._frames)
        assert sum(map(len, self._frames.values())) == self._held_bytes
