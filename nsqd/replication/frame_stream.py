"""Frames over a stream, and the two sides' proof that they know the secret."""

from __future__ import annotations

import contextlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import attrs
import trio

from nsqd.replication.seal import Owned
from nsqd.replication.wire import (
    ANY_LIFE,
    GREETING,
    MAX_FIRST_FRAME,
    MAX_FRAME,
    MAX_OTHERS,
    NONCE_SIZE,
    AllHeld,
    Ask,
    Beat,
    Challenge,
    FolderHeld,
    Frame,
    Frames,
    Hello,
    Refused,
    Sealed,
    Welcome,
    WireError,
    encode,
    proof,
)

__all__ = [
    "FrameStream",
    "Identity",
    "NotWelcome",
    "RefusedUs",
    "Turned",
    "answer_leader",
    "ask_follower",
    "first_to_end",
    "greet_follower",
    "receive_held",
    "while_beating",
]

OURSELVES = "both sides are the same data path, or a copy of it"
ANOTHER = "another nsqd is meant, which is not at this address any more"

BEAT_INTERVAL: Final = 1.0  # seconds
CHUNK: Final = 1 << 18  # bytes of one read
MAX_HELD: Final = 1_000_000  # files, folders and ranges that a follower may have

ResultT = TypeVar("ResultT")


class Turned(Exception):
    """The other side has ended the connection, or never was who it should be. The text is for a log."""


class RefusedUs(Turned):
    """The other side has said that it does not want us, and why: there is no hurry to ask again."""


@attrs.frozen
class Identity:
    """Who this nsqd is. `secret`: what both sides must know; may be empty. `name`: for people.

    `start`: random, made at the start of the process: two with the same life and incarnation are two data paths, one of
    which is a copy of the other.
    """

    life: bytes
    incarnation: int
    start: bytes
    name: str
    secret: bytes


class NotWelcome(Exception):
    """The other side is not to be served; it is told why. The text is for both logs."""


class FrameStream:
    """`receive` is for one task; `send` for one task at a time. Only short frames are received until `trust`."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._frames = Frames(MAX_FIRST_FRAME)

    def trust(self) -> None:
        """The other side has shown that it knows the secret."""
        self._frames.max_frame = MAX_FRAME

    async def send(self, *frames: Frame) -> None:
        await self.stream.send_all(b"".join(map(encode, frames)))

    async def receive(self) -> Frame:
        """The next frame. `WireError`; `Turned` at the end of the stream, `RefusedUs` for a `Refused`."""
        while (frame := self.received()) is None:
            await self.fill()
        return frame

    def received(self) -> Frame | None:
        """As `receive`, but None when the next frame has not arrived; never waits."""
        frame = self._frames.take()
        if isinstance(frame, Refused):
            raise RefusedUs(f"refused: {frame.reason}")
        return frame

    async def fill(self) -> None:
        """Wait for more bytes. `Turned` at the end of the stream."""
        data = await self.stream.receive_some(CHUNK)
        if not data:
            raise Turned("the connection was closed")
        self._frames.feed(bytes(data))


async def first_to_end(*tasks: Callable[[], Awaitable[None]]) -> None:
    """Run these until one ends; the others are cancelled. Raises what the first one that failed has raised."""
    failures: list[Exception] = []

    async def run(task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except Exception as error:
            failures.append(error)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(run, task)
    if failures:
        raise failures[0]


async def while_beating(frames: FrameStream, work: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """Do this, and have the follower hear meanwhile that we are there. `work` sends nothing."""
    ended = trio.Event()

    async def beat() -> None:
        # Never cut off in the middle of a frame. That the connection is gone, the next one to use it will see.
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                with trio.move_on_after(BEAT_INTERVAL):
                    await ended.wait()
                    return
                await frames.send(Beat(0, 0, time.time_ns() // 1_000_000))

    results: list[ResultT] = []
    failures: list[Exception] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat)
        try:
            results.append(await work())
        except Exception as error:  # as it is, and not in a group
            failures.append(error)
        ended.set()
    if failures:
        raise failures[0]
    return results[0]


async def greet_follower(
    frames: FrameStream,
    us: Identity,
    *,
    disk: bool,
    others: Sequence[str] = (),
    registries: int = 0,
    meant: bytes = ANY_LIFE,
) -> Welcome:
    """The leader's side of the handshake. `others`: addresses of its other followers, of which it is told `MAX_OTHERS`.

    `registries`: how many nsqlookupds are configured. `meant`: see `Hello`. `WireError`, `Turned`.
    """

    def hello(challenge: bytes, nonce: bytes) -> Hello:
        shown = proof(us.secret, "leader", challenge, nonce, us.life, us.incarnation, us.start)
        return Hello(
            us.life,
            us.incarnation,
            us.start,
            nonce,
            shown,
            us.name,
            disk,
            list(others[:MAX_OTHERS]),
            registries,
            meant,
        )

    return await _introduce(frames, us, hello)


async def ask_follower(frames: FrameStream, us: Identity, life: bytes, *, files: bool) -> Welcome:
    """As `greet_follower`, of one who wants to know what is there of another one's life. `files`: see `Ask`."""

    def ask(challenge: bytes, nonce: bytes) -> Ask:
        return Ask(life, nonce, proof(us.secret, "asks", challenge, nonce, life), us.name, files)

    return await _introduce(frames, us, ask)


async def _introduce(
    frames: FrameStream, us: Identity, first: Callable[[bytes, bytes], Hello | Ask]
) -> Welcome:
    await frames.stream.send_all(GREETING)
    challenge = await frames.receive()
    if not isinstance(challenge, Challenge):
        raise WireError(f"a {type(challenge).__name__} instead of a challenge")
    nonce = secrets.token_bytes(NONCE_SIZE)
    await frames.send(first(challenge.nonce, nonce))
    welcome = await frames.receive()
    if not isinstance(welcome, Welcome):
        raise WireError(f"a {type(welcome).__name__} instead of a welcome")
    expected = proof(us.secret, "follower", challenge.nonce, nonce, welcome.life)
    if not hmac.compare_digest(expected, welcome.proof):
        raise Turned("it does not know the secret")
    if welcome.life == us.life:
        raise Turned(OURSELVES)
    frames.trust()
    return welcome


async def answer_leader(frames: FrameStream, us: Identity) -> Hello | Ask:
    """The follower's side of the handshake, up to the other side's first frame. `WireError`, `Turned`, `NotWelcome`."""
    nonce = secrets.token_bytes(NONCE_SIZE)
    await frames.stream.send_all(GREETING + encode(Challenge(nonce)))
    first = await frames.receive()
    match first:
        case Hello():
            expected = proof(
                us.secret, "leader", nonce, first.nonce, first.life, first.incarnation, first.start
            )
        case Ask():
            expected = proof(us.secret, "asks", nonce, first.nonce, first.life)
        case _:
            raise WireError(f"a {type(first).__name__} instead of a hello")
    if not hmac.compare_digest(expected, first.proof):
        raise NotWelcome("the secrets differ")
    if first.life == us.life:
        raise NotWelcome(OURSELVES)
    if isinstance(first, Hello) and first.meant not in (ANY_LIFE, us.life):
        raise NotWelcome(ANOTHER)
    frames.trust()
    await frames.send(Welcome(proof(us.secret, "follower", nonce, first.nonce, us.life), us.life))
    return first


async def receive_held(
    frames: FrameStream, within: float, heard: Callable[[], None] = lambda: None
) -> tuple[list[FolderHeld], Owned, bool]:
    """What a follower has, up to `AllHeld`: either folders, or what its stand-in owns; and whether it is the latter.

    `heard`: called for each frame. `WireError`; `TooSlowError` when nothing comes for `within` seconds.
    """
    folders: list[FolderHeld] = []
    owned: Owned = {}
    sealed, rows = False, 0
    with trio.fail_after(within) as scope:
        while not isinstance(frame := await frames.receive(), AllHeld):
            match frame:
                case Sealed() if not folders:
                    sealed = True
                    rows += 1 + len(frame.owned)
                    frame.add_to(owned)
                case FolderHeld() if not sealed:
                    rows += 1 + len(frame.files)
                    folders.append(frame)
                case _:
                    raise WireError(f"a {type(frame).__name__} has no place here")
            if rows > MAX_HELD:
                raise WireError(f"more than {MAX_HELD} files and folders")
            scope.deadline = trio.current_time() + within
            heard()
    return folders, owned, sealed
