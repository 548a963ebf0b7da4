"""Asking the daemons' HTTP APIs: errors with a reason, https where a daemon wants it, nothing without a bound."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
import trio

from nsqkit.http import text
from nsqtools import fetch
from nsqtools.fetch import Fetcher, open_fetcher
from nsqtools.http_client import HttpFailed
from tests.nsqtools.http_target import Target, never
from tests.timing import patience


def fetcher(handle: Callable[[httpx.Request], httpx.Response]) -> Fetcher:
    """One whose answers come from a function."""

    def over_the_wire(request: httpx.Request) -> httpx.Response:
        answer = handle(request)
        # One made of its content counts as read already; from a server's nobody has read.
        unread = httpx.ByteStream(answer.content)
        return httpx.Response(answer.status_code, headers=answer.headers, stream=unread)

    return Fetcher(httpx.AsyncClient(transport=httpx.MockTransport(over_the_wire)), 5.0)


async def test_object() -> None:
    """With the header that the daemons' API of today wants."""

    def handle(request: httpx.Request) -> httpx.Response:
        assert request.headers["Accept"] == "application/vnd.nsq; version=1.0"
        return httpx.Response(200, json={"a": 1})

    assert await fetcher(handle).object("http://a:1/stats") == {"a": 1}


async def test_connections_are_kept() -> None:
    """And answers are not compressed, so that their bytes can be counted."""
    with Target() as target:
        async with open_fetcher(5.0, 5.0) as real:
            for _ in range(3):
                assert await real.fetch(target.url("/ping"), {}, 5.0) == (200, b"OK")
    assert len({request.remote for request in target.requests}) == 1
    assert {request.header(b"accept-encoding") for request in target.requests} == {b"identity"}


async def test_https_where_a_daemon_wants_it() -> None:
    """A 403 over http that names a port: the same question there."""

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.scheme == "http":
            return httpx.Response(403, json={"message": "TLS_REQUIRED", "https_port": 4152})
        return httpx.Response(200, json={"url": str(request.url)})

    answer = await fetcher(handle).object("http://a:4151/stats?format=json&topic=t")
    assert answer == {"url": "https://a:4152/stats?format=json&topic=t"}


@pytest.mark.parametrize(
    "body",
    [b"", b"no", b"[]", b'{"https_port":0}', b'{"https_port":"4152"}', b'{"https_port":true}', b"[" * 99_999],
)
async def test_other_403s_are_errors(body: bytes) -> None:
    """Also when they look nearly like that."""
    with pytest.raises(HttpFailed, match="got response 403 Forbidden"):
        await fetcher(lambda request: httpx.Response(403, content=body)).object("http://a:1/")


async def test_403_over_https_is_final() -> None:
    """It does not go round in circles."""
    asked = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.scheme)
        return httpx.Response(403, json={"https_port": 4152})

    with pytest.raises(HttpFailed, match="got response 403 Forbidden"):
        await fetcher(handle).object("http://a:1/")
    assert asked == ["http", "https"]


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (
            httpx.Response(404, json={"message": "X"}),
            r'got response 404 Not Found "\{\\"message\\":\\"X\\"\}"',
        ),
        (httpx.Response(599), 'got response 599 ""'),
        (httpx.Response(301, headers={"Location": "/"}), "got response 301 Moved Permanently"),
        (httpx.Response(200, content=b"x"), "not JSON"),
        (httpx.Response(200, content=b"[" * 99_999), "not JSON"),
        (httpx.Response(200, content=b"[]"), "no JSON object"),
    ],
)
async def test_malformed_answers(response: httpx.Response, reason: str) -> None:
    """Said as nsqadmin says it."""
    with pytest.raises(HttpFailed, match=reason):
        await fetcher(lambda request: response).object("http://a:1/")


async def test_answers_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not fill memory, and the next question has its answer."""
    monkeypatch.setattr(fetch, "MAX_ANSWER", 10)
    with Target(answer=lambda request: text("x" * 1_000_000)) as target:
        async with open_fetcher(5.0, 5.0) as real:
            with pytest.raises(HttpFailed, match=rf"{target.port}/: an answer of more than 10 bytes"):
                await real.object(target.url("/"))
            target.answer = lambda request: text("{}")
            assert await real.object(target.url("/")) == {}


async def test_a_refused_connection_and_a_missing_answer() -> None:
    """Both within their times."""
    with Target(answer=never) as target:
        async with open_fetcher(0.2, 0.2) as real:
            with trio.fail_after(patience(5)), pytest.raises(HttpFailed, match="no answer in time"):
                await real.object(target.url("/stats"))
            target.stop()
            with pytest.raises(HttpFailed, match=str(target.port)):
                await real.object(target.url("/stats"))
