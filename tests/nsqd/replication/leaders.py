"""Leaders that connect to a follower, in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import UnionType

import attrs
import trio
import trio.testing
from trio.testing import MemoryReceiveStream, MemorySendStream

from nsqd.replication.frame_stream import FrameStream, Identity, Turned, greet_follower
from nsqd.replication.from_leader import Follower
from nsqd.replication.held_copies import COPIES, HeldCopies, Room
from nsqd.replication.wire import (
    AllHeld,
    Data,
    FileFrame,
    Frame,
    MakeFolder,
    Ticket,
)

US = Identity(b"f" * 16, 1, b"t" * 16, "follower:4150", b"the secret of both")
LEADER = Identity(b"l" * 16, 5, b"s" * 16, "leader:4150", b"the secret of both")
LOG = "topic-t/00000000000000000000.log"
BEGIN = (MakeFolder("topic-t"), FileFrame(LOG, 0), Data(b"messages"), Ticket(1))
settled = trio.testing.wait_all_tasks_blocked


@attrs.define(eq=False)
class Setting:
    """A follower, and leaders that connect to it."""

    held: HeldCopies
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
    held = HeldCopies(path, US.life, room)
    async with trio.open_nursery() as nursery:
        yield Setting(held, Follower(held, US), path, nursery)
        nursery.cancel_scope.cancel()
    held.close()


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
