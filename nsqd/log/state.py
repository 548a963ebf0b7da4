"""What a topic's log says: the state of a topic and its durable channels, as one pass over the log leaves it.

Rules that every change keeps:

- **Safe to replay.** A snapshot is taken in slices while the log goes on, and recovery replays the log from the place
  where the snapshot *began*. So applying a change a second time, or to a state that already knows later ones, ends in
  the same state: a high watermark only rises, a finished message stays finished, a deleted channel stays deleted.
- **Finished is final**, for one life of a channel. A channel that is deleted and made again has another generation.
- A change of an unknown channel is one of a channel that was deleted later. It is ignored.
- A channel that is created ends an earlier generation of its name, also if the record of its deletion is damaged.

Messages are named by their sequence numbers. Names on disk are older than the words used here: `MARK` is the high
watermark, `PARKED` is awaiting redelivery.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from nsqd.log.ranges import RangeSet
from nsqd.log.records import FormatError

__all__ = [
    "DELAYED_LIMIT",
    "AwaitingRedelivery",
    "Change",
    "ChannelState",
    "Code",
    "RedriveState",
    "SegmentInfo",
    "TopicState",
    "flat_runs",
    "unflatten_runs",
]

DELAYED_LIMIT = 10_000  # so many more delayed messages may be held than are not due yet, and twice those

Change = Sequence[Any]
AwaitingRedelivery = tuple[int, int]
"""(attempts so far, due: wall time in nanoseconds, 0 for at once)"""


class Code(enum.IntEnum):
    """The first item of a change; the comments name its other items."""

    CHECKPOINT = 0  # (): a snapshot begins here
    TOPIC_PAUSED = 1  # (paused)
    # (high watermark, now): messages below it go to the channels; `now`: wall time in ns. With high watermark 0 it only
    # gives the time, for the due times in the same record.
    MARK = 2
    TOPIC_EMPTIED = 3  # (start, end): no channel gets these
    LOST = 4  # (start, end, damaged): no channel can get these, they are damaged or were never written
    DEFERRED = 5  # (seq, delay, ...): deferred messages above the high watermark (in snapshots only)
    # In snapshots only, the first one in manifests too:
    SEGMENTS = 6  # (position, first, end, message bytes, ...): complete segments
    MOVED = 7  # (position, seq, ...): the MOVED record at this position has these messages
    LAST_ID = 8  # (id): no message of the topic has a higher one
    TOPIC_SETTINGS = 9  # (settings): all that operators have set, by name
    # (generation, start, run, gap, run, ...): messages in the log that are for this channel alone (in snapshots, and
    # where a channel seeks: its next generation gets them).
    DIRECTED = 10
    DELAYED = 11  # (seq, due, ...): messages below the high watermark that were published with a delay
    LETTERS = 12  # (start, run, gap, run, ...): messages in the log that are dead letters (in snapshots only)
    CHANNEL_CREATED = 16  # (generation, name, start)
    CHANNEL_DELETED = 17  # (generation)
    CHANNEL_PAUSED = 18  # (generation, paused)
    CHANNEL_EMPTIED = 19  # (generation, end): everything below is dropped
    FINISHED = 20  # (generation, start, run, gap, run, ...)
    PARKED = 21  # (generation, seq, attempts, due, ...)
    CHANNEL_SETTINGS = 22  # (generation, settings): as TOPIC_SETTINGS
    # (generation, seq, deliveries that ended with a lost connection, ...): of parked messages; after their PARKED,
    # which says that there were none.
    NOT_COUNTED = 23
    # (generation, moved so far, limit, messages a second): dead letters go back to this channel; limit or rate 0: none.
    # (generation): no more.
    REDRIVE = 25


def flat_runs(ranges: Iterable[tuple[int, int]]) -> list[int]:
    """Rising ranges as: start, length of the first, gap, length of the second, gap, ... (small numbers pack small)."""
    out: list[int] = []
    previous = 0
    for start, end in ranges:
        out += (start - previous, end - start)
        previous = end
    return out


def unflatten_runs(items: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The ranges of `flat_runs`."""
    end = 0
    for gap, length in zip(items[::2], items[1::2], strict=True):
        start = end + gap
        end = start + length
        yield start, end


@attrs.frozen
class SegmentInfo:
    """A complete segment: sequence numbers `[first, end)`, in frames of `message_bytes` together."""

    position: int
    first: int
    end: int
    message_bytes: int


@attrs.frozen
class RedriveState:
    """Dead letters go back to a channel: `moved` so far, up to `limit`, `rate` of them a second; 0: without."""

    moved: int
    limit: int
    rate: int


@attrs.define
class ChannelState:
    """A durable channel.

    `settled`: messages that it does not need any more. `awaiting_redelivery`: those that wait for another delivery.
    `damaged`: how many of the settled ones were never delivered because the disk lost them. `settings`: those that
    operators have set, by name.
    """

    name: str
    generation: int
    paused: bool = False
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    settled: RangeSet = attrs.field(factory=RangeSet)
    awaiting_redelivery: dict[int, AwaitingRedelivery] = attrs.field(factory=dict)
    damaged: int = 0
    not_counted: dict[int, int] = attrs.field(factory=dict)
    """Of those that await redelivery: deliveries that ended with a lost connection. It may have entries of others."""
    redrive: RedriveState | None = None
    longest: dict[int, int] = attrs.field(factory=dict)
    """How long, in ns, a message that awaits its due time had to wait at most when that was recorded; unknown where
    there is no entry. It needs no clock. It may have entries of messages that do not wait any more."""

    def settle(self, start: int, end: int) -> int:
        """Settle `[start, end)`; returns how many of them were not settled before."""
        new = self.settled.add(start, end)
        if self.awaiting_redelivery:
            if end - start <= len(self.awaiting_redelivery):
                for seq in range(start, end):
                    self.awaiting_redelivery.pop(seq, None)
            else:
                self.awaiting_redelivery = {
                    n: p for n, p in self.awaiting_redelivery.items() if not start <= n < end
                }
        return new

    def await_redelivery(self, seq: int, attempts: int, due_ns: int, longest_ns: int | None = None) -> None:
        self.not_counted.pop(seq, None)
        if seq not in self.settled:
            self.awaiting_redelivery[seq] = (attempts, due_ns)
            if longest_ns is not None:
                self.longest[seq] = longest_ns
            else:
                self.longest.pop(seq, None)


@attrs.define
class TopicState:
    """A topic.

    `end`: the sequence number of the next message. `high_watermark`: of the first one not yet given to channels.
    `channels`: by generation. `deferred`: messages above the high watermark, with their delay in nanoseconds.
    `delayed`: (due, delay), in nanoseconds, of messages below it that were published with a delay; those that were due
    long ago may be missing. `unavailable`: sequence numbers that no channel can get, also if it is created later and
    begins before them: aborted, lost, or dropped with an emptied topic. `incomplete`: records are missing; where
    messages flowed to a channel that nothing tells of, they wait for the next one. `segments`: by position, as a
    snapshot knows them; None for one of version 1. `moved`: the position of the latest MOVED record of each message
    that was moved. `last_id`: the highest message id. `deleted`: generations of channels that the log says were
    deleted. `settings`: those that operators have set, by name. `letters`: messages in the log that are dead letters.
    `directed`: those that are for one channel alone, by its generation.
    """

    end: int = 0
    high_watermark: int = 0
    paused: bool = False
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    channels: dict[int, ChannelState] = attrs.field(factory=dict)
    deferred: dict[int, int] = attrs.field(factory=dict)
    delayed: dict[int, tuple[int, int]] = attrs.field(factory=dict)
    unavailable: RangeSet = attrs.field(factory=RangeSet)
    last_generation: int = 0
    incomplete: bool = False
    segments: dict[int, SegmentInfo] | None = None
    moved: dict[int, int] = attrs.field(factory=dict)
    last_id: int = 0
    deleted: set[int] = attrs.field(factory=set)
    letters: RangeSet = attrs.field(factory=RangeSet)
    directed: dict[int, RangeSet] = attrs.field(factory=dict)
    _delayed_limit: int = DELAYED_LIMIT
    _recorded_ns: int = 0  # wall time at which the record that is being applied was written; 0: unknown

    # --- messages

    def messages(self, first: int, count: int, flowing: bool) -> None:
        """`count` messages were written, the first of them with the sequence number `first`."""
        self._reach(first)
        self.end = max(self.end, first + count)
        if self._flows(flowing):
            self.high_watermark = max(self.high_watermark, first + count)

    def deferred_messages(self, first: int, due: Sequence[tuple[int, int]], flowing: bool) -> None:
        """Deferred messages were written: `due` holds for each its publish time (wall) and its delay, in ns."""
        self.messages(first, len(due), flowing)
        for seq, (published, delay) in enumerate(due, first):
            if self._flows(flowing):
                self._defer(seq, published + delay, delay)
            else:
                self.deferred[seq] = delay
        if due and len(self.delayed) > self._delayed_limit:
            self._forget_due(due[-1][0])

    def _forget_due(self, now_ns: int) -> None:
        """Of the delayed messages forget those that were due by now, as they are like all others."""
        self.delayed = {seq: entry for seq, entry in self.delayed.items() if entry[0] > now_ns}
        self._delayed_limit = 2 * len(self.delayed) + DELAYED_LIMIT

    def letters_written(self, first: int, count: int, flowing: bool) -> None:
        """`count` dead letters were written, the first of them with the sequence number `first`."""
        self.messages(first, count, flowing)
        self.letters.add(first, first + count)

    def directed_messages(self, first: int, count: int, generation: int, flowing: bool) -> None:
        """The same, of messages for the channel with this generation alone."""
        self.messages(first, count, flowing)
        self._direct(generation, first, first + count)

    def _direct(self, generation: int, start: int, end: int) -> None:
        """Of several generations the highest gets a message: that of a channel that has sought since."""
        self.last_generation = max(
            self.last_generation, generation
        )  # also if the record of its creation is gone
        own = [(start, end)]
        for other, ranges in self.directed.items():
            if other > generation:
                own = [gap for first, last in own for gap in ranges.gaps(first, last)]
            elif other < generation:
                self.directed[other] = ranges.without(start, end)
        for first, last in own:
            self.directed.setdefault(generation, RangeSet()).add(first, last)
            for channel in self.channels.values():
                if channel.generation != generation:
                    channel.settle(first, last)

    def _flows(self, flowing: bool) -> bool:
        return flowing and (bool(self.channels) or not self.incomplete)

    def _reach(self, first: int) -> None:
        """Sequence numbers between the last record and this one were aborted: their append failed."""
        if first > self.end:
            self.lost(self.end, first, False)

    def _defer(self, seq: int, due_ns: int, delay_ns: int) -> None:
        self.delayed[seq] = (due_ns, delay_ns)
        for channel in self.channels.values():
            if seq not in channel.awaiting_redelivery:  # what is there already is newer
                channel.await_redelivery(seq, 0, due_ns, delay_ns)

    def needed(self, start: int, end: int) -> RangeSet:
        """Of the sequence numbers `[start, end)` those that a channel needs, or that channels have yet to be given."""
        needed = RangeSet()
        for channel in self.channels.values():
            for first, last in channel.settled.gaps(start, min(end, self.high_watermark)):
                needed.add(first, last)
        for first, last in self.unavailable.gaps(max(start, self.high_watermark), min(end, self.end)):
            needed.add(first, last)
        return needed

    def needs(self, seq: int) -> bool:
        """Whether a channel needs this message, or channels have yet to be given it."""
        if seq >= self.high_watermark:
            return seq < self.end and seq not in self.unavailable
        return any(seq not in channel.settled for channel in self.channels.values())

    def adopt_channels(self, others: Iterable[ChannelState], up_to: int) -> list[ChannelState]:
        """Create those channels of a manifest whose creation was in damaged records before the message `up_to`.

        Returns them as the manifest has them.
        """
        adopted = []
        for other in others:
            start = other.settled.end_of(0)
            if start <= up_to and not (other.generation in self.channels or other.generation in self.deleted):
                self.channel_created(other.generation, other.name, start)
                self.channel_paused(other.generation, other.paused)
                self.channel_settings(other.generation, other.settings)
                adopted.append(other)
        return adopted

    # --- changes

    def apply_record(self, changes: Iterable[Change]) -> None:
        """Apply the changes of one CHANGES record. `FormatError` as `apply`."""
        self._recorded_ns = 0
        for change in changes:
            self.apply(change)

    def apply(self, change: Change) -> None:
        """Apply one change of a CHANGES record. `FormatError` for one that this version does not know."""
        try:
            handler = _HANDLERS[change[0]]
        except (KeyError, IndexError, TypeError):
            raise FormatError(f"an unknown change: {change!r}") from None
        try:
            handler(self, *change[1:])
        except (TypeError, ValueError) as error:
            raise FormatError(f"a change with other items than its code has: {change!r}") from error

    def checkpoint(self) -> None:
        pass

    def topic_paused(self, paused: bool) -> None:
        self.paused = paused

    def mark(self, high_watermark: int, now_ns: int) -> None:
        # That looks at every deferred message, and there is a mark 0 with every delayed requeue.
        if high_watermark:
            self.raise_high_watermark(high_watermark, now_ns)
        self._recorded_ns = now_ns

    def raise_high_watermark(self, high_watermark: int, now_ns: int) -> None:
        self.high_watermark = max(self.high_watermark, high_watermark)
        self.end = max(self.end, high_watermark)
        for seq in [n for n in self.deferred if n < high_watermark]:
            delay = self.deferred.pop(seq)
            self._defer(seq, now_ns + delay, delay)

    def topic_emptied(self, start: int, end: int) -> None:
        for seq in [n for n in self.deferred if start <= n < end]:
            del self.deferred[seq]
        for channel in self.channels.values():
            channel.settle(start, end)
        self.unavailable.add(start, end)
        self.raise_high_watermark(end, 0)

    def lost(self, start: int, end: int, damaged: bool) -> None:
        for seq in [n for n in self.deferred if start <= n < end]:
            del self.deferred[seq]
        for channel in self.channels.values():
            new = channel.settle(start, end)
            channel.damaged += new if damaged else 0
        self.end = max(self.end, end)
        self.unavailable.add(start, end)

    def deferred_waiting(self, *items: int) -> None:
        self.deferred.update(zip(items[::2], items[1::2], strict=True))

    def delayed_until(self, *items: int) -> None:
        for seq, due_ns in zip(items[::2], items[1::2], strict=True):
            self.delayed[seq] = (due_ns, max(0, due_ns - self._recorded_ns))

    def complete_segments(self, *items: int) -> None:
        if self.segments is None:
            self.segments = {}
        for values in zip(*(items[at::4] for at in range(4)), strict=True):
            self.segments[values[0]] = SegmentInfo(*values)

    def moved_to(self, position: int, *seqs: int) -> None:
        self.moved.update(dict.fromkeys(seqs, position))

    def message_id(self, last: int) -> None:
        self.last_id = max(self.last_id, last)

    def topic_settings(self, settings: Mapping[str, Any]) -> None:
        self.settings = _settings(settings)

    def directed_to(self, generation: int, *items: int) -> None:
        for start, end in unflatten_runs(items):
            self._direct(generation, start, end)

    def dead_letters(self, *items: int) -> None:
        for start, end in unflatten_runs(items):
            self.letters.add(start, end)

    def channel_created(self, generation: int, name: str, start: int) -> None:
        self.last_generation = max(self.last_generation, generation)
        if generation in self.channels:
            return
        for earlier in [g for g, c in self.channels.items() if c.name == name and g < generation]:
            self.channel_deleted(earlier)
        self.raise_high_watermark(start, 0)  # also if the records that raised it so far are missing
        channel = self.channels[generation] = ChannelState(name, generation)
        channel.settled.add(0, start)
        for begin, end in self.unavailable:
            channel.settled.add(max(begin, start), end)
        for seq, (due_ns, delay_ns) in self.delayed.items() if start < self.high_watermark else ():
            channel.await_redelivery(seq, 0, due_ns, delay_ns)
        for other, ranges in self.directed.items():
            if other != generation:
                for begin, end in ranges:
                    channel.settled.add(begin, end)

    def channel_deleted(self, generation: int) -> None:
        self.channels.pop(generation, None)
        self.deleted.add(generation)

    def channel_paused(self, generation: int, paused: bool) -> None:
        if channel := self.channels.get(generation):
            channel.paused = paused

    def channel_settings(self, generation: int, settings: Mapping[str, Any]) -> None:
        if channel := self.channels.get(generation):
            channel.settings = _settings(settings)

    def channel_emptied(self, generation: int, end: int) -> None:
        if channel := self.channels.get(generation):
            channel.settle(0, end)

    def finished(self, generation: int, *items: int) -> None:
        if channel := self.channels.get(generation):
            for start, end in unflatten_runs(items):
                channel.settle(start, end)

    def awaiting_redelivery(self, generation: int, *items: int) -> None:
        if channel := self.channels.get(generation):
            recorded_ns = self._recorded_ns
            for seq, attempts, due_ns in zip(items[::3], items[1::3], items[2::3], strict=True):
                longest_ns = max(0, due_ns - recorded_ns) if recorded_ns else None
                channel.await_redelivery(seq, attempts, due_ns, longest_ns)

    def deliveries_not_counted(self, generation: int, *items: int) -> None:
        if channel := self.channels.get(generation):
            for seq, count in zip(items[::2], items[1::2], strict=True):
                if seq in channel.awaiting_redelivery:
                    channel.not_counted[seq] = count

    def redrive(self, generation: int, *items: int) -> None:
        wanted = RedriveState(*items) if items else None
        if channel := self.channels.get(generation):
            channel.redrive = wanted


def _settings(items: object) -> Mapping[str, Any]:
    if not isinstance(items, Mapping) or not all(isinstance(name, str) for name in items):
        raise TypeError("settings that are no map of names")
    return dict(items)


_HANDLERS: dict[int, Callable[..., None]] = {
    Code.CHECKPOINT: TopicState.checkpoint,
    Code.TOPIC_PAUSED: TopicState.topic_paused,
    Code.MARK: TopicState.mark,
    Code.TOPIC_EMPTIED: TopicState.topic_emptied,
    Code.LOST: TopicState.lost,
    Code.DEFERRED: TopicState.deferred_waiting,
    Code.DELAYED: TopicState.delayed_until,
    Code.SEGMENTS: TopicState.complete_segments,
    Code.MOVED: TopicState.moved_to,
    Code.LAST_ID: TopicState.message_id,
    Code.TOPIC_SETTINGS: TopicState.topic_settings,
    Code.DIRECTED: TopicState.directed_to,
    Code.LETTERS: TopicState.dead_letters,
    Code.CHANNEL_CREATED: TopicState.channel_created,
    Code.CHANNEL_DELETED: TopicState.channel_deleted,
    Code.CHANNEL_PAUSED: TopicState.channel_paused,
    Code.CHANNEL_EMPTIED: TopicState.channel_emptied,
    Code.FINISHED: TopicState.finished,
    Code.PARKED: TopicState.awaiting_redelivery,
    Code.CHANNEL_SETTINGS: TopicState.channel_settings,
    Code.NOT_COUNTED: TopicState.deliveries_not_counted,
    Code.REDRIVE: TopicState.redrive,
}
