"""Graphite: rates, and /render as a reverse proxy."""

from __future__ import annotations

import base64
import contextlib
import gzip
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import trio

from nsqkit.service.http import Request, Response, error, json_body
from nsqkit.service.listeners import bound_address, open_listeners
from tests.nsqadmin.auth.people import PASSWORD, logged_in, user, with_users
from tests.nsqadmin.scripted import Script, dead_address, scripted
from tests.nsqadmin.serving import Browser, serving

RATE = "/api/graphite?metric=rate&target=sumSeries(x)"


async def rate_of(answer: Any) -> tuple[int, Any]:
    async with scripted() as script:
        graphite = await script.daemon()
        graphite.on("/render", answer)
        async with serving(nsqds=[dead_address()], graphite_url=f"http://{graphite.address}") as browser:
            response = await browser.get(RATE)
    return response.status_code, response.json()


def points(*values: float | None) -> Response:
    return json_body([{"target": "x", "datapoints": [[value, 1] for value in values]}])


class TestRate:
    @pytest.mark.parametrize(
        ("value", "rate"), [(120, "2.00"), (0, "0.00"), (100.0, "1.67"), (-1, "N/A"), (1e9, "16666666.67")]
    )
    async def test_the_rate_is_per_second(self, value: float, rate: str) -> None:
        assert await rate_of(points(value, 7)) == (200, {"rate": rate})

    async def test_the_rate_is_that_of_the_interval_before_the_last(self) -> None:
        async with scripted() as script:
            graphite = await script.daemon()
            graphite.on("/render", points(30))
            async with serving(
                nsqds=[dead_address()],
                graphite_url=f"http://{graphite.address}",
                statsd_interval=30_000_000_000,
            ) as browser:
                assert (await browser.json(RATE)) == {"rate": "1.00"}
        assert script.calls == [
            f"GET {graphite.address}/render?format=json&from=-60sec&target=sumSeries%28x%29&until=-30sec"
        ]

    @pytest.mark.parametrize(
        "answer",
        [json_body([]), points(), points(None), json_body("x"), error(500, "X"), Response(200, b"<html>")],
    )
    async def test_every_failure_of_a_rate_is_500(self, answer: Response) -> None:
        assert await rate_of(answer) == (500, {"message": "INTERNAL_ERROR"})

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ("", "INVALID_ARG_METRIC"),
            ("?metric=depth&target=x", "INVALID_ARG_METRIC"),
            ("?metric=rate", "INVALID_ARG_TARGET"),
        ],
    )
    async def test_invalid_parameters_of_a_rate_are_400(self, query: str, code: str) -> None:
        async with serving(nsqds=[dead_address()]) as browser:
            response = await browser.get(f"/api/graphite{query}")
        assert (response.status_code, response.json()) == (400, {"message": code})


@contextlib.asynccontextmanager
async def render(answer: Response) -> AsyncIterator[tuple[Browser, Script]]:
    """A console before a Graphite that answers this."""
    async with scripted() as script:
        graphite = await script.daemon()
        graphite.on("/render", answer)
        url = f"http://{graphite.address}"
        async with serving(nsqds=[dead_address()], graphite_url=url, proxy_graphite=True) as browser:
            yield browser, script


async def raw(browser: Browser, headers: dict[str, str]) -> tuple[httpx.Response, bytes]:
    """What /render answers, and its body as it came."""
    async with browser.client.stream("GET", f"http://{browser.address}/render", headers=headers) as response:
        return response, b"".join([piece async for piece in response.aiter_raw()])


class TestRender:
    async def test_render_forwards_path_and_query(self) -> None:
        received: list[Request] = []

        def answer(request: Request) -> Response:
            received.append(request)
            return Response(200, b"PNG", b"image/png", nsq=False)

        async with scripted() as script:
            graphite = await script.daemon()
            graphite.on("/render", answer)
            url = f"http://ann:se%40cret@{graphite.address}/ignored"
            async with serving(
                nsqds=[dead_address()], graphite_url=url, proxy_graphite=True, base_path="/adm"
            ) as browser:
                response = await browser.get("/adm/render?target=a%20b&x=1", **{"X-Forwarded-For": "1.1.1.1"})
        assert (response.status_code, response.content) == (200, b"PNG")
        assert response.headers["content-type"] == "image/png"
        [request] = received
        assert request.target == b"/render?target=a%20b&x=1"
        assert request.header(b"host") == browser.address.encode()
        assert request.header(b"x-forwarded-for") == b"1.1.1.1, 127.0.0.1"
        assert request.header(b"authorization") == b"Basic YW5uOnNlQGNyZXQ="

    async def test_there_is_no_render_without_a_server(self) -> None:
        async with serving(nsqds=[dead_address()], proxy_graphite=True) as browser:
            assert (await browser.get("/render?target=x")).status_code == 404

    async def test_render_forwards_end_to_end_headers_of_the_request(self) -> None:
        async with render(Response(200)) as (browser, script):
            await browser.client.get(
                f"http://{browser.address}/render",
                headers=[
                    ("Accept", "image/png"), ("Accept-Encoding", "br"), ("Accept-Language", "de"),
                    ("Authorization", "Basic YTpi"), ("Cookie", "s=1"), ("If-None-Match", '"x"'),
                    ("User-Agent", "Mozilla"), ("X-Two", "a"), ("X-Two", "b"),
                    ("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-For", "2.2.2.2"),
                    ("Connection", "keep-alive, X-Hop"), ("Connection", "x-other"), ("X-Hop", "1"), ("X-Other", "1"),
                    ("Keep-Alive", "timeout=5"), ("Proxy-Authorization", "Basic YTpi"), ("Proxy-Anything", "1"),
                    ("TE", "trailers"), ("Trailer", "X"), ("Content-Length", "0"), ("Expect", "100-continue"),
                ],
            )  # fmt: skip
        [request] = script.requests
        assert sorted(request.headers) == [
            (b"accept", b"image/png"),
            (b"accept-encoding", b"br"),
            (b"accept-language", b"de"),
            (b"authorization", b"Basic YTpi"),
            (b"cookie", b"s=1"),
            (b"host", browser.address.encode()),
            (b"if-none-match", b'"x"'),
            (b"user-agent", b"Mozilla"),
            (b"x-forwarded-for", b"1.1.1.1, 2.2.2.2, 127.0.0.1"),
            (b"x-two", b"a"),
            (b"x-two", b"b"),
        ]

    async def test_render_forwards_no_secret_of_a_user_of_the_console(self) -> None:
        async with render(Response(200, b"PNG", b"image/png", nsq=False)) as (browser, script):
            with_users(browser.console, user("ann"))
            basic = {"Authorization": "Basic " + base64.b64encode(f"ann:{PASSWORD}".encode()).decode()}
            session = logged_in(browser.console, "ann", int(browser.address.rpartition(":")[2]))
            for headers in (basic, session, {**session, **basic}):
                assert (await browser.get("/render?target=a", **headers)).status_code == 200
        assert len(script.requests) == 3
        for request in script.requests:
            assert request.header(b"cookie") is None
            assert request.header(b"authorization") is None

    async def test_render_forwards_no_body(self) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"GET /smuggled HTTP/1.1\r\n\r\n"

        async with render(Response(200)) as (browser, script):
            response = await browser.client.request(
                "GET", f"http://{browser.address}/render", content=chunks()
            )
        assert response.status_code == 200
        [request] = script.requests
        assert (request.body, request.target) == (b"", b"/render")
        assert not {b"transfer-encoding", b"content-length"} & {name for name, _ in request.headers}

    async def test_render_returns_end_to_end_headers_of_the_response(self) -> None:
        end_to_end = (
            (b"ETag", b'"x"'),
            (b"Cache-Control", b"max-age=60"),
            (b"Content-Disposition", b"attachment; filename=g.png"),
            (b"Set-Cookie", b"a=1; Path=/"),
            (b"Set-Cookie", b"b=2; Path=/"),
            (b"WWW-Authenticate", b'Basic realm="graphite"'),
        )
        hop_by_hop = (
            (b"Connection", b"close, X-Hop"),
            (b"X-Hop", b"1"),
            (b"Keep-Alive", b"timeout=5"),
            (b"Proxy-Authenticate", b"Basic"),
            (b"Trailer", b"X"),
            (b"Upgrade", b"h2c"),
        )
        answer = Response(401, b"no", b"image/png", (*end_to_end, *hop_by_hop), nsq=False)
        async with render(answer) as (browser, _):
            response = await browser.get("/render")
        assert (response.status_code, response.content) == (401, b"no")
        own = {b"content-security-policy", b"x-content-type-options", b"date"}
        assert [header for header in response.headers.raw if header[0].lower() not in own] == [
            (b"Content-Type", b"image/png"),
            *end_to_end,
            (b"Content-Length", b"2"),
        ]
        assert len(response.headers.get_list("date")) == 1

    async def test_render_returns_304_and_redirects(self) -> None:
        for answer in (
            Response(304, headers=((b"ETag", b'"x"'),)),
            Response(302, headers=((b"Location", b"/login?next=/render"),)),
        ):
            async with render(answer) as (browser, script):
                response = await browser.get("/render", **{"Accept-Encoding": "gzip"})
            assert (response.status_code, response.content, len(script.calls)) == (answer.status, b"", 1)
            [(name, value)] = answer.headers
            assert response.headers[name.decode()] == value.decode()

    async def test_render_returns_compressed_bodies_as_they_are(self) -> None:
        packed = gzip.compress(b"[]")
        answer = Response(200, packed, b"application/json", ((b"Content-Encoding", b"gzip"),))
        async with render(answer) as (browser, script):
            response, body = await raw(browser, {"Accept-Encoding": "gzip, deflate"})
        assert (response.headers["content-encoding"], body) == ("gzip", packed)
        assert response.headers["content-length"] == str(len(packed))
        assert script.requests[0].header(b"accept-encoding") == b"gzip, deflate"

    async def test_render_compresses_other_bodies(self) -> None:
        async with render(Response(200, b"[]", b"application/json")) as (browser, _):
            response, body = await raw(browser, {"Accept-Encoding": "gzip"})
        assert response.headers["content-encoding"] == "gzip"
        assert gzip.decompress(body) == b"[]"

    async def test_render_does_not_compress_a_range(self) -> None:
        answer = Response(206, b"NG", b"image/png", ((b"Content-Range", b"bytes 1-2/3"),))
        async with render(answer) as (browser, script):
            response, body = await raw(browser, {"Accept-Encoding": "gzip", "Range": "bytes=1-2"})
        assert (response.status_code, body) == (206, b"NG")
        assert "content-encoding" not in response.headers
        assert script.requests[0].header(b"range") == b"bytes=1-2"

    async def test_render_sandboxes_documents(self) -> None:
        weaker = ((b"Content-Security-Policy", b"script-src *"), (b"X-Content-Type-Options", b"none"))
        async with render(Response(200, b"<script>", b"text/html", weaker)) as (browser, _):
            response = await browser.get("/render")
        assert response.headers.get_list("content-security-policy") == ["sandbox", "script-src *"]
        assert response.headers.get_list("x-content-type-options")[0] == "nosniff"

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX y: z\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        ],
    )
    async def test_render_answers_502_to_invalid_http(self, answer: bytes) -> None:
        async def say_it(stream: trio.SocketStream) -> None:
            async with stream:
                await stream.receive_some()
                await stream.send_all(answer)

        async with trio.open_nursery() as nursery:
            listeners = await open_listeners("127.0.0.1:0")
            nursery.start_soon(trio.serve_listeners, say_it, listeners)
            url = f"http://{bound_address(listeners[0]).text}"
            async with serving(nsqds=[dead_address()], graphite_url=url, proxy_graphite=True) as browser:
                assert (await browser.get("/render")).status_code == 502
            nursery.cancel_scope.cancel()

    async def test_render_returns_errors_and_is_502_without_graphite(self) -> None:
        async with scripted() as script:
            graphite = await script.daemon()
            async with serving(
                nsqds=[dead_address()], graphite_url=f"http://{graphite.address}", proxy_graphite=True
            ) as browser:
                assert (await browser.get("/render")).status_code == 404
        async with serving(
            nsqds=[dead_address()], graphite_url=f"http://{dead_address()}", proxy_graphite=True
        ) as browser:
            assert (await browser.get("/render")).status_code == 502

    async def test_render_is_404_without_the_option(self) -> None:
        async with serving(nsqds=[dead_address()], graphite_url="http://127.0.0.1:1") as browser:
            assert (await browser.get("/render")).status_code == 404
