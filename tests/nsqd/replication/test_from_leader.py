"""A follower's side of connections: strangers, leaders, and what they may do that they should not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from nsqd.log.file_storage import FileStorage
from nsqd.log.lock import DataPathLock
from nsqd.replication.frame_stream import FrameStream, Identity, RefusedUs, greet_follower
from nsqd.replication.from_leader import HANDSHAKE_TIMEOUT, MAX_STRANGERS
from nsqd.replication.held_copies import COPIES, CopyState
from nsqd.replication.keep import Copy, CopyNote
from nsqd.replication.leader_session import SILENCE
from nsqd.replication.seal import Owned, Seal
from nsqd.replication.wire import (
    MAX_OTHERS,
    MAX_OWNED,
    Ack,
    AllHeld,
    Bye,
    Data,
    Dismissed,
    FileFrame,
    FolderHeld,
    Found,
    Frame,
    Others,
    Pass,
    Refused,
    RemoveFolder,
    Sealed,
    Ticket,
)
from tests.nsqd.replication.leaders import BEGIN, LEADER, LOG, US, end, running, settled, until
from tests.nsqd.replication.test_wire import FRAMES

pytestmark = pytest.mark.usefixtures("no_threads")


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
        assert not setting.held.copies
        assert not (tmp_path / COPIES).exists()


async def test_a_follower_does_not_lead_itself(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        with pytest.raises(RefusedUs, match="the same data path"):
            await setting.greet(US)


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


async def test_a_leader_may_have_any_number_of_followers(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        frames = setting.connect()
        await greet_follower(frames, LEADER, disk=False, others=[f"{n}:4159" for n in range(MAX_OTHERS + 5)])
        await until(frames, AllHeld)
        (state,) = setting.held.copies.values()
        assert len(state.note.others) == MAX_OTHERS


# --- adoption


async def test_a_seal_ends_the_session_and_is_told_from_then_on(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        frames = await setting.session()
        await frames.send(*BEGIN)
        await until(frames, Ack)
        (state,) = setting.held.copies.values()
        setting.held.seal(state)
        setting.held.seal(state)
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
        setting.held.adopted = lambda: adopted.append(True)
        frames = await setting.session()
        await frames.send(*BEGIN, Pass(complete))
        await until(frames, Ack)
        await frames.send(Bye(True))
        (state,) = setting.held.copies.values()
        if complete:
            assert await until(frames, Found) == Found(True, False, True, US.life.hex())
        await end(frames)
        assert (state.seal, adopted) == ((Seal(owner=US.life.hex()), [True]) if complete else (None, []))


async def test_a_copy_that_cannot_be_adopted_at_once_ends_nothing_else(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    async with running(tmp_path) as setting:
        frames = await setting.session()
        await frames.send(*BEGIN, Pass(True))
        await until(frames, Ack)
        with monkeypatch.context() as patch:
            patch.setattr(FileStorage, "replace", full)
            await frames.send(Bye(True))
            assert await end(frames) == "the connection was closed"
        await setting.session()


async def test_what_a_stand_in_owns_of_many_topics_is_told_in_pieces(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    owned = {generation: [(0, 1)] for generation in range(2 * MAX_OWNED + 1)}
    async with running(tmp_path) as setting:
        await setting.session()
        (state,) = setting.held.copies.values()
        setting.held.seal(state)
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
        (state,) = setting.held.copies.values()
        assert state.seal == Seal()


async def test_a_leader_that_waits_for_its_last_session_does_not_write_to_a_copy_that_was_removed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as setting:
        await setting.session()
        (state,) = setting.held.copies.values()
        ended = setting.follower._session_ended

        def removed_at_its_end(of: CopyState, copy: Copy) -> None:
            ended(of, copy)
            setting.held.forget(of)

        with monkeypatch.context() as patch:
            patch.setattr(setting.follower, "_session_ended", removed_at_its_end)
            assert await end(await setting.greet()) == "the connection was closed"
        frames = await setting.session()
        assert list(setting.held.copies.values()) != [state]
        await frames.send(*BEGIN)
        await until(frames, Ack)


# --- followers that come and go


async def test_a_dismissed_copy_is_removed_and_the_leader_told(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        frames = await setting.session()
        await frames.send(*BEGIN, Pass(True))
        await until(frames, Ack)
        await frames.send(Dismissed())
        assert await until(frames, Found) == Found(False, False, False, "")
        await end(frames)
        assert not setting.held.copies
        assert not setting.copy.exists()
        frames = await setting.session()  # it may be chosen again
        await frames.send(*BEGIN)
        await until(frames, Ack)


async def test_a_copy_that_is_adopted_meanwhile_is_never_removed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as setting:
        ended = setting.follower._session_ended

        def adopted_at_its_end(of: CopyState, copy: Copy) -> None:
            ended(of, copy)
            setting.held.seal(of)

        monkeypatch.setattr(setting.follower, "_session_ended", adopted_at_its_end)
        frames = await setting.session()
        await frames.send(*BEGIN)
        await until(frames, Ack)
        (state,) = setting.held.copies.values()
        await frames.send(Dismissed())
        await end(frames)
        assert list(setting.held.copies.values()) == [state]
        assert (setting.copy / LOG).read_bytes() == b"messages"


async def test_a_copy_that_cannot_be_removed_is_not_said_to_be_gone(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError("read-only file system")

    async with running(tmp_path) as setting:
        frames = await setting.session()
        monkeypatch.setattr(FileStorage, "rename_folder", fails)
        await frames.send(Dismissed())
        assert await end(frames) == "the connection was closed"
        assert setting.copy.exists()
        await setting.session()


async def test_who_means_another_nsqd_leaves_nothing_behind(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Another one is at this address now, or this one has got an empty disk."""
    async with running(tmp_path) as setting:
        with pytest.raises(RefusedUs, match="another nsqd is meant"):
            await greet_follower(setting.connect(), LEADER, disk=False, meant=b"x" * 16)
        assert not setting.held.copies
        await greet_follower(setting.connect(), LEADER, disk=False, meant=US.life)
        await settled()
        assert len(setting.held.copies) == 1


async def test_where_the_others_are_now_is_noted(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        frames = await setting.session()
        await frames.send(Others(["a:1", "b:1"]), Ticket(1))
        await until(frames, Ack)
        (state,) = setting.held.copies.values()
        assert state.note.others == ("a:1", "b:1")
        note = CopyNote.read(state.storage)
        assert note is not None
        assert note.others == ("a:1", "b:1")
