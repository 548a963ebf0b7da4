"""The follower's side: a listener for leaders, and the copies that they fill.

Rules:

- Whoever connects has `HANDSHAKE_TIMEOUT` seconds to prove that it knows the secret; few may be trying at a time.
- One session for each life: a newer one ends the older one.
- Frames are written as they come, in the event loop; what may take long (a sync, the removal of a topic) in a thread.
- What is here never refuses the follower's own publishes: copies stop at `--replica-max-bytes`, and when the disk has
  less than twice `--min-free-space` left. A leader is told so, and counts this follower out.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import attrs
import trio

from nsqd.log.file_storage import FileStorage
from nsqd.log.storage import Storage
from nsqd.replication.frame_stream import FrameStream, Identity, Turned, answer_leader, first_to_end
from nsqd.replication.keep import Copy, CopyNote, Work
from nsqd.replication.seal import Seal
from nsqd.replication.transport import Transport
from nsqd.replication.wire import (
    Ack,
    AllHeld,
    Beat,
    Bye,
    Data,
    Echo,
    Fetch,
    Frame,
    Hello,
    Refused,
    Sealed,
    WireError,
)
from nsqkit.logging import get_logger

__all__ = ["COPIES", "CopyState", "Follower", "Room"]

log = get_logger("copies")

COPIES: Final = "copies"  # the folder in the data path; one below it for each life
HANDSHAKE_TIMEOUT: Final = 10.0  # seconds
SILENCE: Final = 10.0
SYNC_INTERVAL: Final = 2.0  # for copies whose leader does not wait for syncs
MAX_STRANGERS: Final = 32  # connections that have not proved anything yet
ROOM_INTERVAL: Final = 1.0  # seconds between two looks at the free space
YIELD_EVERY: Final = 16  # frames


@attrs.frozen
class Room:
    """How much copies may take. `max_bytes`: all of them together, 0: no limit. `min_free`: bytes of the disk."""

    max_bytes: int
    min_free: int


@attrs.define(eq=False)
class CopyState:
    """A copy that is here. `connected`: its leader is. `bytes`: of its files. `beat_at`: when it was last heard."""

    note: CopyNote
    storage: Storage
    bytes: int = 0
    connected: bool = False
    hanging_ms: int = 0
    beat_at: float | None = None
    stopped: bool = False
    seal: Seal | None = None
    scope: trio.CancelScope | None = None
    idle: trio.Event = attrs.field(factory=trio.Event)


class Follower:
    """All copies below a data path. `root`: that path. `identity`: of this nsqd, whose life is no copy's."""

    def __init__(
        self, root: str | os.PathLike[str], identity: Identity, room: Room, transport: Transport | None = None
    ) -> None:
        self._transport = transport or Transport()
        self._root = Path(root) / COPIES
        self._identity = identity
        self._room = room
        self._strangers = 0
        self.copies: dict[str, CopyState] = {}
        if self._root.is_dir():
            for path in sorted(self._root.iterdir()):
                self._find(path)

    def _find(self, path: Path) -> None:
        storage = FileStorage(path)
        note = CopyNote.read(storage)
        if note is None:
            log.warning("copies: %s is left alone, it does not say whose copy it is", path)
            storage.close()
            return
        self.copies[note.life] = CopyState(note, storage, _size(storage), seal=Seal.read(storage))

    def folder(self, state: CopyState) -> Path:
        """Where a copy is."""
        return self._root / state.note.life

    def seal(self, state: CopyState) -> None:
        """Take no more bytes for this copy, from now on and for ever; a session of its leader ends. `OSError`."""
        seal = Seal()
        seal.write(state.storage)
        state.seal = seal
        if state.scope is not None:
            state.scope.cancel()

    @property
    def bytes(self) -> int:
        return sum(copy.bytes for copy in self.copies.values())

    def close(self) -> None:
        for copy in self.copies.values():
            if isinstance(copy.storage, FileStorage):
                copy.storage.close()

    # --- a session

    async def serve(self, stream: trio.abc.Stream, remote: str) -> None:
        """One connection, from its first byte to its end. Never raises but for a cancellation."""
        if self._strangers >= MAX_STRANGERS:
            log.warning("COPIES(%s): refused, %d connections have proved nothing yet", remote, MAX_STRANGERS)
            await stream.aclose()
            return
        async with stream:
            frames: FrameStream | None = None
            hello: Hello | None = None
            try:
                self._strangers += 1
                try:
                    with trio.fail_after(HANDSHAKE_TIMEOUT):
                        frames = FrameStream(await self._transport.accepted(stream))
                        hello = await answer_leader(frames, self._identity)
                finally:
                    self._strangers -= 1
                await self._session(frames, hello)
            except trio.TooSlowError:
                self._ended(remote, hello, f"nothing heard for {SILENCE:g} s")
            except (Turned, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._ended(remote, hello, str(error) or "the connection was cut")
            except (WireError, OSError) as error:
                self._ended(remote, hello, str(error))
                if frames is not None:
                    await self._refuse(frames, str(error))

    async def _refuse(self, frames: FrameStream, reason: str) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError), trio.move_on_after(1):
            await frames.send(Refused(reason[:500]))

    def _ended(self, remote: str, hello: Hello | None, reason: str) -> None:
        who = f"of {hello.name}" if hello is not None else "of a stranger"
        log.warning("COPIES(%s): connection %s ended - %s", remote, who, reason)

    async def _session(self, frames: FrameStream, hello: Hello) -> None:
        state = await self._take_over(hello)
        if state.seal is not None:
            await self._tell_of_seal(frames, state)
            return
        copy = Copy(state.storage, state.note, disk=hello.disk)
        with trio.CancelScope() as state.scope:
            try:
                await trio.to_thread.run_sync(copy.begin)
                log.info("COPIES: %s is connected, %d bytes of it are here", hello.name, state.bytes)
                await self._say_what_is_here(frames, copy)
                await _Session(self, frames, state, copy).run()
            finally:
                copy.close()
                state.note, state.connected = copy.note, False
                state.bytes = _size(state.storage)
                state.idle.set()
        if state.scope.cancelled_caught:
            raise Turned("the leader has connected anew")

    async def _take_over(self, hello: Hello) -> CopyState:
        """The state of the life's copy, with no other session on it."""
        life = hello.life.hex()
        state = self.copies.get(life)
        if state is None:
            path = self._root / life
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            note = CopyNote(life, hello.name, hello.incarnation, complete=False)
            state = self.copies[life] = CopyState(note, FileStorage(path))
            state.idle.set()
        if hello.incarnation < state.note.incarnation:
            raise Turned(f"incarnation {hello.incarnation} of a life that has had {state.note.incarnation}")
        while state.connected:
            assert state.scope is not None
            state.scope.cancel()
            await state.idle.wait()
        state.connected, state.idle = True, trio.Event()
        state.note = attrs.evolve(state.note, name=hello.name, incarnation=hello.incarnation)
        return state

    async def _tell_of_seal(self, frames: FrameStream, state: CopyState) -> None:
        """The leader of an adopted copy has come back."""
        state.connected = False
        state.idle.set()
        seal = state.seal = Seal.read(state.storage) or Seal()
        if seal.owned is None:
            raise WireError("the copy is being adopted")
        owned = [[generation, *each] for generation, ranges in seal.owned.items() for each in ranges]
        await frames.send(Sealed(owned))
        log.info("COPIES: %s has come back, and is told what its stand-in has", state.note.name)

    async def _say_what_is_here(self, frames: FrameStream, copy: Copy) -> None:
        with trio.fail_after(SILENCE) as scope:
            for held in copy.held():
                await frames.send(held)
                scope.deadline = trio.current_time() + SILENCE
            await frames.send(AllHeld())

    def refusal(self, state: CopyState) -> str | None:
        """Why no more may be taken."""
        if self._room.max_bytes and self.bytes > self._room.max_bytes:
            return f"full: copies may take {self._room.max_bytes} bytes here"
        if state.storage.free_space() < self._room.min_free:
            return f"full: less than {self._room.min_free} bytes of the disk are free here"
        return None


@attrs.define(eq=False)
class _Session:
    """One leader's session, after the handshake."""

    _follower: Follower
    _frames: FrameStream
    _state: CopyState
    _copy: Copy
    _out: list[Frame] = attrs.field(factory=list)
    _acked: int = -1
    _say: trio.Event = attrs.field(factory=trio.Event)
    _sync_wanted: trio.Event = attrs.field(factory=trio.Event)
    _synced: trio.Event = attrs.field(factory=trio.Event)
    _looked_at: float = -1.0

    async def run(self) -> None:
        await first_to_end(self._hear, self._answer, self._sync)

    async def _hear(self) -> None:
        copy, frames = self._copy, self._frames
        count = 0
        while True:
            if not frames.pending:
                self._tell()
                with trio.fail_after(SILENCE):
                    await frames.fill()
                continue
            frame = await frames.receive()
            match frame:
                case Beat(number, hanging_ms):
                    self._state.hanging_ms, self._state.beat_at = hanging_ms, trio.current_time()
                    self._out.append(Echo(number))
                    self._say.set()
                    continue
                case Bye():
                    self._state.stopped = True
                    raise Turned("it has stopped")
                case Fetch(path, offset, size):
                    self._out.append(Data(copy.read(path, offset, size)))
                    self._say.set()
                    continue
                case Data(data):
                    self._check_room()
                    self._state.bytes += len(data)
            work = copy.apply(frame)
            if work is not None:
                await _do(work)
            while copy.crowded:
                self._sync_wanted.set()
                await self._synced.wait()
            count += 1
            if count % YIELD_EVERY == 0:
                self._tell()
                await trio.lowlevel.checkpoint()

    def _check_room(self) -> None:
        now = trio.current_time()
        if now - self._looked_at >= ROOM_INTERVAL:
            self._looked_at = now
            if reason := self._follower.refusal(self._state):
                raise WireError(reason)

    def _tell(self) -> None:
        """Acknowledge what has come, or ask for the sync that must be before."""
        copy = self._copy
        self._state.note = copy.note
        if copy.acknowledged > self._acked:
            self._acked = copy.acknowledged
            self._out.append(Ack(self._acked))
            self._say.set()
        if copy.acknowledged < copy.received:
            self._sync_wanted.set()

    async def _answer(self) -> None:
        while True:
            await self._say.wait()
            self._say = trio.Event()
            out, self._out = self._out, []
            with trio.fail_after(SILENCE):
                await self._frames.send(*out)

    async def _sync(self) -> None:
        """Sync when somebody waits for it, and every two seconds."""
        while True:
            with trio.move_on_after(SYNC_INTERVAL):
                await self._sync_wanted.wait()
            self._sync_wanted, self._synced = trio.Event(), self._synced
            if self._copy.wants_sync:
                await _do(self._copy.begin_sync())
            done, self._synced = self._synced, trio.Event()
            done.set()
            self._tell()


async def _do(work: Work) -> None:
    await trio.to_thread.run_sync(work.run)
    work.done()


def _size(storage: Storage) -> int:
    """Bytes of all files."""
    total = 0
    for folder in ["", *storage.folders()]:
        for name in storage.files(folder):
            with contextlib.closing(
                storage.open(f"{folder}/{name}" if folder else name, read_only=True)
            ) as file:
                total += file.size
    return total
