"""The storage of a topic's messages: a log on disk, or (`#ephemeral` topics) memory.

`Topic` uses either through the protocol `TopicStore`. Both number messages in order and keep the high watermark; they
differ in durability, in memory limits, and in the kind of backlog that a channel gets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from nsqd.broker.ages import Ages, LogAges, MemoryAges
from nsqd.broker.backlog import Backlog
from nsqd.broker.context import BrokerContext
from nsqd.broker.log_backlog import LogBacklog
from nsqd.broker.log_view import LogView, Recorder
from nsqd.broker.memory_backlog import MemoryBacklog
from nsqd.broker.oldest import Oldest, PublishTime, published_ns
from nsqd.log.look import Look
from nsqd.log.ranges import RangeSet
from nsqd.log.state import Change, ChannelState
from nsqd.log.topic_log import Batch
from nsqkit.wire.frames import ID
from nsqkit.wire.names import is_ephemeral

__all__ = ["LogTopicStore", "MemoryTopicStore", "TopicStore"]


class TopicStore(Protocol):
    """The messages of one topic."""

    on_loss: Callable[[int, int, bool], None]
    """Called with (start, end, damaged) when messages `[start, end)` turn out to be lost."""

    @property
    def end(self) -> int:
        """The seq of the next message."""

    @property
    def first(self) -> int:
        """A seq such that nothing below it is there, apart from single messages that were moved."""

    @property
    def high_watermark(self) -> int:
        """The first seq that the channels have not been given."""

    def on_disk_only(self, start: int) -> int:
        """How many of the seqs from `start` on are not in memory."""

    def oldest(self, seq: int) -> PublishTime:
        """When the message with this seq, at or above the high watermark, was published."""

    @property
    def bytes_on_disk(self) -> int: ...

    @property
    def ages(self) -> Ages:
        """Always the same one."""

    def message_bytes(self, start: int, end: int) -> float:
        """Bytes of the frames of messages `[start, end)` at or above the high watermark, as an estimate."""

    def drop(self, start: int, end: int) -> None:
        """No channel gets these messages at or above the high watermark: release what memory has of them."""

    def look(self, seqs: Sequence[int]) -> tuple[dict[int, bytes], Look | None]:
        """The frames of messages at or above the high watermark: those in memory, and a read for the others."""

    def find(self, message_id: bytes) -> tuple[int, bytes] | None:
        """The message with this id at or above the high watermark, as (seq, frame), if it is in memory only."""

    def look_anywhere(self) -> Look | None:
        """A read for any message of the topic; None if all are in memory."""

    # --- appending

    @property
    def has_changes(self) -> bool:
        """Whether a channel has changes for the next append."""

    def collect_changes(self) -> list[Change]:
        """The changes of all channels for the next append, after which `changes_done` must be called."""

    collected: dict[Recorder, None]
    """Whose changes were collected, until `changes_done`."""

    def changes_done(self, *, written: bool) -> None:
        """`written`: whether the append with these changes succeeded. Remaining changes go into a later append."""

    def append(
        self, batches: Sequence[Batch], changes: Sequence[Change], *, flowing: bool = False
    ) -> tuple[int, int]:
        """Write everything with one system call. `flowing`: the high watermark rises to the new end.

        Messages for which there is no room are removed from the batches. Returns the first seq, and how many were
        removed. `OSError`: nothing was written, and the seqs of the messages are aborted.
        """

    def keep(self, first: int, batch: Batch) -> None:
        """Keep written messages, with seqs from `first` on, in memory as far as there is room."""

    def frame(self, seq: int) -> bytes | None:
        """The frame of a message at or above the high watermark, if it is in memory."""

    def advance(self, end: int) -> Mapping[int, bytes]:
        """Raise the high watermark to `end`. Returns the frames that were in this store only, by seq."""

    def abort(self) -> None:
        """A failed append has used up seqs: leave a gap."""

    # --- channels

    @property
    def directed(self) -> Mapping[int, RangeSet]:
        """Messages for one channel alone, by its generation."""

    def direct_to(self, generation: int, former: int) -> None:
        """A channel has become another generation, which gets what was for it alone."""

    def new_backlog(self, channel_name: str, generation: int) -> Backlog:
        """The backlog of a new channel, from the high watermark on. `Refused` when the disk is full."""

    @property
    def complete_from(self) -> int:
        """From this seq on no message was removed. 0: none at all was."""

    def removed(self, start: int, end: int) -> list[tuple[int, int]]:
        """The ranges of `[start, end)` whose messages are not there any more."""

    def restored_backlog(self, state: ChannelState) -> Backlog:
        """The backlog of a recovered channel, or of one that begins before the high watermark."""

    def close(self) -> None:
        """Release all memory: the topic is deleted."""


class LogTopicStore:
    """A topic on disk."""

    def __init__(self, view: LogView) -> None:
        self.view = view
        self._context = view.context
        self._oldest = Oldest(view)
        self.collected: dict[Recorder, None] = {}
        self._full = False  # whether the disk was full when changes were collected

    @property
    def on_loss(self) -> Callable[[int, int, bool], None]:
        return self.view.on_loss

    @on_loss.setter
    def on_loss(self, call: Callable[[int, int, bool], None]) -> None:
        self.view.on_loss = call

    @property
    def end(self) -> int:
        return self.view.log.end

    @property
    def first(self) -> int:
        return self.view.log.segments[0].first

    @property
    def high_watermark(self) -> int:
        return self.view.high_watermark

    def on_disk_only(self, start: int) -> int:
        return self.view.window.base - start

    def oldest(self, seq: int) -> PublishTime:
        return self._oldest.ask(seq)

    @property
    def bytes_on_disk(self) -> int:
        return self.view.log.bytes_on_disk

    @functools.cached_property
    def ages(self) -> Ages:
        return LogAges(self.view)

    def message_bytes(self, start: int, end: int) -> float:
        return self.view.log.message_bytes(start, end)

    def drop(self, start: int, end: int) -> None:
        """Nothing to do: the window lets them go in its time."""

    def look(self, seqs: Sequence[int]) -> tuple[dict[int, bytes], Look | None]:
        return self.view.look(seqs, self.view.window.get)

    def find(self, message_id: bytes) -> tuple[int, bytes] | None:
        return None

    def look_anywhere(self) -> Look | None:
        return self.view.log.look()

    # --- appending

    @property
    def has_changes(self) -> bool:
        return bool(self.view.changed)

    def collect_changes(self) -> list[Change]:
        if not self.view.changed:
            return []
        self._full = self._context.store.space.full is not None
        self.collected, self.view.changed = self.view.changed, {}
        return [change for recorder in self.collected for change in recorder.collect_changes(self._full)]

    def changes_done(self, *, written: bool) -> None:
        collected, self.collected = self.collected, {}
        for recorder in collected:
            if written:
                recorder.changes_written(self._full)
            if recorder.has_unwritten:
                # Not `commit_soon`: on a full or failing disk that would be an append in every round.
                self.view.changed[recorder] = None
                self._context.schedule_maintenance(self.view.topic_name)

    def append(
        self, batches: Sequence[Batch], changes: Sequence[Change], *, flowing: bool = False
    ) -> tuple[int, int]:
        view = self.view
        log = view.log
        first = log.end
        log.append(batches, changes, flowing=flowing)
        if flowing:
            view.high_watermark = log.end
        self._context.wrote(view.topic_name, log, log.end - first)
        return first, 0

    def keep(self, first: int, batch: Batch) -> None:
        self.view.keep(first, batch)

    def frame(self, seq: int) -> bytes | None:
        return self.view.window.get(seq)

    def advance(self, end: int) -> Mapping[int, bytes]:
        self.view.high_watermark = end
        return {}

    def abort(self) -> None:
        self.view.window.reset(self.view.log.end)

    # --- channels

    @property
    def directed(self) -> Mapping[int, RangeSet]:
        return self.view.directed

    def direct_to(self, generation: int, former: int) -> None:
        if former in self.view.directed:
            self.view.directed[generation] = self.view.directed.pop(former)

    def new_backlog(self, channel_name: str, generation: int) -> Backlog:
        if is_ephemeral(channel_name):
            return MemoryBacklog(self._context, self.view)
        self._context.refuse_when_full()
        return LogBacklog(self.view, generation, self.view.high_watermark)

    @property
    def complete_from(self) -> int:
        return self.view.log.complete_from

    def removed(self, start: int, end: int) -> list[tuple[int, int]]:
        return self.view.log.removed(start, end)

    def restored_backlog(self, state: ChannelState) -> Backlog:
        return LogBacklog.restore(self.view, state)

    def close(self) -> None:
        self.view.window.close()


class MemoryTopicStore:
    """A topic in memory. While it does not flow, it keeps the oldest `mem-queue-size` messages and drops later ones."""

    def __init__(self, context: BrokerContext) -> None:
        self.on_loss: Callable[[int, int, bool], None] = lambda _start, _end, _damaged: None
        self.end = 0
        self.high_watermark = 0
        self.collected: dict[Recorder, None] = {}
        self._context = context
        self._held: dict[int, bytes] = {}  # frames at or above the high watermark, by seq

    @property
    def first(self) -> int:
        return self.high_watermark

    def on_disk_only(self, start: int) -> int:
        return 0

    def oldest(self, seq: int) -> PublishTime:
        return published_ns(self._held[seq])

    @property
    def bytes_on_disk(self) -> int:
        return 0

    @functools.cached_property
    def ages(self) -> Ages:
        return MemoryAges(self._context, lambda: self.end)

    def message_bytes(self, start: int, end: int) -> float:
        return sum(len(frame) for seq, frame in self._held.items() if start <= seq < end)

    def drop(self, start: int, end: int) -> None:
        for seq in [seq for seq in self._held if start <= seq < end]:
            self._context.ephemeral_bytes.release(len(self._held.pop(seq)))

    def look(self, seqs: Sequence[int]) -> tuple[dict[int, bytes], Look | None]:
        return {seq: self._held[seq] for seq in seqs}, None

    def find(self, message_id: bytes) -> tuple[int, bytes] | None:
        return next((item for item in self._held.items() if item[1][ID] == message_id), None)

    def look_anywhere(self) -> Look | None:
        return None

    # --- appending

    @property
    def has_changes(self) -> bool:
        return False

    def collect_changes(self) -> list[Change]:
        return []

    def changes_done(self, *, written: bool) -> None:
        """Nothing to do: there are no changes."""

    def append(
        self, batches: Sequence[Batch], changes: Sequence[Change], *, flowing: bool = False
    ) -> tuple[int, int]:
        dropped = self._admit(batches, flowing)
        first = self.end
        self.end += sum(len(batch.frames) for batch in batches)
        if flowing:
            self.high_watermark = self.end
        return first, dropped

    def _admit(self, batches: Sequence[Batch], flowing: bool) -> int:
        """Remove the messages for which there is no room from the batches; returns how many."""
        budget, room = self._context.ephemeral_bytes, self._context.options.mem_queue_size - len(self._held)
        taken = dropped = 0
        for batch in batches:
            admitted = []
            for at, frame in enumerate(batch.frames):
                if (flowing or room > 0) and budget.take(len(frame)):
                    admitted.append(at)
                    taken += len(frame)
                    room -= 1
            if len(admitted) < len(batch.frames):
                dropped += len(batch.frames) - len(admitted)
                batch.delays = batch.delays and [batch.delays[at] for at in admitted]
                batch.origins = batch.origins and [batch.origins[at] for at in admitted]
                batch.frames = [batch.frames[at] for at in admitted]
                batch.size = sum(map(len, batch.frames))
        if flowing:  # each channel charges the budget for the frames in its own queue
            budget.release(taken)
        return dropped

    def keep(self, first: int, batch: Batch) -> None:
        if first >= self.high_watermark:
            self._held.update(zip(range(first, first + len(batch.frames)), batch.frames, strict=True))

    def frame(self, seq: int) -> bytes | None:
        return self._held.get(seq)

    def advance(self, end: int) -> Mapping[int, bytes]:
        held, self._held = self._held, {}
        self._context.ephemeral_bytes.release(sum(map(len, held.values())))
        self.high_watermark = end
        return held

    def abort(self) -> None:
        raise AssertionError("an append to memory does not fail")

    # --- channels

    @property
    def directed(self) -> Mapping[int, RangeSet]:
        return {}

    def direct_to(self, generation: int, former: int) -> None:
        """Nothing to do: there are no such messages."""

    def new_backlog(self, channel_name: str, generation: int) -> Backlog:
        return MemoryBacklog(self._context, None)

    @property
    def complete_from(self) -> int:
        return self.high_watermark

    def removed(self, start: int, end: int) -> list[tuple[int, int]]:
        return [(start, min(end, self.high_watermark))] if start < self.high_watermark else []

    def restored_backlog(self, state: ChannelState) -> Backlog:
        raise AssertionError("messages in memory are gone when the channels have got them")

    def close(self) -> None:
        self.advance(self.end)
