"""What every channel does, wherever its messages come from: share them out, wait for answers, take them back.

A message of a channel is in exactly one place:

    fresh      not handed out yet; the subclass knows where it is (behind a cursor, or in a queue)
    in flight  with one subscription
    requeued   to be handed out again, at once
    deferred   to be handed out when its time has come
    settled    finished, or dropped: gone

Sharing. Subscriptions with room stand in a queue. The pump takes the first, gives it its share of what is ready (at
most `TURN_BYTES`), and puts it back at the end. Requeued messages and fresh ones are taken in turn, so that neither
waits for all of the other.

A connection that ends gives its messages back: those that the socket never took, without counting the attempt; the
others at once the first time a message loses its connection. From the second time on a message waits for its time-out,
so that a consumer that crashes on a message does not burn its attempts in seconds.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING

from nsqd.broker.context import BrokerContext
from nsqd.broker.latency import ChannelLatency
from nsqd.broker.locality import LocalFirst, Locality, WaitingQueue
from nsqd.broker.oldest import PublishTime
from nsqd.broker.subscription import InFlight, Subscription
from nsqkit.wire.frames import ID, MAX_ATTEMPTS, with_attempts

if TYPE_CHECKING:
    from nsqd.broker.timers import Timers

__all__ = ["Channel", "Entry"]

TURN_BYTES = 64 * 1024
OWNERS_ASKED = 64
PUMP_BYTES = 1024 * 1024

Entry = tuple[int, int, bytes | None]
"""A requeued message: number, attempts so far, and the frame where no log has it."""


class Channel:
    """Base of `LogChannel` and `EphemeralChannel`: they say where fresh messages and bodies come from."""

    # With more than 30 attributes Python would give each channel a dict of its own: twice the memory to go through.
    __slots__ = (
        "__weakref__",
        "_deliveries_to_disconnected",
        "_due",
        "_redelivered_after_disconnect",
        "_requeued_turn",
        "_waiting",
        "alarm_at",
        "broker",
        "damaged_count",
        "deferred",
        "delivery_count",
        "disconnected",
        "dropped_count",
        "finish_count",
        "latency",
        "message_count",
        "name",
        "paused",
        "requeue_count",
        "requeued",
        "subscriptions",
        "timeout_count",
        "timers",
        "topic_name",
    )

    def __init__(self, broker: BrokerContext, topic_name: str, name: str) -> None:
        self.broker = broker
        self.timers: Timers = broker.timers
        self.topic_name = topic_name
        self.name = name
        self.paused = False
        self.subscriptions: dict[Subscription, None] = {}
        self.disconnected: dict[Subscription, None] = {}
        self.requeued: deque[Entry] = deque()
        self.deferred: dict[int, tuple[int, float, bytes | None]] = {}  # number -> attempts, due, frame
        self._due: list[tuple[float, int]] = []
        self._waiting: WaitingQueue = LocalFirst() if broker.options.topology else OrderedDict()
        self._redelivered_after_disconnect: set[int] = set()
        self._requeued_turn = False
        self.alarm_at = math.inf
        self.message_count = 0  # entered from the topic
        self.requeue_count = 0  # successful REQs
        self.timeout_count = 0
        self.finish_count = 0
        self.dropped_count = 0  # by emptying, by sampling out, by an ephemeral queue that was full
        self.damaged_count = 0  # lost by the disk
        self.delivery_count = 0
        self._deliveries_to_disconnected = [0 for _ in Locality]  # to those who have left
        window = broker.options.latency_window
        self.latency = ChannelLatency(window, broker.now) if window else None

    # --- what a subclass says

    @property
    def fresh(self) -> int:
        """How many messages were never handed out."""
        raise NotImplementedError

    @property
    def backend_depth(self) -> int:
        """How many of the ready messages are only on disk."""
        raise NotImplementedError

    def oldest(self) -> PublishTime:
        """When the oldest of its unfinished messages was published."""
        raise NotImplementedError

    def _take_fresh(self, limit: int) -> tuple[int, list[bytes]] | None:
        """Up to `limit` fresh messages in a row, as (first number, frames). None: none can be had now."""
        raise NotImplementedError

    def _body(self, entry: Entry) -> bytes | None:
        """The frame of a requeued message; None while it is being read."""
        raise NotImplementedError

    def _settled(self, seqs: list[int]) -> None:
        """These are gone for good. May sort the list."""
        raise NotImplementedError

    def _awaits_redelivery(self, seq: int, attempts: int, delay: float) -> None:
        """This one waits for another delivery, in `delay` seconds."""
        raise NotImplementedError

    def _keep_frames(self) -> bool:
        """Whether what is in flight must keep its frame, as no log has it."""
        raise NotImplementedError

    # --- numbers for people

    @property
    def now(self) -> float:
        return self.broker.now

    @property
    def depth(self) -> int:
        """Messages that are ready: neither in flight nor deferred."""
        return self.fresh + len(self.requeued)

    @property
    def in_flight_count(self) -> int:
        return sum(len(s.in_flight) for s in self.subscriptions) + sum(
            len(s.in_flight) for s in self.disconnected
        )

    def deliveries_to(self, locality: Locality) -> int:
        """How many of the deliveries went to consumers there. Without topology-aware consumption all are elsewhere."""
        if self.broker.options.topology is None:
            return self.delivery_count if locality is Locality.REMOTE else 0
        present = sum(s.message_count for s in self.subscriptions if s.locality is locality)
        return self._deliveries_to_disconnected[locality] + present

    def in_flight_entries(self) -> Iterator[InFlight]:
        for subscription in (*self.subscriptions, *self.disconnected):
            yield from list(subscription.in_flight.values())

    def has_in_flight(self, message_id: bytes) -> bool:
        """Whether some client has it; a few are asked, for a flood of bad ids must cost little."""
        owners = islice(chain(self.subscriptions, self.disconnected), OWNERS_ASKED)
        return any(message_id in owner.in_flight for owner in owners)

    # --- sharing out

    def offer(self, subscription: Subscription) -> None:
        """A subscription may have room now: it takes part in the next pump."""
        if not subscription.waiting and subscription.room > 0:
            subscription.waiting = True
            self._waiting[subscription] = None
        if subscription.waiting:
            self.broker.pump_soon(self)

    def pump(self) -> None:
        """Hand out what is ready to those who have room; `PUMP_BYTES` at the most, then others have their turn."""
        waiting, budget = self._waiting, PUMP_BYTES
        share = turns = 0
        while waiting and not self.paused:
            ready = self.depth
            if ready <= 0:
                return
            if budget <= 0:
                self.broker.pump_soon(self)
                return
            if not turns:  # once a lap: shares that shrink with what is left would favour the first
                turns = len(waiting)
                share = max(1, ready // turns)
            turns -= 1
            subscription = waiting.popitem(last=False)[0]
            room = subscription.room
            if room > 0:
                before = subscription.outbox.size
                if not self._serve(subscription, min(room, share)):
                    waiting[subscription] = None
                    waiting.move_to_end(subscription, last=False)
                    return  # bodies are being read; the pump is called again then
                budget -= subscription.outbox.size - before + 1
                if subscription.room > 0:
                    waiting[subscription] = None
                    continue
            subscription.waiting = False

    def _serve(self, subscription: Subscription, limit: int) -> bool:
        """One turn of one subscription. False when nothing could be had."""
        self._requeued_turn = not self._requeued_turn
        if self._requeued_turn and self.requeued and self._serve_requeued(subscription, limit):
            return True
        if self._serve_fresh(subscription, limit):
            return True
        return bool(self.requeued) and self._serve_requeued(subscription, limit)

    def _serve_fresh(self, subscription: Subscription, limit: int) -> bool:
        taken = self._take_fresh(limit)
        if taken is None:
            return False
        first, frames = taken
        if subscription.sample:
            self._deliver_sampled(subscription, [(first + at, 1, frame) for at, frame in enumerate(frames)])
            return True
        now, count = self.broker.now, len(frames)
        deadline = now + subscription.timeout
        if self.latency is not None:
            self.latency.handed_out(range(first, first + count), frames)
        # All in C: this line and the two in `put` are what a delivery costs.
        subscription.in_flight.update(
            zip(
                [frame[ID] for frame in frames],
                zip(
                    range(first, first + count),
                    repeat(1),
                    repeat(deadline),
                    repeat(now + self.broker.max_msg_timeout),
                    frames if self._keep_frames() else repeat(None),
                    strict=False,
                ),
                strict=False,
            )
        )
        self._sent(subscription, frames, count, deadline)
        return True

    def _serve_requeued(self, subscription: Subscription, limit: int) -> bool:
        entries: list[tuple[int, int, bytes]] = []
        size, requeued = 0, self.requeued
        while requeued and len(entries) < limit and size < TURN_BYTES:
            entry = requeued[0]
            frame = entry[2] or self._body(entry)
            if frame is None:
                break
            if requeued and requeued[0] is entry:
                requeued.popleft()
            entries.append((entry[0], min(entry[1] + 1, MAX_ATTEMPTS), frame))
            size += len(frame)
        if entries:
            self._deliver_sampled(subscription, entries)
        return bool(entries)

    def _deliver_sampled(self, subscription: Subscription, entries: Iterable[tuple[int, int, bytes]]) -> None:
        """The way of single messages: other attempts than one, or a client that samples."""
        now = self.broker.now
        deadline, limit = now + subscription.timeout, now + self.broker.max_msg_timeout
        frames, dropped, keep, latency = [], [], self._keep_frames(), self.latency
        for seq, attempts, frame in entries:
            if subscription.sampled_out():
                dropped.append(seq)
                continue
            if latency is not None:
                latency.handed_out((seq,), (frame,))
            out = frame if attempts == 1 else with_attempts(frame, attempts)
            subscription.in_flight[frame[ID]] = (seq, attempts, deadline, limit, out if keep else None)
            frames.append(out)
        if dropped:
            self.dropped_count += len(dropped)
            self._gone(dropped)
        if frames:
            self._sent(subscription, frames, len(frames), deadline)

    def _sent(self, subscription: Subscription, frames: list[bytes], count: int, deadline: float) -> None:
        subscription.message_count += count
        self.delivery_count += count
        if deadline < subscription.alarm_at:
            self.timers.set(subscription, deadline)
        subscription.outbox.put(frames, sum(map(len, frames)))

    # --- answers

    def finished(self, seqs: list[int]) -> None:
        """A client finished these. May sort the list."""
        self.finish_count += len(seqs)
        if self.latency is not None:
            self.latency.finished(seqs, self.broker.now, self.broker.wall_ns)
        self._gone(seqs)

    def _gone(self, seqs: list[int]) -> None:
        """Nobody waits for these any more. May sort the list."""
        if self._redelivered_after_disconnect:
            self._redelivered_after_disconnect.difference_update(seqs)
        self._settled(seqs)

    def requeue(self, entry: InFlight, delay: float) -> None:
        """A delivery that came to nothing: it is handed out again, in `delay` seconds."""
        seq, attempts, _, _, frame = entry
        if self.latency is not None:
            self.latency.forget(seq)
        self._awaits_redelivery(seq, attempts, delay)
        if delay > 0:
            self.defer(seq, attempts, self.now + delay, frame)
        else:
            self.requeued.append((seq, attempts, frame))
            self.broker.pump_soon(self)

    def timed_out(self, entry: InFlight) -> None:
        self.timeout_count += 1
        self.requeue(entry, 0)

    # --- time

    def defer(self, seq: int, attempts: int, due: float, frame: bytes | None) -> None:
        """Not before `due`."""
        self.deferred[seq] = (attempts, due, frame)
        heapq.heappush(self._due, (due, seq))
        if due < self.alarm_at:
            self.timers.set(self, due)

    def alarm(self, now: float) -> None:
        """Hand over what has become due."""
        due, deferred = self._due, self.deferred
        while due and due[0][0] <= now:
            when, seq = heapq.heappop(due)
            entry = deferred.get(seq)
            if entry is not None and entry[1] == when:
                del deferred[seq]
                self.requeued.append((seq, entry[0], entry[2]))
        if due:
            self.timers.set(self, due[0][0])
        self.broker.pump_soon(self)

    # --- coming and going

    def join(self, subscription: Subscription) -> None:
        self.subscriptions[subscription] = None

    def detach(self, subscription: Subscription, unsent: set[bytes]) -> None:
        """A connection has ended. `unsent`: ids of messages that the socket never took."""
        if self.subscriptions.pop(subscription, 0) == 0:
            return  # the channel went first
        subscription.gone = True
        subscription.waiting = False
        self._waiting.pop(subscription, None)
        self._deliveries_to_disconnected[subscription.locality] += subscription.message_count
        back: list[Entry] = []
        keep: dict[bytes, InFlight] = {}
        for message_id, entry in subscription.in_flight.items():
            seq, attempts, _, _, frame = entry
            if message_id in unsent:
                back.append((seq, attempts - 1, frame))
                if self.latency is not None:
                    self.latency.forget(seq)
                if attempts > 1:  # a snapshot in the making may have looked for it here and there in vain
                    self._awaits_redelivery(seq, attempts - 1, 0)
            elif seq in self._redelivered_after_disconnect:
                keep[message_id] = entry
            else:
                self._redelivered_after_disconnect.add(seq)
                self.timed_out(entry)
        subscription.in_flight = keep
        self.requeued.extendleft(reversed(back))
        if keep:
            self.disconnected[subscription] = None
        else:
            self.timers.cancel(subscription)
        if back:
            self.broker.pump_soon(self)

    def forget(self, subscription: Subscription) -> None:
        """A departed subscription has nothing in flight any more."""
        self.disconnected.pop(subscription, None)

    def _clear(self) -> int:
        """Drop what is in flight, requeued and deferred; returns how many that were."""
        count = len(self.requeued) + len(self.deferred)
        for subscription in (*self.subscriptions, *self.disconnected):
            count += len(subscription.in_flight)
            subscription.in_flight.clear()
        self.disconnected.clear()
        self.requeued.clear()
        self.deferred.clear()
        self._due.clear()
        self._redelivered_after_disconnect.clear()
        if self.latency is not None:
            self.latency.clear()
        for subscription in self.subscriptions:
            self.offer(subscription)
        return count

    def close(self) -> None:
        """The channel is gone: nothing of it is wanted any more."""

    def disconnect_all(self) -> None:
        """The channel is gone: so are its clients."""
        for subscription in list(self.subscriptions):
            subscription.gone = True
            subscription.in_flight.clear()
            subscription.outbox.client.disconnect()
        for subscription in self.disconnected:
            subscription.in_flight.clear()
        self.subscriptions.clear()
        self.disconnected.clear()
        self._waiting.clear()
        self.requeued.clear()
        self.deferred.clear()
        self._due.clear()
        self.timers.cancel(self)
