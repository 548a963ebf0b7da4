"""A channel: it delivers the messages of its backlog, and redelivers those that were not finished.

Every message has a sequence number (`seq`). From the channel's start on, each seq below the topic's high watermark is
in exactly one of these states:

    ready      never delivered: at or beyond the backlog's *cursor*, and not in the ranges that it skips
    in flight  in the table of exactly one subscription, connected or not
    requeued   delivered before, and waiting in `requeued` to be delivered again
    deferred   waiting in `deferred` until it is due; it was delivered before, or published with a delay
    leaving    in `leaving`: on its way to the dead topic, see `nsqd.broker.dead_letters`
    settled    finished, dropped, lost or aborted (the seqs of a failed append, which never became messages)

A seq that is in flight, requeued, deferred or leaving is never settled, and is below the cursor or in the ranges that
it skips.
`invariant` asserts all of this. `nsqd.broker.life.LIFE` has the events that take a message from one state to another.

Requeued messages and ready ones are taken in turn, so that neither has to wait until none of the other remain.

When a connection ends, its messages in flight are requeued. Those that the socket never accepted do not count as an
attempt. The others are requeued at once the first time that a message loses its connection; from the second time on the
message waits for its time-out, so that a consumer that crashes on a message does not use up its attempts in seconds.

With `max_attempts`, a message leaves when that many deliveries have ended with a REQ or a time-out; those that ended
with a lost connection do not count (`_lost_connections`).

Dead letters may have the same id twice: of two channels of one topic, or because nsqd was killed in between. A client
answers by id, so it gets the second one after the time-out of the first, see `_without_repeated`.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, repeat

from nsqd.broker.backlog import Backlog
from nsqd.broker.context import BrokerContext
from nsqd.broker.deferred import AHEAD, Deferred
from nsqd.broker.delivery import Delivery
from nsqd.broker.errors import NotInFlight, NotOwner, Refused
from nsqd.broker.latency import ChannelLatency
from nsqd.broker.leaving import Leaving, LeavingMessage, dead_topic_of
from nsqd.broker.locality import Locality, Topology
from nsqd.broker.oldest import PublishTime
from nsqd.broker.outbox import Outbox
from nsqd.broker.subscription import InFlight, Subscription
from nsqd.log.origin import Cause
from nsqd.log.ranges import RangeSet
from nsqd.log.state import RedriveState
from nsqd.rules import NOTHING_GIVEN, NOTHING_SET, Policy, Settings
from nsqkit.wire.frames import ID, MAX_ATTEMPTS, with_attempts

__all__ = ["Channel"]

# Requeued messages that are looked at in a second, on average, for those that are too old.
EXPIRE_SCAN = 200_000
MAX_LEAVING = 100_000  # messages of one channel on their way to the dead topic, because of a limit
DUE_AT_ONCE = 2000  # deferred messages that are requeued in one round, which bounds its length


Restored = tuple[int, float, int]
"""A message that was deferred before the start: (due in wall time, ns; due at the latest, s of the broker's clock;
attempts). It is the same as long as it waits with these attempts."""


class Channel:
    """One channel of a topic. `backlog` holds its messages, `delivery` chooses the next subscription."""

    # Slots: this class has more attributes than CPython keeps in a shared-key dict, and a dict for each channel would
    # double its memory. They save 5 % of the CPU with 1,000 topics.
    __slots__ = (
        "__weakref__",
        "_came_due",
        "_lost_connections",
        "_next_scan",
        "_requeued_turn",
        "_restored",
        "alarm_at",
        "backlog",
        "context",
        "counts",
        "dead_topic",
        "deferred",
        "delivery",
        "idle_alarm",
        "idle_since",
        "latency",
        "leaving",
        "max_attempts",
        "name",
        "own_settings",
        "paused",
        "redrive",
        "requeued",
        "settings",
        "topic_name",
    )

    def __init__(self, context: BrokerContext, topic_name: str, name: str, backlog: Backlog) -> None:
        self.context = context
        self.topic_name = topic_name
        self.name = name
        self.backlog = backlog
        self.counts = backlog.counts
        backlog.wake = self._wake
        self.delivery = Delivery(by_locality=context.options.topology is not None)
        self.paused = False
        self.own_settings = NOTHING_GIVEN  # set by operators for this channel
        self.settings: Settings = NOTHING_SET  # what holds for it, see `Topic.resolve_settings`
        self.requeued: deque[tuple[int, int]] = deque()  # (seq, attempts so far)
        self.deferred = Deferred()
        self._restored: dict[int, Restored] = {}
        # With `max_age`: when messages came due that were deferred; their age counts from then.
        self._came_due: dict[int, float] = {}
        self._next_scan = 0.0
        self.idle_since: float | None = None  # with `idle_ttl`: seen without a consumer from then on
        self.idle_alarm = False
        self._requeued_turn = False
        # How many deliveries of a message have ended with a lost connection.
        self._lost_connections: dict[int, int] = {}
        self.leaving = Leaving()
        self.max_attempts = 0
        self.dead_topic = dead_topic_of(topic_name, name)
        self.redrive: RedriveState | None = None  # dead letters come back, see `nsqd.broker.redrive`
        self.alarm_at = math.inf
        window = context.options.latency_window
        self.latency = ChannelLatency(window, context.now) if window else None

    def _wake(self) -> None:
        self.context.pump_soon(self)
        if self.leaving:
            self.context.leave_soon(self)

    # --- figures

    @property
    def depth(self) -> int:
        """Messages that can be delivered: neither in flight nor deferred."""
        return self.backlog.ready + len(self.requeued)

    @property
    def waiting(self) -> int:
        """Messages that wait: for a consumer, or to become due."""
        return self.depth + len(self.deferred)

    def waiting_bytes(self) -> int:
        """Bytes of their frames, as an estimate."""
        return self.backlog.waiting_bytes(len(self.requeued) + len(self.deferred))

    @property
    def backend_depth(self) -> int:
        """How many of those are on disk only; of the requeued ones the first 10,000 are examined."""
        # Bounded, as there may be millions of them, and every `/stats` asks every channel.
        on_disk = self.backlog.on_disk_only(seq for seq, _ in islice(self.requeued, 10_000))
        return min(on_disk, self.depth)

    @property
    def generation(self) -> int:
        """Identifies the channel in the log's records; 0 for one that is in memory only."""
        return self.backlog.generation

    @property
    def in_flight_count(self) -> int:
        return self.delivery.in_flight_count

    @property
    def subscriptions(self) -> dict[Subscription, None]:
        """The connected clients."""
        return self.delivery.subscriptions

    def oldest(self) -> PublishTime:
        """When the oldest message that is not settled was published."""
        return self.backlog.oldest()

    def deliveries_to(self, locality: Locality) -> int:
        """How many deliveries went to consumers in `locality`. Without topology-aware consumption all are remote."""
        if self.context.options.topology is None:
            return self.counts.delivered if locality is Locality.REMOTE else 0
        return self.delivery.deliveries_to(locality)

    # --- messages from the topic

    def enter(self, first: int, frames: list[bytes]) -> None:
        """Add published messages, which are written, with seqs from `first` on."""
        self.backlog.enter(first, frames, self._demand)
        if any(self.delivery.queues):
            self.context.pump_soon(self)

    def advance(self, start: int, end: int, not_ready: RangeSet, held: Mapping[int, bytes]) -> None:
        """Add the messages that the topic has gathered; see `Backlog.advance`."""
        self.backlog.advance(start, end, not_ready, held, self._demand)

    def enter_deferred(self, seq: int, frame: bytes | None, due: float) -> None:
        """Add a message that was published with a delay; it is due at `due`, in seconds of the broker's clock."""
        self.counts.entered += 1
        if self.backlog.enter_deferred(seq, frame):
            self.defer(seq, 0, due)
        else:
            self.counts.dropped += 1

    def _demand(self) -> int:
        """How many messages would be delivered at once."""
        return 0 if self.paused else self.delivery.demand

    # --- delivery

    def offer(self, subscription: Subscription) -> None:
        """Let a subscription that may have room now take part in the next pump."""
        if self.delivery.offer(subscription):
            self.context.pump_soon(self)

    def pump(self) -> None:
        """Deliver to the subscriptions that have room."""
        if self.delivery.pump(self):
            self.context.pump_soon(self)

    def serve(self, subscription: Subscription, limit: int) -> bool:
        """One turn of one subscription. False when no message was available."""
        self._requeued_turn = not self._requeued_turn
        if self._requeued_turn and self.requeued and self._serve_requeued(subscription, limit):
            return True
        if self._serve_ready(subscription, limit):
            return True
        return bool(self.requeued) and self._serve_requeued(subscription, limit)

    def _serve_ready(self, subscription: Subscription, limit: int) -> bool:
        taken = self.backlog.take(limit)
        if taken is None:
            return False
        first, frames = taken
        if subscription.sample or self.backlog.repeats_ids:
            self._deliver(subscription, range(first, first + len(frames)), repeat(1), frames)
            return True
        now, count = self.context.now, len(frames)
        deadline = now + subscription.timeout
        if self.latency is not None:
            self.latency.delivered(range(first, first + count), frames)
        # Built by `zip` and `repeat`, without a loop in Python: this statement is most of the cost of a delivery.
        subscription.in_flight.update(
            zip(
                [frame[ID] for frame in frames],
                zip(
                    range(first, first + count),
                    repeat(1),
                    repeat(deadline),
                    repeat(now + self.context.options.max_msg_timeout),
                    strict=False,
                ),
                strict=False,
            )
        )
        self._sent(subscription, frames, count, deadline)
        return True

    def _serve_requeued(self, subscription: Subscription, limit: int) -> bool:
        requeued = self.requeued
        frames = self.backlog.bodies(requeued, limit)
        if not frames:
            seq = requeued[0][0]
            if self.backlog.is_lost(seq):
                requeued.popleft()
                self.counts.damaged += 1
                self._settle([seq])
                self.context.pump_soon(self)
            return False
        taken = [requeued.popleft() for _ in frames]
        attempts = [min(before + 1, MAX_ATTEMPTS) for _, before in taken]
        self._deliver(subscription, [seq for seq, _ in taken], attempts, frames)
        return True

    def _deliver(
        self, subscription: Subscription, seqs: Sequence[int], attempts: Iterable[int], frames: list[bytes]
    ) -> None:
        """Deliver messages: redeliveries, to a client that samples, or with ids that may not be unique."""
        if subscription.sample:
            seqs, attempts, frames = self._sample(subscription, seqs, attempts, frames)
        if self.backlog.repeats_ids:
            seqs, attempts, frames = self._without_repeated(subscription, seqs, attempts, frames)
        if not frames:
            return
        if self.latency is not None:
            self.latency.delivered(seqs, frames)
        now = self.context.now
        deadline, limit = now + subscription.timeout, now + self.context.options.max_msg_timeout
        attempts = list(islice(attempts, len(frames)))
        entries = zip(seqs, attempts, repeat(deadline), repeat(limit), strict=False)
        subscription.in_flight.update(zip([frame[ID] for frame in frames], entries, strict=True))
        numbered = [
            frame if number == 1 else with_attempts(frame, number)
            for frame, number in zip(frames, attempts, strict=True)
        ]
        self._sent(subscription, numbered, len(numbered), deadline)

    def _sample(
        self, subscription: Subscription, seqs: Sequence[int], attempts: Iterable[int], frames: list[bytes]
    ) -> tuple[list[int], list[int], list[bytes]]:
        """Drop the messages that a client which samples does not get; returns the others."""
        entries = list(zip(seqs, attempts, frames, strict=False))
        chosen = [entry for entry in entries if not subscription.is_sampled_out()]
        if len(chosen) < len(entries):
            kept = {seq for seq, _, _ in chosen}
            dropped = [seq for seq in seqs if seq not in kept]
            self.counts.dropped += len(dropped)
            self._settle(dropped)
        return [e[0] for e in chosen], [e[1] for e in chosen], [e[2] for e in chosen]

    def _without_repeated(
        self, subscription: Subscription, seqs: Sequence[int], attempts: Iterable[int], frames: list[bytes]
    ) -> tuple[list[int], list[int], list[bytes]]:
        """Hold back the messages whose id this client has already, until that one has timed out; returns the others."""
        chosen: dict[bytes, tuple[int, int, bytes]] = {}
        for seq, number, frame in zip(seqs, attempts, frames, strict=False):
            message_id = frame[ID]
            if message_id in subscription.in_flight or message_id in chosen:
                self._take_back(seq, number - 1, subscription.timeout)
            else:
                chosen[message_id] = seq, number, frame
        entries = chosen.values()
        return [e[0] for e in entries], [e[1] for e in entries], [e[2] for e in entries]

    def _sent(self, subscription: Subscription, frames: list[bytes], count: int, deadline: float) -> None:
        subscription.message_count += count
        self.counts.delivered += count
        if deadline < subscription.alarm_at:
            self.context.timers.set(subscription, deadline)
        subscription.outbox.put(frames, sum(map(len, frames)))

    # --- commands of consumers

    def set_rdy(self, subscription: Subscription, count: int) -> None:
        subscription.rdy = count
        self.offer(subscription)

    def finish(self, subscription: Subscription, ids: list[bytes]) -> list[bytes]:
        """FIN for several messages; returns the ids that were not in flight at this client."""
        seqs, missing = subscription.finish(ids, self.context.now)
        if seqs:
            subscription.finish_count += len(seqs)
            self.counts.finished += len(seqs)
            if self.latency is not None:
                self.latency.finished(seqs, self.context.now, self.context.wall_ns)
            self._settle(seqs)
            self.offer(subscription)
        return missing

    def finish_elsewhere(self, ranges: Iterable[tuple[int, int]]) -> int:
        """These were finished at another nsqd, which has a copy. Returns how many were ready here; others stay."""
        count = self.backlog.finish_ready(ranges)
        self.counts.finished += count
        return count

    def requeue(self, subscription: Subscription, message_id: bytes, delay: float) -> None:
        """REQ: deliver a message again, in `delay` seconds. `NotInFlight`, `NotOwner`."""
        entry = subscription.in_flight.pop(message_id, None)
        if entry is None:
            raise self.why_missing(message_id)
        subscription.requeue_count += 1
        self.counts.requeued += 1
        self._failed(entry, delay)
        self.offer(subscription)

    def touch(self, subscription: Subscription, message_id: bytes) -> None:
        """TOUCH: restart the time-out, up to the limit of the delivery. `NotInFlight`, `NotOwner`."""
        deadline = subscription.touch(message_id, self.context.now)
        if deadline is None:
            raise self.why_missing(message_id)
        self.context.timers.set(subscription, deadline)

    def why_missing(self, message_id: bytes) -> NotInFlight | NotOwner:
        """The error for an id that is not in flight at the client that sent it."""
        return NotOwner() if self.delivery.has_in_flight(message_id) else NotInFlight()

    def _settle(self, seqs: list[int]) -> None:
        """Mark these as finished or dropped. May sort the list."""
        if self._lost_connections:
            for seq in seqs:
                self._lost_connections.pop(seq, None)
        self.backlog.settle(seqs)

    def _failed(self, entry: InFlight, delay: float) -> None:
        """A delivery has ended with a REQ or a time-out: there is another one, or the message leaves."""
        seq, attempts, _, _ = entry
        if self._is_exhausted(seq, attempts):
            self._give_up(seq, attempts, Cause.ATTEMPTS)
        else:
            self._take_back(seq, attempts, delay)

    def _take_back(self, seq: int, attempts: int, delay: float) -> None:
        """Schedule another delivery of an unfinished message, in `delay` seconds."""
        if self.latency is not None:
            self.latency.forget(seq)
        self._record_waiting(seq, attempts, delay)
        if delay > 0:
            self.defer(seq, attempts, self.context.now + delay)
        else:
            self.requeued.append((seq, attempts))
            self.context.pump_soon(self)

    def _record_waiting(self, seq: int, attempts: int, delay: float = 0) -> None:
        self.backlog.await_redelivery(seq, attempts, delay, self.not_counted(seq))

    def not_counted(self, seq: int, *, in_flight: bool = False) -> int:
        """How many deliveries of a message do not count for `max_attempts`, as far as that matters.

        `in_flight`: the present one is among them.
        """
        return self._lost_connections.get(seq, 0) + in_flight if self.max_attempts else 0

    # --- dead letters

    def limit_attempts(self, max_attempts: int, dead_topic: str | None = None) -> None:
        """Have messages leave after so many attempts (0: never), to the topic that a rule names, or the usual one."""
        self.dead_topic = dead_topic_of(self.topic_name, self.name, dead_topic)
        self.max_attempts = max_attempts if self.dead_topic is not None else 0
        self.give_up_exhausted()

    def give_up_exhausted(self) -> None:
        """Let the messages leave that wait, and have had all their attempts."""
        if not self.max_attempts:
            return
        waiting = [*self.requeued, *self.deferred.attempts()]
        exhausted = {seq: attempts for seq, attempts in waiting if self._is_exhausted(seq, attempts)}
        if exhausted:
            self.requeued = deque(waiting for waiting in self.requeued if waiting[0] not in exhausted)
            for seq in exhausted:
                self.deferred.remove(seq)
            self._give_up_waiting(exhausted.items(), Cause.ATTEMPTS)

    def restore_lost_connections(self, counts: Mapping[int, int]) -> None:
        """From before the start."""
        self._lost_connections.update(counts)

    def _is_exhausted(self, seq: int, attempts: int) -> bool:
        most = self.max_attempts
        return 0 < most <= attempts and attempts - self._lost_connections.get(seq, 0) >= most

    def _give_up(self, seq: int, attempts: int, cause: Cause) -> None:
        """Let a message leave that was taken from where it was."""
        if self.latency is not None:
            self.latency.forget(seq)
        if attempts:
            self._record_waiting(seq, attempts)
        self.leaving.add(seq, LeavingMessage(attempts, cause, self.context.wall_ns))
        self.context.leave_soon(self)

    def give_up_ready(self, seqs: Iterable[int], cause: Cause) -> int:
        """Let messages leave that were never delivered; returns how many of them there were."""
        given_up = [seq for seq in seqs if self.backlog.withdraw_ready(seq)]
        for seq in given_up:
            self._give_up(seq, 0, cause)
        return len(given_up)

    def take_letters(self, limit: int) -> list[tuple[int, LeavingMessage, bytes]]:
        """See `LetterSource`: up to `limit` messages, about 64 KiB."""
        leaving = self.leaving
        queue = leaving.take_unwritten(limit)
        frames: list[bytes] = []
        while queue and not (frames := self.backlog.bodies(queue, limit)):
            seq = queue[0][0]
            if not self.backlog.is_lost(seq):
                break
            del queue[0], leaving.messages[seq]
            self.counts.damaged += 1
            self._settle([seq])
        leaving.give_back(queue[len(frames) :])
        return [(seq, leaving.messages[seq], frame) for (seq, _), frame in zip(queue, frames, strict=False)]

    def letters_refused(self, letters: Sequence[tuple[int, int]]) -> None:
        """These, (seq, attempts), could not be written to the dead topic: they are to be taken again."""
        self.leaving.give_back(letters)

    def letters_safe(self, seqs: Iterable[int]) -> None:
        """These are safe in the dead topic."""
        settled: list[int] = []
        for seq in seqs:
            if (message := self.leaving.remove(seq)) is not None:  # else an operator was faster
                self.counts.dead_lettered[message.cause] += 1
                settled.append(seq)
        if settled:
            self._settle(settled)

    # --- limits

    def drop_oldest(self, count: int, cause: str) -> int:
        """Drop up to `count` of the messages that wait, for the limit `cause`; returns how many there were.

        The oldest are those that are next in turn: what was delivered before, then what is ready, then what is due
        first.
        """
        if self.settings.policy == Policy.DEAD_LETTER:
            return self._give_up_oldest(count, Cause(cause))
        given_up: list[int] = []
        while self.requeued and len(given_up) < count:
            given_up.append(self.requeued.popleft()[0])
        ready = self.backlog.drop_ready(count - len(given_up), sys.maxsize)
        left = count - len(given_up) - ready
        given_up += (seq for seq, _ in self.deferred.pop_due(sys.float_info.max, left))
        self._settle_waiting(given_up)
        dropped = len(given_up) + ready
        self.counts.dropped += dropped
        self.counts.dropped_by[cause] += dropped
        return dropped

    def expire(self, before: int) -> None:
        """Drop what is older than `max_age`: what waits with a seq below `before`, or came due so long ago.

        With the policy `dead_letter` it leaves instead.
        """
        gives_up = self.settings.policy == Policy.DEAD_LETTER
        if gives_up:
            ready = self.backlog.ready_from(0, MAX_LEAVING - len(self.leaving))
            self.give_up_ready((seq for seq in ready if seq < before), Cause.MAX_AGE)
        else:
            self.counts.expired += self.backlog.drop_ready(sys.maxsize, before)
        now, max_age = self.context.now, self.settings.max_age
        if not self.requeued or now < self._next_scan or max_age is None:
            return
        self._next_scan = now + len(self.requeued) / EXPIRE_SCAN
        came_due, latest = self._came_due, now - max_age / 1e9
        expired = {
            seq: attempts
            for seq, attempts in self.requeued
            if (came_due[seq] <= latest if seq in came_due else seq < before)
        }
        if expired:
            self.requeued = deque(entry for entry in self.requeued if entry[0] not in expired)
            if gives_up:
                self._give_up_waiting(expired.items(), Cause.MAX_AGE)
            else:
                self._settle_waiting(list(expired))
                self.counts.expired += len(expired)
        if came_due:
            kept = {seq for seq, _ in self.requeued}.union(entry[0] for entry in self.delivery.in_flight())
            self._came_due = {seq: due for seq, due in came_due.items() if seq in kept}

    @property
    def trims(self) -> bool:
        """Whether the oldest messages go when a limit is reached; else publishes are refused."""
        policy = self.settings.policy
        return policy == Policy.DROP_OLDEST or (policy == Policy.DEAD_LETTER and self.dead_topic is not None)

    def _give_up_oldest(self, count: int, cause: Cause) -> int:
        """As `drop_oldest`: they leave for the dead topic, as far as there is room for more that are on their way."""
        count = min(count, MAX_LEAVING - len(self.leaving))
        requeued = [self.requeued.popleft() for _ in range(min(count, len(self.requeued)))]
        self._give_up_waiting(requeued, cause)
        given_up = len(requeued)
        given_up += self.give_up_ready(self.backlog.ready_from(0, count - given_up), cause)
        deferred = self.deferred.pop_due(sys.float_info.max, count - given_up)
        self._give_up_waiting(deferred, cause)
        return given_up + len(deferred)

    def _give_up_waiting(self, entries: Iterable[tuple[int, int]], cause: Cause) -> None:
        """Let messages leave that were taken out of the requeued or the deferred ones: (seq, attempts)."""
        for seq, attempts in entries:
            self._restored.pop(seq, None)
            self._give_up(seq, attempts, cause)

    def _settle_waiting(self, seqs: list[int]) -> None:
        """Settle messages that were taken out of the requeued or the deferred ones."""
        if seqs:
            for seq in seqs if self._restored else ():
                self._restored.pop(seq, None)
            self._settle(seqs)

    # --- commands of operators

    def finish_message(self, seq: int, message_id: bytes) -> bool:
        """Finish a message in whatever state it is; False if the channel does not need it, or never had it.

        A client that has it in flight gets the usual error when it answers.
        """
        if self._withdraw_delivered(seq, message_id) is not None or self.leaving.remove(seq) is not None:
            self._settle([seq])
        elif not self.backlog.finish_one(seq):
            return False
        self.counts.finished += 1
        return True

    def requeue_message(self, seq: int, message_id: bytes) -> bool:
        """Have a message in flight, or a deferred one, delivered again as soon as possible; others that are not settled
        stay as they are. False as for `finish_message`.
        """
        attempts = self._withdraw(seq, message_id)
        if attempts is None:
            is_waiting = seq in self.leaving or any(seq == queued for queued, _ in self.requeued)
            return is_waiting or self.backlog.is_ready(seq)
        self.counts.requeued += 1
        self._take_back(seq, attempts, 0)
        return True

    def dead_letter_message(self, seq: int, message_id: bytes) -> bool:
        """Let a message leave, in whatever state it is. False as for `finish_message`; `Refused` without a dead topic.

        A client that has it in flight gets the usual error when it answers.
        """
        if self.dead_topic is None:
            raise Refused(f"channel {self.name} of {self.topic_name} has no dead topic")
        if seq in self.leaving:
            return True
        attempts = self._withdraw_delivered(seq, message_id)
        if attempts is not None:
            self._give_up(seq, attempts, Cause.OPERATOR)
            return True
        return self.give_up_ready([seq], Cause.OPERATOR) == 1

    def _withdraw_delivered(self, seq: int, message_id: bytes) -> int | None:
        """As `_withdraw`, also of a requeued message."""
        attempts = self._withdraw(seq, message_id)
        return self._drop_requeued(seq) if attempts is None else attempts

    def _withdraw(self, seq: int, message_id: bytes) -> int | None:
        """Take a message back that is in flight or deferred; returns its attempts, None if it is neither."""
        # Else a clock that is set soon after the start would defer it once more.
        self._restored.pop(seq, None)
        if (owner := self.delivery.owner_of(message_id, seq)) is not None:
            attempts = owner.in_flight.pop(message_id)[1]
            if self.latency is not None:
                self.latency.forget(seq)
            if owner.disconnected and not owner.in_flight:
                self.delivery.disconnected.pop(owner, None)
                self.context.timers.cancel(owner)
            self.offer(owner)
            return attempts
        return self.deferred.remove(seq)

    def _drop_requeued(self, seq: int) -> int | None:
        """Take a message out of the requeued ones; returns its attempts, None if it is not there."""
        for at, (queued, attempts) in enumerate(self.requeued):
            if queued == seq:
                del self.requeued[at]
                return attempts
        return None

    # --- time

    def defer(self, seq: int, attempts: int, due: float) -> None:
        """Keep a message back until `due`, in seconds of the broker's clock."""
        self.deferred.add(seq, attempts, due)
        if due - AHEAD < self.alarm_at:
            self.context.timers.set(self, self.deferred.next_alarm(self.context.now))

    def restore_deferred(self, seq: int, attempts: int, due_ns: int, longest: float) -> None:
        """Add a message from before the start that is due at the wall time `due_ns`, in `longest` seconds at most."""
        restored = self._restored[seq] = (due_ns, self.context.now + longest, attempts)
        due = self._due_of(restored)
        if due > self.context.now:
            self.defer(seq, attempts, due)
        else:
            self._note_due([(seq, attempts)], due)
            self.requeued.append((seq, attempts))

    def _note_due(self, entries: Iterable[tuple[int, int]], due: float) -> None:
        if self.settings.max_age is not None:
            self._came_due.update((seq, due) for seq, _ in entries)

    def _due_of(self, restored: Restored) -> float:
        due_ns, latest, _ = restored
        return min(latest, self.context.now + (due_ns - self.context.wall_ns) / 1e9)

    def wall_clock_moved(self) -> None:
        """Compute the due times of messages from before the start again, also of those that seemed to be due.

        Messages that were deferred since have a delay that no clock changes.
        """
        restored, self._restored = self._restored, {}
        if not restored:
            return
        for seq, known in restored.items():
            if (entry := self.deferred.get(seq)) and entry[0] == known[2]:
                self._restored[seq] = known
                self.defer(seq, entry[0], self._due_of(known))
        for _ in range(len(self.requeued)):
            seq, attempts = self.requeued.popleft()
            if (waiting := restored.get(seq)) and waiting[2] == attempts:
                self._restored[seq] = waiting
                if (due := self._due_of(waiting)) > self.context.now:
                    self.defer(seq, attempts, due)
                    continue
            self.requeued.append((seq, attempts))

    def forget_restored(self) -> None:
        """Keep the due times of messages from before the start as they are now."""
        self._restored = {}

    def alarm(self, now: float) -> None:
        """Requeue the deferred messages that have become due, and have those read that are due soon."""
        due = self.deferred.pop_due(now, DUE_AT_ONCE)
        if due:
            self._note_due(due, now)
            self.requeued.extend(due)
            self.context.pump_soon(self)
        soon = self.deferred.pop_soon(now, self.backlog.most_ahead if self.subscriptions else 0)
        if soon:
            self.backlog.fetch_ahead(soon)
        if self.deferred:
            self.context.timers.set(self, self.deferred.next_alarm(now))

    def _timed_out(self, subscription: Subscription, entries: list[InFlight]) -> None:
        """Requeue messages that a subscription has not answered in time."""
        self.counts.timed_out += len(entries)
        for entry in entries:
            self._failed(entry, 0)
        if entries:
            self.offer(subscription)
        if subscription.in_flight:
            self.context.timers.set(subscription, subscription.next_timeout)
        elif subscription.disconnected:
            self.delivery.disconnected.pop(subscription, None)

    # --- subscriptions

    def subscribe(
        self, outbox: Outbox, timeout: float, sample: int = 0, topology: Topology | None = None
    ) -> Subscription:
        """Add a client. `timeout` in seconds, `sample` in percent (0: all messages); `topology`: its location."""
        here = self.context.options.topology
        locality = here.locality_of(topology) if here is not None else Locality.REMOTE
        longest = self.context.options.max_msg_timeout
        subscription = Subscription(outbox, timeout, longest, self._timed_out, sample, locality)
        self.delivery.add(subscription)
        return subscription

    def detach(self, subscription: Subscription, unsent: set[bytes]) -> None:
        """End the subscription of a closed connection. `unsent`: ids of messages that the socket never accepted."""
        if not self.delivery.remove(subscription):
            return  # the channel was deleted first
        back: list[tuple[int, int]] = []
        kept: dict[bytes, InFlight] = {}
        for message_id, entry in subscription.in_flight.items():
            seq, attempts, _, _ = entry
            if message_id in unsent:
                back.append((seq, attempts - 1))
                if self.latency is not None:
                    self.latency.forget(seq)
                if attempts > 1:
                    # A snapshot being written may miss this one: `requeued` is written before what is in flight.
                    self._record_waiting(seq, attempts - 1)
                continue
            lost = self._lost_connections[seq] = self._lost_connections.get(seq, 0) + 1
            if lost > 1:
                kept[message_id] = entry
            else:
                self.counts.timed_out += 1
                self._take_back(seq, attempts, 0)
        subscription.in_flight = kept
        self.requeued.extendleft(reversed(back))  # at the front and in order, as they were next
        if kept:
            self.delivery.disconnected[subscription] = None
        else:
            self.context.timers.cancel(subscription)
        if back:
            self.context.pump_soon(self)

    def record_in_flight(self) -> None:
        """An orderly stop: record messages in flight with their attempts; they are delivered again after the start."""
        for subscription in (*self.subscriptions, *self.delivery.disconnected):
            for seq, attempts, _, _ in subscription.in_flight.values():
                # The stop ends a delivery as a lost connection does.
                count = self.not_counted(seq, in_flight=not subscription.disconnected)
                self.backlog.await_redelivery(seq, attempts, 0, count)

    def empty(self) -> None:
        """Drop all messages. The topic writes the record of it."""
        waiting = len(self.requeued) + len(self.deferred) + len(self.leaving)
        self.counts.dropped += waiting + self.in_flight_count
        self._withdraw_all()
        self.counts.dropped += self.backlog.empty()
        for subscription in self.subscriptions:
            self.offer(subscription)

    def begin(self, due: Mapping[int, float]) -> None:
        """Begin with what the backlog has: a new channel, or a new generation, that begins before the high watermark.

        `due`: seq -> due, in seconds of the broker's clock, of messages that are deferred.
        """
        self.counts.entered += self.backlog.ready + len(due)
        if due:
            self.deferred.add_all(due)
            self.context.timers.set(self, self.deferred.next_alarm(self.context.now))
        for subscription in self.subscriptions:
            self.offer(subscription)

    def go_on_with(self, backlog: Backlog, end: int) -> None:
        """End a generation: the next one has this backlog, of messages below `end`, and is to `begin`. Consumers stay.

        The topic writes the record of it. Unfinished messages that the next generation does not get count as dropped,
        those that it gets leave the counters until they enter it.
        """
        old, settled = self.backlog.settled, backlog.settled
        unfinished = end - old.count_between(0, end)
        dropped = sum(last - first - old.count_between(first, last) for first, last in settled)
        self.counts.dropped += dropped
        self.counts.entered -= unfinished - dropped
        self._withdraw_all()
        self.backlog.close()
        self.backlog, backlog.counts, backlog.wake = backlog, self.counts, self._wake

    def _withdraw_all(self) -> None:
        """Take back what is in flight, and forget all that does not wait in the backlog."""
        for subscription in (*self.subscriptions, *self.delivery.disconnected):
            subscription.in_flight.clear()
        self.delivery.disconnected.clear()
        self._forget_all()

    def close(self) -> None:
        """Disconnect all clients and release all memory: the channel is deleted."""
        self.delivery.clear()
        self._forget_all()
        self.context.timers.cancel(self)
        self.backlog.close()

    def _forget_all(self) -> None:
        self.requeued.clear()
        self.deferred.clear()
        self._restored.clear()
        self._lost_connections.clear()
        self.leaving.clear()
        self._came_due.clear()
        if self.latency is not None:
            self.latency.clear()

    # --- checks

    def invariant(self) -> None:
        """Assert that each message is in exactly one state. For tests: it examines every message."""
        in_flight = [entry[0] for entry in self.delivery.in_flight()]
        waiting = [*in_flight, *(seq for seq, _ in self.requeued), *self.deferred, *self.leaving.messages]
        assert len(set(waiting)) == len(waiting), "a message is in two states"
        assert self.backlog.ready >= 0
        self.backlog.invariant(set(waiting))
