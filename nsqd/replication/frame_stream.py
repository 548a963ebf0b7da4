"""Frames over a stream, and the two sides' proof that they know the secret."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable

import attrs
import trio

from nsqd.replication.wire import (
    GREETING,
    MAX_FIRST_FRAME,
    MAX_FRAME,
    NONCE_SIZE,
    Challenge,
    Frame,
    Frames,
    Hello,
    Refused,
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
    "first_to_end",
    "greet_follower",
]

OURSELVES = "both sides are the same data path, or a copy of it"

CHUNK = 1 << 18  # bytes of one read


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


async def greet_follower(frames: FrameStream, us: Identity, *, disk: bool) -> Welcome:
    """The leader's side of the handshake. `WireError`, `Turned`."""
    await frames.stream.send_all(GREETING)
    challenge = await frames.receive()
    if not isinstance(challenge, Challenge):
        raise WireError(f"a {type(challenge).__name__} instead of a challenge")
    nonce = secrets.token_bytes(NONCE_SIZE)
    shown = proof(us.secret, "leader", challenge.nonce, nonce, us.life, us.incarnation, us.start)
    await frames.send(Hello(us.life, us.incarnation, us.start, nonce, shown, us.name, disk))
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


async def answer_leader(frames: FrameStream, us: Identity) -> Hello:
    """The follower's side of the handshake, up to the leader's `Hello`. `WireError`, `Turned`, `NotWelcome`."""
    nonce = secrets.token_bytes(NONCE_SIZE)
    await frames.stream.send_all(GREETING + encode(Challenge(nonce)))
    hello = await frames.receive()
    if not isinstance(hello, Hello):
        raise WireError(f"a {type(hello).__name__} instead of a hello")
    expected = proof(us.secret, "leader", nonce, hello.nonce, hello.life, hello.incarnation, hello.start)
    if not hmac.compare_digest(expected, hello.proof):
        raise NotWelcome("the secrets differ")
    if hello.life == us.life:
        raise NotWelcome(OURSELVES)
    frames.trust()
    await frames.send(Welcome(proof(us.secret, "follower", nonce, hello.nonce, us.life), us.life))
    return hello
