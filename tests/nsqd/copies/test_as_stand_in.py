"""The role of a stand-in."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from nsqd.copies.as_stand_in import OTHERS_INTERVAL, StandInRole
from nsqd.replication.frame_stream import Identity
from nsqd.replication.keep import CopyNote
from nsqd.replication.other_followers import OtherCopy, OtherFollowers
from nsqd.replication.seal import Seal
from nsqd.replication.wire import Found
from tests.nsqd.copies.setting import Setting


def adopted(setting: Setting, *, complete: bool) -> StandInRole:
    """The data path becomes a copy that was adopted."""
    setting.storage.replace("nsqd.copy", CopyNote("aa" * 16, "leader", 1, complete=complete).encode())
    Seal(owner="ff" * 16).write(setting.storage)
    others = OtherFollowers(Identity(b"l" * 16, 1, b"s" * 16, "us", b""), trio.open_tcp_stream)
    return StandInRole(setting.storage, setting.broker, setting.rounds, others, setting._restart)


@pytest.mark.parametrize("complete", [True, False])
async def test_a_copy_with_gaps_owns_nothing(tmp_path: Path, complete: bool) -> None:
    """Its leader may know more of each channel, and gives nothing up for it: it may be messages of a lost manifest."""
    setting = Setting(tmp_path)
    setting.nsqd.create()
    setting.nsqd.publish_many(5)
    adopted(setting, complete=complete)
    seal = Seal.read(setting.nsqd.memory.crash())
    assert seal == Seal(setting.owned if complete else {}, owner="ff" * 16)
    assert setting.owned


async def test_what_another_stand_in_serves_is_given_up_when_the_disk_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    setting = Setting(tmp_path)
    setting.nsqd.create()
    setting.nsqd.publish_many(5)
    stand_in = adopted(setting, complete=True)
    asked_at: list[float] = []

    async def ask(*_: object) -> list[OtherCopy]:
        asked_at.append(trio.current_time())
        return [OtherCopy("other:4159", Found(True, False, True, "00" * 16), [], setting.owned)]

    monkeypatch.setattr(OtherFollowers, "ask", ask)
    setting.nsqd.fail("append")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stand_in.watch_others)
        await trio.sleep(OTHERS_INTERVAL / 2)
        assert (len(asked_at), setting.restarts) == (1, 0)
        setting.nsqd.heal()
    assert (len(asked_at), setting.restarts) == (2, 1)
    left = Seal.read(setting.nsqd.memory.crash())
    assert left is not None
    assert not any((left.owned or {}).values())
