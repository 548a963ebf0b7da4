"""A broker behind its real driver, and clients that talk to it over loopback, with each of the layers in between.

Socket buffers are small, so that a client that does not read blocks its connection soon.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio
import trio.testing

from nsqd.broker import Broker, BrokerOptions
from nsqd.log.store import Store, StoreOptions
from nsqd.protocol_v2.connection import ClientConnection
from nsqd.protocol_v2.connections import Connections
from nsqd.protocol_v2.context import Context
from nsqd.protocol_v2.session import Session
from nsqd.rounds import Rounds
from nsqd.testing.memory_storage import MemoryStorage
from nsqkit.wire import Message, decode_message
from tests.nsqd.protocol_v2.harness import MAGIC, VERSION
from tests.nsqd.protocol_v2.layered import LayeredStream, server_tls
from tests.timing import patience

LAYERS = ["plain", "tls", "snappy", "deflate", "tls+snappy", "tls+deflate"]
BUFFER = 16 * 1024  # bytes that a socket is to hold in either direction; the kernel takes a few times as much


class Server:
    """A daemon's inside. `layers`: what its clients ask for, one of `LAYERS`."""

    def __init__(self, layers: str, nursery: trio.Nursery, **options: object) -> None:
        wall_ns = time.time_ns()
        store = Store(MemoryStorage(), StoreOptions(min_free_space=0, ballast_bytes=0), wall_ns)
        broker_options = BrokerOptions(**options)  # type: ignore[arg-type]
        self.broker = Broker(store, broker_options, trio.current_time(), wall_ns)
        self.rounds = Rounds(self.broker, self._fatal)
        self.context = Context(
            broker=self.broker,
            version=VERSION,
            enlist=self.rounds.answering.append,
            refresh_clock=self.rounds.begin,
            tls=server_tls(),
        )
        self.layers = layers
        self.peers: list[Peer] = []
        self._connections = Connections(self.context, self.rounds)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=300)
        nursery.start_soon(self.rounds.run_jobs)
        nursery.start_soon(self.rounds.run_clock)
        nursery.start_soon(self._connections.run)

    @property
    def sessions(self) -> list[Session]:
        return self._connections.sessions

    @staticmethod
    def _fatal(error: OSError) -> None:
        raise error

    async def connect(
        self, greeting: bytes = MAGIC, layers: str = "", buffer: int = BUFFER, remote: str = "peer:1"
    ) -> Peer:
        """A new client, which has sent the greeting, and upgraded if that is a right one; its `session` is the
        daemon's side.

        `buffer`: bytes that its sockets are to hold.
        """
        before = set(self.sessions)
        stream = LayeredStream(self._loopback(buffer, remote))
        await trio.testing.wait_all_tasks_blocked()
        (session,) = set(self.sessions) - before
        if greeting:
            await stream.send_all(greeting)
        layers = layers or self.layers
        if greeting == MAGIC and layers != "plain":
            names = {"tls": "tls_v1"}
            await stream.upgrade(**{names.get(layer, layer): True for layer in layers.split("+")})
        peer = Peer(stream, session)
        self.peers.append(peer)
        return peer

    def connection_of(self, peer: Peer) -> ClientConnection:
        """The daemon's side of a client."""
        (found,) = [c for c in self._connections.connections.values() if c.session is peer.session]
        return found

    def _loopback(self, buffer: int, remote: str) -> trio.SocketStream:
        theirs = socket.socket()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        theirs.connect(self._listener.getsockname())
        ours, _ = self._listener.accept()
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections.add(ours, remote)
        return trio.SocketStream(trio.socket.from_stdlib_socket(theirs))

    async def settled(self) -> None:
        """Until the daemon has done all it can do with what it has."""
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked(0.02)

    async def close(self) -> None:
        with trio.CancelScope(shield=True):
            for peer in self.peers:
                await peer.close()
        self._listener.close()
        self._connections.close_all()


@attrs.define(eq=False)
class Peer:
    """A client of the server."""

    stream: LayeredStream
    session: Session
    was_reset: bool = False
    _data: bytearray = attrs.field(factory=bytearray)

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def frame(self) -> bytes:
        """The next frame; `EOFError` at the end."""
        await self._fill(4)
        size = 4 + struct.unpack_from(">i", self._data)[0]
        await self._fill(size)
        frame = bytes(self._data[:size])
        del self._data[:size]
        return frame

    async def message(self) -> Message:
        return decode_message(await self.frame())

    async def frames(self, count: int) -> list[bytes]:
        return [await self.frame() for _ in range(count)]

    async def all(self) -> list[bytes]:
        """Every frame until the end; a reset counts as one."""
        frames = []
        try:
            while True:
                frames.append(await self.frame())
        except trio.BrokenResourceError:
            self.was_reset = True
            return frames
        except EOFError:
            return frames

    async def _fill(self, size: int) -> None:
        while len(self._data) < size:
            data = await self.stream.receive_some(65536)
            if not data:
                raise EOFError(f"{len(self._data)} bytes are left over")
            self._data += data

    async def close(self) -> None:
        await trio.aclose_forcefully(self.stream)


@asynccontextmanager
async def serving(layers: str, limit: float = 30.0, **options: object) -> AsyncIterator[Server]:
    """A server for the time of a test, which must end within `limit` seconds (of a quiet machine)."""
    with trio.fail_after(patience(limit)):
        async with trio.open_nursery() as nursery:
            server = Server(layers, nursery, **options)
            try:
                yield server
            finally:
                nursery.cancel_scope.cancel()
                await server.close()
