"""Requests of several clients that are answered together, and everything that must be as if each were alone."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from nsqkit.service.http import ByteBudget, HttpServer, Limits, Request, Response, Router, error, text
from nsqkit.service.http.batching import KnownHeads
from nsqkit.service.http.parser import RequestParser
from nsqkit.service.listeners import bound_address, open_listeners
from tests.nsqkit.service.http.http_peer import WITHIN_S, Client, chunked, get, post, settle
from tests.timing import patience

LIMIT = 100
TARGET = "/pub?topic=t"


@define
class Api:
    """`/pub` echoes; `batches` has the bodies of each call that answered several, `alone` those of the others."""

    answers: bool = True
    crashes: bool = False
    refuses: bool = False
    times: int = 1
    """So many bodies in one response."""
    batches: list[list[bytes]] = field(factory=list)
    alone: list[bytes] = field(factory=list)
    logged: list[tuple[bytes, int]] = field(factory=list)

    def pub(self, request: Request) -> Response:
        self.alone.append(request.body)
        return self.echo(request)

    def echo(self, request: Request) -> Response:
        return text(request.target + b" " + request.body * self.times)

    def together(self, requests: Sequence[Request]) -> list[Response | None]:
        if not self.answers:
            return [None] * len(requests)
        self.batches.append([request.body for request in requests])
        if self.crashes:
            raise ZeroDivisionError("on purpose")
        return [self.echo(request) for request in requests]

    def router(self) -> Router:
        router = Router(lambda request, status, _: self.logged.append((request.target, status)))
        router.add("POST", "/pub", self.pub, body_limit=LIMIT, too_big=error(413, "BIG"), batch=self.together)
        router.add("POST", "/other", lambda _: text("other"), body_limit=LIMIT)
        router.add("GET", "/ping", lambda _: text("OK"))
        route, _ = router.route("POST", b"/pub", "/pub", b"")
        route.check = lambda _: error(403, "REFUSED") if self.refuses else None
        return router


@define
class Publisher(Client):
    """`sock`: to send without a turn of the event loop."""

    sock: socket.socket = field(factory=socket.socket)


@define
class Serving:
    server: HttpServer
    port: int
    clients: list[Publisher] = field(factory=list)

    def connect(self) -> Publisher:
        sock = socket.create_connection(("127.0.0.1", self.port))
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self.clients.append(Publisher(stream, sock=sock))
        return self.clients[-1]

    async def publisher(self) -> Publisher:
        """A client whose head is known, and which is waited for."""
        client = self.connect()
        assert (await client.ask(post(TARGET, b"first"))).status == 200
        await trio.testing.wait_all_tasks_blocked()
        return client


@asynccontextmanager
async def serving(api: Api, limits: Limits | None = None, *, batches: bool = True) -> AsyncIterator[Serving]:
    server = HttpServer(api.router(), limits or Limits(), batches=batches)
    listeners = await open_listeners("127.0.0.1:0")
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: server.run(listeners, task_status=task_status))
        it = Serving(server, bound_address(listeners[0]).port)
        try:
            yield it
        finally:
            with trio.CancelScope(shield=True):
                for client in it.clients:
                    await trio.aclose_forcefully(client.stream)
        server.stop()
        await settle(server)
        nursery.cancel_scope.cancel()


async def test_clients_that_send_at_the_same_time_are_answered_with_one_call() -> None:
    api = Api()
    async with serving(api) as it:
        clients = [await it.publisher() for _ in range(10)]
        assert (api.batches, len(api.alone)) == ([], 10)
        for number, client in enumerate(clients):
            client.sock.sendall(post(TARGET, b"m" * number))
        for number, client in enumerate(clients):
            assert (await client.answer()).body == TARGET.encode() + b" " + b"m" * number
    # An empty body has no Content-Length here: another head.
    assert [sorted(batch) for batch in api.batches] == [[b"m" * number for number in range(1, 10)]]
    assert len(api.alone) == 11
    assert api.logged == [(TARGET.encode(), 200)] * 20


@pytest.mark.parametrize(
    "data",
    [
        post("/pub?topic=u", b"x"),
        post(TARGET, b"x", "X-Other: 1"),
        post(TARGET, b"x", "Connection: close"),
        chunked(TARGET, b"x"),
        post(TARGET, b"x") + post(TARGET, b"x"),
        post(TARGET, b"x").replace(b"Content-Length: 1", b"Content-Length: 01x"),
        post("/other", b"x"),
        get("/ping"),
        b"\r\n" + post(TARGET, b"x"),
        b"  V2",
    ],
)
async def test_anything_else_goes_the_usual_way(data: bytes) -> None:
    """The same bytes come back as from a server that answers each alone, in how many pieces they may come."""
    answers = []
    for batches in (True, False):
        for cut in (len(data), len(data) // 2, len(data) - 1):
            api = Api()
            async with serving(api, batches=batches) as it:
                client = await it.publisher()
                assert (await client.ask(post(TARGET, b"second"))).status == 200
                assert len(api.batches) == batches
                await client.send(data[:cut])
                await trio.testing.wait_all_tasks_blocked()
                await client.send(data[cut:])
                await client.stream.send_eof()  # type: ignore[attr-defined]
                answers.append(re.sub(rb"Date: [^\r]*", b"", await client.rest()))
                assert cut < len(data) or len(api.batches) == batches
    assert len(set(answers)) == 1, answers


async def test_a_body_over_the_limit_is_refused_as_ever() -> None:
    api = Api()
    async with serving(api) as it:
        client = await it.publisher()
        assert (await client.ask(post(TARGET, b"x" * LIMIT))).status == 200
        assert (await client.ask(post(TARGET, b"x" * (LIMIT + 1)))).status == 413
    assert api.batches == [[b"x" * LIMIT]]


async def test_what_may_not_be_done_any_more_is_refused() -> None:
    """As when a token is revoked."""
    api = Api()
    async with serving(api) as it:
        client = await it.publisher()
        api.refuses = True
        assert (await client.ask(post(TARGET, b"second"))).status == 403
        api.refuses = False
        for body in (b"third", b"fourth"):  # the head is known again after one of them
            assert (await client.ask(post(TARGET, body))).status == 200
    assert (api.batches, api.alone) == ([[b"fourth"]], [b"first", b"third"])


async def test_what_the_handler_declines_is_given_to_the_other_one() -> None:
    api = Api(answers=False)
    async with serving(api) as it:
        client = await it.publisher()
        assert (await client.ask(post(TARGET, b"second"))).body == TARGET.encode() + b" second"
    assert (api.batches, api.alone) == ([], [b"first", b"second"])


async def test_a_handler_that_crashes_is_logged_and_its_clients_are_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api = Api(crashes=True)
    async with serving(api) as it:
        client = await it.publisher()
        assert (await client.ask(post(TARGET, b"second"))).status == 500
        api.crashes = False
        assert (await client.ask(post(TARGET, b"third"))).status == 200
    assert [record.getMessage() for record in caplog.records] == ["HTTP: /pub crashed"]


async def test_a_client_that_does_not_read_gets_all_of_its_responses() -> None:
    """Its window is full at some time: the rest is sent by a task of its own, and its next requests wait."""
    api, count = Api(times=1000), 0
    body = b"x" * LIMIT
    async with serving(api) as it:
        client = await it.publisher()
        while len(api.batches) == count:  # until one is not answered
            client.sock.send(post(TARGET, body))
            await trio.testing.wait_all_tasks_blocked()
            count += 1
        assert count > 2
        for _ in range(count):
            assert (await client.answer()).body == TARGET.encode() + b" " + body * 1000
        api.times = 1
        assert (await client.ask(post(TARGET, b"last"))).body == TARGET.encode() + b" last"


async def test_one_that_vanishes_ends_only_itself() -> None:
    api = Api()
    async with serving(api) as it:
        gone, other = await it.publisher(), await it.publisher()
        gone.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        gone.sock.sendall(post(TARGET, b"x"))
        await gone.stream.aclose()
        assert (await other.ask(post(TARGET, b"y"))).status == 200
        await settle(it.server, most=1)
        assert (await other.ask(post(TARGET, b"z"))).status == 200


async def test_idle_limit_begins_anew_with_each_request() -> None:
    async with serving(Api(), Limits(idle_seconds=0.4)) as it:
        client, silent = await it.publisher(), await it.publisher()
        with trio.fail_after(patience(WITHIN_S)):
            while it.server.connection_count == 2:
                assert (await client.ask(post(TARGET, b"x"))).status == 200
                await trio.sleep(0.05)
        assert await silent.stream.receive_some() == b""


async def test_one_that_waits_gives_way_to_a_new_client() -> None:
    async with serving(Api(), Limits(connections=2)) as it:
        first, second = await it.publisher(), await it.publisher()
        assert (await first.ask(post(TARGET, b"x"))).status == 200
        third = it.connect()
        assert (await third.ask(post(TARGET, b"x"))).status == 200
        assert await second.stream.receive_some() == b""
        assert (await first.ask(post(TARGET, b"x"))).status == 200


async def test_a_stop_ends_those_that_wait() -> None:
    async with serving(Api()) as it:
        client = await it.publisher()
        it.server.stop()
        with trio.fail_after(patience(WITHIN_S)):
            assert await client.stream.receive_some() == b""


# --- parsing by comparison


class Known:
    """What becomes of input after a request was answered in the usual way."""

    def __init__(self) -> None:
        self.api = Api()
        self.router = self.api.router()
        self.heads = KnownHeads()

    def parse(self, data: bytes) -> tuple[list[Request], bool]:
        """What the parser makes of it, and whether that is all."""
        parser = RequestParser(self.router, Limits(), ByteBudget(), "192.0.2.1:5")
        parser.after_body = True
        requests: list[Request] = []
        while data:
            data = parser.feed(data)
            requests += parser.ready
            parser.ready = []
        return requests, parser.fault is None and not parser.unfinished and not parser.wants_continue

    def note(self, data: bytes) -> None:
        requests, whole = self.parse(data)
        if len(requests) == 1 and whole:
            self.heads.note(data, requests[0])


def same(one: Request, other: Request) -> bool:
    def fields(request: Request) -> list[object]:
        headers = [header for header in request.headers if header[0] != b"content-length"]
        route = (
            request.method,
            request.target,
            request.path,
            request.query_string,
            request.params,
            request.route,
        )
        return [*route, headers, request.version, request.keep_alive, request.refusal, request.body]

    return fields(one) == fields(other)


LINES = [
    b"Host: a",
    b"host: b:1",
    b"Content-Length: 5",
    b"content-length: 2",
    b"Content-Length:3",
    b"Content-Length:  4",
    b"CONTENT-LENGTH: 1",
    b"Content-Length: 007",
    b"Content-Length: 5\r\n x",
    b"X: Content-Length: 5",
    b"Transfer-Encoding: chunked",
    b"Connection: close",
    b"Connection: upgrade",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"User-Agent: a\r",
    b": x",
]
START = [
    b"POST /pub?topic=t HTTP/1.1",
    b"POST /pub HTTP/1.0",
    b"GET /ping HTTP/1.1",
    b"POST  /pub HTTP/1.1",
    b"\r\nPOST /pub HTTP/1.1",
]
BODIES = [
    b"",
    b"x",
    b"\r\n",
    b"hello",
    b"7 bytes",
    b"\r\n\r\nabc",
    b"POST / HTTP/1.1\r\n\r\n",
    b"Content-Length: 5\r\n",
]


def inputs() -> st.SearchStrategy[bytes]:
    lines = st.lists(st.sampled_from(LINES), max_size=4)
    return st.builds(
        lambda start, lines, body, right: (
            b"\r\n".join([start, *lines, *([b"Content-Length: %d" % len(body)] if right else []), b"", b""])
            + body
        ),
        st.sampled_from(START),
        lines.map(lambda lines: [b"Host: a", *lines]) | lines,
        st.sampled_from(BODIES),
        st.booleans(),
    )


def changed(data: bytes) -> st.SearchStrategy[bytes]:
    """The same, or with a few bytes in the place of others."""
    piece = st.sampled_from([b"", b"0", b"7", b"\r\n", b" ", b"\n", b"x", b"Content-Length: 1\r\n"])
    place = st.integers(0, len(data))
    cut = st.builds(lambda at, to, by: data[:at] + by + data[max(at, to) :], place, place, piece)
    body = st.builds(
        lambda body: (
            re.sub(rb"(?i)(content-length: ?)[0-9]+", rb"\g<1>%d" % len(body), data.partition(b"\r\n\r\n")[0])
            + b"\r\n\r\n"
            + body
        ),
        st.sampled_from(BODIES),
    )
    return st.just(data) | cut | body


@settings(max_examples=400)
@given(st.data())
def test_what_is_taken_for_the_same_request_is_the_same_request(data: st.DataObject) -> None:
    known = Known()
    taught = data.draw(st.lists(inputs(), min_size=1, max_size=6))
    for each in taught:
        known.note(each)
    given_ = data.draw(st.sampled_from(taught).flatmap(changed) | inputs())
    found = known.heads.match(given_)
    if found is not None:
        requests, whole = known.parse(given_)
        assert whole
        assert len(requests) == 1
        assert same(requests[0], found)
        assert found.keep_alive
        assert found.version == "1.1"
        assert found.route.batch is not None


@pytest.mark.parametrize("length", ["Content-Length: %d", "content-length:%d", "Content-length: %d"])
def test_a_head_is_known_again_with_another_length(length: str) -> None:
    known = Known()
    head = f"POST {TARGET} HTTP/1.1\r\nHost: a\r\n{length}\r\nUser-Agent: b\r\n\r\n"
    known.note((head % 5).encode() + b"hello")
    for body in (b"hello", b"", b"another"):
        found = known.heads.match((head % len(body)).encode() + body)
        assert found is not None
        assert found.body == body
    assert known.heads.match((head % 5).encode() + b"four") is None
