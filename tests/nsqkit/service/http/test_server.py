"""Whole connections: over memory streams with a clock that jumps, and over TCP where the kernel has a say."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from time import perf_counter

import pytest
import trio
import trio.testing

from nsqkit.service.http import (
    ByteBudget,
    ConnectionShare,
    HttpServer,
    Limits,
    Request,
    Response,
    Router,
    serve,
    text,
)
from nsqkit.service.listeners import bound_address, open_listeners
from tests.nsqkit.service.http.http_peer import (
    BAD_REQUEST,
    LIMIT,
    WITHIN_S,
    Client,
    chunked,
    get,
    post,
    serving,
    settle,
    small_api,
)
from tests.timing import patience

BOTH = pytest.mark.parametrize("tcp", [False, True], ids=["memory", "tcp"])


@BOTH
async def test_answers_in_order(tcp: bool) -> None:
    async with serving(small_api(), tcp=tcp) as it:
        client = await it.connect()
        requests = [get(f"/config/{i}") if i % 3 else get("/slow") for i in range(300)]
        await client.send(b"".join(requests))
        for i in range(300):
            assert (await client.answer()).body == (str(i).encode() if i % 3 else b"slow")


@BOTH
async def test_byte_by_byte(tcp: bool) -> None:
    async with serving(small_api(), tcp=tcp) as it:
        client = await it.connect()
        for byte in post("/pub", b"abc") + chunked("/pub", b"d", b"ef"):
            await client.send(bytes([byte]))
        assert (await client.answer()).body == b"abc"
        assert (await client.answer()).body == b"def"


@BOTH
async def test_large_body_in_many_pieces(tcp: bool) -> None:
    router = Router()
    router.add("POST", "/sum", lambda r: text(f"{len(r.body)} {sum(r.body)}"), body_limit=3_000_000)
    budget = ByteBudget()
    body = bytes(range(256)) * 10_000
    async with serving(router, tcp=tcp, budget=budget) as it:
        client = await it.connect()
        for data in (post("/sum", body), chunked("/sum", body[:1_000_000], body[1_000_000:])):
            assert (await client.ask(data)).body == f"{len(body)} {sum(body)}".encode()
        assert budget.used == 0


async def test_large_response_to_a_slow_reader() -> None:
    budget = ByteBudget()
    async with serving(small_api(), tcp=True, budget=budget) as it:
        client = await it.connect()
        await client.send(get("/big") * 3)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert 0 < budget.used <= 4_000_200
        for _ in range(3):
            assert (await client.answer()).body == b"x" * 4_000_000
        await trio.testing.wait_all_tasks_blocked()
        assert budget.used == 0


async def test_first_response_does_not_wait_for_a_slow_second(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(small_api()) as it:
        client = await it.connect()
        before = trio.current_time()
        await client.send(get("/ping") + get("/slow?seconds=5"))
        assert (await client.answer()).body == b"OK"
        assert trio.current_time() == before
        assert (await client.answer()).body == b"slow"
        assert trio.current_time() == pytest.approx(before + 5)


@BOTH
@pytest.mark.parametrize(
    "data", [b"  V2", b"  V2IDENTIFY\n", b"  V2IDENTIFY\n\x00\x00\x00\x02{}", b"GET /ping HTTP/1.1\r\n\r\n"]
)
async def test_not_http(data: bytes, tcp: bool) -> None:
    async with serving(small_api(), tcp=tcp) as it:
        client = await it.connect()
        await client.send(data)
        assert await client.rest() == BAD_REQUEST


async def test_refusal_is_heard_by_a_client_that_goes_on_sending() -> None:
    async with serving(small_api(), tcp=True) as it:
        client = await it.connect()
        await client.send(post("/pub", b"x" * 2_000_000))
        answer = await client.answer()
        assert (answer.status, answer.body) == (413, b'{"message":"MSG_TOO_BIG"}')
        assert answer.headers[b"Connection"] == b"close"
        assert await client.rest() == b""


async def test_lingering_has_an_end(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(small_api()) as it:
        client = await it.connect()
        await client.send(b"  V2")
        before = trio.current_time()
        await settle(it.server)
        assert trio.current_time() - before == pytest.approx(1.0, abs=0.2)


@BOTH
async def test_expect_continue(tcp: bool) -> None:
    async with serving(small_api(), tcp=tcp) as it:
        client = await it.connect()
        head = get("/pub", "POST", "Content-Length: 3", "Expect: 100-continue")
        await client.send(get("/ping") + head)
        assert (await client.answer()).body == b"OK"
        assert (await client.answer()).status == 100
        assert (await client.ask(b"abc")).body == b"abc"
        assert (await client.ask(head + b"def")).body == b"def"  # sent without waiting: no need to continue
        await client.send(get("/pub", "POST", f"Content-Length: {LIMIT + 1}", "Expect: 100-continue"))
        assert (await client.answer()).status == 413


@BOTH
async def test_nobody_is_asked_for_a_body_that_nobody_reads(tcp: bool) -> None:
    async with serving(small_api(), tcp=tcp) as it:
        for target, status in (("/nowhere", 404), ("/ping", 405), ("/topic/create?topic=t", 200)):
            client = await it.connect()
            answer = await client.ask(get(target, "POST", "Content-Length: 3", "Expect: 100-continue"))
            assert (answer.status, answer.headers[b"Connection"]) == (status, b"close")
            await client.send(b"abc")  # as one that does not wait for long
            assert await client.rest() == b""


async def test_client_that_ends_in_the_middle_of_a_body_is_answered() -> None:
    async with serving(small_api(), tcp=True) as it:
        for request in (post("/pub", b"abc")[:-1], chunked("/pub", b"abc")[:-1]):
            client = await it.connect()
            await client.send(get("/ping") + request)
            assert isinstance(client.stream, trio.SocketStream)
            await client.stream.send_eof()
            assert (await client.answer()).body == b"OK"
            answer = await client.answer()
            assert (answer.status, answer.body) == (500, b'{"message":"INTERNAL_ERROR"}')
            assert await client.rest() == b""


@BOTH
async def test_http_1_0(tcp: bool) -> None:
    async with serving(small_api(), tcp=tcp) as it:
        client = await it.connect()
        answer = await client.ask(b"GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert answer.head.startswith(b"HTTP/1.0 200 OK\r\n")
        assert answer.headers[b"Connection"] == b"keep-alive"
        answer = await client.ask(b"GET /ping HTTP/1.0\r\n\r\n")
        assert answer.headers[b"Connection"] == b"close"
        assert await client.rest() == b""


@BOTH
async def test_connection_close(tcp: bool) -> None:
    async with serving(small_api(), tcp=tcp) as it:
        client = await it.connect()
        await client.send(get("/ping", "GET", "Connection: close") + get("/nowhere"))
        answer = await client.answer()
        assert answer.headers[b"Connection"] == b"close"
        assert await client.rest() == b""


async def test_half_closed_client_gets_its_answers() -> None:
    async with serving(small_api(), tcp=True) as it:
        client = await it.connect()
        await client.send(get("/slow") * 2)
        assert isinstance(client.stream, trio.SocketStream)
        await client.stream.send_eof()
        assert (await client.rest()).count(b"slow") == 2


@pytest.mark.parametrize(
    ("sent", "seconds", "answer"),
    [
        (b"", 10, b""),
        (b"GET /pi", 10, b"HTTP/1.1 408 "),
        (get("/ping"), 75, b"HTTP/1.1 200 "),
        (get("/ping") + b"G", 10, b"HTTP/1.1 200 "),
        (get("/pub", "POST", "Content-Length: 5") + b"x", 30, b"HTTP/1.1 408 "),
        (get("/pub", "POST", "Transfer-Encoding: chunked") + b"1\r\nx", 30, b"HTTP/1.1 408 "),
    ],
)
async def test_time_limit_of_each_phase(
    sent: bytes, seconds: float, answer: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(small_api()) as it:
        client = await it.connect()
        before = trio.current_time()
        if sent:
            await client.send(sent)
        data = b""
        while piece := await client.stream.receive_some():
            data += bytes(piece)
        assert seconds <= trio.current_time() - before <= seconds + 2
        assert data.startswith(answer)


async def drip(client: Client) -> None:
    while True:
        await trio.sleep(2)
        await client.send(b"a")


@pytest.mark.parametrize(
    "head", [b"GET /", get("/pub", "POST", "Content-Length: 99"), get("/ping") + b"GET /"]
)
async def test_slowloris(head: bytes, autojump_clock: trio.testing.MockClock) -> None:
    """A byte now and then does not move the deadline."""
    async with serving(small_api()) as it:
        client = await it.connect()
        before = trio.current_time()
        await client.send(head)
        with pytest.raises(trio.BrokenResourceError):
            await drip(client)
        limit = 30 if b"POST" in head else 10
        assert limit <= trio.current_time() - before <= limit + 4


async def test_big_body_has_more_time(autojump_clock: trio.testing.MockClock) -> None:
    router = Router()
    router.add("POST", "/sum", lambda r: text(str(len(r.body))), body_limit=3_000_000)
    async with serving(router) as it:
        client = await it.connect()
        await client.send(get("/sum", "POST", "Content-Length: 1600000"))
        for _ in range(16):
            await trio.sleep(5)  # 80 seconds in all
            await client.send(b"x" * 100_000)
        assert (await client.answer()).body == b"1600000"


async def test_idle_limit_begins_anew_with_each_request(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(small_api()) as it:
        client = await it.connect()
        for _ in range(5):
            assert (await client.ask(get("/ping"))).status == 200
            await trio.sleep(70)


async def test_slow_handler_is_not_cut(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(small_api()) as it:
        client = await it.connect()
        await client.send(get("/slow?seconds=500"))
        await trio.sleep(501)
        assert (await client.answer()).body == b"slow"


async def test_client_that_stops_reading_is_cut_and_holds_up_nobody() -> None:
    budget = ByteBudget()
    async with serving(
        small_api(), tcp=True, limits=Limits(write_seconds=0.2, slowest_bytes_per_second=10**9), budget=budget
    ) as it:
        deaf, other = await it.connect(), await it.connect()
        await deaf.send(get("/big") * 20)
        with trio.fail_after(patience(3)):
            while it.server.connection_count == 2:
                assert (await other.ask(get("/ping"))).status == 200
                await trio.sleep(0.02)
        assert budget.used == 0


async def test_unsent_responses_count_against_the_budget() -> None:
    async with serving(small_api(), tcp=True, budget=ByteBudget(6_000_000)) as it:
        clients = [await it.connect() for _ in range(6)]
        for client in clients:
            await client.send(get("/big") * 4)
        await settle(it.server, most=2)
        assert it.server.budget.used <= 6_000_000


@pytest.mark.parametrize("said", [b"", b"GET /pi", get("/ping"), post("/pub", b"abc")[:-1]])
async def test_one_client_too_many_takes_the_place_of_one_that_says_nothing(said: bytes) -> None:
    async with serving(small_api(), tcp=True, limits=Limits(connections=2)) as it:
        first, second = await it.connect(), await it.connect()
        await first.send(said)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await second.ask(get("/ping"))).status == 200
        third = await it.connect()
        assert (await third.ask(get("/ping"))).status == 200
        await first.rest()  # whatever it was answered, it is closed
        for client in (second, third):
            assert (await client.ask(get("/ping"))).status == 200
        await settle(it.server, most=2)


async def test_one_client_too_many_is_refused_while_all_others_are_answered() -> None:
    leave = trio.Event()

    async def slow(request: Request) -> Response:
        await leave.wait()
        return text("")

    router = Router()
    router.add("GET", "/slow", slow)
    async with serving(router, tcp=True, limits=Limits(connections=2)) as it:
        clients = [await it.connect() for _ in range(2)]
        for client in clients:
            await client.send(get("/slow"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        third = await it.connect()
        assert (await third.rest()).startswith(b"HTTP/1.1 503 ")
        leave.set()
        for client in clients:
            assert (await client.answer()).status == 200


async def test_servers_of_a_daemon_share_their_connections() -> None:
    share = ConnectionShare(2)
    async with (
        serving(small_api(), tcp=True, share=share) as one,
        serving(small_api(), tcp=True, share=share) as two,
    ):
        first, second, third = await one.connect(), await one.connect(), await two.connect()
        assert (await third.ask(get("/ping"))).status == 200
        await first.rest()
        assert (await second.ask(get("/ping"))).status == 200


async def test_pipelining_gives_way_to_others() -> None:
    order: list[str] = []

    def note(request: Request) -> Response:
        order.append(request.path)
        return text("")

    router = Router()
    router.add("GET", "/a", note)
    router.add("GET", "/b", note)
    async with serving(router, tcp=True, limits=Limits(turn_seconds=0)) as it:
        many, few = await it.connect(), await it.connect()
        await many.send(get("/a") * 400)
        await few.send(get("/b"))
        for _ in range(400):
            await many.answer()
        await few.answer()
    assert order.index("/b") < 399


async def test_a_crowd_that_pipelines_does_not_hold_up_a_newcomer() -> None:
    """Counted in requests: the newcomer's comes before most of what the crowd had sent before it."""
    order: list[str] = []
    turn_s, crowd, each = 0.002, 40, 20
    begun = trio.Event()

    def slow(request: Request) -> Response:
        order.append(request.path)
        if len(order) == 2 * crowd:
            begun.set()
        ends = perf_counter() + turn_s / 2
        while perf_counter() < ends:
            pass
        return text("")

    router = Router()
    router.add("GET", "/a", slow)
    router.add("GET", "/b", slow)
    async with serving(router, tcp=True, limits=Limits(turn_seconds=turn_s)) as it:
        clients = [await it.connect() for _ in range(crowd)]
        for client in clients:
            await client.send(get("/a") * each)
        await begun.wait()
        newcomer = await it.connect()
        await newcomer.ask(get("/b"))
        assert order.index("/b") < crowd * each / 2
        for client in clients:
            for _ in range(each):
                await client.answer()


class Running:
    """A server on TCP whose `run` may be waited for. It stops only once everything has ended, unless told otherwise."""

    def __init__(self, stop_seconds: float = 1000) -> None:
        self.server = HttpServer(small_api(), Limits(stop_seconds=stop_seconds))
        self.done = trio.Event()
        self.port = 0
        self.streams: list[trio.SocketStream] = []

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await open_listeners("127.0.0.1:0")
        self.port = bound_address(listeners[0]).port
        await self.server.run(listeners, task_status=task_status)
        self.done.set()

    async def connect(self) -> trio.SocketStream:
        self.streams.append(await trio.open_tcp_stream("127.0.0.1", self.port))
        return self.streams[-1]


@pytest.fixture
async def running(request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    running = Running(*request.param) if hasattr(request, "param") else Running()
    yield running
    for stream in running.streams:
        await stream.aclose()


async def stop(running: Running) -> None:
    """Stop the server, and wait until it has."""
    running.server.stop()
    with trio.fail_after(patience(WITHIN_S)):
        await running.done.wait()


async def test_stop_ends_idle_connections_at_once_and_refuses_new_ones(
    running: Running, nursery: trio.Nursery
) -> None:
    await nursery.start(running.run)
    idle, fresh = await running.connect(), await running.connect()
    await idle.send_all(get("/ping"))
    assert (await idle.receive_some()).startswith(b"HTTP/1.1 200")
    await trio.testing.wait_all_tasks_blocked(0.02)
    await stop(running)
    assert await idle.receive_some() == b""
    assert await fresh.receive_some() == b""
    with pytest.raises(OSError, match="connect"):
        await running.connect()


async def test_stop_lets_a_busy_request_end(running: Running, nursery: trio.Nursery) -> None:
    await nursery.start(running.run)
    busy = await running.connect()
    await busy.send_all(get("/slow?seconds=0.2") + get("/ping"))
    await trio.sleep(0.05)
    assert running.server.connection_count == 1
    await stop(running)
    data = b""
    while piece := await busy.receive_some():
        data += bytes(piece)
    assert data.endswith(b"slow") or b"slowHTTP" in data
    assert data.count(b"HTTP/1.1 200 OK") >= 1


@pytest.mark.parametrize("running", [(0.3,)], indirect=True, ids=[""])
@pytest.mark.parametrize("what", ["handler", "reader", "head", "body", "linger"])
async def test_stop_is_held_up_by_no_client(what: str, running: Running, nursery: trio.Nursery) -> None:
    await nursery.start(running.run)
    client = await running.connect()
    data = {
        "handler": get("/slow?seconds=60"),
        "reader": get("/big") * 5,
        "head": b"GET /",
        "body": get("/pub", "POST", "Content-Length: 9"),
        "linger": b"  V2",
    }
    await client.send_all(data[what])
    await trio.sleep(0.05)
    assert running.server.connection_count == 1
    await stop(running)
    assert running.server.connection_count == 0
    assert running.server.budget.used == 0


async def test_cancelled_server_closes_everything(running: Running) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(running.run)
        client = await running.connect()
        await client.send_all(get("/slow?seconds=60"))
        await trio.sleep(0.02)
        nursery.cancel_scope.cancel()
    assert await client.receive_some() == b""
    with pytest.raises(OSError, match="connect"):
        await running.connect()


async def test_reset_and_vanished_clients_end_only_themselves(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(small_api(), tcp=True) as it:
        good = await it.connect()
        for data in (b"", b"GET /", get("/big"), get("/slow?seconds=0.05"), get("/ping")):
            bad = await it.connect()
            if data:
                await bad.send(data)
            assert isinstance(bad.stream, trio.SocketStream)
            bad.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await bad.stream.aclose()
            assert (await good.ask(get("/ping"))).status == 200
        await settle(it.server, most=1)
    assert caplog.text == ""


async def test_unix_socket(tmp_path_factory: pytest.TempPathFactory, nursery: trio.Nursery) -> None:
    path = str(tmp_path_factory.mktemp("s") / "http.sock")
    router = Router()
    router.add("GET", "/who", lambda request: text(request.remote))
    server = HttpServer(router)
    listeners = await open_listeners(path)
    await nursery.start(lambda task_status: server.run(listeners, task_status=task_status))
    stream = await trio.open_unix_socket(path)
    await stream.send_all(get("/who", "GET", "Connection: close"))
    data = b""
    while piece := await stream.receive_some():
        data += bytes(piece)
    assert data.endswith(b"\r\n\r\n@")
    await stream.aclose()
    server.stop()


async def test_remote_address_of_tcp() -> None:
    router = Router()
    router.add("GET", "/who", lambda request: text(request.remote))
    async with serving(router, tcp=True) as it:
        client = await it.connect()
        assert isinstance(client.stream, trio.SocketStream)
        port = client.stream.socket.getsockname()[1]
        assert (await client.ask(get("/who"))).body == f"127.0.0.1:{port}".encode()


async def test_serve_hands_out_the_server_to_stop(nursery: trio.Nursery) -> None:
    listeners = await open_listeners("127.0.0.1:0")
    server = await nursery.start(serve, small_api(), listeners)
    async with await trio.open_tcp_stream("127.0.0.1", bound_address(listeners[0]).port) as stream:
        await stream.send_all(get("/ping"))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 OK\r\n")
        server.stop()
        assert await stream.receive_some() == b""
