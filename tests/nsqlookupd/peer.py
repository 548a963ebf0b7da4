"""What the tests of the protocol share: commands and answers in bytes, and a client on a stream."""

from __future__ import annotations

import json
import struct
from typing import Any

import attrs
import trio

from tests.timing import patience

WITHIN_S = 10

IDENTITY = b'{"broadcast_address":"l","hostname":"h","http_port":4161,"tcp_port":4160,"version":"1.4.0"}'
WITNESS_IDENTITY = IDENTITY[:-1] + b',"witness":"' + b"f" * 32 + b'"}'
LEADER, FOLLOWER = "1" * 32, "2" * 32
PRODUCER = {"broadcast_address": "n1", "tcp_port": 4150, "http_port": 4151, "version": "1.3.0"}


def identify(**changes: Any) -> bytes:
    """The command; a field that is None is left out."""
    fields = {key: value for key, value in {**PRODUCER, **changes}.items() if value is not None}
    return identify_raw(json.dumps(fields).encode())


def identify_raw(body: bytes, size: int | None = None) -> bytes:
    return with_body(b"IDENTIFY", body, size)


def with_body(command: bytes, body: bytes, size: int | None = None) -> bytes:
    return command + b"\n" + struct.pack(">i", len(body) if size is None else size) + body


def answers(*texts: bytes) -> bytes:
    """As they are on the wire."""
    return b"".join(struct.pack(">i", len(text)) + text for text in texts)


@attrs.define
class Client:
    """An nsqd, as nsqlookupd sees it."""

    stream: trio.abc.HalfCloseableStream | trio.SSLStream[trio.SocketStream]
    buffer: bytes = b""

    async def send(self, data: bytes) -> None:
        with trio.fail_after(patience(WITHIN_S)):
            await self.stream.send_all(data)

    async def read(self) -> bytes:
        """The next answer."""
        size = struct.unpack(">i", await self._take(4))[0]
        return await self._take(size)

    async def ask(self, command: bytes) -> bytes:
        await self.send(command)
        return await self.read()

    async def ended(self) -> bool:
        """Whether the server has closed, without another answer."""
        with trio.fail_after(patience(WITHIN_S)):
            return not self.buffer and not await self.stream.receive_some(1)

    async def _take(self, size: int) -> bytes:
        with trio.fail_after(patience(WITHIN_S)):
            while len(self.buffer) < size:
                data = await self.stream.receive_some(65536)
                assert data, f"the server closed; so far: {self.buffer!r}"
                self.buffer += data
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken
