"""The role of a leader: what refuses publishes, and what followers are told."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from nsqd.copies.durability import Copied
from nsqd.replication.frame_stream import Identity
from nsqd.replication.unasked import Doubt
from tests.nsqd.copies.setting import FOLLOWER, Setting
from tests.timing import patience


@pytest.mark.parametrize("noted_start", [True, False])
async def test_too_few_copies_are_said_or_refused_from_the_start(tmp_path: Path, noted_start: bool) -> None:
    """Also when the disk was full at the start, so that no follower can be told who we are."""
    setting = Setting(tmp_path, FOLLOWER, "--ack-copies=2", noted_start=noted_start)
    assert setting.broker.health == "OK - 1 of 2 copies"
    assert isinstance(setting.durability, Copied)
    assert not setting.durability.at_once
    stats = setting.copies.stats()
    assert stats is not None
    assert (stats.in_step, stats.wanted) == (1, 2)
    assert [follower.address for follower in stats.followers] == ["127.0.0.1:4159"]
    assert setting.nsqd.publish(b"alone").acknowledged
    setting = Setting(tmp_path, FOLLOWER, "--min-copies=2", noted_start=noted_start)
    assert setting.broker.health == "NOK - 1 of at least 2 copies are in step"
    assert setting.broker.context.refusal is not None


async def test_a_sync_that_hangs_is_told_to_followers(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    setting = Setting(tmp_path, FOLLOWER)
    nsqd, rounds, ends = setting.nsqd, setting.rounds, threading.Event()
    assert setting.leader._links is not None
    (link,) = setting.leader._links
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


async def test_what_a_follower_said_before_the_start_is_given_up_but_for_numbers_that_were_given_again(
    tmp_path: Path,
) -> None:
    setting = Setting(tmp_path, FOLLOWER)
    setting.nsqd.create()
    setting.nsqd.publish_many(5)
    (generation,) = setting.owned
    setting.leader._unasked.add(["f:1"], {generation: Doubt(0, 0)})  # nothing was there when it was not asked
    setting.leader._sealed_by = {"f:1": {generation: [(0, 5)]}, "g:1": {generation: [(1, 3)]}}
    setting.copies._told_identity = Identity(b"l" * 16, 1, b"s" * 16, "us", b"")
    setting.leader._wanted = []
    await setting.copies.hand_over_before_serving()
    setting.nsqd.kill()
    assert setting.nsqd.drain(setting.nsqd.subscribe("c", rdy=10)) == [b"m0", b"m3", b"m4"]
