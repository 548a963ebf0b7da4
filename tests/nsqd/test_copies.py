"""Copies in the daemon: what refuses publishes, and the hand-over to a stand-in."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from nsqd.copies import Copied, Copies
from nsqd.log.life import Life, former_lives
from nsqd.options import load
from nsqd.replication.frame_stream import Identity
from nsqd.replication.seal import Owned
from nsqd.replication.unasked import Doubt
from nsqd.rounds import Rounds
from tests.nsqd.replication.pair import Leader
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
