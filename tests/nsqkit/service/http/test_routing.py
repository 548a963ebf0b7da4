from __future__ import annotations

import pytest
import trio

from nsqkit.service.http import Only, Request, Response, Router, error, query
from tests.nsqkit.service.http.http_peer import LIMIT, Client, chunked, echo, get, post, serving, small_api


async def one(data: bytes, router: Router | None = None) -> tuple[int, dict[bytes, bytes], bytes]:
    async with serving(router or small_api()) as it:
        client: Client = await it.connect()
        answer = await client.ask(data)
        return answer.status, answer.headers, answer.body


JSON = b"application/json; charset=utf-8"
NSQ = b"X-Nsq-Content-Type"


@pytest.mark.parametrize(
    "target", ["/", "/nowhere", "/pubx", "/config", "/config/", "/CONFIG", "/config/a/b", "/put", "/%70ing/x"]
)
async def test_unknown_path(target: str, autojump_clock: object) -> None:
    status, headers, body = await one(get(target))
    assert (status, body) == (404, b'{"message":"NOT_FOUND"}')
    assert headers[b"Content-Type"] == JSON
    assert headers[NSQ] == b"nsq; version=1.0"


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("POST", "/ping", b"GET, OPTIONS"),
        ("GET", "/pub", b"OPTIONS, POST"),
        ("POST", "/config/id", b"GET, OPTIONS, PUT"),
        ("DELETE", "/config/id", b"GET, OPTIONS, PUT"),
        ("HEAD", "/pub", b"OPTIONS, POST"),
    ],
)
async def test_wrong_method(method: str, target: str, allow: bytes, autojump_clock: object) -> None:
    async with serving(small_api()) as it:
        client = await it.connect()
        await client.send(get(target, method) + get("/ping", "GET", "Connection: close"))
        data = await client.rest()
    first, _, rest = data.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: " + allow + b"\r\n" in first
    assert first.endswith(b"\r\nContent-Length: 32")
    assert NSQ in first
    # HEAD is not GET, and its answer has no body, only its length.
    body = b"" if method == "HEAD" else b'{"message":"METHOD_NOT_ALLOWED"}'
    assert rest.startswith(body + b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("target", "allow"),
    [
        ("/ping", b"GET, OPTIONS"),
        ("/pub", b"OPTIONS, POST"),
        ("/config/x", b"GET, OPTIONS, PUT"),
        ("*", None),
    ],
)
async def test_options(target: str, allow: bytes | None, autojump_clock: object) -> None:
    status, headers, body = await one(get(target, "OPTIONS"))
    assert (status, body, headers.get(b"Allow")) == (200, b"", allow)
    assert NSQ not in headers
    assert headers[b"Content-Length"] == b"0"


async def test_options_unknown(autojump_clock: object) -> None:
    assert (await one(get("/nowhere", "OPTIONS")))[0] == 404


@pytest.mark.parametrize(
    ("target", "right"),
    [
        ("/PING", "/ping"),
        ("/ping/", "/ping"),
        ("/Ping/?a=b&c=%20", "/ping?a=b&c=%20"),
        ("//ping", "/ping"),
        ("/./ping", "/ping"),
        ("/a/../ping", "/ping"),
        ("/../../ping", "/ping"),
        ("/%50ing", "/ping"),
        ("/config/id/", "/config/id"),
        ("/CONFIG/Id", "/config/Id"),
        ("/config//id", "/config/id"),
        ("/CONFIG/a%20%3Cb", "/config/a%20%3Cb"),
        ("/debug/pprof", "/debug/pprof/"),
        ("/Debug/pprof", "/debug/pprof/"),
    ],
)
async def test_repair_of_a_get(target: str, right: str, autojump_clock: object) -> None:
    status, headers, body = await one(get(target))
    assert (status, headers[b"Location"]) == (301, right.encode())
    link = right.encode().replace(b"&", b"&amp;")
    assert body == b'<a href="' + link + b'">Moved Permanently</a>.\n\n'
    assert headers[b"Content-Type"] == b"text/html; charset=utf-8"
    assert NSQ not in headers


@pytest.mark.parametrize(
    ("method", "target", "right"),
    [("POST", "/pub/?topic=a", "/pub?topic=a"), ("POST", "/PUB", "/pub"), ("PUT", "/Config/x", "/config/x")],
)
async def test_repair_of_others(method: str, target: str, right: str, autojump_clock: object) -> None:
    status, headers, body = await one(get(target, method, body=b"abc"))
    assert (status, headers[b"Location"], body) == (307, right.encode(), b"")
    assert b"Content-Type" not in headers
    assert NSQ not in headers


@pytest.mark.parametrize(
    "data", [get("/pub/"), post("/PING", b""), get("/ping/", "HEAD"), get("/PING", "OPTIONS")]
)
async def test_no_repair_towards_another_method(data: bytes, autojump_clock: object) -> None:
    async with serving(small_api()) as it:
        client = await it.connect()
        await client.send(data)
        with_body = data[:4] != b"HEAD"
        answer = await client.answer() if with_body else None
        if answer is not None:
            assert answer.status == 404


async def test_redirect_never_leaves_the_host(autojump_clock: object) -> None:
    for target in (
        "//evil.example/ping",
        "//evil.example/..//ping/",
        "/\\evil/../ping",
        "/config/%0d%0aX:%20y/",
    ):
        status, headers, _ = await one(get(target))
        assert status in (301, 404)
        assert not headers.get(b"Location", b"/").startswith(b"//")
        assert b"X" not in headers


async def test_parameters_and_decoding(autojump_clock: object) -> None:
    assert (await one(get("/config/max%5Fmsg")))[2] == b"max_msg"
    assert (await one(get("/config/x", "PUT", body=b"v")))[2] == b"v"


@pytest.mark.parametrize("target", ["/crash", "/crash/later"])
async def test_crash(target: str, autojump_clock: object, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(small_api()) as it:
        client = await it.connect()
        answer = await client.ask(get(target))
        assert (answer.status, answer.body) == (500, b'{"message":"INTERNAL_ERROR"}')
        assert answer.headers[NSQ]
        assert (await client.ask(get("/ping"))).status == 200
    assert "ZeroDivisionError: on purpose" in caplog.text


async def test_handler_that_returns_no_response(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    async def nothing(request: Request) -> Response:
        return None  # type: ignore[return-value]

    router = Router()
    router.add("GET", "/none", nothing)
    router.add("GET", "/plain/none", lambda request: None)  # type: ignore[arg-type,return-value]
    assert (await one(get("/none"), router))[0] == 500
    assert (await one(get("/plain/none"), router))[0] == 500
    assert "NoneType" in caplog.text


async def test_bad_query_raised_in_a_handler_is_its_answer(autojump_clock: object) -> None:
    status, _, body = await one(post("/topic/create?a=%zz", b""))
    assert (status, body) == (400, b'{"message":"INVALID_REQUEST"}')


async def test_form_in_the_body_is_not_looked_at(autojump_clock: object) -> None:
    data = get("/topic/create", "POST", "Content-Type: application/x-www-form-urlencoded", body=b"topic=x")
    assert (await one(data))[0] == 500  # the handler of this test asks for a topic that the query has not


async def test_limit_may_change_while_running(autojump_clock: object) -> None:
    limit = LIMIT
    router = Router()
    router.add("POST", "/pub", echo, body_limit=lambda: limit)
    assert (await one(post("/pub", b"x" * LIMIT), router))[0] == 200
    limit = LIMIT - 1
    assert (await one(post("/pub", b"x" * LIMIT), router))[0] == 413


async def test_too_big_may_raise_and_wait(autojump_clock: object) -> None:
    async def too_big(request: Request) -> Response:
        await trio.sleep(1)
        return error(413, query(request)["code"])

    router = Router()
    router.add("POST", "/x", echo, body_limit=1, too_big=too_big)
    assert (await one(post("/x?code=A", b"ab"), router))[2] == b'{"message":"A"}'
    assert (await one(post("/x?code=;", b"ab"), router))[0] == 400
    assert (await one(chunked("/x?code=B", b"a", b"b"), router))[2] == b'{"message":"B"}'


async def test_only(autojump_clock: object) -> None:
    body, kind = b'{"message": "TLS_REQUIRED", "https_port": 4152}', b"application/json; charset=utf-8"
    app = Only(lambda _: Response(403, body, kind))
    async with serving(app) as it:
        client = await it.connect()
        for data in (get("/ping"), post("/pub", b"abc"), get("/nowhere", "DELETE")):
            answer = await client.ask(data)
            assert (answer.status, answer.body) == (403, b'{"message": "TLS_REQUIRED", "https_port": 4152}')
            assert answer.headers[NSQ]


async def test_access_log(autojump_clock: object) -> None:
    lines: list[tuple[str, int, bool]] = []
    router = small_api(
        log=lambda request, status, seconds: lines.append((request.path, status, 0 <= seconds < 5))
    )
    async with serving(router) as it:
        client = await it.connect()
        for data in (get("/ping"), post("/pub", b"abc"), get("/nowhere"), get("/crash"), get("/slow")):
            await client.ask(data)
    assert lines == [
        ("/ping", 200, True),
        ("/nowhere", 404, True),
        ("/crash", 500, True),
        ("/slow", 200, True),
    ]


def test_wrong_registrations() -> None:
    router = Router()
    router.add("GET", "/a", echo)
    router.add("PUT", "/a", echo)
    with pytest.raises(ValueError, match="GET /a has a handler already"):
        router.add("GET", "/a", lambda request: error(500, "X"))
    with pytest.raises(ValueError, match="begins with a slash"):
        router.add("GET", "a", echo)
