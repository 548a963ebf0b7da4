"""A server in the test's own process, and clients that say exactly the bytes they are told to."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import h11
import trio
from attrs import define, field
from trio.testing import memory_stream_pair

from nsqkit.service.http import (
    ByteBudget,
    ConnectionShare,
    HttpServer,
    Limits,
    Request,
    Response,
    Router,
    error,
    query,
    text,
)
from nsqkit.service.http.parser import Routes
from nsqkit.service.listeners import bound_address, open_listeners
from tests.timing import patience

WITHIN_S = 10

BAD_REQUEST = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"400 Bad Request"
)


@define
class Answer:
    status: int
    headers: dict[bytes, bytes]
    """Names as on the wire."""
    body: bytes
    head: bytes


@define
class Client:
    stream: trio.abc.Stream
    buffer: bytes = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answer(self) -> Answer:
        """The next response, which must have a Content-Length."""
        while b"\r\n\r\n" not in self.buffer:
            self.buffer += await self._more()
        head, _, rest = self.buffer.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines[1:])
        status = int(lines[0].split(b" ")[1])
        size = int(headers.get(b"Content-Length", b"0"))
        while len(rest) < size:
            rest += await self._more()
        self.buffer = rest[size:]
        return Answer(status, headers, rest[:size], head)

    async def _more(self) -> bytes:
        with trio.fail_after(patience(WITHIN_S)):
            data = await self.stream.receive_some(65536)
        assert data, f"the server closed; so far: {self.buffer!r}"
        return bytes(data)

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        data = self.buffer
        with trio.fail_after(patience(WITHIN_S)):
            while piece := await self.stream.receive_some(65536):
                data += piece
        return data

    async def ask(self, data: bytes) -> Answer:
        await self.send(data)
        return await self.answer()

    async def h11_answer(self, method: str = "GET") -> tuple[h11.Response, bytes, h11.Connection]:
        """The next response as another implementation reads it."""
        conn = h11.Connection(h11.CLIENT)
        conn.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        conn.send(h11.EndOfMessage())
        response, body = None, b""
        while True:
            event = conn.next_event()
            if event is h11.NEED_DATA:
                with trio.fail_after(patience(WITHIN_S)):
                    conn.receive_data(await self.stream.receive_some(65536))
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert response is not None
                return response, body, conn


@define
class Serving:
    server: HttpServer
    nursery: trio.Nursery
    listener: trio.SocketListener | None = None
    clients: list[Client] = field(factory=list)

    async def connect(self) -> Client:
        """Over TCP when there is a listener, else in memory."""
        if self.listener is not None:
            stream: trio.abc.Stream = await trio.open_tcp_stream(
                "127.0.0.1", bound_address(self.listener).port
            )
        else:
            stream, theirs = memory_stream_pair()
            self.nursery.start_soon(lambda: self.server.serve_stream(theirs, remote="192.0.2.1:5"))
        self.clients.append(Client(stream))
        return self.clients[-1]


@contextlib.asynccontextmanager
async def serving(
    app: Routes,
    *,
    limits: Limits | None = None,
    budget: ByteBudget | None = None,
    share: ConnectionShare | None = None,
    tcp: bool = False,
) -> AsyncIterator[Serving]:
    server = HttpServer(app, limits or Limits(), budget or ByteBudget())
    server.share = share or server.share
    listeners = await open_listeners("127.0.0.1:0") if tcp else []
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: server.run(listeners, task_status=task_status))
        serving = Serving(server, nursery, listeners[0] if tcp else None)
        try:
            yield serving
        finally:
            with trio.CancelScope(shield=True):
                for client in serving.clients:
                    await trio.aclose_forcefully(client.stream)
        server.stop()
        await settle(server)
        nursery.cancel_scope.cancel()


async def settle(server: HttpServer, most: int = 0) -> None:
    """Wait until at most so many clients are connected: the kernel tells of their end when it likes."""
    with trio.fail_after(patience(WITHIN_S)):
        while server.connection_count > most:  # noqa: ASYNC110
            await trio.sleep(0.01)


LIMIT = 100


def echo(request: Request) -> Response:
    return text(request.body)


def small_api(*, log: Callable[[Request, int, float], None] | None = None) -> Router:
    """Routes of every kind that the daemons have."""

    async def slow(request: Request) -> Response:
        await trio.sleep(float(query(request).get("seconds", "0")))
        return text("slow")

    def crash(request: Request) -> Response:
        raise ZeroDivisionError("on purpose")

    async def crash_later(request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError("on purpose")

    router = Router(log)
    router.add("GET", "/ping", lambda request: text("OK", nsq=False))
    router.add("POST", "/pub", echo, body_limit=LIMIT, too_big=error(413, "MSG_TOO_BIG"), quiet=True)
    router.add("POST", "/mpub", echo, body_limit=lambda: LIMIT)
    router.add("POST", "/topic/create", lambda request: text(query(request)["topic"]))
    router.add("GET", "/config/:opt", lambda request: text(request.params["opt"]))
    router.add("PUT", "/config/:opt", echo, body_limit=LIMIT)
    router.add("GET", "/empty", lambda request: text(""))
    router.add("GET", "/debug/pprof/", lambda request: text("index", nsq=False))
    router.add("GET", "/slow", slow)
    router.add("GET", "/crash", crash)
    router.add("GET", "/crash/later", crash_later)
    router.add("GET", "/big", lambda request: text(b"x" * 4_000_000))
    return router


def get(target: str, method: str = "GET", *headers: str, body: bytes = b"") -> bytes:
    """A request with Host, and with Content-Length when it has a body."""
    lines = [f"{method} {target} HTTP/1.1", "Host: a", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def post(target: str, body: bytes, *headers: str) -> bytes:
    return get(target, "POST", *headers, body=body)


def chunked(target: str, *chunks: bytes, trailer: bytes = b"") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n" + trailer + b"\r\n"
    return get(target, "POST", "Transfer-Encoding: chunked") + body
