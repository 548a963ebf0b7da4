"""Level `disk` at random: whatever was answered with OK is there after a power loss, whenever that is (I2)."""

from __future__ import annotations

import random

import attrs
import pytest

from nsqd.log.jobs import Job
from nsqd.log.recovery import recover_topic
from nsqd.testing.memory_storage import MemoryStorage
from nsqkit.wire import OK
from nsqkit.wire.frames import BODY
from tests.nsqd.log.samples import read_all
from tests.nsqd.protocol_v2.harness import Client, Machine, mpub, pub

STEPS = 150


class History:
    """Publishes, deletions, time and jobs in any order, with what each client has been promised."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.machine = Machine(sync_on_commit=True)
        self.machine.run_jobs = False
        self.store = self.machine.broker.store
        segment = self.chance.choice([200, 400, 100_000])
        self.store.options = attrs.evolve(self.store.options, max_segment_bytes=segment)
        self.topics = [f"t{number}" for number in range(self.chance.choice([1, 3, 12]))]
        self.lives = dict.fromkeys(self.topics, 0)
        self.waiting: dict[Client, list[tuple[str, int, list[bytes]]]] = {
            self.machine.client(): [] for _ in range(4)
        }
        self.promised: dict[tuple[str, int], set[bytes]] = {}
        self.begun: list[Job] = []
        self.worked: list[Job] = []
        self.number = 0
        self.answers = 0

    def step(self) -> None:
        what = self.chance.random()
        if what < 0.5:
            self.publish()
        elif what < 0.55:
            self.delete()
        elif what < 0.62:
            self.maintain()
        elif what < 0.8:
            self.begin_job()
        else:
            self.go_on_with_job()
        self.take_answers()

    def publish(self) -> None:
        client, topic = self.chance.choice(list(self.waiting)), self.chance.choice(self.topics)
        bodies = [self.body() for _ in range(self.chance.choice([1, 1, 3]))]
        client.send(mpub(*bodies, topic=topic) if len(bodies) > 1 else pub(bodies[0], topic))
        self.waiting[client].append((topic, self.lives[topic], bodies))

    def body(self) -> bytes:
        self.number += 1
        return b"m%d" % self.number + b"." * self.chance.randrange(80)

    def delete(self) -> None:
        topic = self.chance.choice(self.topics)
        if topic in self.machine.broker.topics:
            self.machine.rounds.begin()
            self.machine.broker.delete_topic(topic)
            self.machine.settle()
            self.lives[topic] += 1

    def maintain(self) -> None:
        """A second goes by: snapshots are written, segments are released."""
        self.machine.advance(1.0)
        while self.machine.broker.has_snapshots:
            self.machine.rounds.begin()
            self.machine.broker.step_snapshots()
            self.machine.rounds.end()

    def begin_job(self) -> None:
        if self.store.jobs:
            at = self.chance.randrange(len(self.store.jobs))
            job = self.store.jobs[at]
            del self.store.jobs[at]
            job.begin()
            self.begun.append(job)

    def go_on_with_job(self) -> None:
        if self.begun and self.chance.random() < 0.5:
            job = self.begun.pop(self.chance.randrange(len(self.begun)))
            job.work()
            self.worked.append(job)
        elif self.worked:
            job = self.worked.pop(self.chance.randrange(len(self.worked)))
            before = self.machine.broker.synced
            self.machine.rounds.begin()
            job.done(None)
            if self.machine.broker.synced != before:
                self.machine.rounds.release_safe()
            self.machine.rounds.end()

    def take_answers(self) -> None:
        for client, waiting in self.waiting.items():
            for answer in client.answers():
                assert answer == OK
                topic, life, bodies = waiting.pop(0)
                self.promised.setdefault((topic, life), set()).update(bodies)
                self.answers += 1

    def missing_after_power_loss(self) -> set[bytes]:
        missing: set[bytes] = set()
        for (topic, life), bodies in self.promised.items():
            if life == self.lives[topic]:
                missing |= bodies - self.found(topic)
        return missing

    def found(self, topic: str) -> set[bytes]:
        memory = self.machine.storage.inner
        assert isinstance(memory, MemoryStorage)
        storage = memory.crash()
        folder = f"topic-{topic}"
        if folder not in storage.folders():
            return set()
        recovered = recover_topic(storage, folder, max_segment_bytes=400)
        return {frame[BODY:] for frame in read_all(recovered.log).values()} if recovered else set()


@pytest.mark.parametrize("seed", range(30))
def test_no_ok_before_the_disk_has_the_message(seed: int) -> None:
    history = History(seed)
    for _ in range(STEPS):
        history.step()
        assert not history.missing_after_power_loss()
    assert not history.machine.fatal
    assert history.answers, "it has tried something"
