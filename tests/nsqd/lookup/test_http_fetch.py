"""One request to a registry's HTTP API, over loopback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
import trio

from nsqd.lookup.http_fetch import HttpFetch
from nsqd.lookup.protocol import HttpAddress
from nsqkit.http.fetch import MAX_BODY, AnswerTooLarge, Fetcher, FetchOptions
from tests.timing import patience


@asynccontextmanager
async def answering(
    *pieces: bytes, then: Callable[[], object] | None = None
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that reads a request's head, says the pieces and closes, or never does: its port, and the heads."""
    heads: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = bytes(await stream.receive_some(4096))
            if not data:
                return
            head += data
        heads.append(head)
        try:
            for piece in pieces:
                await stream.send_all(piece)
            if then is not None:
                await trio.sleep_forever()
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        yield listeners[0].socket.getsockname()[1], heads
        nursery.cancel_scope.cancel()


def response(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), len(body), body)


async def fetch(port: int, topic: str = "t", request_timeout: float = 5.0) -> tuple[int, bytes]:
    fetch_one = HttpFetch(Fetcher(FetchOptions(request_timeout=request_timeout)))
    return await fetch_one("http", HttpAddress("127.0.0.1", port), topic)


async def test_request_and_answer() -> None:
    async with answering(response("200 OK", b'{"channels":["x"]}')) as (port, heads):
        assert await fetch(port, "a.b#ephemeral") == (200, b'{"channels":["x"]}')
    lines = heads[0].decode().split("\r\n")
    assert lines[0] == "GET /channels?topic=a.b%23ephemeral HTTP/1.1"
    headers = {line.split(": ")[0].lower(): line.split(": ")[1] for line in lines[1:] if line}
    assert headers["accept"] == "application/vnd.nsq; version=1.0"
    assert headers["host"] == f"127.0.0.1:{port}"


async def test_any_status_is_an_answer() -> None:
    async with answering(response("403 Forbidden", b'{"https_port":1}')) as (port, _):
        assert await fetch(port) == (403, b'{"https_port":1}')


async def test_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with answering(response("200 OK", b"{}")) as (port, _):
        assert await fetch(port) == (200, b"{}")


async def test_answer_too_large() -> None:
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (MAX_BODY + 1)
    async with answering(endless, then=trio.sleep_forever) as (port, _):
        with pytest.raises(AnswerTooLarge, match="more than 1048576 bytes"):
            await fetch(port)


async def test_trickle_is_bounded_as_a_whole() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{", then=trio.sleep_forever) as (
        port,
        _,
    ):
        with trio.move_on_after(patience(2)) as scope:
            with pytest.raises((trio.TooSlowError, httpx.ReadTimeout)):
                await fetch(port, request_timeout=0.3)
        assert not scope.cancelled_caught


async def test_a_refused_connection_is_raised() -> None:
    async with answering() as (port, _):
        pass
    with pytest.raises(httpx.ConnectError):
        await fetch(port)


async def test_garbage() -> None:
    async with answering(b"  V1 what?\r\n\r\n") as (port, _):
        with pytest.raises(httpx.RemoteProtocolError):
            await fetch(port)


@pytest.mark.parametrize("host", ["", "a b", "x" * 80, "a/../b"])
async def test_a_host_that_is_none(host: str) -> None:
    with pytest.raises((httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError)):
        await HttpFetch(Fetcher(FetchOptions(request_timeout=2)))("http", HttpAddress(host, 1), "t")


def test_httpx_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, nsqd.daemon; sys.exit('httpx' in sys.modules or 'httpcore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
