"""The whole core against a model: any order of commands, faults and restarts, checked after every step.

After each step, for every channel: what is in flight, deferred and ready is exactly what the model says (nothing lost,
nothing double, no depth below zero), and every frame that went out was allowed to. At the end everything is healed and
drained, and all that was acknowledged has been finished or was dropped by a command.
"""

from __future__ import annotations

import contextlib
import errno
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nsqd.broker import Channel, LimitReached, Refused, Topic, Topology, retention
from nsqd.broker.life import MessageState
from nsqd.broker.peek import PeekState, search, whereabouts
from nsqd.log.origin import Cause, Origin
from nsqd.log.store import StoreOptions
from nsqd.rules import NOTHING_SET, Policy, Retain, Rule, Rules, parse_rules
from nsqkit.wire import decode_message
from nsqkit.wire.names import is_ephemeral
from tests.nsqd.broker.harness import (
    SECOND_NS,
    Consumer,
    Harness,
    conserved,
    deferred_of,
    everything_of,
    log_backlog,
    messages_there,
    peeked,
    peeked_topic,
    view_of,
)
from tests.nsqd.broker.model import ChannelModel, Copy, TopicModel

PLACES = [Topology("eu", "eu-1"), Topology("eu", "eu-2"), None]
MAX_MSG_TIMEOUT = 7.0  # not under the longest time-out: IDENTIFY refuses such a one

LIMITS = [
    *[None] * 4,
    {"max_depth": 2, "policy": "drop_oldest"},
    {"max_depth": 3},
    {"max_bytes": 300, "policy": "drop_oldest"},
    {"max_age": "2s"},
    {"max_age": "3s", "max_depth": 3, "policy": "drop_oldest", "channel": "c"},
    {"max_age": "3s", "max_depth": 2, "policy": "dead_letter"},
]

topics = st.sampled_from(["a", "b"])
channels = st.sampled_from(["c", "d", "e#ephemeral"])
picks = st.integers(0, 30)
delays = st.sampled_from([0.5, 1.0, 3.0])


class CoreMachine(RuleBasedStateMachine):
    """Rules that do not fit the moment (no such topic, nothing in flight) are passed over by preconditions."""

    @initialize(
        mem_queue_size=st.sampled_from([0, 1, 3, 10_000]),
        segment_bytes=st.sampled_from([700, 3000, 1 << 20]),
        latency_window=st.sampled_from([0.0, 8.0]),
        topology=st.sampled_from([None, PLACES[0]]),
        max_attempts=st.sampled_from([None, 1, 3]),
        retain=st.sampled_from([None, Retain(4 * SECOND_NS, None), Retain(None, 3000)]),
        busy=st.booleans(),
        limits=st.sampled_from(LIMITS),
    )
    def start(
        self,
        mem_queue_size: int,
        segment_bytes: int,
        latency_window: float,
        topology: Topology | None,
        max_attempts: int | None,
        retain: Retain | None,
        busy: bool,
        limits: dict[str, object] | None,
    ) -> None:
        options = StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=segment_bytes)
        given: dict[str, object] = {"retain": retain} if retain else {}
        given |= {"max_attempts": max_attempts} if max_attempts else {}
        own = (Rule(2, "*", "*", given),) if given else ()
        self.harness = Harness(
            options,
            mem_queue_size=mem_queue_size,
            max_msg_timeout=MAX_MSG_TIMEOUT,
            latency_window=latency_window,
            topology=topology,
            rules=Rules((*parse_rules([limits] if limits else []).rules, *own)),
        )
        self.shed: Counter[Topic | Channel] = Counter()  # messages that limits took
        self.died: Counter[Channel] = Counter()  # those that are safe in the dead topic
        self.model: dict[str, TopicModel] = {}
        self.sent: dict[bytes, tuple[int, bytes]] = {}  # id -> timestamp, body
        self.seen: dict[Consumer, int] = {}
        self.closing: set[Consumer] = set()
        self.broken = False
        self.count = 0
        if busy:
            self.subscribe("a", "c", 3, 3.0, taking=True)
            self.publish("a", 5, lone=False)

    # --- helpers

    @property
    def now(self) -> float:
        return self.harness.now

    def model_of(self, consumer: Consumer) -> ChannelModel:
        channel = consumer.channel
        return self.model[channel.topic_name].channels[channel.name]

    def pairs(self) -> Iterator[tuple[Channel, ChannelModel]]:
        for name, topic in self.model.items():
            for channel_name, model in topic.channels.items():
                yield self.harness.channel(channel_name, name), model

    def consumer(self, pick: int) -> Consumer:
        return self.harness.consumers[pick % len(self.harness.consumers)]

    def has_consumers(self) -> bool:
        return bool(self.harness.consumers)

    def has_topics(self) -> bool:
        return bool(self.model)

    def in_flight(self) -> list[tuple[Consumer, Copy]]:
        """Messages that a client has and may answer."""
        out = []
        for consumer in self.harness.consumers:
            unsent = {message.id for message in consumer.unsent}
            for copy in self.model_of(consumer).at("in flight"):
                if copy.owner is consumer and copy.id not in unsent:
                    out.append((consumer, copy))
        return out

    def answered(self, pick: int) -> tuple[Consumer, Copy] | None:
        entries = self.in_flight()
        return entries[pick % len(entries)] if entries else None

    def bodies(self, count: int) -> list[bytes]:
        self.count += count
        return [b"%d" % seq * (seq % 50) for seq in range(self.count, self.count + count)]

    # --- publishing

    def refused(self, name: str) -> bool:
        """What a connection asks before it publishes. Makes the topic."""
        try:
            self.harness.broker.context.refuse_when_full()
            self.harness.topic(name)
        except Refused:
            return True
        self.model.setdefault(name, TopicModel())
        return False

    @rule(name=topics, count=st.sampled_from([1, 1, 2, 5]), lone=st.booleans())
    def publish(self, name: str, count: int, lone: bool) -> None:
        if self.refused(name):
            return
        bodies = self.bodies(count)
        pieces = [[body] for body in bodies] if lone else [bodies]
        if not self.admitted(name, count):
            return
        receipts = [self.harness.send(*result, topic=name) for result in pieces]
        stamp = self.harness.wall_ns
        self.harness.round()
        for receipt, result in zip(receipts, pieces, strict=True):
            self.sent.update(zip(receipt.ids, [(stamp, body) for body in result], strict=True))
            if receipt.acknowledged:
                self.model[name].published(receipt.ids, None, self.now)

    def admitted(self, name: str, count: int) -> bool:
        """Whether there is room for so many messages; that there is, or is none, as the model has it."""
        harness, topic = self.harness, self.harness.topic(name)
        harness.broker.advance(self.now, harness.wall_ns)
        policy = topic.settings.policy
        rejecting = topic.settings.max_depth is not None and (
            policy == Policy.REJECT or (policy == Policy.DEAD_LETTER and not topic.flowing)
        )
        places = list(self.model[name].channels.values()) if topic.flowing else []
        waiting = [len(place.at("ready")) + len(place.at("deferred")) for place in places if place.durable]
        waiting += [channel.waiting for channel in topic.channels.values() if is_ephemeral(channel.name)]
        most = max(waiting, default=0) if topic.flowing else len(self.model[name].backlog)
        try:
            if topic.guard is not None:
                topic.guard.admit(count, 0)
        except LimitReached:
            assert rejecting
            assert most + count > topic.settings.max_depth  # type: ignore[operator]
            harness.round()
            return False
        assert not rejecting or most + count <= topic.settings.max_depth  # type: ignore[operator]
        return True

    @rule(name=topics, delay=delays)
    def defer(self, name: str, delay: float) -> None:
        if self.refused(name):
            return
        (body,) = self.bodies(1)
        stamp = self.harness.wall_ns
        receipt = self.harness.defer(body, delay, topic=name)
        self.sent[receipt.ids[0]] = (stamp, body)
        if receipt.acknowledged:
            self.model[name].published(receipt.ids, delay, self.now)

    # --- consumers

    @rule(
        name=topics,
        channel=channels,
        rdy=st.sampled_from([0, 1, 2, 10]),
        timeout=st.sampled_from([2.0, 6.0]),
        taking=st.sampled_from([True, True, False]),
    )
    def subscribe(self, name: str, channel: str, rdy: int, timeout: float, taking: bool) -> None:
        try:
            self.harness.topic(name)
            self.model.setdefault(name, TopicModel())
            topology = PLACES[len(self.harness.consumers) % len(PLACES)]
            consumer = self.harness.subscribe(
                channel, topic=name, timeout=timeout, limit=300, topology=topology
            )
        except Refused:
            self.harness.round()
            return
        self.model_channel(name, channel)
        self.seen[consumer] = 0
        consumer.taking = taking
        self.harness.rdy(consumer, rdy)

    def model_channel(self, name: str, channel: str) -> None:
        topic = self.model[name]
        if channel not in topic.channels:
            topic.channels[channel] = ChannelModel(durable=not is_ephemeral(channel))
            topic.flow(self.now)

    @precondition(has_consumers)
    @rule(pick=picks, rdy=st.sampled_from([0, 1, 3, 10]))
    def rdy(self, pick: int, rdy: int) -> None:
        if self.consumer(pick) not in self.closing:
            self.harness.rdy(self.consumer(pick), rdy)

    @precondition(has_consumers)
    @rule(pick=picks)
    def close_window(self, pick: int) -> None:
        consumer = self.consumer(pick)
        consumer.subscription.close_window()
        self.closing.add(consumer)
        self.harness.round()

    @precondition(has_consumers)
    @rule(pick=picks, taking=st.booleans())
    def socket(self, pick: int, taking: bool) -> None:
        self.consumer(pick).taking = taking
        self.harness.round()

    @precondition(has_consumers)
    @rule(pick=picks)
    def disconnect(self, pick: int) -> None:
        consumer = self.consumer(pick)
        channel, model = consumer.channel, self.model_of(consumer)
        model.leave(consumer, {message.id for message in consumer.unsent})
        self.harness.disconnect(consumer)
        if not model.durable and not channel.subscriptions:
            del self.model[channel.topic_name].channels[channel.name]

    # --- answers

    @precondition(has_consumers)
    @rule(pick=picks, count=st.sampled_from([1, 2, 20]))
    def finish(self, pick: int, count: int) -> None:
        consumer = self.consumer(pick)
        model = self.model_of(consumer)
        ids = [copy.id for owner, copy in self.in_flight() if owner is consumer][:count]
        for message_id in ids:
            model.finish(message_id)
        if ids:
            assert self.harness.finish(consumer, *ids, *ids) == ids, "the second time it is not in flight"

    @precondition(has_consumers)
    @rule(pick=picks, delay=st.one_of(st.just(0.0), delays))
    def requeue(self, pick: int, delay: float) -> None:
        if entry := self.answered(pick):
            consumer, copy = entry
            copy.park(self.now + delay if delay else float("-inf"))
            self.harness.requeue(consumer, copy.id, delay)

    @precondition(has_consumers)
    @rule(pick=picks)
    def touch(self, pick: int) -> None:
        if entry := self.answered(pick):
            consumer, copy = entry
            copy.deadline = min(self.now + consumer.subscription.timeout, copy.limit)
            self.harness.touch(consumer, copy.id)

    # --- operators

    def copies(self) -> list[tuple[Channel, ChannelModel, Copy]]:
        return [(channel, model, copy) for channel, model in self.pairs() for copy in model.copies.values()]

    def found(self, pick: int) -> tuple[Channel, ChannelModel, Copy, int] | None:
        """A message in some state of some channel, and its seq, found by its id."""
        copies = self.copies()
        if not copies:
            return None
        channel, model, copy = copies[pick % len(copies)]
        found = search(self.harness.topic(channel.topic_name), copy.id)()
        assert found is not None or not model.durable
        return (channel, model, copy, found[0]) if found else None

    @precondition(has_topics)
    @rule(pick=picks)
    def finish_by_operator(self, pick: int) -> None:
        if entry := self.found(pick):
            channel, model, copy, seq = entry
            known = channel.finish_message(seq, copy.id)
            assert known or not model.durable
            if not known:
                return
            owner, copy.seq = copy.owner, seq
            model.finish(copy.id)
            self.harness.round()
            assert not channel.finish_message(seq, copy.id)
            if isinstance(owner, Consumer):
                assert self.harness.finish(owner, copy.id) == [copy.id], "it is not in flight any more"

    @precondition(has_topics)
    @rule(pick=picks)
    def requeue_by_operator(self, pick: int) -> None:
        if entry := self.found(pick):
            channel, model, copy, seq = entry
            known = channel.requeue_message(seq, copy.id)
            assert known or not model.durable
            copy.seq = seq
            if known and copy.state not in ("ready", "leaving"):
                copy.park()
            self.harness.round()

    @precondition(has_topics)
    @rule(pick=picks)
    def dead_letter_by_operator(self, pick: int) -> None:
        if entry := self.found(pick):
            channel, model, copy, seq = entry
            known = channel.dead_letter_message(seq, copy.id)
            assert known or not model.durable
            copy.seq = seq
            if known and copy.state != "leaving":
                copy.give_up()
            self.harness.round()

    # --- topics and channels

    @rule(name=topics)
    def create_topic(self, name: str) -> None:
        try:
            self.harness.topic(name)
        except Refused:
            return
        self.model.setdefault(name, TopicModel())
        self.harness.round()

    @precondition(has_topics)
    @rule(name=topics, channel=channels)
    def create_channel(self, name: str, channel: str) -> None:
        if name not in self.model:
            return
        try:
            self.harness.create(channel, name)
        except Refused:
            self.harness.round()
            return
        self.model_channel(name, channel)

    @precondition(has_topics)
    @rule(name=topics, paused=st.booleans())
    def pause_topic(self, name: str, paused: bool) -> None:
        if name in self.model and self.change(lambda: self.harness.topic(name).pause(paused)):
            self.model[name].paused = paused
            self.model[name].flow(self.now)
            self.harness.round()  # at whose end what is too much is dropped

    @precondition(has_topics)
    @rule(name=topics)
    def empty_topic(self, name: str) -> None:
        if name in self.model and self.change(self.harness.topic(name).empty):
            self.model[name].dropped.update(message_id for message_id, _ in self.model[name].backlog)
            self.model[name].backlog.clear()

    @precondition(has_topics)
    @rule(name=topics)
    def delete_topic(self, name: str) -> None:
        if name in self.model and self.change(lambda: self.harness.broker.delete_topic(name)):
            del self.model[name]
            self.end_of_channel(name)

    @precondition(has_topics)
    @rule(name=topics, channel=channels, paused=st.booleans())
    def pause_channel(self, name: str, channel: str, paused: bool) -> None:
        if model := self.channel_model(name, channel):
            was, model.paused = model.paused, False  # what comes before the call may still be delivered
            if self.change(lambda: self.harness.topic(name).pause_channel(channel, paused)):
                model.paused = paused
            else:
                model.paused = was

    @precondition(has_topics)
    @rule(name=topics, channel=channels)
    def empty_channel(self, name: str, channel: str) -> None:
        model = self.channel_model(name, channel)
        if model and self.change(lambda: self.harness.topic(name).empty_channel(channel)):
            model.finished.update(model.copies)
            model.copies.clear()
            model.finished_lately.clear()

    @precondition(has_topics)
    @rule(name=topics, channel=channels)
    def delete_channel(self, name: str, channel: str) -> None:
        if self.channel_model(name, channel) and self.change(
            lambda: self.harness.topic(name).delete_channel(channel)
        ):
            del self.model[name].channels[channel]
            self.end_of_channel(name, channel)

    @precondition(has_topics)
    @rule(name=topics, channel=channels, start=picks)
    def create_channel_from(self, name: str, channel: str, start: int) -> None:
        topic = self.model.get(name)
        if topic is None or channel in topic.channels or is_ephemeral(channel):
            return
        real = self.settled_topic(name)
        if self.change(lambda: real.create_channel_from(channel, start % (real.store.end + 1))):
            self.model_channel(name, channel)  # the messages flow, if it is the first one
            topic.channels[channel] = ChannelModel(durable=True)
            self.begin_at(name, channel, start % (real.store.end + 1))

    @precondition(has_topics)
    @rule(name=topics, channel=channels, start=picks)
    def seek_channel(self, name: str, channel: str, start: int) -> None:
        model = self.channel_model(name, channel)
        if not model or not model.durable:
            return
        real = self.settled_topic(name)
        if self.change(lambda: real.seek_channel(channel, start % (real.store.end + 1))):
            self.begin_at(name, channel, start % (real.store.end + 1))

    def begin_at(self, name: str, channel: str, start: int) -> None:
        topic = self.model[name]
        topic.channels[channel].begin_at(self.messages(name, start), topic.due, self.now)
        self.harness.round()

    def settled_topic(self, name: str) -> Topic:
        """The topic, when its limits have taken what they take."""
        self.harness.round()
        self.everything_is_where_it_should_be()
        return self.harness.topic(name)

    def messages(self, name: str, start: int) -> dict[int, bytes]:
        """The ids of the messages from `start` on that the log has, and that channels have got, by number."""
        there, dropped = messages_there(self.harness.topic(name), start), self.model[name].dropped
        return {seq: message.id for seq, message in there.items() if message.id not in dropped}

    def channel_model(self, name: str, channel: str) -> ChannelModel | None:
        topic = self.model.get(name)
        return topic.channels.get(channel) if topic else None

    def change(self, call: object) -> bool:
        """Whether a command was done. A model that follows it knows what may be delivered from then on."""
        try:
            call()  # type: ignore[operator]
        except Refused:
            assert self.broken or self.harness.broker.store.space.full
            return False
        return True

    def end_of_channel(self, name: str, channel: str | None = None) -> None:
        """Its clients were told to go; they do."""
        for consumer in list(self.harness.consumers):
            gone = consumer.channel
            if gone.topic_name == name and channel in (None, gone.name):
                assert consumer.disconnected
                self.harness.disconnect(consumer)

    # --- time, disk, restarts

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 4.0]))
    def advance(self, seconds: float) -> None:
        self.harness.now += seconds
        for _, model in self.pairs():
            model.pass_time(self.now)
        self.harness.round()

    @precondition(has_topics)
    @rule(name=topics, steps=st.sampled_from([0, 1, 5, 1000]))
    def begin_snapshot(self, name: str, steps: int) -> None:
        retention = self.harness.broker.retentions.get(name)
        if retention is not None and not retention.has_snapshot_in_hand:
            retention.begin_snapshot()
        self.step_snapshots(steps)

    @rule(count=st.sampled_from([1, 2, 50]))
    def step_snapshots(self, count: int) -> None:
        for _ in range(count):
            self.harness.broker.step_snapshots()
        self.harness.round()

    @precondition(has_topics)
    @rule(name=topics)
    def roll(self, name: str) -> None:
        if name in self.model and not self.broken:
            self.harness.broker.retentions[name].log.roll()
        self.harness.round()

    @rule(cold=st.booleans())
    def hold_reads(self, cold: bool) -> None:
        self.harness.memory.cold = cold
        self.harness.run_jobs = not cold
        self.harness.round()

    @precondition(lambda self: self.harness.jobs)
    @rule(pick=picks)
    def run_job(self, pick: int) -> None:
        self.harness.run_job(pick % len(self.harness.jobs))

    @precondition(lambda self: not self.broken)
    @rule(seq=st.sampled_from([errno.ENOSPC, errno.EIO]))
    def break_disk(self, seq: int) -> None:
        self.harness.fail("append", seq)
        self.broken = True

    @precondition(lambda self: self.broken)
    @rule()
    def heal_disk(self) -> None:
        self.harness.heal()
        self.broken = False

    @rule(back=st.booleans())
    def kill(self, back: bool) -> None:
        """`back`: the clients connect again."""
        self.boot(orderly=False, back=back)

    @rule(back=st.booleans())
    def restart(self, back: bool) -> None:
        """An orderly stop. With a full disk it writes finishes only, as a kill would have left it."""
        self.harness.heal()
        if self.harness.broker.store.space.full:
            self.advance(1.0)  # until it has noticed that there is room again
            self.everything_is_where_it_should_be()
        self.boot(orderly=True, back=back)

    def boot(self, *, orderly: bool, back: bool) -> None:
        clients = [(c.channel, c.subscription.rdy) for c in self.harness.consumers]
        if orderly:
            self.harness.restart()
        else:
            self.harness.kill()
        self.broken = False
        self.seen.clear()
        self.closing.clear()
        for topic in self.model.values():
            topic.channels = {name: model for name, model in topic.channels.items() if model.durable}
        for name, topic in self.model.items():
            self.note_shed_by_topic(name, topic)
        for channel, model in self.pairs():
            self.follow_the_dead(channel, model)
            self.note_shed(channel, model, booted=True)
            seqs = {copy.seq for copy in model.finished_lately.values() if copy.seq is not None}
            settled = {seq for seq in seqs if seq in channel.backlog.settled}
            assert not orderly or settled == seqs
            deferred = {seq: due for seq, (_, due) in deferred_of(channel).items()}
            for copy in model.copies.values():
                if copy.seq in channel.leaving.messages:  # a limit has taken it again at once
                    deferred[copy.seq] = max(due for _, due in copy.awaiting_redelivery)
            model.restarted(self.now, settled, deferred, orderly=orderly)
            for copy in model.copies.values():
                copy.lost_once = copy.seq is not None and channel.not_counted(copy.seq) > 0
        for channel, rdy in clients if back else ():
            self.subscribe(channel.topic_name, channel.name, rdy, 3.0, taking=True)

    # --- what must hold

    def observe(self, consumer: Consumer) -> None:
        """Look at what went out to a client since the last step."""
        out = [*consumer.received, *consumer.unsent][self.seen[consumer] :]
        if not out:
            return
        self.seen[consumer] += len(out)
        model, subscription = self.model_of(consumer), consumer.subscription
        assert consumer not in self.closing, "delivered to a closing client"
        for message in out:
            copy = model.delivered(message, consumer, self.now, subscription.timeout, MAX_MSG_TIMEOUT)
            assert self.sent[message.id] == (message.timestamp_ns, message.body), "mutated"
            copy.seq = subscription.in_flight[message.id][0]
        assert len(subscription.in_flight) <= subscription.rdy, "more than its window"

    @invariant()
    def everything_is_where_it_should_be(self) -> None:
        broker = self.harness.broker
        assert broker.store.fatal is None
        assert {name for name in broker.topics if not name.endswith(".dead")} == set(self.model)
        for consumer in self.harness.consumers:
            self.observe(consumer)
        for name, topic in self.model.items():
            real = broker.topics[name]
            self.note_shed_by_topic(name, topic)
            assert set(real.channels) == set(topic.channels)
            assert (real.paused, real.depth) == (topic.paused, len(topic.backlog))
            assert 0 <= real.backend_depth <= real.depth
        for channel, model in self.pairs():
            self.follow_the_dead(channel, model)
            self.check_channel(channel, model)

    def follow_the_dead(self, channel: Channel, model: ChannelModel) -> None:
        """Which messages were given up, and which of these are settled: only what is in the dead topic may be."""
        letters = self.letters(channel)
        counted = channel.counts.dead_lettered.total() - self.died[channel]
        # Those that have died and come back, as that was not journaled, may be taken by a limit.
        for copy in sorted(model.copies.values(), key=lambda copy: copy.state != "leaving"):
            if copy.state == "in flight":
                continue
            if copy.seq is None:  # only a limit has it die before it was delivered
                if channel.settings.policy != Policy.DEAD_LETTER:
                    continue
                found = search(self.harness.topic(channel.topic_name), copy.id)()
                if found is None:
                    continue
                copy.seq = found[0]
            if (message := channel.leaving.messages.get(copy.seq)) is not None:
                if copy.state != "leaving":
                    if message.cause is Cause.ATTEMPTS:
                        assert 0 < channel.max_attempts <= copy.most
                    else:
                        assert channel.settings.policy == Policy.DEAD_LETTER
                    copy.give_up()
                assert copy.fewest <= message.attempts <= copy.most
            elif copy.state == "leaving" or (copy.id in letters and counted):
                state, _ = whereabouts(channel, copy.seq, copy.id)
                if state is MessageState.SETTLED:
                    assert copy.id in letters, "given up, and nowhere"
                    model.finish(copy.id)
                    counted = max(0, counted - 1)
        self.died[channel] = channel.counts.dead_lettered.total()

    def letters(self, channel: Channel) -> set[bytes]:
        """The ids of dead letters of this channel, whatever generation it had. They are unchanged."""
        topic = self.harness.broker.topics.get(channel.dead_topic or "")
        if topic is None:
            return set()
        view, ids = view_of(topic), set[bytes]()
        for start, end in view.letters:
            seqs = range(start, end)
            with contextlib.closing(view.log.look(seqs).messages(seqs)) as found:
                for message in found:
                    assert message is not None
                    assert message.origin is not None
                    origin, sent = Origin.decode(message.origin), decode_message(message.frame)
                    assert (origin.topic, origin.channel.split("#")[0]) == (
                        channel.topic_name,
                        channel.name.split("#")[0],
                    )
                    assert self.sent[sent.id] == (sent.timestamp_ns, sent.body), "mutated"
                    ids.add(sent.id)
        return ids

    # --- limits

    def note_shed_by_topic(self, name: str, model: TopicModel) -> None:
        """Of messages that no channel has, the limits take the oldest."""
        topic = self.harness.topic(name)
        if topic.settings is NOTHING_SET:
            return
        there = {message.id for _, message in peeked_topic(topic)}
        gone = [message_id for message_id, _ in model.backlog if message_id not in there]
        self.count_shed(topic, topic.dropped_by.total() + topic.expired_count, len(gone))
        if topic.dropped_by:
            assert [message_id for message_id, _ in model.backlog[: len(gone)]] == gone
        model.dropped.update(gone)
        model.backlog = [entry for entry in model.backlog if entry[0] in there]
        if topic.settings.policy == Policy.DROP_OLDEST and not (self.broken or topic.flowing):
            assert topic.settings.max_depth is None or topic.depth <= topic.settings.max_depth

    def note_shed(self, channel: Channel, model: ChannelModel, *, booted: bool = False) -> None:
        """What the limits have taken was waiting, and old enough, and is counted."""
        settings, counts = channel.settings, channel.counts
        if settings is NOTHING_SET:
            return
        there = {message.id for state in PeekState for _, message in peeked(channel, state)}
        gone = [copy for message_id, copy in model.copies.items() if message_id not in there]
        if model.durable:
            shed = counts.dropped_by.total() + counts.expired
            if booted:  # what was taken and not journaled has come back, and was perhaps taken again
                assert len(gone) <= shed <= len(gone) + len(model.finished_lately)
                self.shed[channel] = shed - len(gone)
            self.count_shed(channel, shed, len(gone))
        for copy in gone:
            assert booted or not model.durable or copy.state != "in flight"
            age = self.harness.wall_ns - self.sent[copy.id][0]
            assert counts.dropped_by or not model.durable or age >= (settings.max_age or 0)
            if model.durable:
                if copy.seq is None:
                    found = search(self.harness.topic(channel.topic_name), copy.id)()
                    assert found is not None
                    copy.seq = found[0]
                model.finish(copy.id)
        if settings.policy == Policy.DROP_OLDEST:
            waiting = channel.waiting - len(
                channel.requeued
            )  # these may have come back since the last commit
            assert settings.max_depth is None or waiting <= settings.max_depth

    def count_shed(self, place: Topic | Channel, counted: int, now: int) -> None:
        self.shed[place] += now
        assert self.shed[place] == counted

    def check_channel(self, channel: Channel, model: ChannelModel) -> None:
        self.note_shed(channel, model)
        for subscription in channel.subscriptions:
            owned = {copy.id for copy in model.at("in flight") if copy.owner is subscription.outbox.client}
            assert set(subscription.in_flight) == owned
        assert channel.in_flight_count == len(model.at("in flight"))
        assert 0 <= channel.backend_depth <= channel.depth
        assert channel.paused == model.paused
        if channel.latency is not None:
            assert set(channel.latency._published) == {entry[0] for entry in channel.delivery.in_flight()}
        self.check_oldest(channel, model)
        channel.invariant()
        self.check_peeks(channel, model)
        if model.durable:
            assert channel.depth == len(model.at("ready"))
            assert len(channel.deferred) == len(model.at("deferred"))
            assert channel.counts.entered == model.advanced
            assert channel.counts.damaged == 0
            if not log_backlog(channel).has_unwritten:
                model.journaled()
        else:
            assert conserved(channel)
            assert channel.depth <= len(model.at("ready"))

    def check_peeks(self, channel: Channel, model: ChannelModel) -> None:
        """What is seen is what there is, and looking changes nothing."""
        before = everything_of(self.harness, channel)
        seen = {state: peeked(channel, state, limit=3) for state in PeekState}
        assert everything_of(self.harness, channel) == before
        for messages in seen.values():
            assert all((m.timestamp_ns, m.body) == self.sent[m.id] for _, m in messages)
        ids = {state: sorted(message.id for _, message in messages) for state, messages in seen.items()}
        ready = sorted(ids[PeekState.READY] + ids[PeekState.REQUEUED])
        assert ids[PeekState.IN_FLIGHT] == sorted(copy.id for copy in model.at("in flight"))
        assert ids[PeekState.LEAVING] == sorted(copy.id for copy in model.at("leaving"))
        if model.durable:
            assert ready == sorted(copy.id for copy in model.at("ready"))
            assert ids[PeekState.DEFERRED] == sorted(copy.id for copy in model.at("deferred"))
        else:
            assert {*ready} <= {copy.id for copy in model.at("ready")}
            assert {*ids[PeekState.DEFERRED]} <= {copy.id for copy in model.at("deferred")}
        for entry, message in seen[PeekState.IN_FLIGHT]:
            copy = model.copies[message.id]
            assert (entry.attempts, entry.due) == (copy.most, copy.deadline)
            assert entry.owner is not None
            assert copy.owner is (None if entry.owner.disconnected else entry.owner.outbox.client)

    def check_oldest(self, channel: Channel, model: ChannelModel) -> None:
        unfinished = list(model.copies.values())
        answer = channel.oldest()
        if model.durable:
            assert (answer is None) == (not unfinished)
        if isinstance(answer, int):
            assert answer in [self.sent[copy.id][0] for copy in unfinished]
            if model.durable:
                assert answer == min(self.sent[copy.id][0] for copy in unfinished)

    def teardown(self) -> None:
        """Heal everything, then drain: nothing that was acknowledged is missing."""
        if not hasattr(self, "harness"):
            return
        harness = self.harness
        harness.heal()
        harness.memory.cold, harness.run_jobs = False, True
        harness.round()
        self.everything_is_where_it_should_be()
        for name in self.model:
            self.create_channel(name, "c")
            self.pause_topic(name, paused=False)
            for channel in self.model[name].channels:
                self.pause_channel(name, channel, paused=False)
        harness.round()
        self.everything_is_where_it_should_be()
        for _ in range(4):
            self.advance(8.0)
            self.everything_is_where_it_should_be()
        for consumer in list(harness.consumers):
            self.disconnect(harness.consumers.index(consumer))
            self.everything_is_where_it_should_be()
        self.advance(8.0)
        self.everything_is_where_it_should_be()
        for name, topic in list(self.model.items()):
            for channel_name in list(topic.channels):
                self.drain(name, channel_name)

    def drain(self, name: str, channel: str) -> None:
        self.subscribe(name, channel, 50, 3.0, taking=True)
        consumer = self.harness.consumers[-1]
        model = self.model[name].channels[channel]
        self.everything_is_where_it_should_be()
        while consumer.in_flight:
            self.finish(len(self.harness.consumers) - 1, 1000)
            self.everything_is_where_it_should_be()
        assert not model.durable or not model.copies, "lost"
        assert consumer.channel.depth == 0


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots of few entries take many steps, too."""
    monkeypatch.setattr(retention, "SLICE", 2)


def run(examples: int, steps: int) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        CoreMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            print_blob=True,
            derandomize=False,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.heavy
def test_the_core_keeps_its_promises() -> None:
    run(examples=500, steps=40)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_core_keeps_its_promises_for_long() -> None:
    run(examples=10_000, steps=80)
