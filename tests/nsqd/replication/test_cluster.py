"""A leader and its follower from one seed: a slow network that is cut, kills, power losses, a wiped disk, adoption.

The leader is a whole broker on a storage in memory, and answers publishes by the rules of `Safety` with two copies.
What it has acknowledged, and no consumer has finished, must be delivered in the end; after an adoption and the leader's
return nothing is delivered by both.
"""

from __future__ import annotations

import random
from collections import deque

import attrs
import pytest

from nsqd.replication.restore import Restoration, needs
from nsqd.replication.safety import Safety, Standing
from nsqd.replication.seal import Owned
from nsqd.replication.ship import Sender
from tests.nsqd.broker.harness import Consumer, Harness
from tests.nsqd.replication.pair import Follower, Leader, connect

TIMEOUT = 5.0
STEPS = 120
SEEDS = 100


@attrs.define(eq=False)
class Cluster:
    """`pending`: ids whose publisher waits, with their ticket. `acknowledged`: with two copies, as far as was said."""

    chance: random.Random
    leader: Leader = attrs.field(factory=Leader)
    follower: Follower = attrs.field(init=False)
    safety: Safety = attrs.field(init=False)
    sender: Sender | None = None
    wire: deque[bytes] = attrs.field(factory=deque)
    acks: deque[int] = attrs.field(factory=deque)
    consumer: Consumer = attrs.field(init=False)
    pending: list[tuple[int, bytes, int]] = attrs.field(factory=list)
    acknowledged: dict[bytes, int] = attrs.field(factory=dict)
    """By id: how many copies the acknowledgement has claimed."""
    finished: set[bytes] = attrs.field(factory=set)
    _told: int = -1

    def __attrs_post_init__(self) -> None:
        self.follower = Follower(disk=self.chance.random() < 0.3)
        self.safety = Safety(2, 1, TIMEOUT, [Standing("f")])
        self.consumer = self.leader.subscribe("c", rdy=3)

    @property
    def standing(self) -> Standing:
        return self.safety.followers[0]

    # --- what happens

    def step(self) -> None:
        action = self.chance.choices(
            [self.publish, self.finish, self.ship, self.arrive, self.hear, self.time, self.cut, self.kill],
            [8, 5, 8, 8, 8, 2, 1, 0.5],
        )[0]
        action()
        self.answer()

    def publish(self) -> None:
        receipt = self.leader.publish(*[b"m" * self.chance.randrange(1, 300)] * self.chance.randrange(1, 4))
        self.pending += [(self.leader.written, each, self.safety.copies_in_step) for each in receipt.ids]

    def answer(self) -> None:
        """As at the end of a round."""
        safe, copies = self.safety.safe(self.leader.written), min(2, self.safety.copies_in_step)
        for ticket, each, _ in self.pending:
            if ticket <= safe:
                self.acknowledged[each] = copies
        self.pending = [item for item in self.pending if item[0] > safe]

    def finish(self) -> None:
        ids = self.consumer.in_flight[: self.chance.randrange(1, 4)]
        if ids:
            assert not self.leader.finish(self.consumer, *ids)
            self.finished.update(ids)

    def ship(self) -> None:
        if self.sender is None:
            self.connect()
        assert self.sender is not None
        frames = self.sender.take(self.leader.written, self.chance.choice([100, 3000, 1 << 20]))
        self.wire.extend(frames)
        self.standing.sent(self.sender.ticket, complete=self.sender.complete)

    def arrive(self) -> None:
        if self.sender is None:
            return
        for _ in range(min(len(self.wire), self.chance.randrange(1, 20))):
            self.follower.feed(self.wire.popleft())
        if self.follower.disk and self.chance.random() < 0.5:
            self.follower.sync()
        if self.follower.copy.acknowledged > self._told:
            self._told = self.follower.copy.acknowledged
            self.acks.append(self._told)

    def hear(self) -> None:
        if self.acks and self.sender is not None:
            self.standing.acknowledge(self.acks.popleft())

    def time(self) -> None:
        self.leader.advance(self.chance.choice([0.5, 1.0, 4.0]))
        self.safety.check(self.leader.written, self.leader.now)
        if self.chance.random() < 0.3:
            self.leader.snapshot()

    def cut(self) -> None:
        """The session ends; what was on the way is lost, in both directions."""
        if self.sender is not None:
            self.sender.close()
        self.sender = None
        self.wire.clear()
        self.acks.clear()
        self.standing.session_ended("cut")

    def connect(self) -> None:
        self.sender = connect(self.leader, self.follower)
        assert not self.leader.taken_back  # as it asks its follower at each start
        self._told = -1

    def kill(self) -> None:
        """The leader is killed, or its machine loses power; it asks its follower when it starts."""
        self.cut()
        self.pending.clear()
        if self.chance.random() < 0.5:
            self.leader.memory = self.leader.memory.kill()
        else:
            self.leader.memory = self.leader.memory.crash(self.chance)
            self.restore()
            # What only one machine had may be gone with its power.
            self.acknowledged = {each: copies for each, copies in self.acknowledged.items() if copies > 1}
        self.leader._start()
        self.consumer = self.leader.subscribe("c", rdy=3)

    def restore(self) -> None:
        self.follower.copy.close()
        self.follower.begin()
        for need in needs(self.leader.memory, self.follower.copy.held(), self.leader.deleted, {}):
            restoration = Restoration(self.leader.memory, need)
            while (piece := restoration.wanted) is not None:
                restoration.feed(self.follower.copy.read(need.path, *piece))
            restoration.finish()  # False: damaged here and there, by an earlier power loss

    # --- the end

    def owed(self, copies: int) -> set[bytes]:
        """Acknowledged with so many copies at least, and not finished."""
        return {each for each, claimed in self.acknowledged.items() if claimed >= copies} - self.finished

    def adopt(self) -> tuple[Harness, Owned]:
        """A stand-in on the copy, and what it owns."""
        stand_in = self.follower.adopted(self.leader.now, after_power_loss=self.follower.disk)
        return stand_in, stand_in.broker.owned_messages()


def delivered(harness: Harness) -> set[bytes]:
    """Everything that the channel hands out from now on."""
    if "t" not in harness.broker.topics or "c" not in harness.broker.existing("t").channels:
        return set()
    consumer = harness.subscribe("c", rdy=1000)
    found: set[bytes] = set()
    while True:
        harness.advance(61.0)  # what others have in flight times out
        messages = consumer.new()
        if not messages and not harness.channel("c").depth and not harness.channel("c").in_flight_count:
            return found
        found.update(message.id for message in messages)
        harness.finish(consumer)


def lived(seed: int) -> Cluster:
    cluster = Cluster(random.Random(seed))
    for _ in range(STEPS):
        cluster.step()
    return cluster


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_wiped_disk_loses_nothing_that_two_copies_had(seed: int) -> None:
    cluster = lived(seed)
    stand_in, _ = cluster.adopt()
    assert cluster.owed(2) <= delivered(stand_in)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_leader_alone_loses_nothing(seed: int) -> None:
    cluster = lived(seed)
    cluster.leader.disconnect(cluster.consumer)
    assert cluster.owed(2) <= delivered(cluster.leader)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_after_the_return_each_message_has_one_owner(seed: int) -> None:
    cluster = lived(seed)
    stand_in, owned = cluster.adopt()
    cluster.cut()
    for _ in range(10):  # the leader was cut off, and served on
        cluster.publish()
        cluster.answer()
    cluster.leader.broker.advance(cluster.leader.now, cluster.leader.wall_ns)
    cluster.leader.broker.hand_over(owned)
    cluster.leader.kill()
    theirs, ours = delivered(stand_in), delivered(cluster.leader)
    assert not theirs & ours
    assert cluster.owed(1) <= theirs | ours
