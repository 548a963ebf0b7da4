"""A client's end of a connection with TLS, compression, or both."""

from __future__ import annotations

import contextlib
import json
import ssl
import struct
from typing import Any

import trio
import trustme

from nsqkit.wire import OK
from nsqkit.wire.compression import Decoder, DeflateDecoder, DeflateEncoder, Encoder
from nsqkit.wire.snappy import SnappyDecoder, SnappyEncoder
from tests.nsqd.protocol_v2.harness import identify

AUTHORITY = trustme.CA()
CERTIFICATE = AUTHORITY.issue_cert("127.0.0.1")


def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CERTIFICATE.configure_cert(context)
    return context


def client_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


class LayeredStream(trio.abc.HalfCloseableStream):
    """What trio has no stream for: TLS with half a close, and compression."""

    def __init__(self, raw: trio.SocketStream) -> None:
        self.raw = raw
        self.answer: dict[str, Any] = {}
        self._tls: ssl.SSLObject | None = None
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._encoder: Encoder | None = None
        self._decoder: Decoder | None = None
        self._plain = b""  # decoded, and more than was asked for
        self._said_goodbye = False
        self._sending = trio.Lock()

    async def upgrade(self, **asked: Any) -> LayeredStream:
        """IDENTIFY with these fields, and everything that the answer asks for."""
        await self.raw.send_all(identify(feature_negotiation=True, **asked))
        self.answer = json.loads((await self.frame())[8:])
        if self.answer["tls_v1"]:
            await self.start_tls(client_tls())
            assert await self.frame() == OK
        if self.answer["snappy"]:
            self._encoder, self._decoder = SnappyEncoder(), SnappyDecoder()
        if self.answer["deflate"]:
            self._encoder, self._decoder = DeflateEncoder(self.answer["deflate_level"]), DeflateDecoder()
        if self._encoder is not None:
            assert await self.frame() == OK
        return self

    async def start_tls(self, context: ssl.SSLContext) -> None:
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="127.0.0.1")
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self.raw.send_all(self._out.read())
                self._in.write(await self.raw.receive_some())
        await self.raw.send_all(self._out.read())

    async def frame(self) -> bytes:
        """One frame, and not a byte more."""
        head = await self._exactly(4)
        return head + await self._exactly(struct.unpack(">i", head)[0])

    async def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            got = await self.receive_some(size - len(data))
            if not got:
                raise EOFError(data)
            data += got
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        async with self._sending:
            data = bytes(data)
            if self._encoder is not None:
                data = self._encoder.encode(data)
            if self._tls is not None:
                self._tls.write(data)
                data = self._out.read()
            await self.raw.send_all(data)

    async def send_raw(self, data: bytes) -> None:
        """Past the compression, but through TLS."""
        encoder, self._encoder = self._encoder, None
        await self.send_all(data)
        self._encoder = encoder

    async def say_goodbye(self) -> None:
        """TLS's own end of this direction, and nothing of the socket's."""
        assert self._tls is not None
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        await self.raw.send_all(self._out.read())

    async def ended_in_tls(self) -> bool:
        """Whether the server ends its direction, and says so in TLS before the socket ends."""
        assert self._tls is not None
        assert await self._receive(1) == b""
        return self._said_goodbye

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        limit = max_bytes or 65_536
        while not self._plain:
            if self._decoder is not None and (decoded := self._decoder.decode(limit)):
                self._plain = decoded
                break
            data = await self._receive(limit)
            if self._decoder is None or not data:
                return data
            self._decoder.feed(data)
        plain, self._plain = self._plain[:limit], self._plain[limit:]
        return plain

    async def _receive(self, limit: int) -> bytes:
        if self._tls is None:
            return bytes(await self.raw.receive_some(limit))
        while True:
            try:
                data = self._tls.read(limit)
                self._said_goodbye = not data
                return data
            except ssl.SSLWantReadError:
                data = await self.raw.receive_some(65_536)
                if not data:
                    return b""
                self._in.write(data)
            except ssl.SSLZeroReturnError:
                self._said_goodbye = True
                return b""

    async def wait_send_all_might_not_block(self) -> None:
        await self.raw.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self.raw.send_eof()

    async def aclose(self) -> None:
        await self.raw.aclose()
