"""Durable channels: a cursor into the topic's log, and the set of what is finished.

    settled numbers, as ranges        everything below `cursor` that is neither settled, nor in flight, nor requeued,
    ------------------------ cursor   nor deferred does not exist
    fresh: up to the topic's mark, without the numbers in `skip`

`skip` holds numbers at or beyond the cursor that must not be handed out as fresh: deferred messages (they have entered
the deferred table when the mark passed them), and numbers that are settled already or wait elsewhere after a restart.

What changes is written with the topic's next append: finished numbers as ranges, and for what waits for another
delivery its attempts and its due time.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from nsqd.broker.channel import TURN_BYTES, Channel, Entry
from nsqd.broker.log_reader import FETCH_AHEAD, LogReader
from nsqd.broker.oldest import Oldest, PublishTime
from nsqd.log.ranges import RangeSet, runs
from nsqd.log.state import AwaitingRedelivery, Change, ChannelState, Code, flat_runs

if TYPE_CHECKING:
    from nsqd.broker.log_topic import LogTopic

__all__ = ["LogChannel"]


class LogChannel(Channel):
    """A channel with a name, a generation and a start, as its `CHANNEL_CREATED` record says."""

    __slots__ = (
        "_finished",
        "_oldest",
        "_unwritten",
        "_unwritten_awaiting",
        "cursor",
        "generation",
        "reader",
        "settled",
        "skip",
        "topic",
    )

    def __init__(self, topic: LogTopic, name: str, generation: int, start: int) -> None:
        super().__init__(topic.broker, topic.name, name)
        self.topic = topic
        self.generation = generation
        self.cursor = start
        self.skip = RangeSet()
        self.settled = RangeSet()
        self.settled.add(0, start)
        self.reader = LogReader(topic, self._wake)
        self._oldest = Oldest(topic)
        self._finished: list[int] = []  # since the last append
        self._unwritten = RangeSet()  # settled, but no append has said so yet
        self._unwritten_awaiting: dict[int, AwaitingRedelivery] = {}

    @classmethod
    def restore(cls, topic: LogTopic, state: ChannelState, wall_ns: int) -> LogChannel:
        """As recovery found it. What was requeued is ready at once, what was deferred keeps its time."""
        channel = cls(topic, state.name, state.generation, 0)
        channel.paused = state.paused
        channel.settled = state.settled
        channel.damaged_count = state.damaged
        channel.cursor = min(
            channel.floor, topic.high_watermark
        )  # numbers that were given up may be settled behind the mark
        for start, end in state.settled:
            channel.skip.add(max(start, channel.cursor), min(end, topic.high_watermark))
        if state.awaiting_redelivery:
            for start, end in runs(list(state.awaiting_redelivery)):
                channel.skip.add(max(start, channel.cursor), end)
            for seq in sorted(state.awaiting_redelivery):
                channel._restore_awaiting(seq, *state.awaiting_redelivery[seq], wall_ns)
        return channel

    def _restore_awaiting(self, seq: int, attempts: int, due_ns: int, wall_ns: int) -> None:
        delay = (due_ns - wall_ns) / 1e9
        if due_ns == 0 or delay <= 0:
            self.requeued.append((seq, attempts, None))
        else:
            delay = min(delay, self.broker.max_delay)  # a clock that leapt must not hide a message for years
            self.defer(seq, attempts, self.now + delay, None)

    def _wake(self) -> None:
        self.broker.pump_soon(self)

    # --- numbers

    @property
    def floor(self) -> int:
        """The lowest number that is not settled, as far as the log says so: it is needed from here on."""
        floor = self.settled.end_of(0)
        return min(floor, self._unwritten.first_range()[0]) if self._unwritten else floor

    @property
    def fresh(self) -> int:
        return self.topic.high_watermark - self.cursor - self.skip.count

    @property
    def backend_depth(self) -> int:
        base = self.topic.window.base
        end = min(base, self.topic.high_watermark)
        fresh = max(0, end - self.cursor - self.skip.count_between(self.cursor, end))
        requeued = sum(1 for seq, _, _ in islice(self.requeued, 10_000) if seq < base)
        return min(fresh + requeued, self.depth)

    def oldest(self) -> PublishTime:
        seq = self.settled.end_of(0)
        return self._oldest.ask(seq) if seq < self.topic.high_watermark else None

    # --- where messages come from

    def _take_fresh(self, limit: int) -> tuple[int, list[bytes]] | None:
        cursor, stop = self.cursor, self.topic.high_watermark
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
        window = self.topic.window
        if cursor >= window.base:
            frames = window.slice(cursor, limit)
        else:
            cold = self.reader.take(cursor, limit)
            if cold is None:
                return None
            frames = cold
        if sum(map(len, frames)) > TURN_BYTES:
            frames = _up_to(frames, TURN_BYTES)
        self.cursor = cursor + len(frames)
        return cursor, frames

    def _body(self, entry: Entry) -> bytes | None:
        seq = entry[0]
        frame = self.reader.get(seq, (e[0] for e in islice(self.requeued, FETCH_AHEAD)))
        if frame is None and self.reader.is_lost(seq):
            self.requeued.popleft()
            self.damaged_count += 1
            self._gone([seq])
            self.broker.pump_soon(self)
        return frame

    def _keep_frames(self) -> bool:
        return False

    # --- what the mark brings

    def advanced(self, count: int) -> None:
        """The mark moved over this many messages."""
        self.message_count += count
        if self._waiting:
            self.broker.pump_soon(self)

    def entered_deferred(self, seq: int, due: float) -> None:
        """The mark moved over a deferred message (counted by `advanced`)."""
        self.skip.add(seq, seq + 1)
        self.defer(seq, 0, due, None)

    def skip_aborted(self, start: int, end: int) -> None:
        """The mark moved over numbers that never were messages."""
        self.settled.add(start, end)
        self.skip.add(max(start, self.cursor), end)

    def lose(self, start: int, end: int, damaged: bool) -> None:
        """Numbers that nobody can deliver any more: what of them is still fresh goes."""
        start, end = max(start, self.cursor), min(end, self.topic.high_watermark)
        for gap_start, gap_end in self.skip.gaps(start, end):  # the rest waits elsewhere, or is settled
            self.skip.add(gap_start, gap_end)
            self.settled.add(gap_start, gap_end)
            if damaged:
                self.damaged_count += gap_end - gap_start
            else:
                self.dropped_count += gap_end - gap_start

    # --- what changes

    def _settled(self, seqs: list[int]) -> None:
        self._finished += seqs
        self.topic.changed(self)

    def _awaits_redelivery(self, seq: int, attempts: int, delay: float) -> None:
        due_ns = self.broker.wall_ns + int(delay * 1e9) if delay > 0 else 0
        self._unwritten_awaiting[seq] = (attempts, due_ns)
        self.topic.changed(self)

    def collect_changes(self, full: bool) -> list[Change]:
        """What the next append has to say. With a `full` disk only what makes room."""
        changes: list[Change] = []
        if self._finished:
            for start, end in runs(self._finished):
                self.settled.add(start, end)
                self._unwritten.add(start, end)
            self._finished = []
        if self._unwritten:
            changes.append((Code.FINISHED, self.generation, *flat_runs(self._unwritten)))
        if self._unwritten_awaiting and not full:
            items: list[int] = []
            for seq, (attempts, due_ns) in self._unwritten_awaiting.items():
                items += (seq, attempts, due_ns)
            changes.append((Code.PARKED, self.generation, *items))
        return changes

    def changes_written(self, full: bool) -> None:
        """The append that held `collect_changes` succeeded."""
        if self._unwritten:
            self._unwritten = RangeSet()
        if not full:
            self._unwritten_awaiting.clear()

    @property
    def has_unwritten(self) -> bool:
        return bool(self._unwritten or self._unwritten_awaiting)

    def requeue_in_flight(self) -> None:
        """An orderly stop: what is in flight is journaled with its attempts."""
        for seq, attempts, _, _, _ in self.in_flight_entries():
            self._awaits_redelivery(seq, attempts, 0)

    def empty(self) -> None:
        """Drop everything up to the mark. The record is the topic's business."""
        self.dropped_count += self._clear() + self.fresh
        self.cursor = self.topic.high_watermark
        self.skip.discard_below(self.cursor)
        self.settled.add(0, self.cursor)
        self._finished = []
        self._unwritten = RangeSet()
        self._unwritten_awaiting.clear()
        self.reader.close()

    def close(self) -> None:
        self.reader.close()


def _up_to(frames: list[bytes], size: int) -> list[bytes]:
    """The first frames, at least one, up to about `size` bytes."""
    for count, frame in enumerate(frames, 1):
        size -= len(frame)
        if size <= 0:
            return frames[:count]
    return frames
