"""What a power loss took from the leader comes back from a copy, before the leader recovers."""

from __future__ import annotations

import random
from collections.abc import Container

import pytest

from nsqd.replication.restore import Restoration, forks, needs
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.replication.pair import MAX_TAKE, Follower, Leader, connect, files_of


def caught_up(leader: Leader, follower: Follower) -> None:
    sender = connect(leader, follower)
    while frames := sender.take(leader.written, MAX_TAKE):
        follower.feed(b"".join(frames))
    sender.close()


def restored(storage: MemoryStorage, follower: Follower, deleted: Container[int] = ()) -> int:
    """Restore from the follower; returns the bytes that were fetched."""
    fetched = 0
    for need in needs(storage, follower.copy.held(), deleted):
        restoration = Restoration(storage, need)
        while (piece := restoration.wanted) is not None:
            restoration.feed(follower.copy.read(need.path, *piece))
        assert restoration.finish(), need
        fetched += need.bytes
    return fetched


def worked(seed: int) -> tuple[Leader, Follower]:
    """A leader with two topics, some of it synced, and a copy that has everything."""
    chance = random.Random(seed)
    leader, follower = Leader(), Follower()
    consumer = leader.subscribe("x", topic="a", rdy=5)
    for _ in range(30):
        leader.publish(
            *[b"m" * chance.randrange(1, 400)] * chance.randrange(1, 4), topic=chance.choice("aab")
        )
        if consumer.in_flight and chance.random() < 0.5:
            leader.finish(consumer, *consumer.in_flight[:2])
        if chance.random() < 0.15:
            leader.advance(1.0)
        if chance.random() < 0.1:
            leader.snapshot("a")
    caught_up(leader, follower)
    return leader, follower


def log_bytes(storage: MemoryStorage) -> dict[str, bytes]:
    return {path: data for path, data in files_of(storage).items() if path.endswith(".log")}


@pytest.mark.parametrize("seed", range(40))
def test_after_a_power_loss_the_logs_are_whole_again(seed: int) -> None:
    leader, follower = worked(seed)
    before = log_bytes(leader.memory)
    lost = leader.memory.crash(random.Random(seed))
    restored(lost, follower)
    after = log_bytes(lost)
    # What a snapshot has made needless may be back from before; nothing else is different.
    assert {path: after.get(path) for path in before} == before
    leader.memory = lost
    leader._start()
    assert not [note for note in leader.broker.store.notes if "lost" in note or "cut off" in note]


def test_after_a_kill_nothing_is_fetched() -> None:
    leader, follower = worked(1)
    assert restored(leader.memory.kill(), follower) == 0


def test_a_deleted_topic_does_not_come_back() -> None:
    leader, follower = worked(2)
    leader.delete_topic("b")
    assert restored(leader.memory, follower, leader.deleted) == 0
    assert "topic-b" not in leader.memory.folders()


def test_the_files_of_another_topic_with_this_name_are_not_fetched() -> None:
    """The topic itself was lost with its unsynced name, and has been made anew."""
    leader, follower = worked(2)
    lost = leader.memory.crash(None)
    lost.remove_folder("topic-b")
    leader.memory = lost
    leader._start()
    leader.create(topic="b")
    leader.restart()
    before = {path: data for path, data in files_of(leader.memory).items() if "topic-b" in path}
    restored(leader.memory, follower)
    assert {path: data for path, data in files_of(leader.memory).items() if "topic-b" in path} == before


def test_what_only_this_copy_has_is_not_cut_off_by_what_another_one_has() -> None:
    """The leader had lost it when it wrote what the other one has: one is no prefix of the other."""
    leader, one, other = Leader(), Follower(), Follower()
    leader.create()
    leader.publish(b"of both")
    leader.broker.store.sync_now()
    leader.publish(b"of one copy " + b"m" * 200)
    caught_up(leader, one)
    leader.memory = leader.memory.crash(None)
    leader._start()
    leader.publish(b"written since")
    caught_up(leader, other)
    assert restored(one.storage, other) == 0
    adopted = one.adopted(leader.now)
    assert b"of one copy " + b"m" * 200 in adopted.drain(adopted.subscribe("c", rdy=5))


def test_a_restoration_that_is_given_up_changes_nothing() -> None:
    leader, follower = worked(3)
    lost = leader.memory.crash(None)
    before = files_of(lost)
    found = needs(lost, follower.copy.held(), set())
    assert found
    for need in found:
        if not need.new:
            Restoration(lost, need).close()
    assert files_of(lost) == before


def test_damage_at_the_follower_is_not_taken_over() -> None:
    leader, follower = worked(4)
    lost = leader.memory.crash(None)
    (need, *_) = [need for need in needs(lost, follower.copy.held(), set()) if need.path.endswith(".log")]
    restoration = Restoration(lost, need)
    while (piece := restoration.wanted) is not None:
        data = bytearray(follower.copy.read(need.path, *piece))
        data[len(data) // 2] ^= 1
        restoration.feed(bytes(data))
    before = files_of(lost)
    assert not restoration.finish()
    assert files_of(lost) == before


@pytest.mark.parametrize("whole", [False, True])
def test_nothing_is_left_of_a_restoration_that_has_ended(whole: bool) -> None:
    leader, follower = worked(5)
    lost = leader.memory.crash(None)
    for need in needs(lost, follower.copy.held(), set()):
        restoration = Restoration(lost, need)
        while whole and (piece := restoration.wanted) is not None:
            restoration.feed(follower.copy.read(need.path, *piece))
        if whole:
            assert restoration.finish()
        restoration.close()
        assert not lost.exists(f"{need.path.partition('/')[0]}/.restored.new")


def test_messages_that_a_leader_has_lost_are_seen_beside_a_later_copy() -> None:
    """An adoption can fetch nothing of that, as the same numbers are of other messages."""
    leader, early, later = Leader(), Follower(), Follower()
    leader.create()
    leader.publish_many(3)
    caught_up(leader, later)
    leader.broker.store.sync_now()
    leader.publish(b"only at one follower")
    caught_up(leader, early)
    assert forks(early.storage, later.copy.held()) == []
    leader.memory = leader.memory.crash(None)
    leader._start()
    leader.publish_many(5)
    caught_up(leader, later)
    assert forks(later.storage, early.copy.held()) == ["topic-t"]
    assert forks(later.storage, later.copy.held()) == []


def test_a_copy_that_lags_is_no_fork() -> None:
    leader, early, later = Leader(), Follower(), Follower()
    consumer = leader.subscribe("c", rdy=100)
    for _ in range(12):
        leader.publish(b"m" * 400)
    caught_up(leader, early)
    caught_up(leader, later)
    for _ in range(30):
        leader.publish(b"m" * 400)
        leader.finish(consumer)
        leader.advance(1.0)
    leader.snapshot("t")
    leader.snapshot("t")
    caught_up(leader, later)
    assert min(later.storage.files("topic-t")) > min(early.storage.files("topic-t")), "some were removed"
    assert forks(later.storage, early.copy.held()) == []
