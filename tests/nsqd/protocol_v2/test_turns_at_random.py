"""Rounds of others between the first part of a long round and its end, at random: what clients are told stays true."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from nsqd.broker import NotFound, Refused
from nsqd.daemon import Daemon
from nsqd.log.jobs import Job
from nsqd.log.recovery import recover_topic
from nsqd.testing.memory_storage import MemoryStorage
from nsqkit.wire import HEARTBEAT, OK, decode_message
from nsqkit.wire.frames import BODY
from tests.nsqd.broker.harness import conserved, held_bytes, view_of
from tests.nsqd.log.samples import read_all
from tests.nsqd.protocol_v2.harness import Client, Machine, dpub, fin, is_message, mpub, pub, sub


def http_api(machine: Machine) -> Any:
    """As much of the daemon as a publish over HTTP needs."""
    return SimpleNamespace(rounds=machine.rounds, broker=machine.broker, names=machine.context.names)


def said(client: Client) -> list[bytes]:
    """Answers since the last look."""
    return [frame for frame in client.new() if frame != HEARTBEAT and not is_message(frame)]


class Promises:
    """Publishes over TCP and HTTP on a disk that fails now and then, with what everybody was told."""

    def __init__(self, seed: int, *, sync_on_commit: bool) -> None:
        self.chance = random.Random(seed)
        self.machine = Machine(sync_on_commit=sync_on_commit, sync_every=7, mem_queue_size=50)
        self.http = http_api(self.machine)
        self.topics = ["a", "b"]
        self.consumers = {topic: self.machine.consumer(rdy=20, topic=topic) for topic in self.topics}
        self.machine.run_jobs = False
        self.waiting: dict[Client, list[tuple[str, list[bytes]]]] = {}
        self.tickets: list[tuple[int, str, list[bytes]]] = []  # of publishes over HTTP
        self.promised: dict[str, set[bytes]] = {topic: set() for topic in self.topics}
        self.delivered: dict[str, set[bytes]] = {topic: set() for topic in self.topics}
        self.refused: set[bytes] = set()
        self.begun: list[Job] = []
        self.number = self.oks = self.errors = 0

    def round(self) -> None:
        if self.chance.random() < 0.3:
            self.machine.fail_appends(topic=f"topic-{self.chance.choice(self.topics)}")
        else:
            self.machine.heal()
        self.machine.rounds.begin()
        for _ in range(self.chance.randrange(1, 5)):
            self.chance.choice([self.publish, self.publish, self.answer])(self.chance.choice(self.topics))
        while self.chance.random() < 0.6:
            with contextlib.suppress(Refused):
                self.others()(self.chance.choice(self.topics))
            self.machine.rounds.end()
        self.machine.rounds.end()
        self.look()

    def bodies(self) -> list[bytes]:
        self.number += 1
        count = self.chance.choice([1, 3])
        return [b"m%d-%d" % (self.number, at) + b"." * self.chance.choice([0, 3000]) for at in range(count)]

    def publish(self, topic: str) -> None:
        client = self.publisher()
        bodies = self.bodies()
        if self.chance.random() < 0.2:
            bodies = bodies[:1]
            client.session.feed(dpub(bodies[0], self.chance.choice([1, 500]), topic))
        elif len(bodies) == 1:
            client.session.feed(pub(bodies[0], topic))
        else:
            client.session.feed(mpub(*bodies, topic=topic))
        self.waiting[client].append((topic, bodies))
        if self.chance.random() < 0.05:
            client.session.eof()

    def publisher(self) -> Client:
        usable = [client for client in self.waiting if client.session.wants_input]
        if len(usable) >= 4:
            return self.chance.choice(usable)
        client = Client(self.machine)
        client.session.feed(b"  V2")
        self.waiting[client] = []
        return client

    def answer(self, topic: str) -> None:
        session = self.consumers[topic].session
        assert session.subscription is not None
        if ids := list(session.subscription.in_flight)[:10]:
            session.feed(fin(*ids) if self.chance.random() < 0.7 else b"REQ " + ids[0] + b" 0\n")

    def others(self) -> Callable[[str], object]:
        """What some other task does, in a round of its own."""
        self.machine.rounds.begin()
        doing: list[Callable[[str], object]] = [
            self.publish_over_http,
            lambda topic: self.machine.broker.existing(topic).pause(self.chance.random() < 0.3),
            lambda topic: self.machine.broker.existing(topic).pause_channel("c", self.chance.random() < 0.3),
            self.begin_snapshot,
            self.time_goes_by,
            self.begin_job,
            self.finish_job,
        ]
        return self.chance.choice(doing)

    def publish_over_http(self, topic: str) -> None:
        bodies = self.bodies()
        try:
            ticket = Daemon.publish(self.http, topic, bodies, self.chance.choice([None, 10**6]))
        except Refused:
            self.refused.update(bodies)
        else:
            self.tickets.append((ticket, topic, bodies))

    def begin_snapshot(self, topic_name: str) -> None:
        retention = self.machine.broker.retentions[topic_name]
        if not retention.has_snapshot_in_hand:
            retention.begin_snapshot()

    def time_goes_by(self, _: str) -> None:
        self.machine.now += self.chance.choice([0.0, 0.125, 1.0])
        self.machine.rounds.begin()
        self.machine.broker.fire_timers()
        self.machine.broker.step_snapshots()

    def begin_job(self, _: str) -> None:
        if self.machine.broker.store.jobs:
            self.begun.append(self.machine.begin_job())

    def finish_job(self, _: str) -> None:
        if self.begun:
            self.machine.finish_job(self.begun.pop(0))

    # --- what must be true

    def look(self) -> None:
        broker = self.machine.broker
        assert not self.machine.rounds.answering
        assert not broker.failures
        for client, waiting in self.waiting.items():
            for frame in said(client):
                topic, bodies = waiting.pop(0)
                if frame == OK:
                    self.oks += 1
                    self.promised[topic].update(bodies)
                else:
                    self.errors += 1
                    assert b"_FAILED" in frame
                    self.refused.update(bodies)
                    waiting.clear()  # after it nothing is answered
        self.waiting = {client: waiting for client, waiting in self.waiting.items() if not client.closed}
        for ticket, topic, bodies in self.tickets:
            if ticket <= broker.synced:
                self.promised[topic].update(bodies)
        self.tickets = [each for each in self.tickets if each[0] > broker.synced]
        for topic, consumer in self.consumers.items():
            self.delivered[topic].update(decode_message(f).body for f in consumer.new() if is_message(f))
            self.look_at(topic)

    def look_at(self, name: str) -> None:
        topic = self.machine.broker.existing(name)
        view = view_of(topic)
        assert view.window.base + len(view.window.frames) == topic.store.end
        logged = [frame[BODY:] for frame in read_all(view.log).values()]
        assert (topic.message_count, topic.message_bytes) == (len(logged), sum(map(len, logged)))
        assert self.promised[name] <= set(logged)
        assert not self.refused.intersection(logged)
        if self.machine.broker.options.sync_on_commit:
            memory = self.machine.storage.inner
            assert isinstance(memory, MemoryStorage)
            kept = recover_topic(memory.crash(), f"topic-{name}", max_segment_bytes=1 << 20)
            assert kept is not None
            assert self.promised[name] <= {frame[BODY:] for frame in read_all(kept.log).values()}

    def end(self) -> None:
        """The disk is well again, nothing is paused, the consumers finish what comes."""
        self.machine.heal()
        for job in self.begun:
            self.machine.finish_job(job)
        self.machine.run_jobs = True
        for topic in self.topics:
            self.machine.broker.existing(topic).pause(False)
            self.machine.broker.existing(topic).pause_channel("c", False)
        for _ in range(100):
            for consumer in self.consumers.values():
                assert consumer.session.subscription is not None
                ids = list(consumer.session.subscription.in_flight)
                consumer.send(b"NOP\n" + (fin(*ids) if ids else b""))
            self.machine.advance(0.125)
            self.look()


@pytest.mark.heavy
@pytest.mark.parametrize("sync_on_commit", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_answers_to_publishers_are_true(seed: int, sync_on_commit: bool) -> None:
    promises = Promises(seed, sync_on_commit=sync_on_commit)
    for _ in range(100):
        promises.round()
    promises.end()
    for topic in promises.topics:
        assert promises.promised[topic] <= promises.delivered[topic]
        assert conserved(promises.machine.channel(topic=topic))
    assert not promises.machine.fatal
    assert promises.oks > 10
    assert promises.errors > 1


@attrs.define
class Asked:
    """Commands that want an answer, and answers."""

    commands: int = 0
    answers: int = 0


class Shapes:
    """Topics and channels come and go while clients publish and consume."""

    def __init__(self, seed: int, *, sync_on_commit: bool) -> None:
        self.chance = random.Random(seed)
        self.machine = Machine(sync_on_commit=sync_on_commit, mem_queue_size=30)
        self.machine.run_jobs = False
        self.clients: dict[Client, Asked] = {}
        self.answers = 0

    def round(self) -> None:
        if self.chance.random() < 0.15:
            self.machine.fail_appends(topic=f"topic-{self.chance.choice('ab')}")
        else:
            self.machine.heal()
        self.machine.rounds.begin()
        for _ in range(self.chance.randrange(1, 5)):
            self.command(self.client(), self.topic(), self.channel())
        while self.chance.random() < 0.6:
            self.machine.rounds.begin()
            with contextlib.suppress(NotFound, Refused):
                self.change(self.topic(), self.channel())
            self.machine.rounds.end()
        self.machine.rounds.end()
        self.take_answers()

    def topic(self) -> str:
        return self.chance.choice(["a", "b", "e#ephemeral"])

    def channel(self) -> str:
        return self.chance.choice(["c", "d#ephemeral"])

    def client(self) -> Client:
        usable = [client for client in self.clients if not client.closed and client.session.wants_input]
        if len(usable) >= 6:
            return self.chance.choice(usable)
        client = Client(self.machine)
        client.session.feed(b"  V2")
        self.clients[client] = Asked()
        return client

    def command(self, client: Client, topic: str, channel: str) -> None:
        session, asked = client.session, self.clients[client]
        if self.chance.random() < 0.5:
            commands = [pub(b"x", topic), mpub(b"y", b"z", topic=topic), dpub(b"w", 125, topic)]
            session.feed(self.chance.choice(commands))
            asked.commands += 1
        elif session.subscription is None:
            session.feed(sub(channel, topic) + b"RDY 3\n")
            asked.commands += 1
        elif ids := list(session.subscription.in_flight):
            session.feed(fin(ids[0]) if self.chance.random() < 0.7 else b"REQ " + ids[0] + b" 125\n")
        if self.chance.random() < 0.05:
            session.eof()
        elif self.chance.random() < 0.1:
            client._end()  # a reset

    def change(self, topic: str, channel: str) -> None:
        broker = self.machine.broker
        changes: list[Callable[[], object]] = [
            lambda: broker.delete_topic(topic),
            lambda: broker.existing(topic).delete_channel(channel),
            lambda: broker.existing(topic).empty(),
            lambda: broker.existing(topic).empty_channel(channel),
            lambda: broker.existing(topic).pause(self.chance.random() < 0.4),
            lambda: broker.topic(topic).channel(channel),
            self.time_goes_by,
            lambda: self.machine.run_job() if broker.store.jobs else None,
        ]
        self.chance.choice(changes)()

    def time_goes_by(self) -> None:
        self.machine.now += self.chance.choice([0.125, 1.0])
        self.machine.rounds.begin()
        self.machine.broker.fire_timers()

    def take_answers(self) -> None:
        for client, asked in self.clients.items():
            count = len(said(client))
            asked.answers += count
            self.answers += count
        self.clients = {client: asked for client, asked in self.clients.items() if not client.closed}

    @property
    def ephemeral_bytes(self) -> int:
        """What all queues in memory hold."""
        topics = self.machine.broker.topics.values()
        channels = [channel for topic in topics for channel in topic.channels.values()]
        return sum(held_bytes(each) for each in (*topics, *channels))


@pytest.mark.parametrize("sync_on_commit", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_topics_and_channels_may_go_meanwhile(seed: int, sync_on_commit: bool) -> None:
    shapes = Shapes(seed, sync_on_commit=sync_on_commit)
    broker = shapes.machine.broker
    for _ in range(150):
        shapes.round()
        assert not shapes.machine.rounds.answering
        assert not broker.failures
        assert broker.context.ephemeral_bytes.used == shapes.ephemeral_bytes
        for topic in broker.topics.values():
            for channel in topic.channels.values():
                assert not any(s.disconnected or s.outbox.client.closed for s in channel.subscriptions)  # type: ignore[attr-defined]
    shapes.machine.heal()
    shapes.machine.run_jobs = True
    shapes.machine.settle()
    shapes.take_answers()
    assert all(asked.commands == asked.answers for asked in shapes.clients.values())
    assert shapes.answers > 30
    assert all(conserved(channel) for topic in broker.topics.values() for channel in topic.channels.values())
