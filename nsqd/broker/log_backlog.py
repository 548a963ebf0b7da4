"""The backlog of a durable channel: a cursor into the topic's log, and the set of settled seqs.

    settled seqs, as ranges           a seq below `cursor` that is not settled is in flight, requeued or deferred
    ------------------------ cursor
    ready: up to the high watermark, without the seqs in `skip`

`skip` holds seqs at or beyond the cursor that must not be delivered as ready: deferred messages (they entered the
channel's deferred table when the high watermark passed them), aborted ones, and, after a restart, those that are
settled already or await redelivery.

Changes are written with the topic's next append: settled seqs as ranges, and messages that await redelivery with their
attempts and due time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice

from nsqd.broker.backlog import TURN_BYTES, ChannelCounts
from nsqd.broker.body_cache import BodyCache
from nsqd.broker.log_reader import LogReader
from nsqd.broker.log_view import LogView
from nsqd.broker.oldest import Oldest, PublishTime
from nsqd.log.look import Look
from nsqd.log.ranges import RangeSet, runs
from nsqd.log.state import AwaitingRedelivery, Change, ChannelState, Code, flat_runs

__all__ = ["LogBacklog"]

COUNTED = 1000  # ready messages in memory whose bytes are counted; those of more are estimated


class LogBacklog:
    """`generation`: identifies the channel in the log's records. `start`: its first seq."""

    __slots__ = (
        "_oldest",
        "_to_settle",
        "_unwritten",
        "_unwritten_awaiting",
        "_unwritten_not_counted",
        "cache",
        "counts",
        "cursor",
        "generation",
        "reader",
        "settled",
        "skip",
        "view",
        "wake",
    )

    def __init__(self, view: LogView, generation: int, start: int) -> None:
        self.view = view
        self.generation = generation
        self.cursor = start
        self.skip = RangeSet()
        self.settled = RangeSet()
        self.settled.add(0, start)
        self.counts = ChannelCounts()
        self.wake: Callable[[], None] = lambda: None
        self.reader = LogReader(view, lambda: self.wake(), self.let_go)
        self.cache = BodyCache(view, lambda: self.wake(), lambda seq: seq in self.settled)
        view.keepers[self] = None
        self._oldest = Oldest(view)
        self._to_settle: list[int] = []  # since the last append
        self._unwritten: list[
            tuple[int, int]
        ] = []  # ranges that are settled, but in no successful append yet
        self._unwritten_awaiting: dict[int, AwaitingRedelivery] = {}
        self._unwritten_not_counted: dict[int, int] = {}

    @classmethod
    def restore(cls, view: LogView, state: ChannelState) -> LogBacklog:
        """From the recovered state, without the messages that await redelivery: the channel restores those."""
        backlog = cls(view, state.generation, 0)
        backlog.settled = state.settled
        backlog.counts.damaged = state.damaged
        high_watermark = view.high_watermark
        # Aborted seqs may be settled beyond the high watermark.
        backlog.cursor = min(backlog.settled.end_of(0), high_watermark)
        for start, end in state.settled:
            backlog.skip.add(max(start, backlog.cursor), min(end, high_watermark))
        for start, end in runs(list(state.awaiting_redelivery)) if state.awaiting_redelivery else ():
            backlog.skip.add(max(start, backlog.cursor), end)
        return backlog

    @property
    def repeats_ids(self) -> bool:
        return self.view.repeats_ids

    # --- figures

    @property
    def ready(self) -> int:
        return self.view.high_watermark - self.cursor - self.skip.count

    def on_disk_only(self, requeued: Iterable[int]) -> int:
        base = self.view.window.base
        end = min(base, self.view.high_watermark)
        ready = max(0, end - self.cursor - self.skip.count_between(self.cursor, end))
        return ready + sum(1 for seq in requeued if seq < base)

    def waiting_bytes(self, others: int) -> int:
        cursor, high_watermark, log = self.cursor, self.view.high_watermark, self.view.log
        ready, between = self.ready, high_watermark - cursor
        size = others * log.average_size
        if ready == between <= COUNTED and cursor >= self.view.window.base:
            size += sum(map(len, self.view.window.slice(cursor, between)))
        elif ready:
            size += log.message_bytes(cursor, high_watermark) * ready / between
        return int(size)

    def oldest(self) -> PublishTime:
        seq = self.settled.end_of(0)
        return self._oldest.ask(seq) if seq < self.view.high_watermark else None

    # A message whose finish is not in the log yet is needed: after a crash now it would be delivered again.

    @property
    def needed_from(self) -> int:
        first = self.settled.end_of(0)
        return min(first, self._unwritten[0][0]) if self._unwritten else first

    def needed(self, start: int, end: int) -> list[tuple[int, int]]:
        gaps = self.settled.gaps(start, end)
        unwritten = [
            (max(first, start), min(last, end))
            for first, last in self._unwritten
            if first < end and start < last
        ]
        # Disjoint, as what is unwritten is settled. Sorting two sorted lists is one pass.
        return sorted([*gaps, *unwritten]) if unwritten else gaps

    def needed_count(self, start: int, end: int) -> int:
        unwritten = sum(max(0, min(last, end) - max(first, start)) for first, last in self._unwritten)
        return end - start - self.settled.count_between(start, end) + unwritten

    def needs(self, seq: int) -> bool:
        return seq not in self.settled or any(first <= seq < last for first, last in self._unwritten)

    # --- looking in

    def ready_from(self, start: int, limit: int) -> list[int]:
        return self.skip.first_outside(max(start, self.cursor), self.view.high_watermark, limit)

    def is_ready(self, seq: int) -> bool:
        return self.cursor <= seq < self.view.high_watermark and seq not in self.skip

    def look(self, seqs: Sequence[int]) -> tuple[dict[int, bytes], Look | None]:
        return self.view.look(seqs, self.cache.get)

    def find(self, message_id: bytes) -> tuple[int, bytes] | None:
        return None

    # --- bodies

    def take(self, limit: int) -> tuple[int, list[bytes]] | None:
        cursor, stop = self.cursor, self.view.high_watermark
        # Up to the next skipped seq, as the result is one run of consecutive seqs.
        if self.skip:
            start, end = self.skip.first_range()
            if start <= cursor:
                cursor = self.cursor = end
                self.skip.discard_below(end)
                start = self.skip.first_range()[0] if self.skip else stop
            stop = min(stop, start)
        limit = min(limit, stop - cursor)
        if limit <= 0:
            return None
        window = self.view.window
        if cursor >= window.base:
            frames = window.slice(cursor, limit)
            if self.reader.holds_frames:
                self.reader.end()
        else:
            cold = self.reader.take(cursor, limit)
            if cold is None:
                return None
            frames = cold
        if sum(map(len, frames)) > TURN_BYTES:
            frames = _up_to(frames, TURN_BYTES)
        self.cursor = cursor + len(frames)
        return cursor, frames

    def bodies(self, queue: Sequence[tuple[int, int]], limit: int) -> list[bytes]:
        cache = self.cache
        frames = cache.get_all((seq for seq, _ in islice(queue, limit)), TURN_BYTES)
        if not frames and self.reader.holds_frames:
            self.reader.let_go_before(self.cursor)
            frames = cache.get_all((seq for seq, _ in islice(queue, limit)), TURN_BYTES)
        if not frames and cache.fetch(lambda: (seq for seq, _ in queue), queue[0][0]):
            frames = cache.get_all((seq for seq, _ in islice(queue, limit)), TURN_BYTES)
        return frames

    def fetch_ahead(self, seqs: Iterable[int]) -> None:
        self.cache.fetch_ahead(seqs)

    @property
    def most_ahead(self) -> int:
        return self.cache.most_ahead

    def is_lost(self, seq: int) -> bool:
        return self.cache.is_lost(seq)

    def let_go(self, first: int, frames: list[bytes]) -> None:
        """These leave memory: keep those that wait for another delivery, or for the end of their delay."""
        end = first + len(frames)
        if self.settled.end_of(0) >= end:
            return
        cursor, waiting = self.cursor, list[int]()
        for start, stop in self.settled.gaps(first, end):
            waiting += range(start, min(stop, cursor))
            for skip_start, skip_stop in self.skip.overlapping(max(start, cursor), stop):
                waiting += range(max(start, cursor, skip_start), min(stop, skip_stop))
        if self._to_settle:
            settled = set(self._to_settle)
            waiting = [seq for seq in waiting if seq not in settled]
        self.cache.hold((seq, frames[seq - first]) for seq in waiting)

    # --- new messages

    def enter(self, first: int, frames: list[bytes], demand: Callable[[], int]) -> None:
        self.counts.entered += len(frames)

    def enter_deferred(self, seq: int, frame: bytes | None) -> bool:
        self.skip.add(seq, seq + 1)
        return True

    def advance(
        self, start: int, end: int, not_ready: RangeSet, held: Mapping[int, bytes], demand: Callable[[], int]
    ) -> None:
        self.counts.entered += end - start - not_ready.count

    def skip_aborted(self, start: int, end: int) -> None:
        self.settled.add(start, end)
        self.skip.add(max(start, self.cursor), end)

    def lose(self, start: int, end: int, damaged: bool) -> None:
        start, end = max(start, self.cursor), min(end, self.view.high_watermark)
        # Seqs that are skipped already are settled, or wait in the channel: only the gaps are ready.
        for gap_start, gap_end in self.skip.gaps(start, end):
            self.skip.add(gap_start, gap_end)
            self.settled.add(gap_start, gap_end)
            if damaged:
                self.counts.damaged += gap_end - gap_start
            else:
                self.counts.dropped += gap_end - gap_start

    def finish_ready(self, ranges: Iterable[tuple[int, int]]) -> int:
        high_watermark = self.view.high_watermark
        ready: list[tuple[int, int]] = []
        for start, end in ranges:
            for gap_start, gap_end in self.skip.gaps(max(start, self.cursor), min(end, high_watermark)):
                self.skip.add(gap_start, gap_end)
                ready.append((gap_start, gap_end))
        return self._settle_ranges(ready)

    def _settle_ranges(self, ranges: list[tuple[int, int]]) -> int:
        """Settle what is not settled yet; returns how many. As ranges all the way: they may have millions."""
        if not ranges:
            return 0
        unwritten = RangeSet(self._unwritten)
        for start, end in ranges:
            self.settled.add(start, end)
            unwritten.add(start, end)
        self._unwritten = list(unwritten)
        self.view.note_settled([seq for seq in self.view.log.moved if seq in unwritten])
        self.view.record_soon(self)
        return sum(end - start for start, end in ranges)

    # --- outcomes

    def finish_one(self, seq: int) -> bool:
        return self.finish_ready([(seq, seq + 1)]) == 1

    def withdraw_ready(self, seq: int) -> bool:
        if not self.is_ready(seq):
            return False
        self.skip.add(seq, seq + 1)
        return True

    def drop_ready(self, limit: int, before: int) -> int:
        stop, start, left = min(before, self.view.high_watermark), self.cursor, limit
        dropped: list[tuple[int, int]] = []
        for skip_start, skip_end in chain(self.skip.overlapping(start, stop), ((stop, stop),)):
            if left and start < skip_start:
                end = min(skip_start, start + left)
                dropped.append((start, end))
                left -= end - start
            if not left:
                break
            start = skip_end
        if dropped:
            self.cursor = dropped[-1][1]
            self.skip.discard_below(self.cursor)
        return self._settle_ranges(dropped)

    def settle(self, seqs: list[int]) -> None:
        self._to_settle += seqs
        self.cache.forget(seqs)
        self.view.record_soon(self)

    def await_redelivery(self, seq: int, attempts: int, delay: float, not_counted: int = 0) -> None:
        due_ns = self.view.context.wall_ns + int(delay * 1e9) if delay > 0 else 0
        self._unwritten_awaiting[seq] = (attempts, due_ns)
        if not_counted:
            self._unwritten_not_counted[seq] = not_counted
        elif self._unwritten_not_counted:
            self._unwritten_not_counted.pop(seq, None)
        self.view.record_soon(self)

    def empty(self) -> int:
        ready = self.ready
        self.cursor = self.view.high_watermark
        self.skip.discard_below(self.cursor)
        self.settled.add(0, self.cursor)
        self._to_settle = []
        self._unwritten = []
        self._unwritten_awaiting.clear()
        self._unwritten_not_counted.clear()
        self._release()
        return ready

    def close(self) -> None:
        self.view.changed.pop(self, None)
        self.view.keepers.pop(self, None)
        self._release()

    def _release(self) -> None:
        self.reader.close()
        self.cache.clear()

    # --- records

    def record(self, code: Code, *items: object) -> list[Change]:
        return [(code, self.generation, *items)]

    def collect_changes(self, full: bool) -> list[Change]:
        """The changes for the next append. With a `full` disk only those that free space."""
        changes: list[Change] = []
        # Runs are formed once a commit, not with every FIN: sorting a list is cheaper than many insertions.
        if self._to_settle:
            self.view.note_settled(self._to_settle)
            settled = runs(self._to_settle)
            for start, end in settled:
                self.settled.add(start, end)
            # All since the last successful append: the changes of a failed one are written again.
            self._unwritten = list(RangeSet(self._unwritten + settled)) if self._unwritten else settled
            self._to_settle = []
        if self._unwritten:
            changes.append((Code.FINISHED, self.generation, *flat_runs(self._unwritten)))
        if self._unwritten_awaiting and not full:
            items: list[int] = []
            deferred = False
            for seq, (attempts, due_ns) in self._unwritten_awaiting.items():
                items += (seq, attempts, due_ns)
                deferred = deferred or due_ns > 0
            if deferred:
                # Without the time at which a due time was set, a restart with a wrong clock could not bound the wait.
                changes.append((Code.MARK, 0, self.view.context.wall_ns))
            changes.append((Code.PARKED, self.generation, *items))
            if self._unwritten_not_counted:
                counts = chain.from_iterable(self._unwritten_not_counted.items())
                changes.append((Code.NOT_COUNTED, self.generation, *counts))
        return changes

    def changes_written(self, full: bool) -> None:
        """The append with the result of `collect_changes` has succeeded."""
        self._unwritten = []
        if not full:
            self._unwritten_awaiting.clear()
            self._unwritten_not_counted.clear()

    @property
    def has_unwritten(self) -> bool:
        return bool(self._unwritten or self._unwritten_awaiting)

    # --- checks

    def invariant(self, waiting: set[int]) -> None:
        settled = RangeSet(self.settled)
        for seq in self._to_settle:
            assert settled.add(seq, seq + 1) == 1, f"{seq} was settled twice"
        assert not any(seq in settled for seq in waiting), "a waiting message is settled"
        assert all(seq < self.cursor or seq in self.skip for seq in waiting), (
            "a waiting message is also ready"
        )
        below = sum(1 for seq in waiting if seq < self.cursor)
        assert settled.count_between(0, self.cursor) + below == self.cursor, (
            "a message below the cursor is neither waiting nor settled"
        )
        skipped = sum(1 for seq in waiting if seq in self.skip)
        for start, end in self.skip:
            assert self.cursor <= start < end <= self.view.high_watermark, "a skipped range is out of bounds"
            skipped += settled.count_between(start, end)
        assert skipped == self.skip.count, "a skipped message is neither waiting nor settled"


def _up_to(frames: list[bytes], size: int) -> list[bytes]:
    """The first frames, at least one, up to about `size` bytes."""
    for count, frame in enumerate(frames, 1):
        size -= len(frame)
        if size <= 0:
            return frames[:count]
    return frames
