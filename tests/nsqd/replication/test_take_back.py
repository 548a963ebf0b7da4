"""What a leader has lost in a power loss, and has gone on without, comes back from the follower, published anew."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest

from nsqd.log.file_storage import FileStorage
from nsqd.log.look import Looked
from nsqd.replication.reconcile import Piece
from nsqd.replication.restore import Restoration, needs
from nsqd.replication.take_back import Stranded, TakeBack
from nsqd.replication.unasked import Doubt, Unasked
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.broker.harness import view_of
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


def restore(leader: Leader, follower: Follower) -> bool:
    """As before a start, from a follower of which nothing is in doubt. Whether it has nothing more."""
    failed: set[str] = set()
    for need in needs(leader.memory, list(follower.copy.held()), leader.deleted):
        if need.after in failed:
            failed.add(need.path)
            continue
        restoration = Restoration(leader.memory, need)
        while (piece := restoration.wanted) is not None:
            restoration.feed(follower.copy.read(need.path, *piece))
        if not restoration.finish():
            failed.add(need.path)
    return not failed


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


def test_a_channel_that_is_in_memory_only_does_not_bring_back_what_others_have_finished(
    leader: Leader,
) -> None:
    follower = Follower()
    consumer = leader.subscribe("c", rdy=1000)
    leader.publish(b"finished")
    leader.finish(consumer)
    catch_up(leader, follower)
    until = lose_power(leader)
    leader.subscribe("memory#ephemeral")
    assert catch_up(leader, follower, until) == []


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


@pytest.mark.parametrize("snapshot", [False, True])
def test_what_was_paused_or_limited_is_so_when_it_comes_back(snapshot: bool) -> None:
    leader, follower = Leader(), Follower()
    for topic in ("u", "v"):
        leader.create("c", topic=topic)
        leader.create("d", topic=topic)
        leader.topic(topic).pause_channel("c", True)
        leader.topic(topic).set_limits({"max_depth": 7})
        leader.topic(topic).set_channel_limits("d", {"max_depth": 5})
        if snapshot:
            leader.snapshot(topic)
    leader.topic("v").pause(True)
    lost = {leader.publish(b"m", topic=topic).ids[0] for topic in ("u", "v")}
    catch_up(leader, follower)
    leader.memory = MemoryStorage()
    leader._start()
    assert set(catch_up(leader, follower)) == lost
    assert (leader.topic("u").paused, leader.topic("v").paused) == (False, True)
    for topic in ("u", "v"):
        assert (leader.channel("c", topic).paused, leader.channel("d", topic).paused) == (True, False)
        limits = [leader.channel(name, topic).settings.max_depth for name in ("c", "d")]
        assert limits == [7, 5]
    assert (leader.topic("u").depth, leader.topic("v").depth) == (0, 1)


def test_what_only_a_snapshot_knows_of_a_lost_topic_counts() -> None:
    leader, follower = Leader(), Follower()
    consumer = leader.subscribe("c", topic="u", rdy=1000)
    for _ in range(30):
        leader.publish(b"n" * 400, topic="u")
        leader.finish(consumer)
        leader.advance(1.0)
    leader.snapshot("u")
    leader.snapshot("u")
    lost = leader.publish(*[b"m"] * 5, topic="u").ids
    leader.finish(consumer, lost[0])
    catch_up(leader, follower)
    assert f"{0:020}.log" not in follower.storage.files("topic-u")
    leader.memory = MemoryStorage()
    leader._start()
    assert catch_up(leader, follower) == lost[1:]
    assert leader.channel("c", "u").depth == 4


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


def test_a_topic_of_many_files_does_not_use_up_the_descriptors(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path)
    pieces = [Piece(f"{number * 100:020}.log", 100) for number in range(50)]
    taken = TakeBack(storage, Stranded("topic-u", pieces, generation=7, own=False))
    while taken.wanted is not None:
        taken.feed(b"x" * 50)
        assert not storage.open_files
    assert len(storage.files()) == len(pieces)
    for _ in (*taken.read([]), *taken.messages()):
        assert len(storage.open_files) <= 1
    taken.close()
    assert (storage.files(), storage.open_files) == ([], set())
    storage.close()


def test_a_file_that_is_removed_meanwhile_is_compared_anew() -> None:
    """Its finished messages would be taken for lost ones."""
    storage = MemoryStorage()
    taken = TakeBack(
        storage, Stranded("topic-t", [Piece(f"{0:020}.log", 64, here=True)], generation=7, own=True)
    )
    assert taken.wanted is not None
    taken.feed(b"x" * 64)
    with pytest.raises(FileNotFoundError):
        list(taken.read([]))
    taken.close()


@pytest.mark.parametrize("count", range(30))
@pytest.mark.parametrize("size", [150, 400])
def test_what_was_stranded_is_not_restored_over_what_was_written_since(
    leader: Leader, count: int, size: int
) -> None:
    """The leader is killed after it has taken everything back, and before the follower has removed it."""
    follower = Follower()
    lost = [each for _ in range(12) for each in leader.publish(b"m" * 400).ids]
    catch_up(leader, follower)
    until = lose_power(leader)
    since = [each for _ in range(count) for each in leader.publish(b"n" * size).ids]
    connect(leader, follower, until).close()
    leader.memory = leader.memory.crash(lambda _path, chunks: chunks)
    assert restore(leader, follower)
    leader._start()
    assert not leader.broker.lost_messages("t")
    assert delivered(leader) >= {*lost, *since}


def test_what_is_left_of_a_take_back_finishes_nothing_else(leader: Leader) -> None:
    """Cut off when the follower has removed the beginning of it: nobody knows any more whose the numbers were."""
    follower = Follower()
    consumer = leader.subscribe("c", rdy=1000)
    lost = [each for _ in range(12) for each in leader.publish(b"m" * 400).ids]
    leader.finish(consumer, *lost[:6])
    leader.publish(b"n" * 400)
    catch_up(leader, follower)
    until = lose_power(leader)
    sender = connect(leader, follower, until)
    assert set(lost[6:]) < set(leader.taken_back)
    oldest, *others = sorted(name for name in follower.storage.files("topic-t") if name.endswith(".log"))
    while (
        oldest in sender._folders["topic-t"].files and sender._folders["topic-t"].files[oldest].version == 0
    ):
        follower.feed(b"".join(sender.take(leader.written, 1)))
    sender.close()
    assert others[-1] in follower.storage.files("topic-t")
    catch_up(leader, follower)
    assert set(lost[6:]) <= delivered(leader)


@attrs.define(eq=False)
class Story:
    """Starts with and without the follower, whole sessions and such that are cut off, from one seed.

    `safe`: messages that both have had. What only the leader has is what a power loss may take.
    """

    chance: random.Random
    leader: Leader = attrs.field(factory=Leader)
    follower: Follower = attrs.field(factory=Follower)
    unasked: Unasked = attrs.field(factory=lambda: Unasked(MemoryStorage()))
    published: set[bytes] = attrs.field(factory=set)
    safe: set[bytes] = attrs.field(factory=set)
    finished: set[bytes] = attrs.field(factory=set)

    def work(self) -> None:
        chance, leader = self.chance, self.leader
        consumer = leader.subscribe("c", rdy=3)
        for _ in range(chance.randrange(1, 15)):
            bodies = [b"m" * chance.choice([10, 150, 400])] * chance.randrange(1, 4)
            self.published.update(leader.publish(*bodies).ids)
            if consumer.in_flight and chance.random() < 0.5:
                ids = consumer.in_flight[:2]
                leader.finish(consumer, *ids)
                self.finished.update(ids)
            if chance.random() < 0.2:
                leader.advance(1.0)
            if chance.random() < 0.1:
                leader.snapshot()
        leader.disconnect(consumer)

    def whole_session(self) -> None:
        catch_up(self.leader, self.follower, self.unasked.doubts("f"))
        self.unasked.compared("f")
        self.safe |= self.published

    def session_that_is_cut_off(self) -> None:
        sender = connect(self.leader, self.follower, self.unasked.doubts("f"))
        for _ in range(self.chance.randrange(4)):
            frames = sender.take(self.leader.written, self.chance.choice([100, 1000, 5000]))
            self.follower.feed(b"".join(frames))
        sender.close()

    def power_loss(self) -> None:
        self.leader.memory = self.leader.memory.crash(self.chance)
        asked = self.chance.random() < 0.5 and not self.unasked.doubts("f")
        whole = asked and restore(self.leader, self.follower)
        self.leader._start()
        if not whole:
            self.unasked.add(["f"], self.leader.doubts)
        self.published &= self.safe


@pytest.mark.parametrize("seed", [*range(100), 7540, 24464, 25316, 30763])
def test_what_both_have_had_is_not_lost_whatever_happens(seed: int) -> None:
    story = Story(random.Random(seed))
    story.leader.create()
    story.leader.broker.store.sync_now()
    events = [
        story.work,
        story.work,
        story.whole_session,
        story.session_that_is_cut_off,
        story.power_loss,
        story.power_loss,
    ]
    for _ in range(story.chance.randrange(3, 15)):
        story.chance.choice(events)()
    story.whole_session()
    assert files_of(story.follower.storage) == files_of(story.leader.memory)
    assert not story.safe - story.finished - delivered(story.leader)


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


def test_dead_letters_keep_their_origin_and_what_was_put_back_is_for_its_channel_alone(
    leader: Leader,
) -> None:
    follower = Follower()
    leader.create("d")
    leader.broker.store.sync_now()
    topic = leader.topic()
    frames = [leader._frame(b"letter")] * 2 + [leader._frame(b"put back")]
    topic.publish_letters(frames[:2], [b"of one", b"of another"])
    topic.publish_directed(frames[2:], leader.channel("d").generation)
    leader.round()
    catch_up(leader, follower)
    until = lose_power(leader)
    assert not view_of(leader.topic()).letters
    assert len(catch_up(leader, follower, until)) == 3
    assert (leader.channel("c").depth, leader.channel("d").depth) == (3 + 2, 3)
    view = view_of(leader.topic())
    ((start, end),) = view.letters
    with contextlib.closing(view.log.look(range(start, end)).messages(range(start, end))) as messages:
        assert list(messages) == [Looked(frames[0], b"of one"), Looked(frames[1], b"of another")]
    consumer = leader.subscribe("d", rdy=10)
    assert consumer.bodies()[-1] == b"put back"


def test_what_was_put_back_to_a_channel_that_was_lost_is_for_the_one_of_its_name(leader: Leader) -> None:
    follower = Follower()
    leader.create("new")
    leader.topic().publish_directed([leader._frame(b"put back")], leader.channel("new").generation)
    leader.round()
    catch_up(leader, follower)
    until = lose_power(leader)
    leader.create("other")  # it has the generation that the lost one had
    assert len(catch_up(leader, follower, until)) == 1
    depths = {name: channel.depth for name, channel in leader.topic().channels.items()}
    assert depths == {"c": 3, "other": 0, "new": 1}
