"""Asking the daemons' HTTP APIs: JSON objects, errors with a reason and an address, kept connections."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from nsqkit.http_client import HttpFailed
from nsqkit.options import MILLISECOND
from nsqkit.service.http import Response, text
from nsqtools import fetch
from nsqtools.fetch import HttpFlags, open_fetcher
from tests.nsqkit.certificates import Certificates
from tests.nsqkit.http_target import Target, never
from tests.timing import patience


@pytest.fixture
def target() -> Iterator[Target]:
    with Target() as target:
        yield target


async def object_at(target: Target) -> dict[str, object]:
    async with open_fetcher(HttpFlags()) as fetcher:
        return await fetcher.object(target.url("/stats"))


async def test_object(target: Target) -> None:
    """With the header that the daemons' API of today wants."""
    target.answer = lambda request: text('{"a":1}')
    assert await object_at(target) == {"a": 1}
    assert target.requests[0].header(b"accept") == b"application/vnd.nsq; version=1.0"


async def test_connections_are_kept(target: Target) -> None:
    """And answers are not compressed, so that their bytes can be counted."""
    async with open_fetcher(HttpFlags()) as fetcher:
        for _ in range(3):
            assert (await fetcher.fetch(target.url("/ping"), {}, 5.0)).body == b"OK"
    assert len({request.remote for request in target.requests}) == 1
    assert {request.header(b"accept-encoding") for request in target.requests} == {b"identity"}


async def test_https_where_a_daemon_wants_it(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 403 over http that names a port: the same question there."""
    certificates = Certificates(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", certificates.root_ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.server.configure_cert(context)
    with Target(tls=context, answer=lambda request: text("{}")) as secure:
        target.answer = lambda request: text(f'{{"https_port":{secure.port}}}', 403)
        assert await object_at(target) == {}
    assert [request.target for request in secure.requests] == [b"/stats"]


@pytest.mark.parametrize("body", [b"", b"no", b"[]", b'{"https_port":0}', b'{"https_port":"4152"}'])
async def test_other_403s_are_errors(target: Target, body: bytes) -> None:
    """Also when they look nearly like that."""
    target.answer = lambda request: Response(403, body)
    with pytest.raises(HttpFailed, match="got response 403 Forbidden"):
        await object_at(target)


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (Response(404, b'{"message":"X"}'), r'got response 404 Not Found "\{\\"message\\":\\"X\\"\}"'),
        (Response(599), 'got response 599 ""'),
        (Response(301, headers=((b"Location", b"/"),)), "got response 301 Moved Permanently"),
        (Response(200, b"x"), "not JSON"),
        (Response(200, b"[" * 99_999), "not JSON"),
        (Response(200, b"[]"), "no JSON object"),
    ],
)
async def test_malformed_answers(target: Target, response: Response, reason: str) -> None:
    """Said as nsqadmin says it."""
    target.answer = lambda request: response
    with pytest.raises(HttpFailed, match=reason):
        await object_at(target)


async def test_answers_without_bound(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not fill memory, and the next question has its answer."""
    monkeypatch.setattr(fetch, "MAX_ANSWER", 10)
    target.answer = lambda request: text("x" * 1_000_000)
    async with open_fetcher(HttpFlags()) as fetcher:
        with pytest.raises(HttpFailed, match=rf"{target.port}/: response of more than 10 bytes"):
            await fetcher.object(target.url("/"))
        target.answer = lambda request: text("{}")
        assert await fetcher.object(target.url("/")) == {}


async def test_a_refused_connection_and_a_missing_answer(target: Target) -> None:
    """Both within their times, and told with the address."""
    target.answer = never
    async with open_fetcher(HttpFlags(http_client_request_timeout=200 * MILLISECOND)) as fetcher:
        with (
            trio.fail_after(patience(5)),
            pytest.raises(HttpFailed, match=r"/stats: no answer within 0\.2 s"),
        ):
            await fetcher.object(target.url("/stats"))
        target.stop()
        with pytest.raises(HttpFailed, match=f"{target.port}/stats: connection refused"):
            await fetcher.object(target.url("/stats"))
