"""One session of a leader, after the handshake: its frames go into the copy, and are acknowledged.

Frames are written as they come, in the event loop; what may take long (a sync, the removal of a topic) in a thread.
What the leader asks for is read beside that, one piece at a time: a slow disk holds no acknowledgement up.
"""

from __future__ import annotations

import time
from typing import Final

import attrs
import trio

from nsqd.replication.frame_stream import FrameStream, NotWelcome, first_to_end
from nsqd.replication.held_copies import CopyState, HeldCopies
from nsqd.replication.keep import Copy, Work
from nsqd.replication.rot import checksum_on_disk
from nsqd.replication.wire import (
    Ack,
    Beat,
    Bye,
    Check,
    Checked,
    Data,
    Dismissed,
    Echo,
    Ended,
    Fetch,
    Frame,
    Pass,
    WireError,
)
from nsqkit.logging import get_logger

__all__ = ["SILENCE", "Dismissal", "Goodbye", "LeaderSession", "do"]

log = get_logger("copies")

SILENCE: Final = 10.0  # seconds
SYNC_INTERVAL: Final = 2.0  # for copies whose leader does not wait for syncs
ROOM_INTERVAL: Final = 1.0  # seconds between two looks at the room that is left, while data comes
ROOM_BYTES: Final = 1 << 20  # that may come between two looks: a second of it is much
YIELD_EVERY: Final = 16  # frames


@attrs.define
class Goodbye(Exception):
    """The leader ends the session in order. `for_good`: it gives all its messages to us."""

    for_good: bool


class Dismissal(Exception):
    """The leader needs this copy no more: others have everything."""


@attrs.define(eq=False)
class LeaderSession:
    """`run` until the leader says goodbye (`Goodbye`, `Dismissal`), or something goes wrong."""

    _held: HeldCopies
    _frames: FrameStream
    _state: CopyState
    _copy: Copy
    _acked: int = -1
    _echo: int | None = None
    """The number of the last beat, if it was not echoed yet."""
    _asked: Fetch | Check | None = None
    """Until the answer is sent."""
    _found: Data | Checked | None = None
    _something_asked: trio.Event = attrs.field(factory=trio.Event)
    _news: trio.Event = attrs.field(factory=trio.Event)
    _sync_wanted: trio.Event = attrs.field(factory=trio.Event)
    _synced: trio.Event = attrs.field(factory=trio.Event)
    _looked_at: float = -1.0
    _unchecked: int = 0

    async def run(self) -> None:
        await first_to_end(self._hear, self._look, self._answer, self._sync)

    async def _hear(self) -> None:
        count = 0
        while True:
            frame = self._frames.received()
            if frame is None:
                self._tell()
                with trio.fail_after(SILENCE):
                    await self._frames.fill()
                continue
            await self._take(frame)
            count += 1
            if count % YIELD_EVERY == 0:
                self._tell()
                await trio.lowlevel.checkpoint()

    async def _take(self, frame: Frame) -> None:
        copy, state = self._copy, self._state
        match frame:
            case Beat(number, hanging_ms, wall_ms):
                state.beat_at = trio.current_time()
                self._held.note_hanging(state, hanging_ms)
                state.clock_skew = time.time() - wall_ms / 1000
                self._echo = number
                self._news.set()
                return
            case Bye(for_good):
                raise Goodbye(for_good)
            case Dismissed():
                raise Dismissal
            case Ended(life):
                self._held.life_ended(life.hex())
                return
            case Fetch() | Check():
                if self._asked is not None:
                    raise WireError(f"a {type(frame).__name__} before the last one was answered")
                self._asked = frame
                self._something_asked.set()
                return
            case Data(data):
                self._check_room(len(data))
        work = copy.apply(frame)
        if work is not None:
            await do(work)
        if frame == Pass(True):
            state.suspect = False
        state.note, state.bytes = copy.note, copy.bytes
        while copy.crowded:
            self._sync_wanted.set()
            await self._synced.wait()

    def _check_room(self, size: int) -> None:
        now = trio.current_time()
        self._unchecked += size
        if now - self._looked_at >= ROOM_INTERVAL or self._unchecked >= ROOM_BYTES:
            self._looked_at, self._unchecked = now, 0
            if reason := self._held.refusal(self._state):
                raise NotWelcome(reason)

    def _tell(self) -> None:
        """Acknowledge what has come, or ask for the sync that must be before."""
        if self._copy.acknowledged > self._acked:
            self._news.set()
        if self._copy.acknowledged < self._copy.received:
            self._sync_wanted.set()

    async def _look(self) -> None:
        """Read what the leader asks for."""
        while True:
            await self._something_asked.wait()
            self._something_asked = trio.Event()
            assert self._asked is not None
            self._found = await trio.to_thread.run_sync(self._read, self._asked)
            self._news.set()

    def _read(self, asked: Fetch | Check) -> Data | Checked:
        """*Any thread.* `WireError`."""
        if isinstance(asked, Check):
            found = checksum_on_disk(self._state.storage, asked.path, asked.offset, asked.size)
            return Checked(asked.path, asked.offset, *found)
        try:
            return Data(self._copy.read(asked.path, asked.offset, asked.size))
        except OSError as error:
            # Not the end of the session: the leader may have asked because it suspects as much.
            log.error("COPIES: %s of %s cannot be read - %s", asked.path, self._state.note.name, error)
            return Data(b"")

    async def _answer(self) -> None:
        """Send acknowledgements and echoes; of those that could not be sent in time, the last ones only.

        And what was found of what the leader has asked for.
        """
        while True:
            await self._news.wait()
            self._news = trio.Event()
            out: list[Frame] = []
            if self._copy.acknowledged > self._acked:
                self._acked = self._copy.acknowledged
                out.append(Ack(self._acked))
            if self._echo is not None:
                out.append(Echo(self._echo))
                self._echo = None
            if self._found is not None:
                out.append(self._found)
                self._asked = self._found = None
            with trio.fail_after(SILENCE):
                await self._frames.send(*out)

    async def _sync(self) -> None:
        """Sync when somebody waits for it, and every two seconds."""
        while True:
            with trio.move_on_after(SYNC_INTERVAL):
                await self._sync_wanted.wait()
            self._sync_wanted = trio.Event()
            if self._copy.wants_sync:
                await do(self._copy.begin_sync())
            done, self._synced = self._synced, trio.Event()
            done.set()
            self._tell()


async def do(work: Work) -> None:
    """Its `run` in a thread."""
    await trio.to_thread.run_sync(work.run)
    work.done()
