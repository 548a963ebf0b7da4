"""Stand-ins as processes: started, started again, and gone when they were empty."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from nsqd.replication import stand_in
from nsqd.replication.frame_stream import Identity
from nsqd.replication.from_leader import COPIES, CopyState, Follower, Room
from nsqd.replication.keep import CopyNote
from nsqd.replication.other_followers import OtherFollowers
from nsqd.replication.seal import Seal
from nsqd.replication.stand_in import CommandRefused, StandIns, free_ports
from tests.process.ports import free_port
from tests.timing import patience


async def connect(_address: str) -> trio.abc.Stream:
    raise AssertionError("there are no other followers")


US = Identity(b"f" * 16, 1, b"t" * 16, "follower:4150", b"")
LIVES = ["aa" * 16, "bb" * 16]
HOST = "127.0.0.1"
RETIRES = """
import json, pathlib, sys
pathlib.Path(sys.argv[1], "nsqd.seal").write_text(json.dumps({"owned": {}, "retired": True}))
"""
ENDS_WITH_STDIN = "import sys; sys.stdin.read()"


@attrs.define(eq=False)
class Setting:
    stand_ins: StandIns
    follower: Follower
    started: list[tuple[Path, int, int]] = attrs.field(factory=list)
    program: str = RETIRES
    faults: list[Exception] = attrs.field(factory=list)

    def command(self, folder: Path, tcp_port: int, http_port: int) -> Sequence[str]:
        self.started.append((folder, tcp_port, http_port))
        if self.faults:
            raise self.faults.pop()
        return [sys.executable, "-c", self.program, str(folder)]

    async def gone(self) -> None:
        """The stand-in of the first life was empty, and what it had is removed."""
        await until(lambda: self.state().seal == Seal({}, retired=True) and not self.stand_ins.running)

    def state(self, life: str = LIVES[0]) -> CopyState:
        return self.follower.copies[life]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_in, "SHORTEST_PAUSE", 0.01)


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Setting]:
    """Complete copies of both lives, and nobody who serves them yet."""
    for life in LIVES:
        folder = path / COPIES / life
        (folder / "topic-t").mkdir(parents=True)
        (folder / "topic-t" / "manifest").write_text("x")
        (folder / "nsqd.copy").write_bytes(CopyNote(life, "leader", 1, complete=True).encode())
    follower = Follower(path, US, Room(0, 0))
    ports = [free_port() for _ in range(5)]
    setting = Setting(
        StandIns(follower, lambda *ask: setting.command(*ask), ports, HOST, OtherFollowers(US, connect)),
        follower,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting.stand_ins.run)
        yield setting
        nursery.cancel_scope.cancel()
    follower.close()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(patience(10)):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_a_copy_that_was_served_to_its_end_is_removed_but_for_its_seal(tmp_path: Path) -> None:
    async with running(tmp_path) as setting:
        await setting.stand_ins.adopt(LIVES[0], force=False)
        await setting.stand_ins.adopt(LIVES[0], force=False)
        await setting.gone()
        assert [folder.name for folder, _, _ in setting.started] == [LIVES[0]]
        assert setting.state().storage.folders() == []
        assert setting.state().seal == Seal({}, retired=True)
        await setting.stand_ins.adopt(LIVES[0], force=True)  # too late to do anything
        await trio.sleep(0.05)
        assert len(setting.started) == 1


async def test_a_life_that_ends_while_what_its_stand_in_had_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two would remove the same copy."""
    begun, released = threading.Event(), threading.Event()
    remove = StandIns._remove_messages

    def slowly(self: StandIns, state: CopyState) -> None:
        begun.set()
        released.wait(patience(10))
        remove(self, state)

    monkeypatch.setattr(StandIns, "_remove_messages", slowly)
    async with running(tmp_path) as setting:
        await setting.stand_ins.adopt(LIVES[0], force=False)
        await until(begun.is_set)
        await setting.follower.life_ended(LIVES[0])
        assert setting.state().ended
        released.set()
        await until(lambda: not (tmp_path / COPIES / LIVES[0]).exists())
        assert list(setting.follower.copies) == [LIVES[1]]


@pytest.mark.parametrize("fault", [OSError("no process"), KeyError("a mistake")])
async def test_one_that_cannot_be_started_is_tried_again(tmp_path: Path, fault: Exception) -> None:
    async with running(tmp_path) as setting:
        setting.faults = [fault, fault]
        await setting.stand_ins.adopt(LIVES[0], force=False)
        await setting.gone()
        assert len(setting.started) == 3


async def test_one_that_ends_before_it_is_empty_is_started_again(tmp_path: Path) -> None:
    async with running(tmp_path) as setting:
        setting.program = "raise SystemExit(3)"
        await setting.stand_ins.adopt(LIVES[0], force=False)
        await until(lambda: len(setting.started) == 3)
        assert setting.state().storage.folders() == ["topic-t"]


async def test_a_seal_that_cannot_be_read_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as setting:
        failures = [OSError("cannot be read")] * 3
        read = Seal.read

        def fails(storage: object) -> Seal | None:
            if failures:
                raise failures.pop()
            return read(setting.state().storage)

        monkeypatch.setattr(Seal, "read", fails)
        await setting.stand_ins.adopt(LIVES[0], force=False)
        await setting.gone()
        assert setting.state().storage.folders() == []


async def test_messages_that_cannot_be_removed_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as setting:
        storage = setting.state().storage
        remove, failures = storage.remove_folder, [OSError("busy")] * 2

        def fails(folder: str) -> None:
            if failures:
                raise failures.pop()
            remove(folder)

        monkeypatch.setattr(storage, "remove_folder", fails)
        await setting.stand_ins.adopt(LIVES[0], force=False)
        await setting.gone()
        assert storage.folders() == []
        assert len(setting.started) == 1


async def test_two_that_start_at_once_have_ports_of_their_own(tmp_path: Path) -> None:
    async with running(tmp_path) as setting:
        setting.program = ENDS_WITH_STDIN
        for life in LIVES:
            await setting.stand_ins.adopt(life, force=False)
        await until(lambda: len(setting.started) == 2)
        assert len({port for _, *ports in setting.started for port in ports}) == 4


async def test_a_copy_with_a_gap_or_a_leader_is_adopted_by_force_only(tmp_path: Path) -> None:
    async with running(tmp_path) as setting:
        state = setting.state()
        state.note = attrs.evolve(state.note, complete=False)
        with pytest.raises(CommandRefused, match="not complete"):
            await setting.stand_ins.adopt(LIVES[0], force=False)
        state.connected = True
        with pytest.raises(CommandRefused, match="is connected"):
            await setting.stand_ins.adopt(LIVES[0], force=False)
        state.connected = False
        await setting.stand_ins.adopt(LIVES[0], force=True)
        await until(lambda: bool(setting.started))
        with pytest.raises(KeyError):
            await setting.stand_ins.adopt("cc" * 16, force=True)


async def test_a_copy_that_was_sealed_before_the_start_is_served(tmp_path: Path) -> None:
    async with running(tmp_path) as setting:
        setting.follower.seal(setting.state())
        assert not setting.started
    follower = Follower(tmp_path, US, Room(0, 0))
    assert [copy.seal for copy in follower.copies.values()] == [Seal(owner=US.life.hex()), None]
    follower.close()


async def test_it_does_not_speak_to_the_service_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    async with running(tmp_path) as setting:
        write = "pathlib.Path(sys.argv[1], 'environment').write_text(repr(os.environ))"
        setting.program = f"import os, pathlib, sys; {write}"
        await setting.stand_ins.adopt(LIVES[0], force=False)
        await until(lambda: len(setting.started) == 2)
        environment = (setting.follower.folder(setting.state()) / "environment").read_text()
        assert "NSQD_ENDS_WITH_STDIN" in environment
        assert "NOTIFY_SOCKET" not in environment
        assert os.environ["NOTIFY_SOCKET"] == "/run/notify"


def test_ports_that_are_in_use_are_left_out() -> None:
    with socket.create_server((HOST, 0)) as used:
        port = used.getsockname()[1]
        others = [free_port(), free_port()]
        assert list(free_ports(HOST, [others[0], port, others[1]])) == others
        with pytest.raises(OSError, match="stand-in-ports"):
            free_ports(HOST, [port, others[0]])


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_an_address_in_brackets_has_ports() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    others = [free_port(), free_port()]
    assert list(free_ports("[::1]", others)) == others
