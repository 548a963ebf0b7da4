"""A scripted nsqd that speaks TLS and compresses, in the test's own event loop, over a stream in memory.

    nsqd = LayeredNsqd(group, tls=context, features={"tls_v1": True, "snappy": True})
    connection = await open_connection(ADDRESS, ClientOptions(tls_v1=True, snappy=True), connector=nsqd.connect)

It notes every command, and the layers through which it came; PUB and AUTH are answered with OK unless `answers` says
otherwise.
"""

from __future__ import annotations

import json
import ssl
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import attrs
import trustme
from anyio.abc import ByteStream, TaskGroup
from anyio.streams.tls import TLSStream

from nsqkit import wire
from nsqkit.client import Address, ClientOptions
from nsqkit.client.layers import CompressedStream
from nsqkit.wire.compression import DeflateDecoder, DeflateEncoder
from nsqkit.wire.snappy import SnappyDecoder, SnappyEncoder
from tests.nsqkit.client.fake import FEATURES, MemoryStream, stream_pair

ADDRESS = Address("nsqd.test", 4150)
AUTHORITY = trustme.CA()
CERTIFICATE = AUTHORITY.issue_cert("nsqd.test", "127.0.0.1")
CLIENT_CERTIFICATE = AUTHORITY.issue_cert("client@nsqd.test")


def server_tls() -> ssl.SSLContext:
    """Of an nsqd that asks for no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CERTIFICATE.configure_cert(context)
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)  # an end without a goodbye is an error
    return context


def write_pem(folder: Path) -> dict[str, Any]:
    """The files of a client that trusts the authority, as options."""
    root = folder / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(root))
    return {"tls_v1": True, "tls_root_ca_file": str(root)}


def write_client_pem(folder: Path) -> dict[str, str]:
    """The files of a client with a certificate, as options."""
    cert, key = folder / "client.pem", folder / "client.key"
    for number, blob in enumerate(CLIENT_CERTIFICATE.cert_chain_pems):
        blob.write_to_path(str(cert), append=number > 0)
    CLIENT_CERTIFICATE.private_key_pem.write_to_path(str(key))
    return {"tls_cert": str(cert), "tls_key": str(key)}


@attrs.define(eq=False)
class LayeredNsqd:
    """One connection of it."""

    group: TaskGroup
    features: dict[str, Any] = attrs.field(factory=dict)
    tls: ssl.SSLContext | None = None
    answers: dict[str, bytes] = attrs.field(factory=dict)
    """Frames for commands, where they are not OK. `TLS`, `snappy`, `deflate`: instead of the OK of an upgrade."""
    in_one_piece: bool = False
    """Send the answer to IDENTIFY and the first bytes of the compression together."""
    behind_identify: bytes = b""
    """Sent right behind the answer to IDENTIFY, before anything else."""
    greeting: bytes = b""
    """Sent at the end of the way in."""
    commands: list[str] = attrs.field(factory=list)
    bodies: list[bytes] = attrs.field(factory=list)
    layers: list[str] = attrs.field(factory=list)
    raw: MemoryStream = attrs.field(init=False)
    stream: ByteStream = attrs.field(init=False)
    end: str = ""
    """How the connection ended, once it has."""
    ended: anyio.Event = attrs.field(factory=anyio.Event)
    _buffer: bytes = b""

    async def connect(self, address: Address, options: ClientOptions) -> ByteStream:
        ours, self.raw = stream_pair()
        self.stream = self.raw
        self.group.start_soon(self.serve)
        return ours

    async def serve(self) -> None:
        try:
            assert await self._take(4) == wire.MAGIC_V2
            assert await self._command() == "IDENTIFY"
            asked = json.loads(self.bodies[0])
            agreed = [
                name for name in ("tls_v1", "snappy", "deflate") if self.features.get(name) and asked[name]
            ]
            await self._upgrade(agreed)
            while True:
                name = (await self._command()).split(" ", 1)[0]
                if name in ("PUB", "AUTH"):
                    await self.stream.send(self.answers.get(name, wire.OK))
        except (
            anyio.EndOfStream,
            anyio.BrokenResourceError,
            anyio.ClosedResourceError,
            ssl.SSLError,
        ) as error:
            self.end = type(error).__name__
        finally:
            self.ended.set()
            await anyio.aclose_forcefully(self.raw)

    async def _upgrade(self, agreed: Sequence[str]) -> None:
        said = {
            **FEATURES,
            "tls_v1": False,
            "snappy": False,
            "deflate": False,
            "deflate_level": 6,
            **self.features,
        }
        answer = wire.encode_response(json.dumps(said).encode()) + self.behind_identify
        if self.in_one_piece:
            held = _Held(self.raw)
            self.stream = held
        await self.stream.send(answer)
        for name in agreed:
            assert not self._buffer, "sent before the end of the upgrades"
            if name == "tls_v1":
                self.stream = await TLSStream.wrap(self.stream, server_side=True, ssl_context=self.tls)
            elif name == "snappy":
                self.stream = CompressedStream(self.stream, SnappyEncoder(), SnappyDecoder())
            else:
                level = said["deflate_level"]
                self.stream = CompressedStream(self.stream, DeflateEncoder(level), DeflateDecoder())
            self.layers.append(name)
            await self.stream.send(self.answers.get("TLS" if name == "tls_v1" else name, wire.OK))
        if self.in_one_piece:
            await held.let_go()
        if self.greeting:
            await self.stream.send(self.greeting)

    async def _command(self) -> str:
        while b"\n" not in self._buffer:
            self._buffer += await self.stream.receive()
        line, self._buffer = self._buffer.split(b"\n", 1)
        command = line.decode()
        self.commands.append(command)
        if wire.COMMANDS[command.split(" ", 1)[0].encode()].sized_body:
            size = struct.unpack(">i", await self._take(4))[0]
            self.bodies.append(await self._take(size))
        return command

    async def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._buffer += await self.stream.receive()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken


@attrs.define(eq=False)
class _Held(ByteStream):
    """Keeps what is sent until it is let go, in one piece."""

    below: ByteStream
    kept: bytes | None = b""

    async def send(self, item: bytes) -> None:
        if self.kept is None:
            await self.below.send(item)
        else:
            self.kept += item

    async def let_go(self) -> None:
        kept, self.kept = self.kept, None
        await self.below.send(kept or b"")

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self.below.receive(max_bytes)

    async def send_eof(self) -> None:
        await self.below.send_eof()

    async def aclose(self) -> None:
        await self.below.aclose()
