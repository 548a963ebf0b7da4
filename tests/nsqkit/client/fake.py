"""A scripted nsqd in the test's own event loop, over streams in memory: no socket, so that a mock clock may jump.

    async with fake_nsqd() as nsqd:
        consumer = Consumer(..., connect=nsqd.connect)
        ...
        peer = await nsqd.peer()                    # the next connection
        await peer.expect("IDENTIFY", "SUB t c", "RDY 5")
        peer.message("m1", b"body")
        await peer.expect("FIN m1")

A peer answers IDENTIFY, SUB, CLS and publishes like nsqd, unless `answers` says otherwise, and notes every command as
one line; message ids are shown without their padding. What a test expects and does not come fails after 5 s.
"""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import attrs
import pytest
import trio.testing
from anyio.abc import ByteStream, TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from nsqkit import wire
from nsqkit.client import Address, ClientOptions
from tests.timing import patience

BACKENDS = ("trio", "asyncio")
both_backends = pytest.mark.parametrize("backend", BACKENDS)

FEATURES = {
    "max_rdy_count": 2500,
    "version": "1.4.0",
    "max_msg_timeout": 900000,
    "msg_timeout": 60000,
    "auth_required": False,
}


def run(test: Callable[[], Awaitable[None]], backend: str = "trio") -> None:
    """Run it on this backend, bounded."""

    async def bounded() -> None:
        with anyio.fail_after(patience(20)):
            await test()

    anyio.run(bounded, backend=backend)


def run_mocked(test: Callable[[], Awaitable[None]]) -> None:
    """Run it on trio with a clock that jumps whenever everybody waits."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    anyio.run(test, backend="trio", backend_options={"clock": clock})


@attrs.define(eq=False)
class MemoryStream(ByteStream):
    """One end of a pair; `room` pieces may be on the way."""

    outgoing: MemoryObjectSendStream[bytes]
    incoming: MemoryObjectReceiveStream[bytes]
    _rest: bytes = b""

    async def send(self, item: bytes) -> None:
        await self.outgoing.send(item)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = self._rest or await self.incoming.receive()
        self._rest = data[max_bytes:]
        return data[:max_bytes]

    async def send_eof(self) -> None:
        await self.outgoing.aclose()

    async def aclose(self) -> None:
        await self.outgoing.aclose()
        await self.incoming.aclose()


def stream_pair(room: float = math.inf) -> tuple[MemoryStream, MemoryStream]:
    """Two ends."""
    send_a, receive_a = anyio.create_memory_object_stream[bytes](room)
    send_b, receive_b = anyio.create_memory_object_stream[bytes](room)
    return MemoryStream(send_a, receive_b), MemoryStream(send_b, receive_a)


def full_id(name: str) -> bytes:
    """A message id of 16 bytes."""
    return name.encode().rjust(16, b"0")


@attrs.define(eq=False)
class Peer:
    """nsqd's end of one connection."""

    stream: MemoryStream
    address: Address
    features: dict[str, Any]
    answers: dict[str, bytes | None]
    """Frames for commands, where they differ from nsqd's; None: none."""
    commands: list[str] = attrs.field(factory=list)
    times: list[float] = attrs.field(factory=list)
    bodies: list[bytes] = attrs.field(factory=list)
    heartbeat_s: float = 0
    """Ask the client so often whether it is there, and do not note its NOPs; 0: never."""
    sends: int = 0
    """Pieces that came."""
    ended: anyio.Event = attrs.field(factory=anyio.Event)
    _seen: int = 0
    _news: anyio.Event = attrs.field(factory=anyio.Event)
    _buffer: bytes = b""

    async def expect(self, *expected: str, within_s: float = 5) -> None:
        """Exactly these commands are the next ones."""
        got = await self.take(len(expected), within_s=within_s)
        assert got == list(expected)

    async def take(self, count: int, *, within_s: float = 5) -> list[str]:
        """The next so many commands."""
        with anyio.move_on_after(within_s):
            while len(self.commands) < self._seen + count:
                self._news = anyio.Event()
                await self._news.wait()
        got = self.commands[self._seen : self._seen + count]
        self._seen += len(got)
        return got

    def unexpected(self) -> list[str]:
        """What came and was not looked at yet."""
        return self.commands[self._seen :]

    def message(self, name: str, body: bytes = b"body", attempts: int = 1) -> None:
        self.frame(wire.encode_message(1, attempts, full_id(name), body))

    def frame(self, data: bytes) -> None:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            self.stream.outgoing.send_nowait(data)

    async def close(self) -> None:
        await self.stream.aclose()

    async def beat(self) -> None:
        while self.heartbeat_s and not self.ended.is_set():
            await anyio.sleep(self.heartbeat_s)
            self.frame(wire.HEARTBEAT)

    async def serve(self) -> None:
        try:
            while True:
                try:
                    self._buffer += await self.stream.receive()
                except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
                    return
                self.sends += 1
                while self._take_command():
                    pass
        finally:
            self.ended.set()
            await self.stream.aclose()

    def _take_command(self) -> bool:
        if self._buffer.startswith(b"  V2"):
            self._buffer = self._buffer[4:]
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline:
            return False
        words = line.decode().split(" ")
        if wire.COMMANDS[words[0].encode()].sized_body:
            if len(rest) < 4 or len(rest) < 4 + struct.unpack_from(">i", rest)[0]:
                return False
            size = struct.unpack_from(">i", rest)[0]
            self.bodies.append(rest[4 : 4 + size])
            rest = rest[4 + size :]
        self._buffer = rest
        if self.heartbeat_s and words == ["NOP"]:
            return True
        self.commands.append(" ".join(word.lstrip("0") if len(word) == 16 else word for word in words))
        self.times.append(anyio.current_time())
        self._answer(words[0])
        self._news.set()
        return True

    def _answer(self, name: str) -> None:
        usual = {
            "IDENTIFY": wire.encode_response(json.dumps(self.features).encode()),
            "CLS": wire.CLOSE_WAIT,
            **dict.fromkeys(("SUB", "AUTH", "PUB", "MPUB", "DPUB"), wire.OK),
        }
        answer = self.answers.get(name, usual.get(name))
        if answer is not None:
            self.frame(answer)


@attrs.define(eq=False)
class FakeNsqd:
    """Every address leads here; `down` has those where nobody listens."""

    group: TaskGroup
    features: dict[str, Any] = attrs.field(factory=lambda: dict(FEATURES))
    answers: dict[str, bytes | None] = attrs.field(factory=dict)
    down: set[int] = attrs.field(factory=set)
    heartbeat_s: float = 0
    room: float = math.inf
    attempts: list[float] = attrs.field(factory=list)
    """When somebody tried to connect."""
    peers: list[Peer] = attrs.field(factory=list)
    _taken: int = 0
    _news: anyio.Event = attrs.field(factory=anyio.Event)

    async def connect(self, address: Address, options: ClientOptions) -> ByteStream:
        self.attempts.append(anyio.current_time())
        await anyio.lowlevel.checkpoint()
        if address.port in self.down:
            raise OSError(f"nobody at {address}")
        ours, theirs = stream_pair(self.room)
        peer = Peer(theirs, address, self.features, self.answers, heartbeat_s=self.heartbeat_s)
        self.peers.append(peer)
        self.group.start_soon(peer.serve)
        self.group.start_soon(peer.beat)
        self._news.set()
        return ours

    async def peer(self, within_s: float = 5) -> Peer:
        """The next connection."""
        with anyio.fail_after(within_s):
            while len(self.peers) <= self._taken:
                self._news = anyio.Event()
                await self._news.wait()
        self._taken += 1
        return self.peers[self._taken - 1]


@contextlib.asynccontextmanager
async def fake_nsqd(**settings: Any) -> AsyncIterator[FakeNsqd]:
    """One that ends with the block."""
    async with anyio.create_task_group() as group:
        nsqd = FakeNsqd(group, **settings)
        yield nsqd
        group.cancel_scope.cancel()
