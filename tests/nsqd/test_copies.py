"""Copies in the daemon: what refuses publishes, and the hand-over to a stand-in."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from nsqd.broker import Broker
from nsqd.broker.topic import Topic
from nsqd.copies import OTHERS_INTERVAL, Copied, Copies
from nsqd.log.life import Life, former_lives
from nsqd.options import load
from nsqd.replication.frame_stream import Identity, first_to_end
from nsqd.replication.keep import CopyNote
from nsqd.replication.other_followers import OtherCopy, OtherFollowers
from nsqd.replication.seal import Owned, Seal
from nsqd.replication.take_back import Stranded, TakeBack
from nsqd.replication.unasked import Doubt
from nsqd.replication.wire import Found
from nsqd.rounds import Rounds
from tests.nsqd.replication.pair import MAX_TAKE, Follower, Leader, bytes_of, connect
from tests.timing import patience


class Setting:
    """A daemon's broker with `Copies`. `restarts`: how often it asked to be started anew."""

    def __init__(self, path: Path, *flags: str, noted_start: bool = True) -> None:
        self.nsqd = Leader()
        self.broker = self.nsqd.broker
        if not noted_start:
            self.broker.store.life = None
        self.restarts = 0
        self.copies = Copies(load(list(flags)), path, self._restart)
        self.storage = self.copies.make_storage(self.nsqd.storage)
        self.durability = self.copies.attach(self.broker)
        self.rounds = Rounds(self.broker, lambda _error: None, self.durability)
        self.copies.use_rounds(self.rounds)

    def _restart(self) -> None:
        self.restarts += 1

    @property
    def owned(self) -> Owned:
        """Everything, as a stand-in would say it."""
        return self.broker.owned_messages()


FOLLOWER = "--replicate-to=127.0.0.1:4159"


def test_without_options_nothing_is_changed(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    assert setting.storage is setting.nsqd.storage
    assert setting.durability is None
    assert setting.copies.stats() is None
    assert setting.broker.health == "OK"


@pytest.mark.parametrize("noted_start", [True, False])
async def test_too_few_copies_are_said_or_refused_from_the_start(tmp_path: Path, noted_start: bool) -> None:
    """Also when the disk was full at the start, so that no follower can be told who we are."""
    setting = Setting(tmp_path, FOLLOWER, "--ack-copies=2", noted_start=noted_start)
    assert setting.broker.health == "OK - 1 of 2 copies"
    assert isinstance(setting.durability, Copied)
    stats = setting.copies.stats()
    assert stats is not None
    assert (stats.in_step, stats.wanted) == (1, 2)
    assert [follower.address for follower in stats.followers] == ["127.0.0.1:4159"]
    assert setting.nsqd.publish(b"alone").acknowledged
    setting = Setting(tmp_path, FOLLOWER, "--min-copies=2", noted_start=noted_start)
    assert setting.broker.health == "NOK - 1 of at least 2 copies are in step"
    assert setting.broker.context.refusal is not None


async def test_a_hand_over_is_on_the_disk_and_begins_another_life(tmp_path: Path) -> None:
    setting = Setting(tmp_path, FOLLOWER)
    setting.nsqd.create()
    setting.nsqd.publish_many(5)
    before = Life.read(setting.nsqd.storage)
    setting.copies._hand_over(setting.owned)
    assert setting.restarts == 1
    after = Life.read(setting.nsqd.memory.crash())
    assert before is not None
    assert after is not None
    assert (after.life_id != before.life_id, after.incarnation) == (True, 1)


@pytest.mark.parametrize("unasked", [False, True])
async def test_a_copy_that_may_have_more_is_not_given_up_with_its_life(tmp_path: Path, unasked: bool) -> None:
    """One follower has adopted its copy; another one may have what neither it nor this nsqd has."""
    setting = Setting(tmp_path, FOLLOWER, "--replicate-to=127.0.0.1:4160")
    setting.nsqd.create()
    life = Life.read(setting.nsqd.storage)
    assert life is not None
    if unasked:
        setting.copies._unasked.add(["127.0.0.1:4160"], {7: Doubt(0, 100)})
    setting.copies._hand_over(setting.owned)
    assert former_lives(setting.nsqd.memory.crash()) == ([] if unasked else [life.life_id])


async def test_a_log_that_cannot_be_read_holds_no_hand_over_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was finished here comes again from the stand-in, and that is all."""
    setting = Setting(tmp_path, FOLLOWER)
    setting.nsqd.create()
    setting.nsqd.publish_many(5)
    setting.nsqd.drain(setting.nsqd.subscribe("c", rdy=10))
    setting.nsqd.round()
    assert setting.copies._finished_of(setting.owned)
    setting.nsqd.fail("open", 5)
    assert setting.copies._finished_of(setting.owned) == []
    setting.copies._hand_over(setting.owned)
    assert setting.restarts == 1


async def test_a_hand_over_that_cannot_be_written_is_asked_for_again(tmp_path: Path) -> None:
    setting = Setting(tmp_path, FOLLOWER)
    setting.nsqd.create()
    setting.nsqd.publish_many(5)
    before = Life.read(setting.nsqd.storage)
    setting.nsqd.fail("append")
    with pytest.raises(OSError, match="cannot be noted here"):
        setting.copies._hand_over(setting.owned)
    assert setting.restarts == 0
    assert Life.read(setting.nsqd.storage) == before
    assert setting.broker.fatal is None
    setting.nsqd.heal()
    setting.copies._hand_over(setting.owned)
    assert setting.restarts == 1


async def test_a_sync_that_fails_during_a_hand_over_is_fatal(tmp_path: Path) -> None:
    setting = Setting(tmp_path, FOLLOWER)
    setting.nsqd.create()
    setting.nsqd.publish_many(5)
    setting.nsqd.fail("sync", 5)
    with pytest.raises(OSError, match=r"\[Errno 5\]"):
        setting.copies._hand_over(setting.owned)
    assert setting.broker.fatal is not None
    assert setting.restarts == 0


async def test_a_sync_that_hangs_is_told_to_followers(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    setting = Setting(tmp_path, FOLLOWER)
    nsqd, rounds, ends = setting.nsqd, setting.rounds, threading.Event()
    (link,) = setting.copies._links
    hanging = link._leader.hanging

    def hang(operation: str, _path: str) -> None:
        if operation in ("sync", "sync_all"):
            assert ends.wait(patience(60))

    nsqd.run_jobs = False
    nsqd.publish(b"message")
    nsqd.storage.fault = hang
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rounds.run_jobs)
        assert hanging() == 0
        setting.broker.want_sync()
        rounds.begin()
        rounds.end()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(7)
        assert hanging() == 7
        ends.set()
        while hanging():
            await trio.lowlevel.checkpoint()
        assert setting.broker.synced
        nursery.cancel_scope.cancel()


async def test_a_stop_ends_the_listener_and_not_the_rest(tmp_path: Path) -> None:
    setting = Setting(tmp_path, FOLLOWER, "--replication-address=127.0.0.1:0")
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    setting.copies.listen_on(listeners)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting.copies.run)
        stream = await trio.open_tcp_stream(*listeners[0].socket.getsockname())
        assert await stream.receive_some(8) == b"nsqr\0\0\0\1"
        await setting.copies.stop(hand_over=False)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await stream.aclose()
    setting.copies.close()


async def test_what_another_stand_in_serves_is_given_up_when_the_disk_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    setting = Setting(tmp_path)
    setting.nsqd.create()
    setting.nsqd.publish_many(5)
    setting.storage.replace("nsqd.copy", CopyNote("aa" * 16, "leader", 1, complete=True).encode())
    seal = Seal(setting.owned, owner="ff" * 16)
    asked_at: list[float] = []

    async def ask(*_: object) -> list[OtherCopy]:
        asked_at.append(trio.current_time())
        return [OtherCopy("other:4159", Found(True, False, True, "00" * 16), [], setting.owned)]

    monkeypatch.setattr(OtherFollowers, "ask", ask)
    setting.nsqd.fail("append")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting.copies._watch_other_stand_ins, seal)
        await trio.sleep(OTHERS_INTERVAL / 2)
        assert (len(asked_at), setting.restarts) == (1, 0)
        setting.nsqd.heal()
    assert (len(asked_at), setting.restarts) == (2, 1)
    left = Seal.read(setting.nsqd.memory.crash())
    assert left is not None
    assert not any((left.owned or {}).values())


# --- messages that only a follower has


@attrs.define(eq=False)
class OnlyThere:
    """A topic of more than one batch that is at a follower, and not here."""

    setting: Setting
    ids: list[bytes] = attrs.field(init=False)
    copy: Follower = attrs.field(factory=Follower)

    def __attrs_post_init__(self) -> None:
        lost = Leader(max_segment_bytes=1 << 20)
        lost.create("c", topic="u")
        self.ids = [each for _ in range(3) for each in lost.publish(*[b"m" * 2000] * 600, topic="u").ids]
        sender = connect(lost, self.copy)
        while frames := sender.take(lost.written, MAX_TAKE):
            self.copy.feed(bytes_of(frames))

    async def take_back(self) -> int:
        """As a link does it."""
        copies = self.setting.copies
        sender = copies._new_sender("127.0.0.1:4159")
        for _ in sender.compare(self.copy.copy.held()):
            pass
        (stranded,) = sender.stranded
        taken = copies._new_take_back(stranded)
        try:
            while (wanted := taken.wanted) is not None:
                taken.feed(self.copy.copy.read(*wanted))
            counts: list[int] = []

            async def publish_again() -> None:
                counts.append(await copies._publish_again(stranded, taken))

            await first_to_end(self.setting.rounds.run_jobs, publish_again)
        finally:
            taken.close()
        return counts[0]

    @property
    def depth(self) -> int:
        return self.setting.nsqd.channel("c", "u").depth


@pytest.fixture
def only_there(tmp_path: Path) -> OnlyThere:
    return OnlyThere(Setting(tmp_path, FOLLOWER, "--min-free-space=0"))


async def test_what_two_followers_have_is_published_again_once(only_there: OnlyThere) -> None:
    assert await only_there.take_back() == len(only_there.ids)
    assert only_there.setting.broker.store.syncer.synced == only_there.setting.broker.store.syncer.written
    assert await only_there.take_back() == 0
    assert only_there.depth == len(only_there.ids)


async def test_what_was_published_before_a_failure_is_not_published_again(
    only_there: OnlyThere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the disk were full now and then."""
    publish, failures = Broker.publish_again, [False, True]

    def fails(broker: Broker, topic: Topic, messages: Sequence[tuple[bytes, int]]) -> int:
        if failures and failures.pop(0):
            only_there.setting.nsqd.fail("append")
        return publish(broker, topic, messages)

    monkeypatch.setattr(Broker, "publish_again", fails)
    with pytest.raises(OSError):
        await only_there.take_back()
    only_there.setting.nsqd.heal()
    assert 0 < await only_there.take_back() < len(only_there.ids)
    assert only_there.depth == len(only_there.ids)


async def test_a_topic_that_is_deleted_while_it_is_published_again_stays_so(
    only_there: OnlyThere, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Broker.publish_again

    def deleted_meanwhile(broker: Broker, topic: Topic, messages: Sequence[tuple[bytes, int]]) -> int:
        number = publish(broker, topic, messages)
        trio.lowlevel.current_trio_token().run_sync_soon(broker.delete_topic, topic.name)
        return number

    monkeypatch.setattr(Broker, "publish_again", deleted_meanwhile)
    assert 0 < await only_there.take_back() < len(only_there.ids)
    assert "u" not in only_there.setting.broker.topics


async def test_a_topic_that_was_deleted_since_it_was_compared_does_not_come_back(
    only_there: OnlyThere, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Copies._publish_again

    async def deleted_before(copies: Copies, stranded: Stranded, taken: TakeBack) -> int:
        only_there.setting.broker.store.deletions.add(stranded.generation)
        return await publish(copies, stranded, taken)

    monkeypatch.setattr(Copies, "_publish_again", deleted_before)
    assert await only_there.take_back() == 0
    assert "u" not in only_there.setting.broker.topics


async def test_what_has_no_room_here_is_not_begun(tmp_path: Path, only_there: OnlyThere) -> None:
    storage = only_there.setting.nsqd.memory
    storage.capacity = 5 << 20
    with pytest.raises(OSError, match="no room for what only the follower has of topic-u"):
        await only_there.take_back()
    assert not [name for name in storage.files() if "stranded" in name]


async def test_nothing_is_left_of_a_take_back_that_was_killed(only_there: OnlyThere, tmp_path: Path) -> None:
    copies, storage = only_there.setting.copies, only_there.setting.nsqd.memory
    sender = copies._new_sender("127.0.0.1:4159")
    for _ in sender.compare(only_there.copy.copy.held()):
        pass
    taken = [copies._new_take_back(sender.stranded[0]) for _ in range(2)]  # of two followers at once
    for each in taken:
        wanted = each.wanted
        assert wanted is not None
        each.feed(only_there.copy.copy.read(*wanted))
    assert len([name for name in storage.files() if "stranded" in name]) == 2
    Copies(load([FOLLOWER]), tmp_path, lambda: None).make_storage(storage)
    assert not [name for name in storage.files() if "stranded" in name]


async def test_what_a_follower_said_before_the_start_is_given_up_but_for_numbers_that_were_given_again(
    tmp_path: Path,
) -> None:
    setting = Setting(tmp_path, FOLLOWER)
    setting.nsqd.create()
    setting.nsqd.publish_many(5)
    (generation,) = setting.owned
    setting.copies._unasked.add(["f:1"], {generation: Doubt(0, 0)})  # nothing was there when it was not asked
    setting.copies._sealed_by = {"f:1": {generation: [(0, 5)]}, "g:1": {generation: [(1, 3)]}}
    setting.copies._told_identity = Identity(b"l" * 16, 1, b"s" * 16, "us", b"")
    setting.copies._options.replicate_to = []
    await setting.copies.hand_over_before_serving()
    setting.nsqd.kill()
    assert setting.nsqd.drain(setting.nsqd.subscribe("c", rdy=10)) == [b"m0", b"m3", b"m4"]


@pytest.mark.parametrize("asked", [True, False])
async def test_copies_that_may_have_what_is_nowhere_else_are_kept(tmp_path: Path, asked: bool) -> None:
    """Of a life that ends, a follower may have what could not be asked for before."""
    setting = Setting(tmp_path, FOLLOWER)
    setting.nsqd.create()
    setting.nsqd.publish_many(5)
    if not asked:
        setting.copies._unasked.add(["f:1"], {1: Doubt(0, 10)})
    setting.copies._hand_over(setting.owned)
    assert len(former_lives(setting.nsqd.memory.crash())) == (1 if asked else 0)


async def test_a_copy_that_its_own_follower_has_adopted_is_not_kept(tmp_path: Path) -> None:
    """Whether that could be asked before or not: its stand-in serves all that is in it."""
    setting = Setting(tmp_path, FOLLOWER)
    setting.nsqd.create()
    setting.nsqd.publish_many(5)
    setting.copies._unasked.add(["f:1"], {1: Doubt(0, 10)})
    setting.copies._hand_over(setting.copies._ours("f:1", setting.owned))
    assert len(former_lives(setting.nsqd.memory.crash())) == 1
