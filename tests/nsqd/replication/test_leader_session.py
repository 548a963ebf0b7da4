"""A leader's session at its follower: acknowledgements, limits, and frames in the wrong place."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from crc32c import crc32c

from nsqd.replication.frame_stream import FrameStream, greet_follower
from nsqd.replication.held_copies import Room
from nsqd.replication.keep import Copy
from nsqd.replication.leader_session import ROOM_BYTES
from nsqd.replication.wire import (
    Ack,
    AllHeld,
    Beat,
    Bye,
    Check,
    Checked,
    Data,
    Echo,
    Fetch,
    FileFrame,
    Frame,
    MakeFolder,
    NewFile,
    Pass,
    Remove,
    RemoveFolder,
    Ticket,
    Whole,
)
from tests.nsqd.replication.leaders import BEGIN, LEADER, LOG, end, running, settled, until
from tests.nsqd.replication.test_wire import FRAMES

pytestmark = pytest.mark.usefixtures("no_threads")


HARMLESS = Beat | Ticket | Pass | MakeFolder | Remove | RemoveFolder | Check


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
        (state,) = setting.held.copies.values()
        assert state.connected
        await end(frames)
        assert not state.connected


async def test_a_leader_that_leaves_in_order_is_no_trouble(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as setting:
        frames = await setting.session()
        caplog.clear()
        await frames.send(Bye(False))
        assert await end(frames) == "the connection was closed"
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_copies_stop_at_their_limit_and_what_was_removed_does_not_count(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path, Room(max_bytes=1000, min_free=0)) as setting:
        frames = await setting.session()
        (state,) = setting.held.copies.values()
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
        (state,) = setting.held.copies.values()
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


async def test_a_leader_whose_sync_hangs_is_in_the_log_once(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running(tmp_path) as setting:
        frames = await setting.session()
        (state,) = setting.held.copies.values()
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


# --- what a leader asks for


async def test_a_check_is_answered_with_the_checksum_of_what_is_there(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        frames = await setting.session()
        await frames.send(*BEGIN, Check(LOG, 2, 3))
        assert await until(frames, Checked) == Checked(LOG, 2, 3, crc32c(b"ssa"))
        await frames.send(Check(LOG, 2, 1 << 62))
        assert await until(frames, Checked) == Checked(LOG, 2, 6, crc32c(b"ssages"))
        await frames.send(Check("topic-u/manifest", 0, 10))
        assert await until(frames, Checked) == Checked("topic-u/manifest", 0, 0, 0)


async def test_bytes_that_cannot_be_read_are_none_and_do_not_end_the_session(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(_copy: Copy, _path: str, _offset: int, _size: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    async with running(tmp_path) as setting:
        frames = await setting.session()
        await frames.send(*BEGIN)
        with monkeypatch.context() as patch:
            patch.setattr(Copy, "read", fails)
            await frames.send(Fetch(LOG, 0, 8))
            assert await until(frames, Data) == Data(b"")
        assert f"COPIES: {LOG} of leader:4150 cannot be read - " in caplog.text
        await frames.send(Fetch(LOG, 0, 8))
        assert await until(frames, Data) == Data(b"messages")


async def test_a_disk_that_reads_slowly_holds_no_acknowledgement_up(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = trio.Event()

    async def run_sync(work: Callable[..., Any], *args: Any, **_options: Any) -> Any:
        if args and isinstance(args[0], Fetch):
            await read.wait()
        return work(*args)

    async with running(tmp_path) as setting:
        frames = await setting.session()
        monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
        await frames.send(*BEGIN, Fetch(LOG, 0, 8), FileFrame(LOG, 8), Data(b"more"), Ticket(2))
        while await until(frames, Ack | Data) != Ack(2):
            pass
        read.set()
        assert await until(frames, Data) == Data(b"messages")


async def test_two_questions_at_once_end_the_session(tmp_path: Path) -> None:
    async with running(tmp_path) as setting:
        frames = await setting.session()
        await frames.send(*BEGIN, Check(LOG, 0, 8), Fetch(LOG, 0, 8))
        assert await end(frames) == "refused: a Fetch before the last one was answered"
