"""The HTTP server: listeners in, connections out, one sweeper for all their deadlines, and a stop with an
end.

    router = Router()
    router.add("GET", "/ping", lambda request: text("OK", nsq=False))
    server = HttpServer(router)
    await nursery.start(server.run, await open_listeners("127.0.0.1:4151"))
    ...
    server.stop()

`run` returns when the server has stopped: listeners are closed first, idle connections at once, busy ones
when their request is answered, all others when the grace is over. What goes wrong in one connection is logged
and ends only it.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import trio
from attrs import define, field

from nsqkit.logging import get_logger
from nsqkit.service.handshakes import Handshakes
from nsqkit.service.http.batching import Batching
from nsqkit.service.http.connection import Connection
from nsqkit.service.http.limits import ByteBudget, ConnectionShare, Limits
from nsqkit.service.http.message import error, render
from nsqkit.service.http.parser import Routes
from nsqkit.service.http.transport import SocketTransport, StreamTransport, Transport
from nsqkit.service.listeners import accept_forever, close_listener, remote_address
from nsqkit.service.tls import peer_common_name

__all__ = ["HttpServer", "serve"]

_log = get_logger("http")

_FULL = error(503, "TOO_MANY_CONNECTIONS")


@define(slots=True, eq=False)
class HttpServer:
    """Serves one application (a `Router`, or `Only`) on any number of listeners. Run it once."""

    app: Routes
    limits: Limits = field(factory=Limits)
    budget: ByteBudget = field(factory=ByteBudget)
    """Shared with whatever else of the daemon holds clients' bytes."""
    share: ConnectionShare = field()
    """Shared with the other servers of the daemon."""
    batches: bool = False
    """Whether requests of clients without TLS are answered together, by routes that can do that."""

    _batching: Batching | None = field(default=None, init=False)
    _connections: set[Connection] = field(factory=set, init=False)
    _handshakes: int = field(default=0, init=False)
    """Clients that have no connection here yet."""
    _shaking: Handshakes = field(init=False)
    _stopping: trio.Event = field(factory=trio.Event, init=False)
    _changed: trio.Event = field(factory=trio.Event, init=False)
    """Set, and replaced, when the first connection comes or the last one goes."""

    @share.default
    def _own_share(self) -> ConnectionShare:
        return ConnectionShare(self.limits.connections)

    @_shaking.default
    def _with_limits(self) -> Handshakes:
        return Handshakes(self.limits.handshake_seconds, self.limits.linger_seconds)

    @property
    def connection_count(self) -> int:
        """Clients connected now."""
        return len(self._connections) + self._handshakes

    async def run(
        self,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `stop` is called or the task is cancelled; the listeners are closed in either case.

        A plain `trio.SocketListener` is served the fast way; streams of other listeners (`TlsListener`)
        are served through trio.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sweep)
                if self.batches:
                    self._batching = Batching()
                    nursery.start_soon(self._batching.run)
                async with trio.open_nursery() as accepting:
                    for listener in listeners:
                        accepting.start_soon(self._accept, listener, nursery)
                    task_status.started()
                    await self._stopping.wait()
                    accepting.cancel_scope.cancel()
                await self._close_listeners(listeners)
                await self._finish()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._close_listeners(listeners)
            if self._batching is not None:
                self._batching.close()

    def stop(self) -> None:
        """Begin to stop; `run` returns within `Limits.stop_seconds` or so."""
        self._stopping.set()

    async def serve_stream(self, stream: trio.abc.Stream, *, remote: str, secure: bool = False) -> None:
        """Serve one connection on a stream of trio's, in the caller's task, while `run` runs; closes the
        stream. The handshake of a TLS stream has its own limit of time."""
        try:
            if isinstance(stream, trio.SSLStream) and not await self._shake_hands(stream, remote):
                return
            name = peer_common_name(stream) if isinstance(stream, trio.SSLStream) else ""
            await self._serve(StreamTransport(stream), remote, secure=secure, common_name=name)
            with trio.move_on_after(self.limits.linger_seconds):
                await stream.aclose()
        except (trio.BrokenResourceError, OSError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def _accept(self, listener: trio.abc.Listener[trio.abc.Stream], nursery: trio.Nursery) -> None:
        def take(stream: trio.abc.Stream) -> None:
            if isinstance(stream, trio.SocketStream):
                self._take_socket(stream, nursery)
            else:
                secure = isinstance(stream, trio.SSLStream)
                nursery.start_soon(
                    lambda: self.serve_stream(stream, remote=remote_address(stream), secure=secure)
                )

        await accept_forever(listener, take)

    async def _shake_hands(self, stream: trio.SSLStream[trio.abc.Stream], remote: str) -> bool:
        if self._stopping.is_set() or not self.share.make_room():
            return False
        self._handshakes += 1
        self.share.handshakes += 1
        try:
            failure = await self._shaking.failure(stream)
        finally:
            self._handshakes -= 1
            self.share.handshakes -= 1
        if failure:
            _log.info("HTTPS: handshake with %s failed - %s", remote, failure)
        return not failure

    def _take_socket(self, stream: trio.SocketStream, nursery: trio.Nursery) -> None:
        remote = remote_address(stream)
        transport = SocketTransport(socket.socket(fileno=stream.socket.detach()))
        nursery.start_soon(lambda: self._serve(transport, remote, secure=False))

    async def _serve(self, transport: Transport, remote: str, *, secure: bool, common_name: str = "") -> None:
        batching = self._batching if transport.fd >= 0 else None
        connection = Connection(
            transport, self.app, self.limits, self.budget, remote, secure, common_name, batching
        )
        if self._stopping.is_set() or not self.share.make_room():
            await self._refuse(transport)
            return
        self.share.add(connection)
        self._connections.add(connection)
        if len(self._connections) == 1:
            self._tell_change()
        try:
            await connection.run()
        finally:
            self.share.discard(connection)
            self._connections.discard(connection)
            if not self._connections:
                self._tell_change()

    async def _refuse(self, transport: Transport) -> None:
        """One client too many. No lingering: that would make it the one that is served."""
        try:
            transport.send_now(render(_FULL, "1.1", keep_alive=False, head_only=False))
            await transport.end()
        except ConnectionError:
            pass
        finally:
            transport.close()

    def _tell_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _sweep(self) -> None:
        """Cut the connections whose deadline has passed; asleep while there is none."""
        while True:
            if not self._connections:
                await self._changed.wait()
            await trio.sleep(self.limits.sweep_seconds)
            now = trio.current_time()
            for connection in self._connections:
                if connection.deadline < now:
                    connection.expire()

    async def _finish(self) -> None:
        """Give the busy connections their grace."""
        with trio.move_on_after(self.limits.stop_seconds):
            for connection in self._connections:
                connection.finish()
            while self._connections:
                await self._changed.wait()

    async def _close_listeners(self, listeners: Sequence[trio.abc.Listener[trio.abc.Stream]]) -> None:
        for listener in listeners:
            await close_listener(listener)


async def serve(
    app: Routes,
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
    *,
    limits: Limits | None = None,
    budget: ByteBudget | None = None,
    task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, or until `stop` of the server that `nursery.start` returns is called."""
    server = HttpServer(app, limits or Limits(), budget or ByteBudget())
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: server.run(listeners, task_status=task_status))
        task_status.started(server)
