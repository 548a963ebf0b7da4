from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest
import trio
import trio.testing

from nsqkit.service.http import AsgiApp, ByteBudget, HttpServer, Limits
from nsqkit.service.listeners import bound_address, open_listeners
from tests.nsqkit.service.http.http_peer import chunked, get, post, serving
from tests.timing import patience

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class App:
    """A tiny application; what it saw is kept."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []
        self.events: list[str] = []
        self.sent = 0
        self.ended = trio.Event()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.lifespan(scope, receive, send)
            return
        self.scopes.append(scope)
        message = await receive()
        assert message["type"] == "http.request"
        assert message["more_body"] is False
        await getattr(self, scope["path"].strip("/"))(message["body"], receive, send)

    async def lifespan(self, scope: Any, receive: Receive, send: Send) -> None:
        scope["state"]["answer"] = 42
        self.events.append((await receive())["type"])
        await send({"type": "lifespan.startup.complete"})
        self.events.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})

    async def start(self, send: Send, *headers: tuple[bytes, bytes], status: int = 200) -> None:
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def body(self, send: Send, body: bytes, *, more: bool = False) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": more})

    async def echo(self, body: bytes, receive: Receive, send: Send) -> None:
        await self.start(send, (b"x-one", b"1"), (b"x-one", b"2"))
        await self.body(send, body)

    async def pieces(self, body: bytes, receive: Receive, send: Send) -> None:
        await self.start(send)
        for piece in (b"one", b"", b"two"):
            await self.body(send, piece, more=True)
        await self.body(send, b"")

    async def declared(self, body: bytes, receive: Receive, send: Send) -> None:
        await self.start(send, (b"content-length", b"6"))
        await self.body(send, b"one", more=True)
        await self.body(send, b"two")

    async def short(self, body: bytes, receive: Receive, send: Send) -> None:
        await self.start(send, (b"content-length", b"6"))
        await self.body(send, b"one")

    async def nothing(self, body: bytes, receive: Receive, send: Send) -> None:
        await self.start(send, status=204)
        await self.body(send, b"")

    async def crash(self, body: bytes, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("on purpose")

    async def silent(self, body: bytes, receive: Receive, send: Send) -> None:
        return

    async def crash_late(self, body: bytes, receive: Receive, send: Send) -> None:
        await self.start(send)
        await self.body(send, b"some", more=True)
        raise ZeroDivisionError("on purpose")

    async def inject(self, body: bytes, receive: Receive, send: Send) -> None:
        await self.start(send, (b"x", b"a\r\nset-cookie: b"))
        await self.body(send, b"")

    async def flood(self, body: bytes, receive: Receive, send: Send) -> None:
        """Sends until the client is gone."""
        await self.start(send)
        try:
            while True:
                await self.body(send, b"x" * 100_000, more=True)
                self.sent += 100_000
        except OSError as exc:
            self.events.append(type(exc).__name__)
            raise
        finally:
            self.ended.set()

    async def events_stream(self, body: bytes, receive: Receive, send: Send) -> None:
        """Server-sent events, until the client is gone."""
        await self.start(send, (b"content-type", b"text/event-stream"))
        await self.body(send, b"data: 1\n\n", more=True)
        assert (await receive())["type"] == "http.disconnect"
        assert (await receive())["type"] == "http.disconnect"
        self.ended.set()

    async def watched(self, body: bytes, receive: Receive, send: Send) -> None:
        """Watches for the client's end beside its work, as frameworks do."""
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                self.events.append((await receive())["type"])

            nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            await self.start(send)
            await self.body(send, b"done")


BOTH = pytest.mark.parametrize("tcp", [False, True], ids=["memory", "tcp"])


@BOTH
async def test_scope_and_body(tcp: bool) -> None:
    app = App()
    async with serving(AsgiApp(app), tcp=tcp) as it:
        client = await it.connect()
        for data in (post("/echo?a=%20", b"abc", "X-Y: z"), chunked("/echo?a=%20", b"a", b"bc")):
            answer = await client.ask(data)
            assert (answer.status, answer.body) == (200, b"abc")
            assert answer.head.count(b"x-one: ") == 2
            assert answer.head.count(b"Date: ") == 1
            assert b"X-Nsq-Content-Type" not in answer.headers
    scope = app.scopes[0]
    assert scope["type"] == "http"
    assert (scope["method"], scope["path"], scope["raw_path"]) == ("POST", "/echo", b"/echo")
    assert (scope["query_string"], scope["http_version"], scope["scheme"]) == (b"a=%20", "1.1", "http")
    assert (b"x-y", b"z") in scope["headers"]
    assert scope["state"] == {"answer": 42}
    assert scope["client"][0] == ("127.0.0.1" if tcp else "192.0.2.1")
    assert isinstance(scope["client"][1], int)


@BOTH
@pytest.mark.parametrize(
    ("path", "framing"), [("pieces", b"transfer-encoding"), ("declared", b"content-length")]
)
async def test_pieces(path: str, framing: bytes, tcp: bool) -> None:
    async with serving(AsgiApp(App()), tcp=tcp) as it:
        client = await it.connect()
        for _ in range(2):
            await client.send(get(f"/{path}"))
            response, body, _ = await client.h11_answer()
            assert body == b"onetwo"
            assert framing in dict(response.headers)


async def test_pieces_to_http_1_0_end_with_the_connection() -> None:
    async with serving(AsgiApp(App()), tcp=True) as it:
        client = await it.connect()
        await client.send(b"GET /pieces HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        data = await client.rest()
        assert data.endswith(b"Connection: close\r\n\r\nonetwo")


async def test_responses_without_a_body() -> None:
    async with serving(AsgiApp(App()), tcp=True) as it:
        client = await it.connect()
        await client.send(
            get("/declared", "HEAD") + get("/nothing") + get("/pieces", "HEAD", "Connection: close")
        )
        heads = (await client.rest()).split(b"\r\n\r\n")
        assert [head[:13] for head in heads] == [b"HTTP/1.1 200 ", b"HTTP/1.1 204 ", b"HTTP/1.1 200 ", b""]
        assert b"content-length: 6" in heads[0]


@pytest.mark.parametrize("path", ["crash", "silent", "inject"])
async def test_crash_before_the_response(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(AsgiApp(App())) as it:
        client = await it.connect()
        for _ in range(2):
            answer = await client.ask(get(f"/{path}"))
            assert (answer.status, answer.body) == (500, b'{"message":"INTERNAL_ERROR"}')
    assert ("crashed" in caplog.text) is (path != "silent")
    assert "gave no answer" in caplog.text


@pytest.mark.parametrize("path", ["crash_late", "short"])
async def test_broken_off_response_does_not_look_whole(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(AsgiApp(App()), tcp=True) as it:
        client = await it.connect()
        await client.send(get(f"/{path}"))
        with pytest.raises(trio.BrokenResourceError):
            await client.rest()
    assert "crashed" in caplog.text


async def test_body_limit() -> None:
    async with serving(AsgiApp(App(), body_limit=3), tcp=True) as it:
        client = await it.connect()
        assert (await client.ask(post("/echo", b"abc"))).body == b"abc"
        answer = await client.ask(post("/echo", b"abcd"))
        assert (answer.status, answer.body) == (413, b'{"message":"BODY_TOO_BIG"}')
        assert await client.rest() == b""


async def test_sending_waits_for_a_slow_client_and_ends_with_it() -> None:
    app, budget = App(), ByteBudget()
    async with serving(AsgiApp(app), tcp=True, budget=budget) as it:
        client = await it.connect()
        await client.send(get("/flood"))
        await trio.testing.wait_all_tasks_blocked(0.05)
        sent = app.sent
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert app.sent == sent < 50_000_000
        assert 0 < budget.used < 200_000
        await client.stream.aclose()
        with trio.fail_after(patience(5)):
            await app.ended.wait()
        assert "ConnectionError" in app.events
        await trio.testing.wait_all_tasks_blocked()
        assert budget.used == 0


async def test_client_that_reads_no_stream_is_cut() -> None:
    app = App()
    async with serving(
        AsgiApp(app), tcp=True, limits=Limits(write_seconds=0.1, slowest_bytes_per_second=10**9)
    ) as it:
        client = await it.connect()
        await client.send(get("/flood"))
        with trio.fail_after(patience(5)):
            await app.ended.wait()


@BOTH
async def test_events_end_when_the_client_goes(tcp: bool) -> None:
    app = App()
    async with serving(AsgiApp(app), tcp=tcp) as it:
        client = await it.connect()
        await client.send(get("/events_stream"))
        data = b""
        while not data.endswith(b"9\r\ndata: 1\n\n\r\n"):
            data += await client.stream.receive_some()
        assert not app.ended.is_set()
        await client.stream.aclose()
        with trio.fail_after(patience(5)):
            await app.ended.wait()


@BOTH
async def test_next_request_read_while_watching_is_not_lost(tcp: bool) -> None:
    app = App()
    async with serving(AsgiApp(app), tcp=tcp) as it:
        client = await it.connect()
        await client.send(get("/watched") * 2 + get("/watched")[:20])
        assert (await client.answer()).body == b"done"
        assert (await client.answer()).body == b"done"
        await client.send(get("/watched")[20:])
        assert (await client.answer()).body == b"done"
    assert app.events[:4] == ["lifespan.startup"] + ["http.disconnect"] * 3


async def test_access_log() -> None:
    lines: list[tuple[str, int]] = []
    async with serving(AsgiApp(App(), access_log=lambda r, status, s: lines.append((r.path, status)))) as it:
        client = await it.connect()
        for path in ("/echo", "/nothing", "/silent"):
            await client.ask(get(path))
    assert lines == [("/echo", 200), ("/nothing", 204), ("/silent", 500)]


async def test_lifespan_and_stop_of_a_stream(nursery: trio.Nursery) -> None:
    app = App()
    server = HttpServer(AsgiApp(app), Limits(stop_seconds=0.2))
    listeners = await open_listeners("127.0.0.1:0")
    done = trio.Event()

    async def run(task_status: trio.TaskStatus[None]) -> None:
        await server.run(listeners, task_status=task_status)
        done.set()

    await nursery.start(run)
    assert app.events == ["lifespan.startup"]
    async with await trio.open_tcp_stream("127.0.0.1", bound_address(listeners[0]).port) as stream:
        await stream.send_all(get("/events_stream"))
        await stream.receive_some()
        server.stop()
        with trio.fail_after(patience(2)):
            await done.wait()
    assert app.events == ["lifespan.startup", "lifespan.shutdown"]


async def test_application_that_does_not_start() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="no database")):
        await HttpServer(AsgiApp(app)).run([])


async def test_application_without_lifespan() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    async with serving(AsgiApp(app)) as it:
        client = await it.connect()
        assert (await client.ask(get("/"))).status == 200
