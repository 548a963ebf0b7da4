"""The bodies of a channel's messages that wait for another delivery, or for the end of their delay.

They are delivered in another order than that of the log. Those that leave the window, or the pieces that the cursor has
read, are kept here as far as there is room. The others are read from the log shortly before they are needed: many
messages with one read, in the order of their positions.

All readers share one limit in bytes (`BrokerContext.read_ahead`). The bodies that came first are dropped first, which
are those with the oldest positions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice, repeat

from nsqd.broker.fetcher import Fetcher
from nsqd.broker.log_view import LogView
from nsqd.log.fetch import FetchResult
from nsqd.log.ranges import RangeSet
from nsqd.log.segment import ReadResult

__all__ = ["BodyCache"]

# One read brings at most this part of the limit, so that it does not replace what the last one brought.
READ_PART = 4
TYPICAL_SIZE = 1024  # of a frame, before one was read
MOST_AHEAD = 10_000  # messages


class BodyCache:
    """The bodies of one channel. `wake` is called when a body may be available that was not.

    `is_settled(seq)`: the channel does not need this message any more.
    """

    def __init__(self, view: LogView, wake: Callable[[], None], is_settled: Callable[[int], bool]) -> None:
        self._view = view
        self._wake = wake
        self._is_settled = is_settled
        self._budget = view.context.read_ahead
        self._frames: dict[int, bytes] = {}
        self._size = 0
        self._lost = RangeSet()
        self._doubtful: set[int] = set()
        self._typical_size = TYPICAL_SIZE
        self._queue: Callable[[], Iterable[int]] = tuple  # seqs that are to be delivered now
        self._ahead: deque[int] = deque()  # seqs that are due soon, the earliest first
        self._now = Fetcher(view, self, lambda count: self._missing(self._queue(), count), wake)
        self._soon = Fetcher(view, self, lambda count: self._missing(self._ahead, count), self._resume_ahead)

    # --- bodies in memory

    def get(self, seq: int) -> bytes | None:
        """The frame of a message, if it is in memory."""
        return self._frames.get(seq) or self._view.window.get(seq)

    def hold(self, frames: Iterable[tuple[int, bytes]]) -> None:
        """Keep frames that leave other memory, as far as there is room."""
        if self._budget.max_bytes > 0:
            self._add(frames)

    def forget(self, seqs: Iterable[int]) -> None:
        """Drop these: they are settled."""
        if not self._frames:
            return
        size = sum(map(len, map(self._frames.pop, seqs, repeat(b""))))
        if size:
            self._size -= size
            self._budget.update(self, self._size)

    def _add(self, frames: Iterable[tuple[int, bytes]]) -> None:
        held, before = self._frames, len(self._frames)
        size = 0
        for seq, frame in frames:
            if seq not in held:
                held[seq] = frame
                size += len(frame)
        if not size:
            return
        self._size += size
        self._typical_size = max(1, size // (len(held) - before))
        # What has just come stays, or a single body that is larger than the limit could never be delivered.
        self._shrink(max(size, self._budget.max_bytes))
        self._budget.update(self, self._size)

    def _shrink(self, limit: int) -> None:
        """Drop the bodies that came first, down to `limit` bytes."""
        size, dropped = self._size, []
        for seq, frame in self._frames.items():
            if size <= limit:
                break
            size -= len(frame)
            dropped.append(seq)
        for seq in dropped:
            del self._frames[seq]
        self._size = size

    def release(self, size: int) -> int:
        """Drop at least `size` bytes; see `MemoryBudget`."""
        self._shrink(max(0, self._size - size))
        return self._size

    # --- reads

    def get_all(self, seqs: Iterable[int], max_size: int) -> list[bytes]:
        """The frames of these messages, up to about `max_size` bytes or the first one that is not in memory."""
        held, window = self._frames.get, self._view.window.get
        frames: list[bytes] = []
        for seq in seqs:
            frame = held(seq) or window(seq)
            if frame is None:
                break
            frames.append(frame)
            max_size -= len(frame)
            if max_size <= 0:
                break
        return frames

    def fetch(self, queue: Callable[[], Iterable[int]], first: int) -> bytes | None:
        """The frame of the first message of a queue. None while it is read, and if it is lost."""
        if self._now.busy or first in self._lost:
            return None
        self._queue = queue
        if first in self._doubtful:
            self._now.read_single(first)
        else:
            self._now.read()
        self._queue = tuple
        frame = self._frames.get(first)
        if frame is None and not self._now.busy:
            self._wake()  # it is lost, or to be read once more
        return frame

    def fetch_ahead(self, seqs: Iterable[int]) -> None:
        """Read bodies of messages that are due soon."""
        self._ahead.extend(seqs)
        self._read_ahead()

    @property
    def most_ahead(self) -> int:
        """How many messages can be kept in memory ahead of their time."""
        return min(MOST_AHEAD, self.room // self._typical_size)

    def _read_ahead(self) -> None:
        self._drop_read()
        if not self._ahead or self._soon.busy:
            return
        self._soon.read()
        self._drop_read()
        if self._ahead and not self._soon.busy:
            self._soon.in_next_round()

    def _drop_read(self) -> None:
        """Drop the first seqs to be read ahead which have been read, are left to `fetch`, or are settled by now."""
        ahead = self._ahead
        while ahead:
            first = ahead[0]
            if self.get(first) is None and first not in self._doubtful and not self._is_settled(first):
                return
            ahead.popleft()

    def _resume_ahead(self) -> None:
        self._read_ahead()
        self._wake()

    def _missing(self, queue: Iterable[int], count: int) -> list[int]:
        held, base, doubtful = self._frames, self._view.window.base, self._doubtful
        count = min(count, max(1, self.room // self._typical_size))
        return [seq for seq in islice(queue, count) if seq < base and seq not in held and seq not in doubtful]

    @property
    def room(self) -> int:
        """Bytes that one read may bring."""
        return max(1, self._budget.max_bytes // READ_PART)

    def accept(self, result: FetchResult) -> None:
        """The result of a read."""
        self._view.log.accept_fetch(result)
        self._doubtful.update(result.doubtful)
        # During a job the message may have been read by another one, delivered and finished.
        settled = self._is_settled
        self._add((seq, frame) for seq, frame in result.frames.items() if not settled(seq))

    # --- damage

    def is_lost(self, seq: int) -> bool:
        """Whether a read has found that this message is lost."""
        return seq in self._lost

    def accept_single(self, seq: int, result: ReadResult) -> None:
        """The result of a read of one message over damage."""
        self._doubtful.discard(seq)
        self._view.accept(result)
        runs = result.runs
        first = runs[0].first if runs else result.next
        if first > seq:  # damaged, or never written
            self._lost.add(seq, first)
            self._view.on_loss(seq, first, True)
        elif runs:  # else it is not where it was said to be, but may be elsewhere
            self._add([(seq, runs[0].frames[0])])

    def clear(self) -> None:
        """Drop all bodies, and ignore the results of reads in progress."""
        self._now.cancel()
        self._soon.cancel()
        self._ahead.clear()
        self._lost = RangeSet()
        self._doubtful.clear()
        self._frames.clear()
        self._size = 0
        self._budget.update(self, 0)
