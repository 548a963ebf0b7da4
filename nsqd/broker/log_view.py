"""One topic's log, as its channels read it: the newest messages in memory, the others on disk.

Messages below the *high watermark* belong to the channels; those at or above it wait until the topic has a channel, is
unpaused and started. Backlogs have a reference to this object instead of the topic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from nsqd.broker.context import BrokerContext
from nsqd.broker.window import Window
from nsqd.log.look import Look
from nsqd.log.ranges import RangeSet
from nsqd.log.segment import ReadResult
from nsqd.log.state import Change
from nsqd.log.topic_log import Batch, TopicLog

__all__ = ["Keeper", "LogView", "Recorder"]


class Recorder(Protocol):
    """An object whose changes are written with the topic's next append."""

    def collect_changes(self, full: bool) -> list[Change]:
        """The changes for the next append. With a `full` disk only those that free space."""

    def changes_written(self, full: bool) -> None:
        """The append with these changes has succeeded."""

    @property
    def has_unwritten(self) -> bool:
        """Whether changes remain for a later append."""


class Keeper(Protocol):
    """A backlog that may keep frames which leave the window."""

    def let_go(self, first: int, frames: list[bytes]) -> None:
        """Messages with seqs from `first` on leave the window."""


class LogView:
    """`on_loss(start, end, damaged)` is called when messages `[start, end)` turn out to be lost."""

    def __init__(self, context: BrokerContext, topic_name: str, log: TopicLog) -> None:
        self.context = context
        self.topic_name = topic_name
        self.log = log
        self.high_watermark = log.end
        self.window = Window(log.end, context.options.mem_queue_size, context.window_budget)
        self.window.let_go = self._let_go
        self.keepers: dict[Keeper, None] = {}
        self.changed: dict[Recorder, None] = {}
        self.settled_moved: list[
            int
        ] = []  # messages that were moved in the log, and settled in a channel since
        self.letters = RangeSet()  # messages in the log that are dead letters
        self.directed: dict[int, RangeSet] = {}  # those that are for one channel alone, by its generation
        self.on_loss: Callable[[int, int, bool], None] = lambda _start, _end, _damaged: None
        # Places of damage, as (path, offset): every read that passes one would report it again.
        self._reported: set[tuple[str, int]] = set()

    def _let_go(self, first: int, frames: list[bytes]) -> None:
        for keeper in self.keepers:
            keeper.let_go(first, frames)

    def record_soon(self, recorder: Recorder) -> None:
        """Register a backlog that has changes for the topic's next append."""
        self.changed[recorder] = None
        self.context.commit_soon(self.topic_name)

    @property
    def repeats_ids(self) -> bool:
        """Whether several messages may have the same id."""
        return bool(self.letters or self.directed)

    def keep(self, first: int, batch: Batch) -> None:
        """Keep written messages, with seqs from `first` on, in the window."""
        end = first + len(batch.frames)
        if batch.origins is not None:
            self.letters.add(first, end)
        elif batch.directed is not None:
            self.directed.setdefault(batch.directed, RangeSet()).add(first, end)
        self.window.extend(batch.frames, batch.size)

    def segments_removed(self) -> None:
        """Forget what was known of messages that are not in the log any more."""
        if self.repeats_ids:
            start = min(self.log.segments[0].first, *self.log.moved, self.log.end)
            self.letters.discard_below(start)
            for ranges in self.directed.values():
                ranges.discard_below(start)
            self.directed = {generation: ranges for generation, ranges in self.directed.items() if ranges}

    def note_settled(self, seqs: list[int]) -> None:
        """A channel has settled these: retention looks whether their moved copies are needed any more."""
        if self.log.moved:
            self.settled_moved += self.log.moved.keys() & seqs

    def look(
        self, seqs: Sequence[int], held: Callable[[int], bytes | None], *, with_origins: bool = True
    ) -> tuple[dict[int, bytes], Look | None]:
        """The frames of these messages: those that `held` has in memory, and a read for the others.

        With `with_origins` dead letters are read, too: memory does not have where they are from.
        """
        letters = self.letters if with_origins else None
        frames = {
            seq: frame
            for seq in seqs
            if not (letters and seq in letters) and (frame := held(seq)) is not None
        }
        if len(frames) == len(seqs):
            return frames, None
        return frames, self.log.look(seq for seq in seqs if seq not in frames)

    def accept(self, result: ReadResult) -> None:
        """Take over the result of a read: new index entries of the log, and messages that turned out to be lost."""
        self.log.accept(result)
        for damage in result.damage:
            place = (damage.path, damage.offset)
            if place not in self._reported:
                self._reported.add(place)
                self.context.report_damage(self.topic_name, damage)
                self.on_loss(damage.first, damage.end, True)
