"""Killed, or without power, at each change to the disk of a seal, a return, a restoration, and a taking back.

Whatever was done by then, doing it again leads to the same end: no message is lost, and none is served by both sides.
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from nsqd.broker import Broker
from nsqd.copies.as_stand_in import sealed_by_owner
from nsqd.log.life import Life
from nsqd.replication.restore import Restoration, needs
from nsqd.replication.seal import Seal
from nsqd.replication.unasked import Unasked
from nsqd.testing.faulty_storage import WRITES, Crash, CrashAt, Die, FaultFunction, FaultyStorage, no_fault
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.replication.pair import MAX_TAKE, Follower, Leader, connect

Act: TypeAlias = Callable[[MemoryStorage, FaultFunction], None]
"""What is done to a disk, by a process with these faults; it can be done again, from the begin."""


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 10))]


class Started(Leader):
    """A daemon with faults from its start on."""

    def __init__(self, disk: MemoryStorage, fault: FaultFunction = no_fault) -> None:
        self._fault = fault
        super().__init__(memory=disk)

    def _boot(self) -> Broker:
        self.storage.fault = self._fault
        return super()._boot()


def clone(disk: MemoryStorage) -> MemoryStorage:
    """The same disk, with the same that is not synced."""
    cloned = MemoryStorage()
    cloned._root = copy.deepcopy(disk._root)
    return cloned


def each_death(disk: MemoryStorage, begin: Callable[[], Act]) -> Iterator[tuple[MemoryStorage, Act]]:
    """The disk that is left when the process dies before or after each of its changes, and what it was about to do.

    Each time as a kill leaves it, and as power losses may.
    """
    changes: list[str] = []

    def count(operation: str, path: str) -> None:
        if operation in WRITES:
            changes.append(path)

    begin()(clone(disk), count)
    assert len(changes) > 3
    for number in range(len(changes)):
        for after in (False, True):
            for power in (None, random.Random(number), "killed"):
                died, act = clone(disk), begin()
                with contextlib.suppress(Crash):
                    act(died, CrashAt(number, Die(after=after), WRITES))
                yield died if power == "killed" else died.crash(power), act  # type: ignore[arg-type]


def delivered(disk: MemoryStorage) -> set[bytes]:
    """All that a daemon on this disk delivers to the channels of all topics."""
    nsqd, found = Started(clone(disk)), set()
    for topic in list(nsqd.broker.topics.values()):
        for name in list(topic.channels):
            client = nsqd.subscribe(name, topic=topic.name, rdy=1000)
            found.update(nsqd.drain(client))
    return found


def worked(seed: int) -> tuple[Leader, Follower, set[bytes]]:
    """A leader, a copy that has everything, and what is not finished. Some of the leader's is not synced."""
    chance = random.Random(seed)
    leader, follower = Leader(), Follower()
    clients = [leader.subscribe("c", topic=topic, rdy=2) for topic in "tu"]
    wanted: set[bytes] = set()
    for number in range(24):
        body = b"%d:" % number + b"m" * chance.randrange(300)
        assert leader.publish(body, topic=chance.choice("tu")).acknowledged
        wanted.add(body)
        for client in clients:
            if client.in_flight and chance.random() < 0.2:
                done = client.in_flight[:1]
                wanted -= {message.body for message in client.received if message.id in done}
                assert not leader.finish(client, *done)
        if number == 10:
            leader.snapshot("t")
            leader.broker.store.sync_now()
    ship(leader, follower)
    return leader, follower, wanted


def ship(leader: Leader, follower: Follower, address: str = "") -> None:
    """A session: what only the follower has is taken back, and it gets all that it lacks."""
    unasked = Unasked(leader.storage)
    sender = connect(leader, follower, unasked.doubts(address))
    unasked.compared(address)
    while frames := sender.take(leader.written, MAX_TAKE):
        follower.feed(b"".join(frames))
    sender.close()


def serve(disk: MemoryStorage, fault: FaultFunction) -> Leader:
    """An adoption: the seal, and a stand-in up to its first delivery."""
    storage = FaultyStorage(disk, fault)
    if Seal.read(storage) is None:
        Seal(owner="f").write(storage)
    stand_in = Started(disk, fault)
    sealed_by_owner(stand_in.storage, stand_in.broker)
    return stand_in


def come_back(disk: MemoryStorage, fault: FaultFunction, life: bytes, copy_of_it: MemoryStorage) -> None:
    """A leader that starts, and is told that its copy was adopted."""
    found = Life.read(disk)
    leader = Started(disk, fault)
    if found is not None and found.life_id == life:
        seal = Seal.read(copy_of_it)
        assert seal is not None
        assert seal.owned is not None
        leader.broker.hand_over(seal.owned)
        leader.broker.store.sync_now()
        Life.renew(leader.storage)


def life_of(leader: Leader) -> bytes:
    life = leader.broker.store.life
    assert life is not None
    return life.life_id


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seal(seed: int) -> None:
    leader, follower, wanted = worked(seed)
    alone = b"what the copy has not got"
    assert leader.publish(alone).acknowledged
    life, disk = life_of(leader), leader.memory
    served: set[bytes] = set()

    def begin() -> Act:
        served.clear()

        def act(disk: MemoryStorage, fault: FaultFunction) -> None:
            stand_in = serve(disk, fault)
            client = stand_in.subscribe("c", rdy=2)
            served.update(client.bodies())
            stand_in.finish(client)

        return act

    for copied, _ in each_death(follower.storage, begin):
        sealed = Seal.read(copied)
        finished = set(served)
        serve(copied, no_fault)
        again = Seal.read(copied)
        assert again is not None
        assert sealed is None or sealed.owned is None or sealed.owned == again.owned
        back = clone(disk)
        come_back(back, no_fault, life, copied)
        theirs, ours = delivered(copied), delivered(back)
        assert not theirs & ours
        assert wanted | {alone} == theirs | ours | (finished & wanted)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_return(seed: int) -> None:
    leader, follower, wanted = worked(seed)
    life = life_of(leader)
    serve(follower.storage, no_fault)
    alone = b"published when it was cut off"
    assert leader.publish(alone).acknowledged
    leader.broker.store.sync_now()
    theirs = delivered(follower.storage)
    assert theirs == wanted

    def begin() -> Act:
        return lambda disk, fault: come_back(disk, fault, life, follower.storage)

    for disk, act in each_death(leader.memory, begin):
        act(disk, no_fault)
        assert delivered(disk) == {alone}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restoration(seed: int) -> None:
    leader, follower, wanted = worked(seed)
    lost = leader.memory.crash(None)
    assert len(list(needs(lost, follower.copy.held(), ()))) > 2

    def restore(disk: MemoryStorage, fault: FaultFunction) -> None:
        storage = FaultyStorage(disk, fault)
        for need in needs(storage, follower.copy.held(), ()):
            restoration = Restoration(storage, need)
            while (piece := restoration.wanted) is not None:
                restoration.feed(follower.copy.read(need.path, *piece))
            assert restoration.finish()

    for disk, act in each_death(lost, lambda: restore):
        act(disk, no_fault)
        assert delivered(disk) == wanted


@pytest.mark.parametrize("seed", SEEDS)
def test_what_only_the_follower_has_is_taken_back(seed: int) -> None:
    """It could not be asked when the leader started after a power loss, and the leader has written since."""
    leader, follower, wanted = worked(seed)
    leader.memory = leader.memory.crash(None)
    leader._start()
    Unasked(leader.storage).add(["f"], leader.doubts)
    since = b"written since"
    assert leader.publish(since).acknowledged
    leader.broker.store.sync_now()
    copied = follower.storage

    def begin() -> Act:
        follower = Follower()
        follower.storage = clone(copied)

        def act(disk: MemoryStorage, fault: FaultFunction) -> None:
            ship(Started(disk, fault), follower, "f")

        return act

    for disk, act in each_death(leader.memory, begin):
        act(disk, no_fault)
        assert delivered(disk) >= wanted | {since}
