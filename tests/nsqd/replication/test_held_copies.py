"""The copies that are here: what is one and what is none, and how they go."""

from __future__ import annotations

import shutil
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from nsqd.log.file_storage import FileStorage
from nsqd.replication.held_copies import COPIES, FORGOTTEN, HeldCopies, Room
from nsqd.replication.seal import Seal
from nsqd.replication.wire import (
    Ack,
    Beat,
    Data,
    Echo,
    Ended,
    FileFrame,
    Pass,
    Ticket,
)
from tests.nsqd.replication.leaders import BEGIN, LEADER, LOG, US, end, running, settled, until

pytestmark = pytest.mark.usefixtures("no_threads")


async def test_files_that_are_no_copies_are_left_alone(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        await (await setting.session()).send(*BEGIN)
        await settled()
    copies = tmp_path / COPIES
    (copies / "a file").write_text("of somebody")
    (copies / "an empty folder").mkdir()
    (copies / "nonsense").mkdir()
    (copies / "nonsense" / "nsqd.copy").write_text("nonsense")
    (copies / "loop").symlink_to("loop")
    saved = copies / f"{LEADER.life.hex()}.saved"
    saved.mkdir()
    (saved / "nsqd.copy").write_bytes((setting.copy / "nsqd.copy").read_bytes())
    async with running(tmp_path) as setting:
        (state,) = setting.held.copies.values()
        assert state.bytes > 8
        frames = await setting.session()
        await frames.send(FileFrame(LOG, 8), Data(b" and more"), Ticket(2))
        assert await until(frames, Ack) == Ack(2)
        assert (setting.copy / LOG).read_bytes() == b"messages and more"


async def test_a_copy_that_cannot_be_read_costs_its_leader_only(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        await setting.session()
    (setting.copy / "nsqd.copy").unlink()
    (setting.copy / "nsqd.copy").mkdir()
    async with running(tmp_path) as setting:
        frames = await setting.greet()
        assert "refused" in await end(frames)
        await setting.session(attrs.evolve(LEADER, life=b"o" * 16))


async def test_what_is_left_of_a_removal_is_no_copy(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """A copy that lacks some of its files still says that it is complete."""
    async with running(tmp_path) as setting:
        frames = await setting.session()
        await frames.send(*BEGIN, Pass(True))
        await until(frames, Ack)
        await frames.stream.aclose()
        await settled()
        (state,) = setting.held.copies.values()
        setting.held.forget(state)  # and here the power is lost
    held = HeldCopies(tmp_path, US.life, Room(0, 0))
    assert not held.copies
    async with trio.open_nursery() as nursery:
        nursery.start_soon(held.remove_forgotten)
        await settled()
        assert list((tmp_path / COPIES).iterdir()) == []
        nursery.cancel_scope.cancel()


async def test_a_leader_that_comes_while_its_copy_is_removed_has_another_one(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        frames = await setting.session()
        await frames.send(*BEGIN)
        await until(frames, Ack)
        await frames.stream.aclose()
        await settled()
        (state,) = setting.held.copies.values()
        setting.held.forget(state)
        frames = await setting.session()
        await frames.send(*BEGIN)
        await until(frames, Ack)
        setting.nursery.start_soon(setting.held.remove_forgotten)
        await settled()
        assert (setting.copy / LOG).read_bytes() == b"messages"
        assert [path.name for path in (tmp_path / COPIES).iterdir()] == [LEADER.life.hex()]


async def test_the_copy_of_an_ended_life_waits_for_its_stand_in(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    former = attrs.evolve(LEADER, life=b"o" * 16)
    async with running(tmp_path) as setting:
        frames = await setting.session(former)
        await frames.stream.aclose()
        await settled()
        (state,) = setting.held.copies.values()
        setting.held.seal(state)
        state.seal, state.served = Seal({}, retired=True), True
        frames = await setting.session()
        await frames.send(Ended(former.life), Beat(1, 0, 0))
        await until(frames, Echo)
        assert state in setting.held.copies.values()
        state.served = False
        await frames.send(Ended(former.life), Beat(2, 0, 0))
        await until(frames, Echo)
        assert state not in setting.held.copies.values()


async def test_the_copy_of_an_ended_life_that_cannot_be_removed_ends_no_session(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError("a damaged disk")

    former = attrs.evolve(LEADER, life=b"o" * 16)
    async with running(tmp_path) as setting:
        frames = await setting.session(former)
        await frames.stream.aclose()
        await settled()
        monkeypatch.setattr(FileStorage, "rename_folder", fails)
        frames = await setting.session()
        await frames.send(Ended(former.life), Beat(1, 0, 0))
        await until(frames, Echo)
        assert former.life.hex() in setting.held.copies


async def test_what_is_left_and_cannot_be_removed_is_tried_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError("a damaged disk")

    async with running(tmp_path) as setting:
        setting.nursery.start_soon(setting.held.remove_forgotten)
        for life, damaged in ((b"o" * 16, True), (b"p" * 16, False)):
            frames = await setting.session(attrs.evolve(LEADER, life=life))
            await frames.stream.aclose()
            await settled()
            with monkeypatch.context() as patch:
                if damaged:
                    patch.setattr(shutil, "rmtree", fails)
                setting.held.forget(setting.held.copies[life.hex()])
                await settled()
            assert [path.name[:10] for path in (tmp_path / COPIES).iterdir()] == [FORGOTTEN[:10]] * damaged
