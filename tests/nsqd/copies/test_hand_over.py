"""Giving up what a stand-in has."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsqd.log.life import Life, former_lives
from nsqd.replication.unasked import Doubt
from tests.nsqd.copies.setting import FOLLOWER, Setting


async def test_a_hand_over_is_on_the_disk_and_begins_another_life(tmp_path: Path) -> None:
    setting = Setting(tmp_path, FOLLOWER)
    setting.nsqd.create()
    setting.nsqd.publish_many(5)
    before = Life.read(setting.nsqd.storage)
    setting.hand_over(setting.owned)
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
        setting.leader._unasked.add(["127.0.0.1:4160"], {7: Doubt(0, 100)})
    setting.hand_over(setting.owned)
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
    assert setting.leader.hand_over.finished_of(setting.owned)
    setting.nsqd.fail("open", 5)
    assert setting.leader.hand_over.finished_of(setting.owned) == []
    setting.hand_over(setting.owned)
    assert setting.restarts == 1


async def test_a_hand_over_that_cannot_be_written_is_asked_for_again(tmp_path: Path) -> None:
    setting = Setting(tmp_path, FOLLOWER)
    setting.nsqd.create()
    setting.nsqd.publish_many(5)
    before = Life.read(setting.nsqd.storage)
    setting.nsqd.fail("append")
    with pytest.raises(OSError, match="cannot be noted here"):
        setting.hand_over(setting.owned)
    assert setting.restarts == 0
    assert Life.read(setting.nsqd.storage) == before
    assert setting.broker.fatal is None
    setting.nsqd.heal()
    setting.hand_over(setting.owned)
    assert setting.restarts == 1


async def test_a_sync_that_fails_during_a_hand_over_is_fatal(tmp_path: Path) -> None:
    setting = Setting(tmp_path, FOLLOWER)
    setting.nsqd.create()
    setting.nsqd.publish_many(5)
    setting.nsqd.fail("sync", 5)
    with pytest.raises(OSError, match=r"\[Errno 5\]"):
        setting.hand_over(setting.owned)
    assert setting.broker.fatal is not None
    assert setting.restarts == 0


@pytest.mark.parametrize("asked", [True, False])
async def test_copies_that_may_have_what_is_nowhere_else_are_kept(tmp_path: Path, asked: bool) -> None:
    """Of a life that ends, a follower may have what could not be asked for before."""
    setting = Setting(tmp_path, FOLLOWER)
    setting.nsqd.create()
    setting.nsqd.publish_many(5)
    if not asked:
        setting.leader._unasked.add(["f:1"], {1: Doubt(0, 10)})
    setting.hand_over(setting.owned)
    assert len(former_lives(setting.nsqd.memory.crash())) == (1 if asked else 0)


async def test_a_copy_that_its_own_follower_has_adopted_is_not_kept(tmp_path: Path) -> None:
    """Whether that could be asked before or not: its stand-in serves all that is in it."""
    setting = Setting(tmp_path, FOLLOWER)
    setting.nsqd.create()
    setting.nsqd.publish_many(5)
    setting.leader._unasked.add(["f:1"], {1: Doubt(0, 10)})
    setting.hand_over(setting.leader.hand_over.ours("f:1", setting.owned))
    assert len(former_lives(setting.nsqd.memory.crash())) == 1
