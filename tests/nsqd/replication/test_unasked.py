"""What a leader has lost, and a follower that could not be asked has: its numbers were given to other messages."""

from __future__ import annotations

from nsqd.replication.unasked import Unasked
from tests.nsqd.broker.harness import Harness
from tests.nsqd.replication.pair import MAX_TAKE, Follower, Leader, connect


def catch_up(leader: Leader, follower: Follower) -> None:
    sender = connect(leader, follower)
    while frames := sender.take(leader.written, MAX_TAKE):
        follower.feed(b"".join(frames))
    sender.close()


def delivered(harness: Harness) -> list[bytes]:
    return harness.drain(harness.subscribe("c", rdy=10))


def test_messages_with_numbers_that_were_given_again_are_not_given_up() -> None:
    """The stand-in has other messages with these numbers: each side keeps its own."""
    leader, follower = Leader(), Follower()
    leader.create()
    leader.publish(b"of both")
    leader.broker.store.sync_now()
    leader.publish(b"lost here")
    catch_up(leader, follower)
    leader.memory = leader.memory.crash(None)
    leader._start()
    unasked = Unasked(leader.storage)
    unasked.add(["f"], leader.doubts)
    leader.publish(b"with a number that was given before")
    stand_in = follower.adopted(leader.now)
    owned = stand_in.broker.owned_messages()
    (generation,) = owned
    assert owned == {generation: [(0, 2)]}
    ours = unasked.ours("f", owned, leader.broker.number_at)
    assert ours == {generation: [(0, 1)]}
    assert unasked.ours("another", owned, leader.broker.number_at) == owned
    leader.broker.hand_over(ours)
    leader.kill()
    assert delivered(leader) == [b"with a number that was given before"]
    assert delivered(stand_in) == [b"of both", b"lost here"]


def test_a_number_is_known_also_when_the_segment_that_began_with_it_is_gone() -> None:
    """Then a higher one is as good: what is in between is needed no more."""
    leader = Leader()
    leader.create()
    leader.publish_many(3)
    leader.kill()
    end = leader.broker.retentions["t"].log.recovered_until
    generation = leader.broker.retentions["t"].log.generation
    assert leader.broker.number_at(generation, end) == 3
    leader.publish_many(2)
    assert leader.broker.number_at(generation, end) == 3
    assert leader.broker.number_at(generation, end + 1) == 5
    assert leader.broker.number_at(generation + 1, end) == 0


def test_a_new_segment_begins_also_when_nothing_was_appended_before_an_orderly_stop() -> None:
    """Else the third start would go on in a segment of which a follower may have more."""
    leader = Leader()
    leader.create()
    leader.publish_many(3)
    leader.kill()
    end = leader.broker.retentions["t"].log.position
    leader.restart()
    leader.publish_many(1)
    log = leader.broker.retentions["t"].log
    assert [segment.position for segment in log.segments][-1] == end
    assert len(leader.memory.files("topic-t")) == 3  # two segments, the manifest
    leader.restart()
    leader.publish_many(1)
    assert len(leader.memory.files("topic-t")) == 3
