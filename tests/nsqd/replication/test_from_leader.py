"""A follower's side of connections: strangers, leaders, and what they may do that they should not."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import UnionType
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MemoryReceiveStream, MemorySendStream

from nsqd.log.lock import DataPathLock
from nsqd.replication.frame_stream import FrameStream, Identity, RefusedUs, Turned, greet_follower
from nsqd.replication.from_leader import (
    COPIES,
    HANDSHAKE_TIMEOUT,
    MAX_STRANGERS,
    ROOM_BYTES,
    SILENCE,
    Follower,
    Room,
)
from nsqd.replication.keep import Copy
from nsqd.replication.seal import Owned, Seal
from nsqd.replication.wire import (
    MAX_OWNED,
    Ack,
    AllHeld,
    Beat,
    Bye,
    Data,
    Echo,
    FileFrame,
    FolderHeld,
    Found,
    Frame,
    MakeFolder,
    NewFile,
    Pass,
    Refused,
    Remove,
    RemoveFolder,
    Sealed,
    Ticket,
    Whole,
)
from tests.nsqd.replication.test_wire import FRAMES

pytestmark = pytest.mark.usefixtures("no_threads")

US = Identity(b"f" * 16, 1, b"t" * 16, "follower:4150", b"the secret of both")
LEADER = Identity(b"l" * 16, 5, b"s" * 16, "leader:4150", b"the secret of both")
LOG = "topic-t/00000000000000000000.log"
BEGIN = (MakeFolder("topic-t"), FileFrame(LOG, 0), Data(b"messages"), Ticket(1))
settled = trio.testing.wait_all_tasks_blocked


@attrs.define(eq=False)
class Setting:
    follower: Follower
    path: Path
    nursery: trio.Nursery
    last_stream: trio.StapledStream[MemorySendStream, MemoryReceiveStream] = attrs.field(init=False)
    """The follower's end of the last connection."""

    def connect(self) -> FrameStream:
        """The leader's end of a connection."""
        ours, self.last_stream = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.follower.serve, self.last_stream, "remote")
        return FrameStream(ours)

    async def greet(self, who: Identity = LEADER, *, disk: bool = False) -> FrameStream:
        frames = self.connect()
        with trio.fail_after(60):
            await greet_follower(frames, who, disk=disk)
        return frames

    async def session(self, who: Identity = LEADER, *, disk: bool = False) -> FrameStream:
        """A leader's end of a connection that has been told everything."""
        frames = await self.greet(who, disk=disk)
        await until(frames, AllHeld)
        return frames

    @property
    def copy(self) -> Path:
        return self.path / COPIES / LEADER.life.hex()


@asynccontextmanager
async def running(path: Path, room: Room = Room(0, 0)) -> AsyncIterator[Setting]:  # noqa: B008
    follower = Follower(path, US, room)
    async with trio.open_nursery() as nursery:
        yield Setting(follower, path, nursery)
        nursery.cancel_scope.cancel()
    follower.close()


async def until(frames: FrameStream, kind: type[Frame] | UnionType) -> Frame:
    with trio.fail_after(60):
        while not isinstance(frame := await frames.receive(), kind):
            pass
    return frame


async def end(frames: FrameStream) -> str:
    """How the follower ends the connection: its reason, or that there is none."""
    with trio.fail_after(60):
        while True:
            try:
                await frames.receive()
            except Turned as reason:
                return str(reason)


async def test_a_copy_is_written_and_acknowledged(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        for disk in (False, True):
            frames = await setting.session(disk=disk)
            if not disk:
                await frames.send(*BEGIN, Pass(True))
                assert await until(frames, Ack) == Ack(1)
                assert (setting.copy / LOG).read_bytes() == b"messages"
            await frames.send(FileFrame(LOG, 8), Ticket(2))
            assert await until(frames, Ack) == Ack(2)


async def test_a_leader_whose_sync_hangs_is_in_the_log_once(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running(tmp_path) as setting:
        frames = await setting.session()
        (state,) = setting.follower.copies.values()
        for number, hanging_ms in enumerate([4900, 5900, 6900, 0, 0, 6000]):
            await frames.send(Beat(number, hanging_ms, 0))
            await until(frames, Echo)
            assert state.hanging_ms == hanging_ms
    said = [record.getMessage() for record in caplog.records if "sync" in record.getMessage()]
    assert said == [
        "COPIES: the disk of leader:4150 has not ended a sync for 6 s; if it is dead, adopt this copy",
        "COPIES: the disk of leader:4150 ends its syncs again",
        "COPIES: the disk of leader:4150 has not ended a sync for 6 s; if it is dead, adopt this copy",
    ]


# --- strangers


async def test_a_stranger_that_says_nothing_is_cut_off(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        began = trio.current_time()
        await end(setting.connect())
        assert trio.current_time() - began == HANDSHAKE_TIMEOUT


async def test_one_that_sends_a_byte_now_and_then_is_cut_off(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        frames = setting.connect()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def drip() -> None:
                for byte in b"nsqr\0\0\0\1" + b"\0\0\0\x50\2" + b"\x97" * 100:
                    await frames.stream.send_all(bytes([byte]))
                    await trio.sleep(1)

            nursery.start_soon(drip)
            assert await end(frames) == "the connection was closed"
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began == HANDSHAKE_TIMEOUT


async def test_strangers_do_not_keep_leaders_out(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        strangers = [setting.connect() for _ in range(3 * MAX_STRANGERS)]
        await settled()
        began = trio.current_time()
        await setting.session()
        assert trio.current_time() == began
        ended_at: list[float] = []

        async def wait(stranger: FrameStream) -> None:
            assert await end(stranger) == "the connection was closed"
            ended_at.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            for stranger in strangers:
                nursery.start_soon(wait, stranger)
        assert ended_at.count(began) == 2 * MAX_STRANGERS + 1
        assert max(ended_at) == began + HANDSHAKE_TIMEOUT


@pytest.mark.parametrize(
    "data",
    [
        b"  V2",
        b"GET /ping HTTP/1.1\r\n\r\n",
        b"\0" * 100_000,
        b"\xff" * 100_000,
        b"nsqr\0\0\0\1" + b"\xff" * 100,
        b"nsqr\0\0\0\1" + b"\0\x10\0\0\2" + b"\xdd\0\0\xff\xff" + b"\x90" * 100_000,
        b"nsqr\0\0\0\1" + b"\0\0\x10\0\2" + b"\x91" * 4095,
        b"nsqr\0\0\0\2",
    ],
)
async def test_random_bytes_are_refused(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, data: bytes
) -> None:
    async with running(tmp_path) as setting:
        frames = setting.connect()
        await frames.stream.send_all(data)
        assert (await end(frames)).startswith("refused: ")
        await setting.session()


async def test_one_without_the_secret_is_told_so_and_leaves_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        with pytest.raises(RefusedUs, match="the secrets differ"):
            await setting.greet(attrs.evolve(LEADER, secret=b""))
        assert not setting.follower.copies
        assert not (tmp_path / COPIES).exists()


async def test_a_follower_does_not_lead_itself(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        with pytest.raises(RefusedUs, match="the same data path"):
            await setting.greet(US)


# --- frames in the wrong place

HARMLESS = Beat | Ticket | Pass | MakeFolder | Remove | RemoveFolder


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
async def test_a_frame_instead_of_the_hello_ends_the_connection(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, frame: Frame
) -> None:
    async with running(tmp_path) as setting:
        frames = setting.connect()
        await frames.stream.send_all(b"nsqr\0\0\0\1")
        await frames.send(frame)
        reason = await end(frames)
        assert reason == "the connection was closed" if isinstance(frame, Refused) else "refused" in reason


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
async def test_a_frame_in_the_wrong_place_ends_the_session_only(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, frame: Frame
) -> None:
    async with running(tmp_path) as setting:
        frames = await setting.session()
        await frames.send(frame)
        if isinstance(frame, HARMLESS):
            await frames.send(Beat(99, 0, 0))
            while await until(frames, Echo) != Echo(99):
                pass
        else:
            assert await end(frames)
        await setting.session(attrs.evolve(LEADER, incarnation=6))


async def test_a_leader_that_leaves_in_order_is_no_trouble(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as setting:
        frames = await setting.session()
        caplog.clear()
        await frames.send(Bye(False))
        assert await end(frames) == "the connection was closed"
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_fault_of_ours_ends_the_session_only(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(_copy: Copy, _frame: Frame) -> None:
        raise KeyError("a mistake")

    async with running(tmp_path) as setting:
        frames = await setting.session()
        with monkeypatch.context() as patch:
            patch.setattr(Copy, "apply", fails)
            await frames.send(Ticket(1))
            assert await end(frames) == "refused: a fault of the follower; see its log"
        (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert "unexpected KeyError" in record.getMessage()
        assert record.exc_info
        await setting.session()


async def test_echoes_and_acknowledgements_that_nobody_reads_do_not_pile_up(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        frames = await setting.session()
        read = trio.Event()
        setting.last_stream.send_stream.send_all_hook = read.wait
        for number in range(1000):
            await frames.send(Beat(number, 0, 0), Ticket(number))
        await settled()
        read.set()
        received: list[Frame] = []
        while Echo(999) not in received or Ack(999) not in received:
            received.append(await until(frames, Echo | Ack))
        assert len(received) <= 4


async def test_a_leader_that_is_silent_is_given_up(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        frames = await setting.session()
        (state,) = setting.follower.copies.values()
        assert state.connected
        await end(frames)
        assert not state.connected


# --- who leads


async def test_a_newer_connection_of_a_leader_ends_the_older_one(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        old = await setting.session()
        await old.send(*BEGIN)
        newer = await setting.session()
        assert await end(old)
        await newer.send(FileFrame(LOG, 8), Data(b" and more"), Ticket(2))
        assert await until(newer, Ack) == Ack(2)
        assert (setting.copy / LOG).read_bytes() == b"messages and more"


async def test_many_connections_of_a_leader_leave_one(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        for _ in range(10):
            setting.nursery.start_soon(setting.greet)
        await settled()
        frames = await setting.session()
        await frames.send(*BEGIN)
        assert await until(frames, Ack) == Ack(1)


@pytest.mark.parametrize(
    ("again", "reason"),
    [
        (attrs.evolve(LEADER, start=b"x" * 16), "another nsqd has the same data path"),
        (attrs.evolve(LEADER, start=b"x" * 16, incarnation=4), "start 4 of a data path that has had 5"),
    ],
)
@pytest.mark.parametrize("connected", [False, True])
async def test_a_data_path_that_was_copied_does_not_lead_twice(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, again: Identity, reason: str, connected: bool
) -> None:
    """Both would append to the same file, and acknowledgements of both would be wrong."""
    async with running(tmp_path) as setting:
        frames = await setting.session()
        await frames.send(*BEGIN)
        await until(frames, Ack)
        if not connected:
            await frames.stream.aclose()
            await settled()
        refused = await setting.greet(again)
        assert reason in await end(refused)
        if connected:
            await frames.send(Ticket(2))
            assert await until(frames, Ack) == Ack(2)
    async with running(tmp_path) as setting:
        assert reason in await end(await setting.greet(again))
        await setting.session(attrs.evolve(LEADER, start=b"x" * 16, incarnation=6))


async def test_a_session_that_hangs_in_the_disk_does_not_collect_others(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = trio.Event()

    async def hangs(work: Callable[..., Any], *args: Any, **_options: Any) -> Any:
        with trio.CancelScope(shield=True):
            await released.wait()
        return work(*args)

    async with running(tmp_path) as setting:
        first = await setting.session()
        monkeypatch.setattr(trio.to_thread, "run_sync", hangs)
        await first.send(RemoveFolder("topic-t"))
        await settled()
        began = trio.current_time()
        second = await setting.greet()
        assert "has not ended" in await end(second)
        assert trio.current_time() - began == SILENCE
        released.set()
        await setting.session()


# --- room


async def test_copies_stop_at_their_limit_and_what_was_removed_does_not_count(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path, Room(max_bytes=1000, min_free=0)) as setting:
        frames = await setting.session()
        (state,) = setting.follower.copies.values()
        for number in range(20):
            path = f"topic-t/{number:020}.log"
            await frames.send(MakeFolder("topic-t"), FileFrame(path, 0), Data(b"x" * 400), Remove(path))
            await frames.send(NewFile("nsqd.ids", 0), Data(b"x" * 50), Whole("nsqd.ids", 50), Ticket(number))
            assert await until(frames, Ack) == Ack(number)
            assert state.bytes == 50
            await trio.sleep(2)
        for number in range(3):
            await frames.send(FileFrame(f"topic-t/{number:020}.log", 0), Data(b"x" * 400))
            await trio.sleep(2)
        await frames.send(Data(b"x"))
        assert await end(frames) == "refused: full: copies may take 1000 bytes here"


async def test_copies_stop_at_their_limit_however_fast_they_grow(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    limit = 4 << 20
    async with running(tmp_path, Room(max_bytes=limit, min_free=0)) as setting:
        frames = await setting.session()
        await frames.send(*BEGIN)
        await frames.send(*[Data(bytes(1 << 18))] * 40)
        assert "full" in await end(frames)
        (state,) = setting.follower.copies.values()
        assert limit < state.bytes <= limit + 2 * ROOM_BYTES


async def test_a_leader_that_goes_on_sending_hears_why_it_is_refused(tmp_path: Path) -> None:
    """A connection that is closed with bytes unread is reset, and what was sent last is lost with it."""
    async with running(tmp_path, Room(max_bytes=1000, min_free=0)) as setting:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener, await trio.open_tcp_stream(*listener.socket.getsockname()) as stream:
            setting.nursery.start_soon(setting.follower.serve, await listener.accept(), "remote")
            frames = FrameStream(stream)
            await greet_follower(frames, LEADER, disk=False)
            await until(frames, AllHeld)
            await frames.send(*BEGIN, *[Data(bytes(1 << 18))] * 40)
            assert "full" in await end(frames)


async def test_copies_stop_before_the_disk_is_full(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path, Room(max_bytes=0, min_free=1 << 62)) as setting:
        frames = await setting.session()
        await frames.send(*BEGIN)
        assert "of the disk are free" in await end(frames)


# --- what is on the disk


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
        (state,) = setting.follower.copies.values()
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


async def test_a_copy_that_is_served_is_not_written_to(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """By a stand-in that was started by hand; and none can be started on one that is written to."""
    async with running(tmp_path) as setting:
        frames = await setting.session()
        with pytest.raises(OSError, match="in use"):
            DataPathLock(str(setting.copy))
        await frames.stream.aclose()
        await settled()
        lock = DataPathLock(str(setting.copy))
        assert "in use" in await end(await setting.greet())
        lock.release()
        await setting.session()


# --- adoption


async def test_a_seal_ends_the_session_and_is_told_from_then_on(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        frames = await setting.session()
        await frames.send(*BEGIN)
        await until(frames, Ack)
        (state,) = setting.follower.copies.values()
        setting.follower.seal(state)
        setting.follower.seal(state)
        await frames.send(Data(b"too late"))
        assert await end(frames) == "the connection was closed"
        assert (setting.copy / LOG).read_bytes() == b"messages"
        # The stand-in has not said yet what it has: no long pause before the leader asks again.
        assert await end(await setting.greet()) == "the connection was closed"
        Seal({7: [(0, 12)]}).write(state.storage)
        frames = await setting.greet()
        assert await until(frames, Sealed | FolderHeld) == Sealed([[7, 0, 12]])
        await frames.send(Bye(True))
        await end(frames)
        assert not state.connected


@pytest.mark.parametrize("complete", [False, True])
async def test_a_leader_that_stops_for_good_is_adopted_at_once(
    tmp_path: Path, complete: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        adopted: list[bool] = []
        setting.follower.adopted = lambda: adopted.append(True)
        frames = await setting.session()
        await frames.send(*BEGIN, Pass(complete))
        await until(frames, Ack)
        await frames.send(Bye(True))
        (state,) = setting.follower.copies.values()
        if complete:
            assert await until(frames, Found) == Found(True, False, True, US.life.hex())
        await end(frames)
        assert (state.seal, adopted) == ((Seal(owner=US.life.hex()), [True]) if complete else (None, []))


async def test_what_a_stand_in_owns_of_many_topics_is_told_in_pieces(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    owned = {generation: [(0, 1)] for generation in range(2 * MAX_OWNED + 1)}
    async with running(tmp_path) as setting:
        await setting.session()
        (state,) = setting.follower.copies.values()
        setting.follower.seal(state)
        Seal(owned).write(state.storage)
        frames = await setting.greet()
        told: Owned = {}
        while isinstance(frame := await until(frames, Sealed | AllHeld), Sealed):
            frame.add_to(told)
        assert told == owned


async def test_a_damaged_seal_is_a_seal(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with running(tmp_path) as setting:
        await setting.session()
    (setting.copy / "nsqd.seal").write_text("damaged")
    async with running(tmp_path) as setting:
        assert await end(await setting.greet()) == "the connection was closed"
        (state,) = setting.follower.copies.values()
        assert state.seal == Seal()
