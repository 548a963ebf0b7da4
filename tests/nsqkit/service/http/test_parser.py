"""Every input is fed whole, byte by byte, and glued to a second request: the outcome is the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqkit.service.http import text
from nsqkit.service.http.limits import ByteBudget, Limits
from nsqkit.service.http.message import Request, Response
from nsqkit.service.http.parser import Phase, RequestParser
from tests.nsqkit.service.http.http_peer import BAD_REQUEST, LIMIT, chunked, echo, get, post, small_api


def make(limits: Limits | None = None, budget: ByteBudget | None = None) -> RequestParser:
    return RequestParser(small_api(), limits or Limits(), budget or ByteBudget(), "192.0.2.1:5")


def feed_all(parser: RequestParser, data: bytes, step: int | None = None) -> list[Request]:
    step = step or len(data)
    requests = []
    for i in range(0, len(data), step):
        piece = data[i : i + step]
        while piece:
            piece = parser.feed(piece)
            requests += parser.ready
            parser.ready = []
    return requests


def refusal(request: Request) -> Response:
    assert request.refusal is not None
    response = request.refusal(request)
    assert isinstance(response, Response)
    return response


STEPS = pytest.mark.parametrize("step", [None, 1, 7])


@STEPS
@pytest.mark.parametrize(
    ("data", "method", "path", "query_string", "body"),
    [
        (get("/ping"), "GET", "/ping", b"", b""),
        (get("/ping?a=b&c"), "GET", "/ping", b"a=b&c", b""),
        (get("/ping?a=b?c"), "GET", "/ping", b"a=b?c", b""),
        (get("/ping?a=b#ephemeral"), "GET", "/ping", b"a=b#ephemeral", b""),
        (get("/p%69ng%2F%C3%A9"), "GET", "/ping/é", b"", b""),
        (get("http://broker:4151/ping?x=1"), "GET", "/ping", b"x=1", b""),
        (get("http://broker:4151"), "GET", "/", b"", b""),
        (get("*", "OPTIONS"), "OPTIONS", "*", b"", b""),
        (post("/pub?topic=t", b"\x00\r\n\r\nbody"), "POST", "/pub", b"topic=t", b"\x00\r\n\r\nbody"),
        (post("/pub", b"x" * LIMIT), "POST", "/pub", b"", b"x" * LIMIT),
        (chunked("/pub", b"ab", b"c"), "POST", "/pub", b"", b"abc"),
        (chunked("/pub", b"abc", trailer=b"X: 1\r\nHost: b\r\n"), "POST", "/pub", b"", b"abc"),
        (chunked("/pub"), "POST", "/pub", b"", b""),
        (get("/ping", "GET", "Connection: Upgrade", "Upgrade: h2c"), "GET", "/ping", b"", b""),
        (post("/pub", b"abc", "Connection: Upgrade", "Upgrade: h2c"), "POST", "/pub", b"", b"abc"),
        (
            chunked("/pub", b"abc").replace(b"Host", b"Connection: Upgrade\r\nUpgrade: h2c\r\nHost"),
            "POST",
            "/pub",
            b"",
            b"abc",
        ),
        (post("/topic/create?topic=t", b"ignored"), "POST", "/topic/create", b"topic=t", b""),
    ],
)
def test_good_request(
    data: bytes, method: str, path: str, query_string: bytes, body: bytes, step: int | None
) -> None:
    budget = ByteBudget()
    parser = make(budget=budget)
    requests = feed_all(parser, data + data, step)
    assert parser.fault is None
    assert parser.phase is Phase.IDLE
    assert len(requests) == 2
    for request in requests:
        assert (request.method, request.path, request.query_string) == (method, path, query_string)
        assert request.body == body
        assert type(request.body) is bytes
        assert request.keep_alive
        assert request.refusal is None
        assert request.header(b"host") == b"a"
        budget.give(request.charged)
    assert budget.used == 0


CL_TE = get("/pub", "POST", "Content-Length: 3", "Transfer-Encoding: chunked") + b"0\r\n\r\n"


@STEPS
@pytest.mark.parametrize(
    "data",
    [
        b"  V2",
        b"  V2IDENTIFY\n",
        b"  V1",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET /ping\r\n\r\n",
        b"hello\r\n",
        b"GET /ping HTTP/1.1\r\n\r\n",  # no Host
        b"GET /ping HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: a/b\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: a:http\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: user@a\r\n\r\n",
        b"GET /ping HTTP/1.0\r\nHost: a b\r\n\r\n",
        b"GET /ping HTTP/0.9\r\nHost: a\r\n\r\n",
        b"GET  /ping HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /ping  HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /ping HTTP/1.1 \r\nHost: a\r\n\r\n",
        b" GET /ping HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n" + get("/ping"),
        b"\n" + get("/ping"),
        b"\r\n\r\n" + get("/ping"),
        b"GET /ping HTTP/1.2\r\nHost: a\r\n\r\n",
        b"GET /ping HTTP/1.1\nHost: a\n\n",
        b"GET /ping HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"GET /pi%zzng HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /ping% HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET ping HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        CL_TE,
        CL_TE.replace(b"Content-Length: 3", b"A: b").replace(
            b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n", 1
        ),
        get("/pub", "POST", "Content-Length: 1", "Content-Length: 1") + b"a",
        get("/pub", "POST", "Content-Length: +1") + b"a",
        get("/pub", "POST", "Content-Length: 1, 1") + b"a",
        b"POST /pub HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"F\xc3\xa9 /ping HTTP/1.1\r\nHost: a\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2 Debian-2\r\n",
        b"EHLO mail.example\r\n",
    ],
)
def test_bad_request_after_a_good_one(data: bytes, step: int | None) -> None:
    for before in (b"", get("/ping")):
        parser = make()
        requests = feed_all(parser, before + data, step)
        assert parser.fault == BAD_REQUEST
        assert parser.phase is Phase.DEAD
        assert [r.path for r in requests] == (["/ping"] if before else [])
        assert parser.feed(get("/ping")) == b""
        assert parser.ready == []


@STEPS
@pytest.mark.parametrize(
    ("data", "status", "text"),
    [
        (b"GET /ping HTTP/2.0\r\nHost: a\r\n\r\n", 505, "unsupported protocol version"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "unsupported protocol version"),
        (b"GET /ping HTTP/3.0\r\nHost: a\r\n\r\n", 505, "unsupported protocol version"),
        (get("/pub", "POST", "Transfer-Encoding: gzip, chunked"), 501, "Unsupported transfer encoding"),
        (get("/pub", "POST", "Transfer-Encoding: identity"), 501, "Unsupported transfer encoding"),
    ],
)
def test_what_is_not_supported_has_a_status_of_its_own(
    data: bytes, status: int, text: str, step: int | None
) -> None:
    for before in (b"", get("/ping"), post("/pub", b"a  b")):
        parser = make()
        requests = feed_all(parser, before + data, step)
        assert len(requests) == bool(before)
        assert parser.fault is not None
        head, _, body = parser.fault.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert b"Connection: close" in head
        assert body.decode().endswith(text)


@STEPS
def test_blanks_and_line_breaks_outside_of_the_request_line_are_no_matter(step: int | None) -> None:
    bodies = [b"a  b", b"\r\n\r\n\r\n  c", b"\n\n", b"GET  /x HTTP/3.0\r\n"]
    data = b"".join([post("/pub", body, "X: 1  2") + get("/ping", "GET", "Y:  3") for body in bodies])
    parser = make()
    requests = feed_all(parser, data + chunked("/pub", *bodies) + get("/ping"), step)
    assert parser.fault is None
    assert [r.body for r in requests if r.method == "POST"] == [*bodies, b"".join(bodies)]
    assert len(requests) == 2 * len(bodies) + 2


@STEPS
@pytest.mark.parametrize("line_breaks", [b"\r\n", b"\n", b"\r\n" * 3])
def test_line_breaks_after_a_post_are_skipped(line_breaks: bytes, step: int | None) -> None:
    """Old clients send them."""
    parser = make()
    requests = feed_all(parser, post("/pub", b"x") + line_breaks + get("/ping"), step)
    assert [r.path for r in requests] == ["/pub", "/ping"]
    assert parser.fault is None


@STEPS
@pytest.mark.parametrize(
    "body", [b"2\nab\n", b"2\r\nabc\r\n", b"zz\r\n", b"ffffffffffffffffff\r\n", b"0\r\nX : 1\r\n"]
)
def test_body_that_is_malformed_is_refused_as_one_that_cannot_be_read(body: bytes, step: int | None) -> None:
    budget = ByteBudget()
    for target, refused in (("/pub", True), ("/topic/create?topic=t", False)):
        parser = make(budget=budget)
        data = get("/ping") + get(target, "POST", "Transfer-Encoding: chunked") + body
        ping, request = feed_all(parser, data, step)
        assert ping.refusal is None
        assert (request.refusal is not None) is refused
        if refused:
            assert (refusal(request).status, refusal(request).body) == (500, b'{"message":"INTERNAL_ERROR"}')
        assert (request.body, request.keep_alive) == (b"", False)
        assert (parser.phase, parser.fault) == (Phase.DEAD, None)
        assert parser.feed(get("/ping")) == b""
        assert parser.ready == []
    assert budget.used == 0


@STEPS
@pytest.mark.parametrize("data", [post("/pub", b"abc")[:-1], chunked("/pub", b"abc")[:-2]])
def test_body_that_ends_early_is_refused(data: bytes, step: int | None) -> None:
    budget = ByteBudget()
    parser = make(budget=budget)
    assert feed_all(parser, data, step) == []
    parser.break_off()
    [request] = parser.ready
    assert refusal(request).status == 500
    assert (request.body, request.keep_alive, budget.used) == (b"", False, 0)


@pytest.mark.parametrize("data", [b"", get("/ping"), b"GET /ping HT", b"  V2"])
def test_end_outside_of_a_body_leaves_nothing_to_answer(data: bytes) -> None:
    parser = make()
    feed_all(parser, data, 1)
    parser.break_off()
    assert parser.ready == []


@STEPS
@pytest.mark.parametrize("method", ["FOO", "get", "GETX", "*GET"])
def test_method_that_llhttp_does_not_know_is_refused(method: str, step: int | None) -> None:
    parser = make()
    assert [request.method for request in feed_all(parser, get("/ping") + get("/ping", method), step)] == [
        "GET"
    ]
    assert parser.fault == BAD_REQUEST


@STEPS
def test_first_line_without_a_version_is_refused_at_its_end(step: int | None) -> None:
    parser = make()
    assert feed_all(parser, b"GET /ping\r\n", step) == []
    assert parser.fault == BAD_REQUEST


@pytest.mark.parametrize(
    "host", ["", "a", "a:1", "127.0.0.1:4151", "[::1]:4151", "[fe80::1%25eth0]", "my_host", "a."]
)
def test_good_hosts(host: str) -> None:
    parser = make()
    assert len(feed_all(parser, f"GET /ping HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())) == 1


@STEPS
@pytest.mark.parametrize(
    ("data", "keep_alive"),
    [
        (get("/ping"), True),
        (get("/ping", "GET", "Connection: close"), False),
        (get("/ping", "GET", "connection: Close"), False),
        (b"GET /ping HTTP/1.0\r\n\r\n", False),
        (b"GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
        (get("/ping", "GET", "Connection: close, Upgrade", "Upgrade: h2c"), False),
    ],
)
def test_keep_alive(data: bytes, keep_alive: bool, step: int | None) -> None:
    [request] = feed_all(make(), data, step)
    assert request.keep_alive is keep_alive


@STEPS
@pytest.mark.parametrize("target", ["/pub", "/mpub"])
@pytest.mark.parametrize("how", ["length", "chunked"])
def test_body_over_the_limit_is_refused_by_its_route(target: str, how: str, step: int | None) -> None:
    body = b"x" * (LIMIT + 1)
    data = post(target, body) if how == "length" else chunked(target, body[:60], body[60:])
    budget = ByteBudget()
    parser = make(budget=budget)
    ping, request = feed_all(parser, get("/ping") + data + get("/ping"), step)
    assert ping.refusal is None
    assert refusal(request).status == 413
    assert (
        refusal(request).body
        == {"/pub": b'{"message":"MSG_TOO_BIG"}', "/mpub": b'{"message":"BODY_TOO_BIG"}'}[target]
    )
    assert request.body == b""
    assert not request.keep_alive
    assert parser.phase is Phase.DEAD
    assert parser.fault is None
    assert budget.used == 0


def test_announced_size_over_the_limit_is_refused_before_the_body() -> None:
    parser = make()
    [request] = feed_all(parser, get("/pub", "POST", f"Content-Length: {LIMIT + 1}", "Expect: 100-continue"))
    assert request.refusal is not None
    assert not parser.wants_continue


@pytest.mark.parametrize("target", ["/topic/create", "/nowhere", "/ping"])
def test_long_body_where_none_is_wanted_ends_the_connection_after_the_usual_answer(target: str) -> None:
    parser = make(Limits(drain_bytes=10))
    assert [r.keep_alive for r in feed_all(parser, post(target, b"x" * 10))] == [True]
    [request] = feed_all(parser, post(target, b"x" * 11))
    assert request.refusal is None
    assert not request.keep_alive
    assert parser.phase is Phase.DEAD


def test_too_big_may_look_at_the_request() -> None:
    router = small_api()
    router.add("POST", "/x", echo, body_limit=1, too_big=lambda request: text(request.query_string, 418))
    parser = RequestParser(router, Limits(), ByteBudget(), "@")
    [request] = feed_all(parser, post("/x?topic=t", b"ab"))
    assert refusal(request).body == b"topic=t"


@STEPS
def test_expect_continue(step: int | None) -> None:
    parser = make()
    head = get("/pub", "POST", "Content-Length: 3", "Expect: 100-Continue")
    assert feed_all(parser, head, step) == []
    assert parser.wants_continue
    [request] = feed_all(parser, b"abc")
    assert request.body == b"abc"
    assert not parser.wants_continue


@STEPS
@pytest.mark.parametrize("target", ["/topic/create?topic=t", "/nowhere", "/ping"])
def test_expect_continue_is_answered_at_once_where_nobody_reads_the_body(
    target: str, step: int | None
) -> None:
    for framing in ("Content-Length: 3", "Transfer-Encoding: chunked"):
        parser = make()
        [request] = feed_all(parser, get(target, "POST", framing, "Expect: 100-continue"), step)
        assert (request.refusal, request.keep_alive) == (None, False)
        assert not parser.wants_continue
        assert parser.phase is Phase.DEAD


def test_expect_anything_else_is_417() -> None:
    parser = make()
    assert feed_all(parser, get("/pub", "POST", "Content-Length: 3", "Expect: cake")) == []
    assert parser.fault is not None
    assert parser.fault.startswith(b"HTTP/1.1 417 ")


@STEPS
@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * 9000,
        b"GET /ping HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 9000,
        b"GET /ping HTTP/1.1\r\nHost: a\r\n" + b"a" * 9000,
        b"GET /ping HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 1500,
        get("/pub", "POST", "Transfer-Encoding: chunked") + b"1;" + b"a" * 9000,
        get("/pub", "POST", "Transfer-Encoding: chunked") + b"0\r\nX: " + b"a" * 9000,
        get("/pub", "POST", "Transfer-Encoding: chunked") + b"0\r\n" + b"a: b\r\n" * 1500,
    ],
)
def test_head_over_the_limit(data: bytes, step: int | None) -> None:
    parser = make(Limits(head_bytes=8192))
    assert feed_all(parser, data, step) == []
    assert parser.fault is not None
    assert parser.fault.startswith(b"HTTP/1.1 431 ")


def test_too_many_headers() -> None:
    assert len(feed_all(make(), get("/ping", "GET", *["A: b"] * 99))) == 1
    parser = make()
    assert feed_all(parser, get("/ping", "GET", *["A: b"] * 100)) == []
    assert parser.fault is not None
    assert parser.fault.startswith(b"HTTP/1.1 431 ")


def test_head_limit_below_a_slice() -> None:
    parser = make(Limits(head_bytes=200))
    assert len(feed_all(parser, get("/ping"))) == 1
    assert feed_all(parser, get("/ping?" + "a" * 300)) == []
    assert parser.fault is not None


def test_a_slice_bounds_what_becomes_ready_at_once() -> None:
    parser = make()
    data = get("/ping") * 1000
    most = total = 0
    while data:
        data = parser.feed(data)
        most = max(most, len(parser.ready))
        total += len(parser.ready)
        parser.ready = []
    assert total == 1000
    assert most <= 4096 // len(get("/ping"))


def test_budget_counts_partial_bodies_and_refuses_over_it() -> None:
    budget = ByteBudget(150)
    one, two = make(budget=budget), make(budget=budget)
    head = get("/pub", "POST", "Content-Length: 100")
    assert feed_all(one, head + b"x" * 99) == []
    assert budget.used == 99
    [refused] = feed_all(two, head + b"x" * 52)
    assert refusal(refused).status == 503
    assert budget.used == 99
    [request] = feed_all(one, b"x")
    assert request.charged == 99
    budget.give(request.charged)
    three = make(budget=budget)
    assert feed_all(three, head + b"x" * 50) == []
    three.close()
    assert budget.used == 0


def test_phases() -> None:
    parser = make()
    assert parser.phase is Phase.IDLE
    parser.feed(b"P")
    assert parser.phase is Phase.HEAD
    parser.feed(post("/pub", b"abc")[1:-2])
    assert parser.phase is Phase.BODY
    assert (parser.body_size, parser.body_remaining) == (3, 2)
    parser.feed(b"bc")
    assert parser.phase is Phase.IDLE


PIECES = st.sampled_from(
    [
        get("/ping"),
        post("/pub", b"abc"),
        chunked("/pub", b"ab", b"cdef"),
        b"  V2",
        b"GET",
        b" ",
        b"\r\n\r\n",
        b"GET  /ping HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost",
        b": a\r\n",
        b"\r\n",
        b"\n",
        b":",
        b"0",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Host: a\r\n",
        b"POST /pub HTTP/1.1\r\n",
    ]
)


def test_line_breaks_after_a_post_are_forgotten_with_the_next_request() -> None:
    parser = make()
    pieces = [
        post("/pub", b"abc"),
        b"\n",
        get("/ping")[:-4],
        get("/ping")[-4:] + get("/ping")[:7],
        get("/ping")[7:],
    ]
    requests = [request for piece in pieces for request in feed_all(parser, piece, None)]
    assert parser.fault is None
    assert [request.method for request in requests] == ["POST", "GET", "GET"]


@given(st.lists(PIECES | st.binary(max_size=5), max_size=8), st.integers(1, 50))
def test_any_bytes_in_any_pieces_come_to_the_same(pieces: list[bytes], step: int) -> None:
    data = b"".join(pieces)
    outcomes = []
    for size in (None, step):
        budget = ByteBudget()
        parser = make(budget=budget)
        requests = feed_all(parser, data, size) if data else []
        outcomes.append([(r.method, r.target, r.headers, r.body, r.keep_alive) for r in requests])
        for request in requests:
            budget.give(request.charged)
        if parser.phase is not Phase.DEAD:
            outcomes[-1].append(parser.phase)
        parser.close()
        assert budget.used == 0
    assert outcomes[0] == outcomes[1]
