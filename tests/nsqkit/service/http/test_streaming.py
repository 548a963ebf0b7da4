from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
import trio.testing

from nsqkit.service.http import (
    ByteBudget,
    Exchange,
    HttpServer,
    Limits,
    Request,
    Response,
    ResponseStream,
    Router,
)
from nsqkit.service.http.message import render, text
from nsqkit.service.listeners import bound_address, open_listeners
from tests.nsqkit.service.http.http_peer import get, serving

PLAIN = b"text/plain"


class Streams:
    """Stream handlers, each at a path of its name; what they saw is kept."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.sent = 0
        self.ended = trio.Event()
        self.log: list[tuple[str, int]] = []

    def router(self) -> Router:
        router = Router(lambda request, status, seconds: self.log.append((request.path, status)))
        for name in ("pieces", "whole", "crash", "crash_late", "flood", "events_stream", "watched"):
            router.add_stream("GET", f"/{name}", getattr(self, name))
        return router

    async def pieces(self, request: Request, exchange: Exchange) -> int:
        stream = ResponseStream(request, exchange)
        await stream.start(200, PLAIN, [(b"X-One", b"1"), (b"X-One", b"2")])
        for piece in (b"one", b"two"):
            await stream.send(piece)
        await stream.end()
        return 200

    async def whole(self, request: Request, exchange: Exchange) -> int:
        """Decides against a stream."""
        await exchange.send(whole_response(request, exchange, 503))
        return 503

    async def crash(self, request: Request, exchange: Exchange) -> int:
        raise ZeroDivisionError("on purpose")

    async def crash_late(self, request: Request, exchange: Exchange) -> int:
        stream = ResponseStream(request, exchange)
        await stream.start(200, PLAIN)
        await stream.send(b"some")
        raise ZeroDivisionError("on purpose")

    async def flood(self, request: Request, exchange: Exchange) -> int:
        """Sends until the client is gone."""
        stream = ResponseStream(request, exchange)
        await stream.start(200, PLAIN)
        try:
            while True:
                await stream.send(b"x" * 100_000)
                self.sent += 100_000
        except OSError as exc:
            self.events.append(type(exc).__name__)
            raise
        finally:
            self.ended.set()

    async def events_stream(self, request: Request, exchange: Exchange) -> int:
        """Server-sent events, until the client is gone."""
        stream = ResponseStream(request, exchange)
        await stream.start(200, b"text/event-stream")
        await stream.send(b"data: 1\n\n")
        await exchange.wait_disconnect()
        self.ended.set()
        raise ConnectionError("the client has gone")

    async def watched(self, request: Request, exchange: Exchange) -> int:
        """Watches for the client's end while it works."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.wait_disconnect)
            await trio.testing.wait_all_tasks_blocked()
            await exchange.send(whole_response(request, exchange, 200))
            nursery.cancel_scope.cancel()
        return 200


def whole_response(request: Request, exchange: Exchange, status: int) -> bytes:
    return render(text("done", status), request.version, keep_alive=exchange.keep_alive, head_only=False)


BOTH = pytest.mark.parametrize("tcp", [False, True], ids=["memory", "tcp"])


@BOTH
async def test_pieces_are_chunked_and_the_connection_is_kept(tcp: bool) -> None:
    async with serving(Streams().router(), tcp=tcp) as server:
        client = await server.connect()
        for _ in range(2):
            await client.send(get("/pieces"))
            response, body, _ = await client.h11_answer()
            assert body == b"onetwo"
            names = [name for name, _ in response.headers]
            assert names.count(b"x-one") == 2
            assert names.count(b"date") == 1
            assert b"x-nsq-content-type" not in names
            assert dict(response.headers)[b"content-type"] == PLAIN
            assert dict(response.headers)[b"transfer-encoding"] == b"chunked"


async def test_pieces_to_http_1_0_end_with_the_connection() -> None:
    async with serving(Streams().router(), tcp=True) as server:
        client = await server.connect()
        await client.send(b"GET /pieces HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        data = await client.rest()
        assert data.endswith(b"Connection: close\r\n\r\nonetwo")
        assert b"chunked" not in data


async def test_a_stream_handler_may_answer_with_a_whole_response() -> None:
    async with serving(Streams().router()) as server:
        client = await server.connect()
        for _ in range(2):
            answer = await client.ask(get("/whole"))
            assert (answer.status, answer.body) == (503, b"done")


@pytest.mark.parametrize("method", ["HEAD", "POST"])
async def test_streams_are_only_at_their_method(method: str) -> None:
    async with serving(Streams().router()) as server:
        client = await server.connect()
        await client.send(get("/pieces", method))
        response, _, _ = await client.h11_answer(method)
        assert response.status_code == 405
        assert dict(response.headers)[b"allow"] == b"GET, OPTIONS"


def test_a_path_has_one_handler() -> None:
    streams = Streams()
    router = streams.router()
    with pytest.raises(ValueError, match="GET /pieces has a handler already"):
        router.add_stream("GET", "/pieces", streams.pieces)


@pytest.mark.parametrize("path", ["crash", "crash_late"])
async def test_a_broken_off_response_does_not_look_whole(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Streams().router(), tcp=True) as server:
        client = await server.connect()
        await client.send(get(f"/{path}"))
        with pytest.raises(trio.BrokenResourceError):
            await client.rest()
    assert "on purpose" in caplog.text


async def test_sending_waits_for_a_slow_client_and_ends_with_it() -> None:
    streams, budget = Streams(), ByteBudget()
    async with serving(streams.router(), tcp=True, budget=budget) as server:
        client = await server.connect()
        await client.send(get("/flood"))
        await trio.testing.wait_all_tasks_blocked(0.05)
        sent = streams.sent
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert streams.sent == sent < 50_000_000
        assert 0 < budget.used < 200_000
        await client.stream.aclose()
        with trio.fail_after(5):
            await streams.ended.wait()
        assert streams.events == ["ConnectionError"]
        await trio.testing.wait_all_tasks_blocked()
        assert budget.used == 0


async def test_a_client_that_reads_no_stream_is_cut() -> None:
    streams = Streams()
    limits = Limits(write_seconds=0.1, slowest_bytes_per_second=10**9)
    async with serving(streams.router(), tcp=True, limits=limits) as server:
        client = await server.connect()
        await client.send(get("/flood"))
        with trio.fail_after(5):
            await streams.ended.wait()


@BOTH
async def test_events_end_when_the_client_goes(tcp: bool, caplog: pytest.LogCaptureFixture) -> None:
    streams = Streams()
    async with serving(streams.router(), tcp=tcp) as server:
        client = await server.connect()
        await client.send(get("/events_stream"))
        data = b""
        while not data.endswith(b"9\r\ndata: 1\n\n\r\n"):
            data += await client.stream.receive_some()
        assert not streams.ended.is_set()
        await client.stream.aclose()
        with trio.fail_after(5):
            await streams.ended.wait()
    assert not caplog.records


@BOTH
async def test_a_next_request_read_while_watching_is_not_lost(tcp: bool) -> None:
    async with serving(Streams().router(), tcp=tcp) as server:
        client = await server.connect()
        await client.send(get("/watched") * 2 + get("/watched")[:20])
        for _ in range(2):
            assert (await client.answer()).body == b"done"
        await client.send(get("/watched")[20:])
        assert (await client.answer()).body == b"done"


async def test_streams_are_in_the_access_log() -> None:
    streams = Streams()
    async with serving(streams.router()) as server:
        client = await server.connect()
        for path in ("/whole", "/pieces"):
            await client.send(get(path))
            await trio.testing.wait_all_tasks_blocked()
    assert streams.log == [("/whole", 503), ("/pieces", 200)]


async def test_a_stream_is_ended_when_the_server_stops(nursery: trio.Nursery) -> None:
    server = HttpServer(Streams().router(), Limits(stop_seconds=0.2))
    listeners = await open_listeners("127.0.0.1:0")
    done = trio.Event()

    async def run(task_status: trio.TaskStatus[None]) -> None:
        await server.run(listeners, task_status=task_status)
        done.set()

    await nursery.start(run)
    async with await trio.open_tcp_stream("127.0.0.1", bound_address(listeners[0]).port) as stream:
        await stream.send_all(get("/events_stream"))
        await stream.receive_some()
        server.stop()
        with trio.fail_after(2):
            await done.wait()


class TestPieces:
    """Responses of plain handlers whose body is made while it is sent."""

    def router(self, *pieces: bytes, crash: bool = False) -> Router:
        def made() -> Iterator[bytes]:
            yield from pieces
            if crash:
                raise ZeroDivisionError("on purpose")

        def answer(request: Request) -> Response:
            return Response(201, content_type=PLAIN, headers=((b"X-One", b"1"),), pieces=made())

        router = Router()
        for method in ("GET", "HEAD"):
            router.add(method, "/", answer)
        return router

    @BOTH
    async def test_they_are_chunks_and_the_connection_is_kept(self, tcp: bool) -> None:
        async with serving(self.router(b"one", b"two" * 50_000), tcp=tcp) as server:
            client = await server.connect()
            for _ in range(2):
                await client.send(get("/"))
                response, body, _ = await client.h11_answer()
                assert (response.status_code, body) == (201, b"one" + b"two" * 50_000)
                headers = dict(response.headers)
                assert (headers[b"content-type"], headers[b"x-one"]) == (PLAIN, b"1")
                assert headers[b"x-nsq-content-type"] == b"nsq; version=1.0"
                assert b"content-length" not in headers

    async def test_there_are_none_in_the_response_to_head(self) -> None:
        async with serving(self.router(b"one")) as server:
            client = await server.connect()
            for _ in range(2):
                await client.send(get("/", "HEAD"))
                response, body, _ = await client.h11_answer("HEAD")
                assert (response.status_code, body) == (201, b"")

    async def test_one_that_cannot_be_made_resets_the_connection(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with serving(self.router(b"one", crash=True), tcp=True) as server:
            client = await server.connect()
            await client.send(get("/"))
            with pytest.raises(trio.BrokenResourceError):
                await client.rest()
        assert "ZeroDivisionError" in caplog.text
