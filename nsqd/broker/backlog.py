"""What a channel asks of the place that holds its messages.

A channel knows its messages by sequence number (`seq`, unique within the topic, never on the wire). Its backlog knows
which of them have never been delivered, where each body is, and how to record what becomes of them. Two kinds exist:
`LogBacklog` is a cursor into the topic's log, `MemoryBacklog` a bounded queue for `#ephemeral` channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import attrs

from nsqd.broker.oldest import PublishTime
from nsqd.log.ranges import RangeSet
from nsqd.log.state import Change, Code

__all__ = ["FETCH_AHEAD", "TURN_BYTES", "Backlog", "ChannelCounts"]

TURN_BYTES = 64 * 1024  # what one subscription gets in one turn, about
FETCH_AHEAD = 1000  # requeued messages whose bodies one read of the log may bring


@attrs.define(eq=False)
class ChannelCounts:
    """What a channel has counted since the daemon started (`damaged`: since the channel was made).

    Conservation (I9): entered = finished + ready + in flight + deferred + dropped + damaged.
    """

    entered: int = 0
    delivered: int = 0
    finished: int = 0
    requeued: int = 0  # by REQ
    timed_out: int = 0
    dropped: int = 0  # by emptying, by sampling, by an ephemeral queue that was full
    damaged: int = 0  # lost by the disk


class Backlog(Protocol):
    """The messages of one channel. The channel sets `wake` and shares `counts`."""

    counts: ChannelCounts
    wake: Callable[[], None]
    """Called when a body that could not be had at once may be there now."""

    # --- how much

    @property
    def ready(self) -> int:
        """Messages that were never delivered and may be."""

    def on_disk_only(self, requeued: Iterable[int]) -> int:
        """How many of the ready messages, and of these requeued ones, are not in memory."""

    def oldest(self) -> PublishTime:
        """When the oldest message that is not settled was published."""

    @property
    def floor(self) -> float:
        """The lowest seq that the topic's log must keep for it; infinity when it needs none."""

    # --- bodies

    def take(self, limit: int) -> tuple[int, list[bytes]] | None:
        """Up to `limit` ready messages in a row, as (first seq, frames). None: none can be had now."""

    def body(self, seq: int, wanted_soon: Iterable[int]) -> bytes | None:
        """The frame of a message that was taken or deferred. None while it is being read, or when it is lost."""

    def is_lost(self, seq: int) -> bool:
        """Whether the disk has lost this message."""

    # --- messages that come

    def enter(self, first: int, frames: list[bytes], demand: Callable[[], int]) -> None:
        """Messages were published. `demand()`: how many the consumers would take at once."""

    def enter_deferred(self, seq: int, frame: bytes | None) -> bool:
        """A deferred message has come; False when there is no room for it."""

    def advance(
        self, start: int, end: int, not_ready: RangeSet, held: Mapping[int, bytes], demand: Callable[[], int]
    ) -> None:
        """The topic hands over what it has gathered: `[start, end)` without the seqs in `not_ready`.

        `held`: the frames of those that only memory has.
        """

    def skip_aborted(self, start: int, end: int) -> None:
        """`[start, end)` never were messages, or were dropped by the topic before any channel got them."""

    def lose(self, start: int, end: int, damaged: bool) -> None:
        """The log cannot give `[start, end)` any more; those still ready are settled and counted."""

    # --- what becomes of them

    def settle(self, seqs: list[int]) -> None:
        """These are finished or dropped. May sort the list."""

    def await_redelivery(self, seq: int, attempts: int, delay: float) -> None:
        """This one waits for another delivery, in `delay` seconds; `attempts` have been made."""

    def empty(self) -> int:
        """Drop everything, and return how many ready messages that were. The record of it is the topic's."""

    def close(self) -> None:
        """The channel is deleted: release what is held."""

    # --- records

    @property
    def settled(self) -> RangeSet:
        """Seqs that the channel needs no more, for the snapshot."""

    def record(self, code: Code, *items: object) -> list[Change]:
        """The record of a change of the channel itself; empty where nothing of it is written."""

    # --- checks

    def invariant(self, waiting: set[int]) -> None:
        """Assert that its numbers fit together. `waiting`: seqs that are in flight, requeued or deferred."""
