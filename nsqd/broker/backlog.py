"""The interface between a channel and the storage of its messages.

A channel knows its messages by sequence number (`seq`, unique within the topic, never on the wire). Its backlog knows
which of them have never been delivered, where each body is, and how to record finishes and requeues. Two kinds exist:
`LogBacklog` is a cursor into the topic's log, `MemoryBacklog` a bounded queue for `#ephemeral` channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import attrs

from nsqd.broker.oldest import PublishTime
from nsqd.log.look import Look
from nsqd.log.origin import Cause
from nsqd.log.ranges import RangeSet
from nsqd.log.state import Change, Code

__all__ = ["TURN_BYTES", "Backlog", "ChannelCounts"]

TURN_BYTES = 64 * 1024  # that one subscription gets in one turn, approximately


@attrs.define(eq=False)
class ChannelCounts:
    """The counters of a channel since the daemon started (`damaged`: since the channel was created).

    Conservation (I9): entered = finished + ready + in flight + deferred + leaving + dead_lettered + dropped + expired
    + damaged.
    """

    entered: int = 0
    delivered: int = 0
    finished: int = 0
    requeued: int = 0  # by REQ, or by an operator
    timed_out: int = 0
    dropped: int = 0  # by emptying, by sampling, by an ephemeral queue that was full, by a limit
    dropped_by: Counter[str] = attrs.field(factory=Counter)  # of these by the limits, by their names
    expired: int = 0  # older than `max_age`
    damaged: int = 0  # lost to damage on disk
    dead_lettered: Counter[Cause] = attrs.field(factory=Counter)  # safe in the dead topic


class Backlog(Protocol):
    """The messages of one channel. The channel sets `wake` and uses the same `counts`."""

    counts: ChannelCounts
    generation: int
    """Identifies the channel in the log's records; 0 for one that is in memory only."""
    wake: Callable[[], None]
    """Called when a body that had to be read from disk may be available now."""

    @property
    def repeats_ids(self) -> bool:
        """Whether several messages may have the same id: dead letters of several channels, for instance."""

    # --- figures

    @property
    def ready(self) -> int:
        """Messages that were never delivered and may be delivered now."""

    def on_disk_only(self, requeued: Iterable[int]) -> int:
        """How many of the ready messages, and of these requeued ones, are not in memory."""

    def oldest(self) -> PublishTime:
        """When the oldest message that is not settled was published."""

    def waiting_bytes(self, others: int) -> int:
        """Bytes of the frames of the ready messages, and of so many other ones, as an estimate."""

    @property
    def needed_from(self) -> int:
        """A seq such that the channel needs nothing below it."""

    def needed(self, start: int, end: int) -> list[tuple[int, int]]:
        """The ranges of seqs in `[start, end)` whose messages the topic's log must keep for this channel."""

    def needed_count(self, start: int, end: int) -> int:
        """How many seqs in `[start, end)` the topic's log must keep for this channel."""

    def needs(self, seq: int) -> bool:
        """Whether the topic's log must keep this message for this channel."""

    # --- looking in

    def ready_from(self, start: int, limit: int) -> list[int]:
        """The first ready messages with a seq of `start` or above, up to `limit`, rising."""

    def is_ready(self, seq: int) -> bool:
        """Whether this message was never delivered and may be delivered now."""

    def look(self, seqs: Sequence[int]) -> tuple[dict[int, bytes], Look | None]:
        """The frames of these messages, which it holds: those in memory, and a read for the others."""

    def find(self, message_id: bytes) -> tuple[int, bytes] | None:
        """The message with this id, as (seq, frame), if it is in memory only."""

    # --- bodies

    def take(self, limit: int) -> tuple[int, list[bytes]] | None:
        """Up to `limit` consecutive ready messages, as (first seq, frames). None if none is available now."""

    def bodies(self, queue: Sequence[tuple[int, int]], limit: int) -> list[bytes]:
        """The frames of the first messages of a queue of (seq, attempts): of messages that were taken or deferred.

        As many as are in memory, up to `limit`; none while the first one is being read, or if it is lost.
        """

    def fetch_ahead(self, seqs: Iterable[int]) -> None:
        """Read bodies of deferred messages that are due soon."""

    @property
    def most_ahead(self) -> int:
        """How many of them may be read ahead of their time."""

    def is_lost(self, seq: int) -> bool:
        """Whether this message is lost to damage on disk."""

    # --- new messages

    def enter(self, first: int, frames: list[bytes], demand: Callable[[], int]) -> None:
        """Add published messages with seqs from `first` on. `demand()`: how many consumers would take at once."""

    def enter_deferred(self, seq: int, frame: bytes | None) -> bool:
        """Add a deferred message; False when there is no room for it."""

    def advance(
        self, start: int, end: int, not_ready: RangeSet, held: Mapping[int, bytes], demand: Callable[[], int]
    ) -> None:
        """Add the messages that the topic has gathered: `[start, end)` without the seqs in `not_ready`.

        `held`: frames by seq, of messages that are in memory only.
        """

    def skip_aborted(self, start: int, end: int) -> None:
        """Skip `[start, end)`: aborted seqs, messages that the topic dropped before any channel got them, or messages
        for another channel alone."""

    def lose(self, start: int, end: int, damaged: bool) -> None:
        """Settle and count those of `[start, end)` that are still ready: the log has lost these messages."""

    def finish_ready(self, ranges: Iterable[tuple[int, int]]) -> int:
        """Settle those in these ranges that are still ready: they were finished at another nsqd. Returns how many."""

    # --- outcomes

    def finish_one(self, seq: int) -> bool:
        """Settle a message that is still ready; False if it is not."""

    def withdraw_ready(self, seq: int) -> bool:
        """Take a message out of the ready ones, so that the channel may keep it elsewhere; False if it is not ready."""

    def drop_ready(self, limit: int, before: int) -> int:
        """Settle the first ready messages, up to `limit`, with seqs below `before`. Returns how many."""

    def settle(self, seqs: list[int]) -> None:
        """Mark these as finished or dropped. May sort the list."""

    def await_redelivery(self, seq: int, attempts: int, delay: float, not_counted: int = 0) -> None:
        """Record that a message is to be delivered again in `delay` seconds, after `attempts` deliveries.

        `not_counted`: how many of these ended with a lost connection, for a channel with `max_attempts`.
        """

    def empty(self) -> int:
        """Drop all messages; returns how many of them were ready. The topic writes the record of it."""

    def close(self) -> None:
        """Release all memory: the channel is deleted."""

    # --- records

    @property
    def settled(self) -> RangeSet:
        """Seqs that the channel no longer needs, for the snapshot."""

    def record(self, code: Code, *items: object) -> list[Change]:
        """The record of a change to the channel itself; empty for a channel that is not recorded."""

    @property
    def has_unwritten(self) -> bool:
        """Whether changes of messages remain for a later append: the disk is full, or an append has failed."""

    # --- checks

    def invariant(self, waiting: set[int]) -> None:
        """Assert that the state is consistent. `waiting`: seqs that are in flight, requeued or deferred."""
