"""The follower's side of connections: leaders that fill their copies, and others that ask about them.

Rules:

- Whoever connects has `HANDSHAKE_TIMEOUT` seconds to prove that it knows the secret. Few may be trying at a time: one
  more, and the one that has tried for longest is cut off.
- One session for each life: a newer one ends the older one. While there is one it holds the lock of the copy's folder,
  which a stand-in takes, too.
- Whatever goes wrong with a connection or a copy, also unexpectedly, ends this connection and nothing else.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import Final

import attrs
import trio

from nsqd.log.lock import DataPathLock
from nsqd.replication.frame_stream import (
    FrameStream,
    Identity,
    NotWelcome,
    Turned,
    answer_leader,
)
from nsqd.replication.held_copies import CopyState, HeldCopies
from nsqd.replication.keep import Copy, CopyNote, read_piece
from nsqd.replication.leader_session import SILENCE, Dismissal, Goodbye, LeaderSession, do
from nsqd.replication.seal import Owned, Seal
from nsqd.replication.transport import Transport
from nsqd.replication.wire import (
    MAX_OWNED,
    AllHeld,
    Ask,
    Beat,
    Bye,
    Data,
    Fetch,
    Finished,
    FolderHeld,
    Found,
    Hello,
    Refused,
    Sealed,
    WireError,
)
from nsqkit.logging import RateLimitedLogger, get_logger

__all__ = ["Follower"]

log = get_logger("copies")

HANDSHAKE_TIMEOUT: Final = 10.0  # seconds
MAX_STRANGERS: Final = 32  # connections that have not proved anything yet
FOLDERS: Final = 100  # that are looked at in a row, in a thread,
LOOK_SECONDS: Final = 1.0  # unless it takes longer than that: the leader waits


class Follower:
    """Serves whoever connects. `identity`: of this nsqd."""

    def __init__(self, held: HeldCopies, identity: Identity, transport: Transport | None = None) -> None:
        self._held = held
        self._identity = identity
        self._transport = transport or Transport()
        self._strangers: dict[trio.CancelScope, None] = {}  # the oldest first
        self._stranger_log = RateLimitedLogger(log)

    # --- a connection

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
            except Goodbye as goodbye:
                assert isinstance(hello, Hello)
                log.info("COPIES: %s has left", hello.name)
                self._held.copies[hello.life.hex()].left = True
                if goodbye.for_good:
                    await self._take_over_at_once(frames, hello)
            except Dismissal:
                assert isinstance(hello, Hello)
                await self._drop(frames, hello)
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
        state = self._held.copies[hello.life.hex()]
        if not state.note.complete:
            log.error("COPIES: the copy of %s is not complete, and not adopted", state.note.name)
            return
        try:
            self._held.seal(state)
        except OSError as error:
            log.error("COPIES: the copy of %s cannot be adopted - %s", state.note.name, error)
            return
        log.warning("COPIES: the copy of %s is adopted, which has stopped for good", state.note.name)
        self._held.adopted()
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            with trio.move_on_after(SILENCE):
                await frames.send(Found(True, False, True, self._identity.life.hex()))

    async def _drop(self, frames: FrameStream, hello: Hello) -> None:
        """The leader has other followers, and they have everything: remove the copy, and tell it so."""
        state = self._held.copies[hello.life.hex()]
        if state.seal is not None or state.served:
            return  # adopted meanwhile; the leader hears of that when it connects again
        try:
            self._held.forget(state)
        except OSError as error:
            log.error("COPIES: the copy of %s cannot be removed - %s", state.note.name, error)
            return
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            with trio.move_on_after(SILENCE):
                await frames.send(Found(False, False, False, ""))

    # --- one who asks

    async def _answer(self, frames: FrameStream, ask: Ask) -> None:
        """Say what is here of this life, and give it to who has asked."""
        state = self._held.copies.get(ask.life.hex())
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
        if state is not None and not state.connected and seal is not None:
            await self._say_what_is_owned(frames, seal.owned or {})
        elif state is not None and not state.connected and ask.files:
            await self._say_what_is_here(frames, Copy(state.storage, state.note, disk=False))
        else:
            with trio.fail_after(SILENCE):
                await frames.send(AllHeld())
        log.debug("COPIES: %s has asked about %s", ask.name, state.note.name if state else ask.life.hex())
        while True:
            with trio.fail_after(SILENCE):
                frame = await frames.receive()
            match frame:
                case Fetch(path, offset, size) if state is not None and not state.connected:
                    piece = await trio.to_thread.run_sync(read_piece, state.storage, path, offset, size)
                    with trio.fail_after(SILENCE):
                        await frames.send(Data(piece))
                case Beat():
                    pass
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
            at_the_end.callback(DataPathLock(str(self._held.folder(state))).release)
            await do(copy.begin())
            log.info("COPIES: %s is connected, %d bytes of it are here", hello.name, state.bytes)
            await self._say_what_is_here(frames, copy)
            await LeaderSession(self._held, frames, state, copy).run()
        if state.scope.cancelled_caught:
            raise Turned("the copy is being adopted" if state.seal else "the leader has connected anew")

    def _session_ended(self, state: CopyState, copy: Copy) -> None:
        copy.close()
        state.note, state.bytes, state.connected = copy.note, copy.bytes, False
        state.idle.set()

    async def _take_over(self, hello: Hello) -> CopyState:
        """The state of the life's copy, with no other session on it."""
        state = self._held.of(hello)
        _check_start(hello, state.note)
        with trio.move_on_after(SILENCE):  # a thread that writes cannot be cancelled
            while state.connected:
                assert state.scope is not None
                state.scope.cancel()
                await state.idle.wait()
        if state.connected:
            raise NotWelcome("its last session has not ended: the disk hangs")
        if self._held.copies.get(state.note.life) is not state:
            raise Turned("its copy was removed meanwhile")
        _check_start(hello, state.note)  # of the session that was waited for
        state.connected, state.idle = True, trio.Event()
        state.beat_at = trio.current_time()  # it was heard, also when it is gone before its first beat
        state.note = attrs.evolve(
            state.note,
            name=hello.name,
            incarnation=hello.incarnation,
            start=hello.start.hex(),
            others=tuple(hello.others),
            registries=hello.registries,
        )
        state.left, state.undecided = False, ""
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
                    if not seal.retired:
                        state.finished.add(frame)
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
        while some := await trio.to_thread.run_sync(_some_of, held):
            with trio.fail_after(SILENCE):
                await frames.send(*some)
        with trio.fail_after(SILENCE):
            await frames.send(AllHeld())


def _check_start(hello: Hello, note: CopyNote) -> None:
    """`NotWelcome` when this is not the leader that the copy had last, nor a later start of it."""
    if hello.incarnation < note.incarnation:
        raise NotWelcome(f"start {hello.incarnation} of a data path that has had {note.incarnation}")
    if hello.incarnation == note.incarnation and note.start not in ("", hello.start.hex()):
        raise NotWelcome(f"another nsqd has the same data path, or a copy of it: {note.name}")


def _some_of(held: Iterator[FolderHeld]) -> list[FolderHeld]:
    """The next ones; empty when there are no more. *Any thread.*"""
    until = time.monotonic() + LOOK_SECONDS
    some: list[FolderHeld] = []
    for frame in itertools.islice(held, FOLDERS):
        some.append(frame)
        if time.monotonic() > until:
            break
    return some
