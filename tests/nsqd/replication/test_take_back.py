"""What a leader has lost in a power loss, and has gone on without, comes back from the follower, published anew."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from nsqd.replication.unasked import Doubt, Unasked
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.replication.pair import MAX_TAKE, Follower, Leader, connect, delivered, files_of


def catch_up(leader: Leader, follower: Follower, doubts: Mapping[int, Doubt] | None = None) -> list[bytes]:
    """Returns the ids of what was published again."""
    leader.taken_back = []
    sender = connect(leader, follower, doubts)
    while frames := sender.take(leader.written, MAX_TAKE):
        follower.feed(b"".join(frames))
    sender.close()
    assert sender.complete
    return leader.taken_back


def lose_power(leader: Leader, chance: random.Random | None = None) -> dict[int, Doubt]:
    """And start without the follower. Returns what may have been lost."""
    leader.memory = leader.memory.crash(chance)
    leader._start()
    return leader.doubts


@pytest.fixture
def leader() -> Leader:
    leader = Leader()
    leader.create()
    leader.publish_many(3)
    leader.broker.store.sync_now()
    return leader


def test_lost_messages_are_published_again_with_their_ids(leader: Leader) -> None:
    follower = Follower()
    lost = leader.publish(*[b"m"] * 20).ids
    catch_up(leader, follower)
    until = lose_power(leader)
    others = leader.publish(*[b"n"] * 5).ids
    assert catch_up(leader, follower, until) == lost
    assert files_of(follower.storage) == files_of(leader.memory)
    assert delivered(leader) >= {*lost, *others}


def test_what_was_lost_over_several_segments(leader: Leader) -> None:
    follower = Follower()
    lost = [each for _ in range(12) for each in leader.publish(b"m" * 400).ids]
    catch_up(leader, follower)
    until = lose_power(leader)
    for _ in range(20):  # longer than what was lost: a name of the follower's lies within this log
        leader.publish(b"n" * 400)
    assert catch_up(leader, follower, until) == lost
    assert set(lost) <= delivered(leader)


def test_what_was_lost_is_not_taken_for_removed(leader: Leader) -> None:
    """All segments of the leader from that time are gone when the follower comes back."""
    follower = Follower()
    lost = [each for _ in range(12) for each in leader.publish(b"m" * 400).ids]
    catch_up(leader, follower)
    until = lose_power(leader)
    consumer = leader.subscribe("c", rdy=1000)
    for _ in range(30):
        leader.publish(b"n" * 400)
        leader.finish(consumer)
        leader.advance(1.0)
    leader.snapshot()
    leader.snapshot()
    assert min(leader.memory.files("topic-t")) > min(follower.storage.files("topic-t"))
    assert catch_up(leader, follower, until) == lost


def test_what_was_removed_does_not_come_back(leader: Leader) -> None:
    follower = Follower()
    leader.publish_many(30)
    catch_up(leader, follower)
    leader.kill()
    until = leader.doubts
    consumer = leader.subscribe("c", rdy=1000)
    for _ in range(30):
        leader.publish(b"n" * 400)
        leader.finish(consumer)
        leader.advance(1.0)
    leader.snapshot()
    leader.snapshot()
    assert not set(leader.memory.files("topic-t")) & set(follower.storage.files("topic-t")) - {"manifest"}
    assert catch_up(leader, follower, until) == []


def test_what_was_finished_stays_finished(leader: Leader) -> None:
    follower = Follower()
    leader.create("d")
    leader.broker.store.sync_now()
    consumer = leader.subscribe("c", rdy=1000)
    other = leader.subscribe("d", rdy=1000)
    both, one, none = (leader.publish(body).ids[0] for body in (b"both", b"one", b"none"))
    leader.finish(consumer, both, one)
    leader.finish(other, both)
    leader.finish(consumer)  # those from before, too
    catch_up(leader, follower)
    until = lose_power(leader)
    assert leader.channel("c").depth == 3
    assert catch_up(leader, follower, until) == [one, none]
    assert leader.channel("c").depth == 2
    assert leader.channel("d").depth == 2


def test_a_channel_that_was_lost_is_there_again(leader: Leader) -> None:
    follower = Follower()
    leader.create("new")
    (lost,) = leader.publish(b"x").ids
    catch_up(leader, follower)
    until = lose_power(leader)
    assert "new" not in leader.topic().channels
    assert catch_up(leader, follower, until) == [lost]
    assert leader.channel("new").depth == 1


def test_a_deferred_message_waits_for_the_rest_of_its_delay(leader: Leader) -> None:
    follower = Follower()
    (lost,) = leader.defer(b"later", 100.0).ids
    catch_up(leader, follower)
    until = lose_power(leader)
    leader.advance(60.0)
    assert catch_up(leader, follower, until) == [lost]
    consumer = leader.subscribe("c", rdy=1000)
    leader.advance(39.0)
    assert lost not in {message.id for message in consumer.new()}
    leader.advance(2.0)
    assert lost in {message.id for message in consumer.new()}


@pytest.mark.parametrize("anew", [False, True])
def test_a_topic_that_was_lost_is_there_again(anew: bool) -> None:
    leader, follower = Leader(), Follower()
    leader.create("c", topic="u")
    consumer = leader.subscribe("c", topic="u", rdy=2)
    lost = leader.publish(*[b"m"] * 40, topic="u").ids
    leader.finish(consumer)
    catch_up(leader, follower)
    leader.memory = MemoryStorage()  # as if no name of it had been synced
    leader._start()
    if anew:
        leader.publish(b"in a new topic", topic="u")
    assert set(catch_up(leader, follower)) == set(lost[2:])
    assert leader.channel("c", "u").depth == 38 + anew
    assert files_of(follower.storage) == files_of(leader.memory)


def test_damage_here_is_mended_from_the_follower(leader: Leader) -> None:
    follower = Follower()
    rotten, fine = leader.publish(b"rotten").ids[0], leader.publish(b"fine").ids[0]
    catch_up(leader, follower)
    leader.corrupt(b"rotten")
    assert catch_up(leader, follower) == [rotten]
    assert delivered(leader) >= {rotten, fine}


def test_rotten_bytes_of_finished_messages_do_not_matter(leader: Leader) -> None:
    follower = Follower()
    consumer = leader.subscribe("c", rdy=1000)
    leader.publish(b"rotten")
    leader.finish(consumer)
    catch_up(leader, follower)
    leader.corrupt(b"rotten")
    assert catch_up(leader, follower) == []


@pytest.mark.parametrize("seed", range(60))
def test_what_two_copies_had_is_not_lost(seed: int) -> None:
    chance = random.Random(seed)
    leader, follower = Leader(), Follower()
    leader.create()
    consumer = leader.subscribe("c", rdy=3)
    acknowledged: set[bytes] = set()
    finished: set[bytes] = set()
    unasked = Unasked(MemoryStorage())

    def work(publishing: int) -> None:
        for _ in range(publishing):
            acknowledged.update(leader.publish(*[b"m" * chance.randrange(400)] * chance.randrange(1, 4)).ids)
            if consumer.in_flight and chance.random() < 0.6:
                ids = consumer.in_flight[:2]
                leader.finish(consumer, *ids)
                finished.update(ids)
            if chance.random() < 0.2:
                leader.advance(1.0)
            if chance.random() < 0.1:
                leader.snapshot()

    work(20)
    catch_up(leader, follower)
    for _ in range(chance.randrange(1, 3)):
        unasked.add(["f"], lose_power(leader, chance))
        consumer = leader.subscribe("c", rdy=3)
        copied = set(acknowledged)
        # What is written now is on one disk only: it is the next power loss that may take it.
        work(chance.randrange(20))
        acknowledged &= copied
    leader.disconnect(consumer)
    catch_up(leader, follower, unasked.doubts("f"))
    assert files_of(follower.storage) == files_of(leader.memory)
    assert not acknowledged - finished - delivered(leader)


# --- the note


def test_of_several_starts_the_first_counts() -> None:
    storage = MemoryStorage()
    Unasked(storage).add(["a:1", "b:1"], {7: Doubt(10, 100, [(3, 5)])})
    unasked = Unasked(storage)
    unasked.add(["a:1"], {7: Doubt(50, 200, [(2, 3), (9, 10)]), 8: Doubt(0, 50)})
    assert unasked.doubts("a:1") == {7: Doubt(10, 100, ((2, 5), (9, 10))), 8: Doubt(0, 50)}
    assert Unasked(storage.crash()).doubts("a:1") == unasked.doubts("a:1")
    unasked.compared("a:1")
    assert Unasked(storage.crash()).doubts("a:1") == {}
    assert Unasked(storage.crash()).doubts("b:1") == {7: Doubt(10, 100, ((3, 5),))}


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"nonsense", b'{"a": 1}', b'{"a": {"1": {"start": 1}}}', b"[" * 9000]
)
def test_a_damaged_note_is_an_empty_one(text: bytes) -> None:
    storage = MemoryStorage()
    storage.replace("nsqd.unasked", text)
    assert Unasked(storage).doubts("a") == {}
