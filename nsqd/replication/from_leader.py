"""The follower's side: a listener for leaders, and the copies that they fill.

Rules:

- Whoever connects has `HANDSHAKE_TIMEOUT` seconds to prove that it knows the secret. Few may be trying at a time: one
  more, and the one that has tried for longest is cut off.
- One session for each life: a newer one ends the older one. While there is one it holds the lock of the copy's folder,
  which a stand-in takes, too.
- Frames are written as they come, in the event loop; what may take long (a sync, the removal of a topic) in a thread.
- Whatever goes wrong with a connection or a copy, also unexpectedly, ends this connection and nothing else.
- What is here never refuses the follower's own publishes: copies stop at `--replica-max-bytes`, and when the disk has
  less than twice `--min-free-space` left. A leader is told so, and counts this follower out.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs
import trio

from nsqd.log.file_storage import FileStorage
from nsqd.log.lock import DataPathLock
from nsqd.log.storage import Storage
from nsqd.replication.frame_stream import (
    FrameStream,
    Identity,
    NotWelcome,
    Turned,
    answer_leader,
    first_to_end,
)
from nsqd.replication.keep import Copy, CopyNote, Work, read_piece
from nsqd.replication.seal import Owned, Seal
from nsqd.replication.transport import Transport
from nsqd.replication.wire import (
    MAX_OWNED,
    Ack,
    AllHeld,
    Ask,
    Beat,
    Bye,
    Data,
    Echo,
    Ended,
    Fetch,
    Finished,
    Found,
    Frame,
    Hello,
    Pass,
    Refused,
    Sealed,
    WireError,
)
from nsqkit.logging import RateLimitedLogger, get_logger

__all__ = ["COPIES", "CopyState", "Follower", "Room"]

log = get_logger("copies")

COPIES: Final = "copies"  # the folder in the data path; one below it for each life
HANDSHAKE_TIMEOUT: Final = 10.0  # seconds
SILENCE: Final = 10.0
SYNC_INTERVAL: Final = 2.0  # for copies whose leader does not wait for syncs
MAX_STRANGERS: Final = 32  # connections that have not proved anything yet
ROOM_INTERVAL: Final = 1.0  # seconds between two looks at the room that is left, while data comes
ROOM_BYTES: Final = 1 << 20  # that may come between two looks: a second of it is much
MAX_FINISHED: Final = 1000  # messages of a leader that has come back, each of many runs
YIELD_EVERY: Final = 16  # frames
FOLDERS: Final = 100  # that are looked at in a row, in a thread


@attrs.define
class _Goodbye(Exception):
    """The leader ends the session in order. `for_good`: it gives all its messages to us."""

    for_good: bool


@attrs.frozen
class Room:
    """How much copies may take. `max_bytes`: all of them together, 0: no limit. `min_free`: bytes of the disk."""

    max_bytes: int
    min_free: int


@attrs.define(eq=False)
class CopyState:
    """A copy that is here. `connected`: its leader is. `bytes`: of its files. `beat_at`: when it was last heard.

    `scope`: of the session, to end it. `idle`: of the same one, set at its end. `suspect`: see `Copy`, until a leader
    has compared it, and sent what was damaged. `finished`: what its leader has finished, and its
    stand-in was not told yet; with `news` when something was added. `ended`: its
    leader has said that this life has ended. `served`: a stand-in is looked after, until what it had is removed.
    `clock_skew`: seconds by which our clock is ahead of the leader's. `hanging_ms`: at its last beat, for so long the
    leader's oldest sync had not ended; `hangs`: that is in the log.
    """

    note: CopyNote
    storage: Storage
    bytes: int = 0
    connected: bool = False
    suspect: bool = False
    ended: bool = False
    served: bool = False
    hanging_ms: int = 0
    hangs: bool = False
    clock_skew: float | None = None
    beat_at: float | None = None
    seal: Seal | None = None
    finished: deque[Finished] = attrs.field(factory=deque)
    news: trio.Event = attrs.field(factory=trio.Event)
    scope: trio.CancelScope | None = None
    idle: trio.Event = attrs.field(factory=trio.Event)


class Follower:
    """All copies below a data path. `root`: that path. `identity`: of this nsqd, whose life is no copy's.

    `unclean`: the last stop was no orderly one. `patience`: seconds, for which a sync of a leader may take without a
    word in the log.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        identity: Identity,
        room: Room,
        transport: Transport | None = None,
        *,
        unclean: bool = False,
        patience: float = 5.0,
    ) -> None:
        self._unclean = unclean
        self._patience = patience
        self._transport = transport or Transport()
        self._root = Path(root) / COPIES
        self._identity = identity
        self._room = room
        self._strangers: dict[trio.CancelScope, None] = {}  # the oldest first
        self._stranger_log = RateLimitedLogger(log)
        self.adopted: Callable[[], None] = lambda: None  # a copy was sealed: somebody has to serve it
        self.copies: dict[str, CopyState] = {}
        if self._root.is_dir():
            for path in sorted(self._root.iterdir()):
                try:
                    self._find(path)
                except OSError as error:
                    log.error("COPIES: %s is left alone, it cannot be read - %s", path, error)

    def _find(self, path: Path) -> None:
        """Note the copy in this folder. `OSError`."""
        storage = FileStorage(path)
        try:
            note = CopyNote.read(storage)
            if note is not None and note.life == path.name:
                self.copies[note.life] = CopyState(
                    note, storage, _size(storage), seal=Seal.read(storage), suspect=self._unclean
                )
                return
        except OSError:
            storage.close()
            raise
        log.warning("COPIES: %s is left alone, it does not say that it is the copy of this life", path)
        storage.close()

    def folder(self, state: CopyState) -> Path:
        """Where a copy is."""
        return self._root / state.note.life

    def seal(self, state: CopyState) -> None:
        """Take no more bytes for this copy, from now on and for ever; a session of its leader ends. `OSError`."""
        seal = Seal(owner=self._identity.life.hex())
        seal.write(state.storage)
        state.seal = seal
        if state.scope is not None:
            state.scope.cancel()

    async def life_ended(self, life: str) -> None:
        """A leader says that an earlier life of it has ended: its copy goes, or when its stand-in is empty."""
        state = self.copies.get(life)
        if state is None or state.connected:
            return
        state.ended = True
        if not state.served and (state.seal is None or state.seal.retired):
            await self.forget(state)

    async def forget(self, state: CopyState) -> None:
        """Remove a copy whose leader is not connected, and that nobody serves. `OSError`: not all of it is removed."""
        del self.copies[state.note.life]
        if isinstance(state.storage, FileStorage):
            state.storage.close()
        await trio.to_thread.run_sync(shutil.rmtree, self.folder(state))
        log.info("COPIES: the copy of %s, %d bytes, is removed", state.note.name, state.bytes)

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
        async with stream:
            frames = FrameStream(stream)
            hello: Hello | Ask | None = None
            try:
                hello = await self._greet(frames)
                if isinstance(hello, Ask):
                    await self._answer(frames, hello)
                else:
                    await self._session(frames, hello)
            except trio.TooSlowError:
                self._ended(remote, hello, f"nothing heard for {SILENCE:g} s")
            except _Goodbye as goodbye:
                assert isinstance(hello, Hello)
                log.info("COPIES: %s has left", hello.name)
                if goodbye.for_good:
                    await self._take_over_at_once(frames, hello)
            except (Turned, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._ended(remote, hello, str(error) or "the connection was cut")
            except (WireError, NotWelcome, OSError) as error:
                self._ended(remote, hello, str(error))
                await self._refuse(frames, str(error))
            except Exception as error:
                self._ended(remote, hello, f"unexpected {type(error).__name__}: {error}", error)
                await self._refuse(frames, "a fault of the follower; see its log")

    async def _greet(self, frames: FrameStream) -> Hello | Ask:
        if len(self._strangers) == MAX_STRANGERS:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.cancel()
        with trio.CancelScope() as scope:
            self._strangers[scope] = None
            try:
                with trio.fail_after(HANDSHAKE_TIMEOUT):
                    frames.stream = await self._transport.accepted(frames.stream)
                    return await answer_leader(frames, self._identity)
            finally:
                self._strangers.pop(scope, None)
        raise Turned(f"it has proved nothing yet, as {MAX_STRANGERS} others")

    async def _refuse(self, frames: FrameStream, reason: str) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            with trio.move_on_after(1):
                await frames.send(Refused(reason[:500]))
                # Closed with bytes unread, the connection would be reset, and the reason lost with it.
                while await frames.stream.receive_some():
                    pass

    def _ended(
        self, remote: str, hello: Hello | Ask | None, reason: str, unexpected: Exception | None = None
    ) -> None:
        text = "COPIES(%s): connection %s ended - %s"
        if hello is None:
            self._stranger_log.log(
                trio.current_time(), text, remote, "of a stranger", reason, error=unexpected
            )
        else:
            log.warning(text, remote, f"of {hello.name}", reason, exc_info=unexpected)

    async def _take_over_at_once(self, frames: FrameStream, hello: Hello) -> None:
        """The leader stops for good, and everything that it has is here: adopt the copy, and tell it so."""
        state = self.copies[hello.life.hex()]
        if not state.note.complete:
            log.error("COPIES: the copy of %s is not complete, and not adopted", state.note.name)
            return
        self.seal(state)
        log.warning("COPIES: the copy of %s is adopted, which has stopped for good", state.note.name)
        self.adopted()
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            with trio.move_on_after(SILENCE):
                await frames.send(Found(True, False, True, self._identity.life.hex()))

    # --- one who asks

    async def _answer(self, frames: FrameStream, ask: Ask) -> None:
        """Say what is here of this life, and give it to who has asked."""
        state = self.copies.get(ask.life.hex())
        if state is not None and state.seal is not None:
            state.seal = Seal.read(state.storage)  # its stand-in has written to it
        seal = state.seal if state is not None else None
        with trio.fail_after(SILENCE):
            await frames.send(
                Found(
                    state is not None,
                    state is not None and state.connected,
                    seal is not None,
                    seal.owner if seal is not None else "",
                )
            )
        if state is None or state.connected:
            with trio.fail_after(SILENCE):
                await frames.send(AllHeld())
        elif seal is not None:
            await self._say_what_is_owned(frames, seal.owned or {})
        else:
            await self._say_what_is_here(frames, Copy(state.storage, state.note, disk=False))
        log.info("COPIES: %s has asked about %s", ask.name, state.note.name if state else ask.life.hex())
        while True:
            with trio.fail_after(SILENCE):
                frame = await frames.receive()
            match frame:
                case Fetch(path, offset, size) if state is not None and not state.connected:
                    piece = await trio.to_thread.run_sync(read_piece, state.storage, path, offset, size)
                    with trio.fail_after(SILENCE):
                        await frames.send(Data(piece))
                case Bye():
                    return
                case _:
                    raise WireError(f"a {type(frame).__name__} has no place here")

    # --- a leader

    async def _session(self, frames: FrameStream, hello: Hello) -> None:
        state = await self._take_over(hello)
        copy = Copy(state.storage, state.note, disk=hello.disk, size=state.bytes, suspect=state.suspect)
        with trio.CancelScope() as state.scope, contextlib.ExitStack() as at_the_end:
            at_the_end.callback(self._session_ended, state, copy)
            state.seal = Seal.read(state.storage)
            if state.seal is not None:
                await self._tell_of_seal(frames, state, state.seal)
                return
            # A stand-in that was started by hand holds it.
            at_the_end.callback(DataPathLock(str(self.folder(state))).release)
            await _do(copy.begin())
            log.info("COPIES: %s is connected, %d bytes of it are here", hello.name, state.bytes)
            await self._say_what_is_here(frames, copy)
            await _Session(self, frames, state, copy).run()
        if state.scope.cancelled_caught:
            raise Turned("the copy is being adopted" if state.seal else "the leader has connected anew")

    def _session_ended(self, state: CopyState, copy: Copy) -> None:
        copy.close()
        state.note, state.bytes, state.connected = copy.note, copy.bytes, False
        state.idle.set()

    async def _take_over(self, hello: Hello) -> CopyState:
        """The state of the life's copy, with no other session on it."""
        life = hello.life.hex()
        state = self.copies.get(life)
        if state is None:
            path = self._root / life
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            storage = FileStorage(path)
            note = CopyNote(life, hello.name, hello.incarnation, complete=False)
            state = self.copies[life] = CopyState(note, storage, _size(storage))
        _check_start(hello, state.note)
        with trio.move_on_after(SILENCE):  # a thread that writes cannot be cancelled
            while state.connected:
                assert state.scope is not None
                state.scope.cancel()
                await state.idle.wait()
        if state.connected:
            raise NotWelcome("its last session has not ended: the disk hangs")
        _check_start(hello, state.note)  # of the session that was waited for
        state.connected, state.idle = True, trio.Event()
        state.beat_at = trio.current_time()  # it was heard, also when it is gone before its first beat
        state.note = attrs.evolve(
            state.note,
            name=hello.name,
            incarnation=hello.incarnation,
            start=hello.start.hex(),
            others=tuple(hello.others),
        )
        return state

    async def _tell_of_seal(self, frames: FrameStream, state: CopyState, seal: Seal) -> None:
        """The leader of an adopted copy has come back."""
        if seal.owned is None:
            raise Turned("the copy is being adopted")
        await self._say_what_is_owned(frames, seal.owned)
        log.info("COPIES: %s has come back, and is told what its stand-in has", state.note.name)
        while True:
            with trio.fail_after(HANDSHAKE_TIMEOUT):
                frame = await frames.receive()
            match frame:
                case Finished():
                    if not seal.retired and len(state.finished) < MAX_FINISHED:
                        state.finished.append(frame)
                        state.news.set()
                case Bye():
                    return
                case _:
                    raise WireError(f"a {type(frame).__name__} has no place here")

    async def _say_what_is_owned(self, frames: FrameStream, ranges_by_generation: Owned) -> None:
        owned = [[key, *each] for key, ranges in ranges_by_generation.items() for each in ranges]
        for at in range(0, max(len(owned), 1), MAX_OWNED):
            with trio.fail_after(SILENCE):
                await frames.send(Sealed(owned[at : at + MAX_OWNED]))
        with trio.fail_after(SILENCE):
            await frames.send(AllHeld())

    async def _say_what_is_here(self, frames: FrameStream, copy: Copy) -> None:
        held = copy.held()
        while some := await trio.to_thread.run_sync(lambda: list(itertools.islice(held, FOLDERS))):
            with trio.fail_after(SILENCE):
                await frames.send(*some)
        with trio.fail_after(SILENCE):
            await frames.send(AllHeld())

    def note_hanging(self, state: CopyState, hanging_ms: int) -> None:
        """For so long the oldest sync of this copy's leader has not ended."""
        state.hanging_ms = hanging_ms
        hangs = hanging_ms > self._patience * 1000
        if hangs and not state.hangs:
            log.error(
                "COPIES: the disk of %s has not ended a sync for %.0f s; if it is dead, adopt this copy",
                state.note.name,
                hanging_ms / 1000,
            )
        elif state.hangs and not hangs:
            log.info("COPIES: the disk of %s ends its syncs again", state.note.name)
        state.hangs = hangs

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
    _acked: int = -1
    _echo: int | None = None
    """The number of the last beat, if it was not echoed yet."""
    _news: trio.Event = attrs.field(factory=trio.Event)
    _sync_wanted: trio.Event = attrs.field(factory=trio.Event)
    _synced: trio.Event = attrs.field(factory=trio.Event)
    _looked_at: float = -1.0
    _unchecked: int = 0

    async def run(self) -> None:
        await first_to_end(self._hear, self._answer, self._sync)

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
                self._follower.note_hanging(state, hanging_ms)
                state.clock_skew = time.time() - wall_ms / 1000
                self._echo = number
                self._news.set()
                return
            case Bye(for_good):
                raise _Goodbye(for_good)
            case Ended(life):
                await self._follower.life_ended(life.hex())
                return
            case Fetch(path, offset, size):
                piece = await trio.to_thread.run_sync(copy.read, path, offset, size)
                with trio.fail_after(SILENCE):
                    await self._frames.send(Data(piece))
                return
            case Data(data):
                self._check_room(len(data))
        work = copy.apply(frame)
        if work is not None:
            await _do(work)
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
            if reason := self._follower.refusal(self._state):
                raise NotWelcome(reason)

    def _tell(self) -> None:
        """Acknowledge what has come, or ask for the sync that must be before."""
        if self._copy.acknowledged > self._acked:
            self._news.set()
        if self._copy.acknowledged < self._copy.received:
            self._sync_wanted.set()

    async def _answer(self) -> None:
        """Send acknowledgements and echoes; of those that could not be sent in time, the last ones only."""
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
            with trio.fail_after(SILENCE):
                await self._frames.send(*out)

    async def _sync(self) -> None:
        """Sync when somebody waits for it, and every two seconds."""
        while True:
            with trio.move_on_after(SYNC_INTERVAL):
                await self._sync_wanted.wait()
            self._sync_wanted = trio.Event()
            if self._copy.wants_sync:
                await _do(self._copy.begin_sync())
            done, self._synced = self._synced, trio.Event()
            done.set()
            self._tell()


def _check_start(hello: Hello, note: CopyNote) -> None:
    """`NotWelcome` when this is not the leader that the copy had last, nor a later start of it."""
    if hello.incarnation < note.incarnation:
        raise NotWelcome(f"start {hello.incarnation} of a data path that has had {note.incarnation}")
    if hello.incarnation == note.incarnation and note.start not in ("", hello.start.hex()):
        raise NotWelcome(f"another nsqd has the same data path, or a copy of it: {note.name}")


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
