"""Looks into topics and channels: which messages wait in which state, without any change to them.

A look has two parts. On the broker's thread a `Page` is made: which messages there are at that moment, and the frames
of those that are in memory. The other frames are read from the log by `Page.frames`, in another thread.

The cost of a page does not depend on how many messages the channel has, but for passing over requeued or deferred
messages before it, or after it if these are fewer: some 5 ms for half a million.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import attrs

from nsqd.broker.channel import Channel
from nsqd.broker.life import MessageState
from nsqd.broker.paging import part_of
from nsqd.broker.subscription import Subscription
from nsqd.broker.topic import Topic
from nsqd.log.look import Look, Looked
from nsqkit.wire.frames import ID

__all__ = ["Entry", "Page", "PeekState", "peek_channel", "peek_topic", "search", "whereabouts"]


class PeekState(enum.Enum):
    """The states that a channel is looked at in. `IN_FLIGHT` includes messages of clients that are gone."""

    READY = "ready"
    IN_FLIGHT = "in_flight"
    REQUEUED = "requeued"
    DEFERRED = "deferred"
    LEAVING = "leaving"


class Entry(NamedTuple):
    """A message. `attempts`: deliveries so far. `due`: when it times out, or its delay ends, in seconds of the broker's
    clock. `owner`: who has it in flight. `delay_ns`: of a deferred message that no channel has been given yet.
    """

    seq: int
    attempts: int = 0
    due: float | None = None
    owner: Subscription | None = None
    delay_ns: int | None = None


@attrs.frozen(eq=False)
class Page:
    """Some messages of one state. `count`: how many there are in all. `held`: frames by seq; `look` reads the others.

    `start`: where the page begins. `by_seq`: pages begin with a seq; else with how many messages to pass over.
    `is_last`: no messages follow.
    """

    entries: Sequence[Entry]
    count: int
    start: int
    by_seq: bool
    is_last: bool
    held: Mapping[int, bytes]
    look: Look | None

    def start_at(self, index: int) -> int | None:
        """Where a page begins that goes on with the entry `index` of this one; None if there are none."""
        if index < len(self.entries):
            return self.entries[index].seq if self.by_seq else self.start + index
        if self.is_last:
            return None
        return self.entries[-1].seq + 1 if self.by_seq else self.start + index

    @contextlib.contextmanager
    def messages(self) -> Iterator[Iterator[Looked | None]]:
        """An iterator over the messages of the entries; None for one that cannot be read. *Any thread*.

        `OSError`; `FileNotFoundError` if messages of the page were removed meanwhile.
        """
        if self.look is None:
            yield (self._held(entry.seq) for entry in self.entries)
            return
        missing = (entry.seq for entry in self.entries if entry.seq not in self.held)
        with contextlib.closing(self.look.messages(missing)) as read:
            yield (self._held(e.seq) if e.seq in self.held else next(read) for e in self.entries)

    def _held(self, seq: int) -> Looked | None:
        frame = self.held.get(seq)
        return None if frame is None else Looked(frame)

    @property
    def bytes_read(self) -> int:
        """Bytes of the log that `messages` has read so far."""
        return 0 if self.look is None else self.look.bytes_read


def peek_channel(channel: Channel, state: PeekState, start: int, limit: int) -> Page:
    """Up to `limit` messages in this state, from `start` on: 0, or what `Page.start_at` has returned."""
    backlog = channel.backlog
    entries: list[Entry]
    # One more than asked for shows whether any follow.
    if state is PeekState.READY:
        count = backlog.ready
        entries = [Entry(seq) for seq in backlog.ready_from(start, limit + 1)]
    elif state is PeekState.REQUEUED:
        count = len(channel.requeued)
        entries = [Entry(*waiting) for waiting in part_of(channel.requeued, start, limit + 1)]
    elif state is PeekState.DEFERRED:
        count = len(channel.deferred)
        entries = [Entry(*waiting) for waiting in channel.deferred.page(start, limit + 1)]
    elif state is PeekState.LEAVING:
        leaving = channel.leaving.messages
        count = len(leaving)
        entries = [
            Entry(seq, message.attempts) for seq, message in part_of(leaving.items(), start, limit + 1)
        ]
    else:
        count = channel.in_flight_count
        entries = [
            Entry(seq, attempts, deadline, owner)
            for owner, (seq, attempts, deadline, _) in channel.delivery.in_flight_page(start, limit + 1)
        ]
    is_last = len(entries) <= limit
    del entries[limit:]
    held, look = backlog.look([entry.seq for entry in entries])
    return Page(entries, count, start, state is PeekState.READY, is_last, held, look)


def peek_topic(topic: Topic, start: int, limit: int) -> Page:
    """The same, of messages that no channel has been given yet, also of deferred ones."""
    store = topic.store
    seqs = topic.unavailable.first_outside(max(start, store.high_watermark), store.end, limit + 1)
    is_last = len(seqs) <= limit
    del seqs[limit:]
    held, look = store.look(seqs)
    entries = [Entry(seq, delay_ns=topic.deferred.get(seq)) for seq in seqs]
    return Page(entries, topic.depth, start, True, is_last, held, look)


def search(
    topic: Topic, message_id: bytes, hint: int | None = None
) -> Callable[[], tuple[int, Looked] | None]:
    """A search for a message by its id, to be run in *any thread*: with its seq, or None; `OSError` as for a page.

    `hint`: its seq, if the caller has seen it. Without it, a message is not found whose id is out of order (it is a
    dead letter, or was put back from there; it was taken over from another node; or the node's id has changed), unless
    it is in flight.
    """
    finds = [topic.store.find, *(channel.backlog.find for channel in topic.channels.values())]
    found = next(filter(None, (find(message_id) for find in finds)), None)
    if found is not None:
        seq, frame = found
        return lambda: (seq, Looked(frame))
    look = topic.store.look_anywhere()
    if look is None:
        return lambda: None
    hints = [] if hint is None else [hint]
    for channel in topic.channels.values():
        if (owner := channel.delivery.owner_of(message_id)) is not None:
            hints.append(owner.in_flight[message_id][0])

    def run() -> tuple[int, Looked] | None:
        with contextlib.closing(look.messages(hints)) as messages:
            for seq, message in zip(hints, messages, strict=True):
                if message is not None and message.frame[ID] == message_id:
                    return seq, message
        return look.find(message_id)

    return run


def whereabouts(channel: Channel, seq: int, message_id: bytes) -> tuple[MessageState, Entry]:
    """The state of a message in a channel; `SETTLED` also if the channel never had it."""
    if (owner := channel.delivery.owner_of(message_id, seq)) is not None:
        _, attempts, deadline, _ = owner.in_flight[message_id]
        state = MessageState.DISCONNECTED if owner.disconnected else MessageState.IN_FLIGHT
        return state, Entry(seq, attempts, deadline, owner)
    if (deferred := channel.deferred.get(seq)) is not None:
        return MessageState.DEFERRED, Entry(seq, *deferred)
    if (leaving := channel.leaving.messages.get(seq)) is not None:
        return MessageState.LEAVING, Entry(seq, leaving.attempts)
    if channel.backlog.is_ready(seq):
        return MessageState.READY, Entry(seq)
    for queued, attempts in channel.requeued:
        if queued == seq:
            return MessageState.REQUEUED, Entry(seq, attempts)
    return MessageState.SETTLED, Entry(seq)
