"""A broker behind each of the drivers, and clients that talk to it over real connections.

    plain     `PlainConnections` on loopback sockets
    stream    `serve_stream` on loopback sockets
    memory    `serve_stream` on streams in memory, where a send ends only when the other side has read it all

Socket buffers are small, so that a client that does not read blocks its connection soon.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio
import trio.testing

from nsqd.broker import Broker, BrokerOptions
from nsqd.log.memory import MemoryStorage
from nsqd.log.store import Store, StoreOptions
from nsqd.protocol_v2.context import Context
from nsqd.protocol_v2.plain import PlainConnections
from nsqd.protocol_v2.session import Session
from nsqd.protocol_v2.streams import serve_stream
from nsqd.rounds import Rounds
from nsqkit.wire import Message, decode_message
from tests.protocol_v2.harness import MAGIC, VERSION

DRIVERS = ["plain", "stream", "memory"]
BUFFER = 16 * 1024  # bytes that a socket is to hold in either direction; the kernel takes a few times as much
WALL_NS = 1_700_000_000 * 10**9


class Server:
    """A daemon's inside, with one driver."""

    def __init__(self, driver: str, nursery: trio.Nursery, **options: object) -> None:
        store = Store(MemoryStorage(), StoreOptions(min_free_space=0, ballast_bytes=0), WALL_NS)
        broker_options = BrokerOptions(**options)  # type: ignore[arg-type]
        self.broker = Broker(store, broker_options, trio.current_time(), WALL_NS)
        self.context = Context(broker=self.broker, version=VERSION)
        self.rounds = Rounds(self.broker, self.context, self._fatal)
        self.driver = driver
        self.peers: list[Peer] = []
        self._nursery = nursery
        self._plain = PlainConnections(self.context, self.rounds)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=300)
        nursery.start_soon(self.rounds.run_jobs)
        nursery.start_soon(self.rounds.run_clock)
        nursery.start_soon(self._plain.run)

    @staticmethod
    def _fatal(error: OSError) -> None:
        raise error

    async def connect(self, greeting: bytes = MAGIC, driver: str = "", buffer: int = BUFFER) -> Peer:
        """A new client, which has sent the greeting; its `session` is the daemon's side.

        `buffer`: bytes that its sockets are to hold.
        """
        driver = driver or self.driver
        before = set(self.context.sessions)
        stream = self._memory() if driver == "memory" else self._loopback(driver, buffer)
        await trio.testing.wait_all_tasks_blocked()
        (session,) = set(self.context.sessions) - before
        peer = Peer(stream, session)
        self.peers.append(peer)
        if greeting:
            await peer.send(greeting)
        return peer

    def _memory(self) -> trio.abc.HalfCloseableStream:
        ours, theirs = trio.testing.lockstep_stream_pair()
        self._nursery.start_soon(serve_stream, ours, self.context, self.rounds, "peer:1", "peer")
        return theirs

    def _loopback(self, driver: str, buffer: int) -> trio.abc.HalfCloseableStream:
        theirs = socket.socket()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        theirs.connect(self._listener.getsockname())
        ours, _ = self._listener.accept()
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if driver == "plain":
            self._plain.add(ours, "peer:1", "peer")
        else:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            self._nursery.start_soon(serve_stream, stream, self.context, self.rounds, "peer:1", "peer")
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
        self._plain.close_all()


@attrs.define(eq=False)
class Peer:
    """A client of the server."""

    stream: trio.abc.HalfCloseableStream
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
async def serving(driver: str, limit: float = 10.0, **options: object) -> AsyncIterator[Server]:
    """A server for the time of a test, which must end within `limit` seconds."""
    with trio.fail_after(limit):
        async with trio.open_nursery() as nursery:
            server = Server(driver, nursery, **options)
            try:
                yield server
            finally:
                nursery.cancel_scope.cancel()
                await server.close()
