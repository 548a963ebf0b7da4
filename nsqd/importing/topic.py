"""The import of one topic: its queues are written into a new log, one after the other.

The records are those that the broker writes; the package docstring has their layout. Nothing here is atomic: the log is
written in a temporary folder, which the caller renames when it is synced.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import attrs

from nsqd.importing.disk_queue import DiskQueue
from nsqd.importing.recent import ID, Recent
from nsqd.importing.source import SourceTopic
from nsqd.log.ranges import runs
from nsqd.log.segment import Segment
from nsqd.log.state import Change, Code, flat_runs
from nsqd.log.topic_log import Batch, TopicLog
from nsqkit.wire.frames import FrameType

__all__ = ["QueueReport", "TopicImport"]

LENGTH_BYTES = 4  # before each message in the source

_PREFIX = struct.Struct(">ii")
_FIRST_DELIVERY: Final = b"\0\1"  # attempts in the frame of a first delivery
_NEVER_DELIVERED: Final = b"\0\0"  # attempts of a message in the source that was never delivered


@attrs.define
class QueueReport:
    """The result of one queue. `channel`: None for the topic's own. `size`: bytes in the source.

    `repeated`: duplicates that were omitted.
    """

    topic: str
    channel: str | None
    messages: int = 0
    size: int = 0
    delivered_before: int = 0
    repeated: int = 0
    notes: list[str] = attrs.field(factory=list)
    problems: list[str] = attrs.field(factory=list)

    @property
    def name(self) -> str:
        return self.topic if self.channel is None else f"{self.topic}:{self.channel}"


class TopicImport:
    """Writes one topic into an empty log. `queues`: by channel name; None: the topic's own.

    `tick(messages, bytes)` is called as messages are written. `highest`: the highest ids, see `Journal`.
    """

    def __init__(
        self,
        topic: SourceTopic,
        queues: dict[str | None, DiskQueue],
        log: TopicLog,
        tick: Callable[[int, int], None],
    ) -> None:
        self._topic, self._queues, self._log, self._tick = topic, queues, log, tick
        self.highest: dict[str, str] = {}
        self.reports: list[QueueReport] = []  # of the channels in their order, then of the topic's own queue
        self._recent: dict[int, Recent] = {}  # by the channel's generation

    @property
    def problems(self) -> list[str]:
        """Descriptions of data that could not be read, each with the name of its queue."""
        return [f"{report.name}: {problem}" for report in self.reports for problem in report.problems]

    def write(self) -> None:
        """Write everything, and sync it. `OSError` for a write error, or if a file of the source cannot be opened."""
        log = self._log
        ends = []
        for generation, name in enumerate(self._topic.channels, 1):
            log.append((), [(Code.CHANNEL_CREATED, generation, name, log.end)])
            self._write_channel(name, generation)
            ends.append(log.end)
        log.append((), list(self._final_changes(ends)))
        self._write_backlog()
        self._sync(log.unsynced)
        log.sync_folder()

    def _final_changes(self, ends: Iterable[int]) -> Iterable[Change]:
        """The changes to write after the queues of all channels. `ends`: the seqs at which these end."""
        high_watermark = self._log.end
        for generation, (end, channel) in enumerate(zip(ends, self._topic.channels.values(), strict=True), 1):
            if end < high_watermark:
                yield (Code.FINISHED, generation, *flat_runs([(end, high_watermark)]))
            if channel.paused:
                yield (Code.CHANNEL_PAUSED, generation, True)
        yield (Code.TOPIC_PAUSED, self._topic.paused)
        yield (Code.MARK, high_watermark, 0)

    # --- queues

    def _write_channel(self, name: str, generation: int) -> None:
        report = self._report(name)
        recent = self._recent[generation] = Recent(len(self._topic.channels))
        for messages in self._batches(report, recent):
            redelivery = _redelivery_changes(messages, generation, self._log.end)
            report.delivered_before += (len(redelivery[0]) - 2) // 3 if redelivery else 0
            self._append(messages, redelivery, report)

    def _write_backlog(self) -> None:
        """Write the topic's own queue. It flows to the channels at once if the original would have given it to them."""
        flowing = bool(self._topic.channels) and not self._topic.paused
        report = self._report(None)
        for messages in self._batches(report, Recent(1)):
            finished = list(self._already_in_channels(messages)) if flowing else []
            self._append(messages, finished, report, flowing=flowing)

    def _already_in_channels(self, messages: list[bytes]) -> Iterable[Change]:
        """The changes by which messages that are also in a channel's own queue are not delivered there twice."""
        for generation, recent in self._recent.items():
            if known := recent.known(messages):
                self.reports[generation - 1].repeated += len(known)
                seqs = [self._log.end + at for at in known]
                yield (Code.FINISHED, generation, *flat_runs(runs(seqs)))

    def _report(self, channel: str | None) -> QueueReport:
        report = QueueReport(self._topic.name, channel)
        self.reports.append(report)
        return report

    def _batches(self, report: QueueReport, recent: Recent) -> Iterator[list[bytes]]:
        """The messages of the queue of this report, without duplicates."""
        queue = self._queues.get(report.channel)
        if queue is None:
            return
        for found in queue.batches():
            messages = recent.add(found)
            report.repeated += len(found) - len(messages)
            if messages:
                yield messages
        report.notes, report.problems = queue.notes, queue.problems

    def _append(
        self, messages: list[bytes], changes: list[Change], report: QueueReport, *, flowing: bool = False
    ) -> None:
        log = self._log
        log.append([Batch.of([_frame(message) for message in messages])], changes, flowing=flowing)
        if len(log.unsynced) > 1:  # a segment is full
            self._sync(log.unsynced[:-1])
        size = sum(map(len, messages)) + LENGTH_BYTES * len(messages)
        report.messages += len(messages)
        report.size += size
        self._note_ids(messages)
        self._tick(len(messages), size)

    def _note_ids(self, messages: list[bytes]) -> None:
        ids = [message[ID] for message in messages]
        low, high = min(ids), max(ids)
        for message_id in (high,) if low[:3] == high[:3] else ids:
            text = message_id.decode("ascii")
            if text > self.highest.get(text[:3], ""):
                self.highest[text[:3]] = text

    def _sync(self, segments: list[Segment]) -> None:
        self._log.sync_files(segments)
        for segment in segments:
            self._log.note_synced(segment, segment.file.size)


def _frame(message: bytes) -> bytes:
    """The message frame for a message of the source."""
    return _PREFIX.pack(len(message) + 4, FrameType.MESSAGE) + message[:8] + _FIRST_DELIVERY + message[10:]


def _redelivery_changes(messages: list[bytes], generation: int, first: int) -> list[Change]:
    """The record of the messages that were delivered before, with their attempts; empty if there are none."""
    items: list[int] = []
    for seq, message in enumerate(messages, first):
        if message[8:10] != _NEVER_DELIVERED:
            items += (seq, int.from_bytes(message[8:10]), 0)
    return [(Code.PARKED, generation, *items)] if items else []
