"""Adoption by itself: the task that asks the nsqlookupds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from nsqd.copies.auto_adopt import LONGEST_PAUSE, AutoAdopt
from nsqd.lookup.protocol import Heard, WitnessAnswer
from nsqd.replication.frame_stream import Identity
from nsqd.replication.held_copies import COPIES, CopyState, HeldCopies, Room
from nsqd.replication.keep import CopyNote
from nsqd.replication.other_followers import OtherFollowers
from nsqd.replication.stand_in import StandIns
from nsqkit.audit import AuditTrail
from tests.nsqkit.audit.reading import lines_in, trail_in
from tests.process.waiting import wait_until

US = Identity(b"f" * 16, 1, b"t" * 16, "follower:4150", b"")
LIVES = ["aa" * 16, "bb" * 16]
ADOPT_AFTER, RESTART_GRACE = 60.0, 300.0


async def connect(_address: str) -> trio.abc.Stream:
    raise AssertionError("there are no other followers")


@attrs.define(slots=False)
class Registries:
    """Three of them. `yes`: how many grant everything. `asked`: lives, and when; `given_back` likewise."""

    yes: int = 3
    asked: list[tuple[str, float]] = attrs.field(factory=list)
    given_back: list[str] = attrs.field(factory=list)

    def announce_followers(self, *_: object) -> None:
        raise AssertionError("that is for leaders")

    def heard(self) -> list[Heard]:
        raise AssertionError("that is for leaders")

    async def grants(self, life: str) -> list[WitnessAnswer]:
        await trio.lowlevel.checkpoint()
        self.asked.append((life, trio.current_time()))
        return [WitnessAnswer(f"r{n}", f"w{n}", n < self.yes, "heard 3 s ago") for n in range(3)]

    async def release(self, life: str) -> None:
        self.given_back.append(life)


@attrs.define(eq=False)
class Setting:
    held: HeldCopies
    registries: Registries
    began: float

    def state(self, life: str = LIVES[0]) -> CopyState:
        return self.held.copies[life]

    @property
    def adopted(self) -> list[bool]:
        return [self.state(life).seal is not None for life in LIVES]

    async def at(self, seconds: float) -> None:
        await trio.sleep(self.began + seconds - trio.current_time())


@asynccontextmanager
async def silent_leaders(
    path: Path, registries: int = 3, trail: AuditTrail | None = None
) -> AsyncIterator[Setting]:
    """Two lives, of which a complete copy is here, and whose leaders have not been heard."""
    for life in LIVES:
        folder = path / COPIES / life
        folder.mkdir(parents=True)
        note = CopyNote(life, "leader", 1, complete=True, registries=registries)
        (folder / "nsqd.copy").write_bytes(note.encode())
    held = HeldCopies(path, US.life, Room(0, 0))
    stand_ins = StandIns(held, lambda *_: [], range(1, 3), "127.0.0.1", OtherFollowers(US, connect))
    setting = Setting(held, Registries(), trio.current_time())
    async with trio.open_nursery() as nursery:
        auto = AutoAdopt(held, stand_ins, setting.registries, ADOPT_AFTER, RESTART_GRACE, trail)
        nursery.start_soon(auto.run)
        yield setting
        nursery.cancel_scope.cancel()
    held.close()


async def test_a_silent_leader_is_adopted_after_its_time_one_at_a_time(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with silent_leaders(tmp_path) as setting:
        await setting.at(ADOPT_AFTER - 1.5)
        assert setting.registries.asked == []
        await setting.at(ADOPT_AFTER + 30)
        assert setting.adopted == [True, False]  # the first one is not served yet
        seal = setting.state().seal
        assert seal is not None
        setting.state().seal = attrs.evolve(seal, owned={})
        await setting.at(ADOPT_AFTER + 33)
        assert setting.adopted == [True, True]
        assert setting.registries.given_back == []


async def test_an_adoption_is_in_the_audit_trail_also_while_that_cannot_be_written(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    (tmp_path / "audit").mkdir()  # no file can be in its place
    with trail_in(tmp_path, required=True) as trail:
        wait_until(lambda: trail.refuses_changes, 10, "the file cannot be written")
        async with silent_leaders(tmp_path, trail=trail) as setting:
            await setting.at(ADOPT_AFTER + 3)
            assert setting.adopted == [True, False]
        (tmp_path / "audit").rmdir()
    [line] = lines_in(tmp_path / "audit")
    assert (line["what"], line["means"], line["on"]) == (
        "adoption",
        "itself",
        {"of": "leader", "life": LIVES[0]},
    )
    assert line["after"]["registries"] == 3


async def test_r7_nothing_is_adopted_without_a_majority_and_what_was_granted_is_given_back(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with silent_leaders(tmp_path) as setting:
        setting.registries.yes = 1
        await setting.at(ADOPT_AFTER + 100)
        assert setting.adopted == [False, False]
        times = [at for life, at in setting.registries.asked if life == LIVES[0]]
        assert len(times) >= 100 / (LONGEST_PAUSE + 1)
        assert len(setting.registries.given_back) == len(setting.registries.asked)
        said = "1 of its 3 nsqlookupds agree (r1: heard 3 s ago; r2: heard 3 s ago)"
        assert setting.state().undecided == said
        assert [each for each in caplog.messages if said in each] == [
            f"COPIES: leader is silent, and its copy is not adopted - {said}"
        ] * 2  # once for each
        setting.registries.yes = 2
        await setting.at(ADOPT_AFTER + 112)
        assert any(setting.adopted)
        assert [state.undecided for state in setting.held.copies.values() if state.seal] == [""]


async def test_r16_a_leader_that_was_stopped_in_order_has_more_time(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with silent_leaders(tmp_path) as setting:
        setting.state(LIVES[1]).left = True
        await setting.at(RESTART_GRACE - 1.5)
        assert {life for life, _ in setting.registries.asked} == {LIVES[0]}


async def test_what_another_follower_could_not_fetch_is_looked_for_once_its_nsqd_is_gone_for_long(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[float] = []

    async def look(_self: StandIns, life: str) -> bool:
        await trio.lowlevel.checkpoint()
        if life == LIVES[0]:
            looked.append(trio.current_time())
        return False

    monkeypatch.setattr(StandIns, "adopt_left_over", look)
    async with silent_leaders(tmp_path) as setting:
        setting.registries.yes = 0
        await setting.at(RESTART_GRACE - 1)
        assert not looked
        await setting.at(RESTART_GRACE + LONGEST_PAUSE + 2)
        assert looked


async def test_a_link_that_flaps_is_a_link(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with silent_leaders(tmp_path) as setting:
        for _ in range(20):
            await trio.sleep(ADOPT_AFTER - 5)
            for life in LIVES:
                setting.state(life).beat_at = trio.current_time()
        assert setting.registries.asked == []


async def test_a_leader_that_comes_back_while_the_registries_are_asked_is_not_adopted(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with silent_leaders(tmp_path) as setting:
        del setting.held.copies[LIVES[1]]
        grants = setting.registries.grants

        async def comes_back(life: str) -> list[WitnessAnswer]:
            answers = await grants(life)
            setting.state().connected = True
            return answers

        setting.registries.grants = comes_back  # type: ignore[method-assign]
        await setting.at(ADOPT_AFTER + 5)
        assert setting.state().seal is None
        assert setting.registries.given_back == [LIVES[0]]
        assert setting.state().undecided == "its leader leader is connected"


@pytest.mark.parametrize("registries", [0, 1, 2])
async def test_too_few_registries_adopt_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, registries: int
) -> None:
    async with silent_leaders(tmp_path, registries) as setting:
        await setting.at(ADOPT_AFTER + 20)
        assert setting.adopted == [False, False]
        assert "needs 3" in setting.state().undecided
