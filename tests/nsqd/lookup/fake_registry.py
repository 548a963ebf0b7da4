"""A registry that answers what a test tells it to, on a memory stream or on a real one.

It notes every command with its time. What it says to a command is `answer(command)`: whole bytes with their size, or
None for silence. By default it is a good one.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Callable

import attrs
import trio

__all__ = ["IDENTITY", "FakeRegistry", "reply"]

IDENTITY = {
    "broadcast_address": "r.example",
    "hostname": "r",
    "http_port": 4161,
    "tcp_port": 4160,
    "version": "1",
}


def reply(text: bytes) -> bytes:
    """A reply as it goes on the wire."""
    return struct.pack(">i", len(text)) + text


def good(command: str, host: str = "r.example") -> bytes | None:
    if command == "IDENTIFY":
        return reply(json.dumps(IDENTITY | {"broadcast_address": host}).encode())
    return reply(b"OK")


WITNESS = "f" * 32
BODIES = ("IDENTIFY", "FOLLOWERS", "LEAVING", "GRANT", "RELEASE")


def witness(command: str, host: str = "r.example") -> bytes | None:
    """A good one that is a witness, and grants everything."""
    if command == "IDENTIFY":
        return reply(json.dumps(IDENTITY | {"broadcast_address": host, "witness": WITNESS}).encode())
    if command == "STANDING":
        return reply(b'{"adopted":false}')
    if command == "GRANT":
        return reply(b'{"granted":true,"reason":"silent for 60.0 s"}')
    return good(command)


@attrs.define(eq=False)
class FakeRegistry:
    """One registry, whatever its connections. `commands`: of all of them, with the time of each."""

    nursery: trio.Nursery
    answer: Callable[[str], bytes | None] = good
    refusing: bool = False
    """Whether a connection is refused."""
    hears: bool = True
    """Whether it reads what it is sent."""
    commands: list[tuple[float, str]] = attrs.field(factory=list)
    identities: list[dict[str, object]] = attrs.field(factory=list)
    bodies: list[tuple[str, dict[str, object]]] = attrs.field(factory=list)
    """Of all other commands."""
    streams: list[trio.abc.Stream] = attrs.field(factory=list)
    attempts: list[float] = attrs.field(factory=list)
    """When somebody tried to connect."""
    registered: set[tuple[str, str]] = attrs.field(factory=set)
    """(topic, channel) of the last connection; the channel of a topic's own entry is empty."""
    ended: int = 0
    """Connections that the other side has closed."""

    async def connect(self, address: str) -> trio.abc.Stream:
        """For a peer: a new connection to this registry."""
        self.attempts.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.refusing:
            raise ConnectionRefusedError("refused")
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.serve, ours)
        return theirs

    async def serve(self, stream: trio.abc.Stream) -> None:
        """One connection."""
        self.streams.append(stream)
        self.registered.clear()
        if not self.hears:
            await trio.sleep_forever()
        reader = _Reader(stream)
        try:
            assert await reader.exactly(4) == b"  V1"
            while (line := await reader.line()) is not None:
                await self._command(line, reader, stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.ended += 1
        await stream.aclose()

    async def _command(self, line: str, reader: _Reader, stream: trio.abc.Stream) -> None:
        self.commands.append((trio.current_time(), line))
        if line in BODIES:
            (size,) = struct.unpack(">i", await reader.exactly(4))
            body = json.loads(await reader.exactly(size))
            if line == "IDENTIFY":
                self.identities.append(body)
            else:
                self.bodies.append((line, body))
        self._note(*line.split(" "))
        answer = self.answer(line)
        if answer is not None:
            await stream.send_all(answer)

    def _note(self, command: str, topic: str = "", channel: str = "") -> None:
        if command == "REGISTER":
            self.registered |= {(topic, ""), (topic, channel)}
        elif command == "UNREGISTER":
            self.registered -= {pair for pair in self.registered if pair == (topic, channel)}
            if not channel:
                self.registered = {pair for pair in self.registered if pair[0] != topic}

    # --- what tests ask

    @property
    def said(self) -> list[str]:
        """The commands without their times."""
        return [command for _, command in self.commands]

    def times_of(self, wanted: str) -> list[float]:
        return [time for time, command in self.commands if command == wanted]

    async def hang_up(self) -> None:
        """Close every connection."""
        streams, self.streams = self.streams, []
        for stream in streams:
            await stream.aclose()


@attrs.define
class _Reader:
    stream: trio.abc.Stream
    buffer: bytes = b""

    async def exactly(self, count: int) -> bytes:
        for _ in itertools.count():
            if len(self.buffer) >= count:
                break
            await self._more()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    async def line(self) -> str | None:
        while b"\n" not in self.buffer:
            if not await self._more():
                return None
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode()

    async def _more(self) -> bool:
        data = await self.stream.receive_some(1 << 16)
        self.buffer += bytes(data)
        if not data and self.buffer:
            raise trio.BrokenResourceError("ended in the middle of a command")
        return bool(data)
