"""Servers that break the rules of HTTP in place of nsqds: a warning for each, and everything else goes on.

One console polls them all, beside one good nsqd.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

from tests.nsqadmin.fake_upstream import channel, topic
from tests.nsqadmin.scripted import Script, ScriptedDaemon, scripted
from tests.nsqadmin.serving import Browser, serving
from tests.timing import patience

TIMEOUT_NS = 2_000_000_000
OK = b"HTTP/1.1 200 OK\r\n"
JSON = b'{"topics":[]}'
Serve = Callable[[trio.SocketStream], Awaitable[None]]


def says(*once: bytes, forever: bytes = b"", every_s: float = 0.0) -> Serve:
    async def serve(stream: trio.SocketStream) -> None:
        for piece in once:
            await stream.send_all(piece)
        while forever:
            await stream.send_all(forever)
            await trio.sleep(every_s)

    return serve


async def silence(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
SERVERS: dict[str, Serve] = {
    "closes": says(),
    "is silent": silence,
    "is no HTTP": says(b"\x00\xff" * 500),
    "is HTTP 0.9": says(JSON),
    "has a status of six digits": says(b"HTTP/1.1 200000 OK\r\n\r\n"),
    "has an endless status": says(b"HTTP/1.1 ", forever=b"2" * 4_096),
    "has an endless header": says(OK + b"X: ", forever=b"a" * 4_096),
    "has headers without end": says(OK, forever=b"a: b\r\n" * 500),
    "has 1xx without end": says(forever=b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100, every_s=0.01),
    "switches protocols": says(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    ),
    "has a body without end": says(OK + b"\r\n", forever=b"[" * 65_536),
    "has chunks without end": says(CHUNKED, forever=b"1\r\n \r\n" * 1_000, every_s=0.01),
    "has a slow body": says(OK + b"Content-Length: 1000\r\n\r\n", forever=b" ", every_s=0.05),
    "has a wrong chunk": says(CHUNKED + b"xyz\r\n"),
    "has a negative chunk": says(CHUNKED + b"-5\r\nhello\r\n"),
    "has trailers without end": says(CHUNKED + b"0\r\n", forever=b"a: b\r\n" * 500),
    "breaks off": says(OK + b"Content-Length: 1000\r\n\r\n" + JSON),
    "has two lengths": says(OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + JSON),
    "has a length of 20 digits": says(OK + b"Content-Length: 99999999999999999999\r\n\r\n" + JSON),
    "has a negative length": says(OK + b"Content-Length: -1\r\n\r\n" + JSON),
    "has a 204 with a body": says(b"HTTP/1.1 204 No Content\r\nContent-Length: 13\r\n\r\n" + JSON),
    "has a 304 with a body": says(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 13\r\n\r\n" + JSON),
    "has an empty body": says(OK + b"Content-Length: 0\r\n\r\n"),
    "has a compressed body": says(
        OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00"
    ),
    "redirects to itself": says(b"HTTP/1.1 302 Found\r\nLocation: /stats\r\nContent-Length: 0\r\n\r\n"),
    "redirects to no URL": says(
        b"HTTP/1.1 302 Found\r\nLocation: http://\xff[::/\r\nContent-Length: 0\r\n\r\n"
    ),
    "redirects far away": says(
        b"HTTP/1.1 307 F\r\nLocation: " + b"x" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n"
    ),
    "has a large 403": says(b"HTTP/1.1 403 Forbidden\r\n\r\n[" + b"[]," * 300_000 + b"[]]"),
    "wants TLS at a port of nobody": says(
        b'HTTP/1.1 403 Forbidden\r\nContent-Length: 16\r\n\r\n{"https_port":1}'
    ),
    "sets odd cookies": says(
        OK + b"Set-Cookie: \xff=\xfe; expires=Thu, 99 Foo; Domain=.\r\n" * 50 + b"\r\n["
    ),
}
"""What each server does with every request."""
WITH_A_STATUS = {
    *("has a 204 with a body", "has a 304 with a body", "has a large 403", "redirects to itself"),
}
"""The API's text for these is the original's, which does not name the daemon: `got response 204 No Content ""`."""


@contextlib.asynccontextmanager
async def breaking_the_rules() -> AsyncIterator[dict[str, str]]:
    """Start all of them; what they do, by address."""

    async def serve(stream: trio.SocketStream, script: Serve) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.receive_some()
            await script(stream)

    async with trio.open_nursery() as nursery:
        addresses = {}
        for name, script in SERVERS.items():
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            handler = lambda stream, script=script: serve(stream, script)  # noqa: E731
            nursery.start_soon(trio.serve_listeners, handler, [listener])
            addresses[f"127.0.0.1:{listener.socket.getsockname()[1]}"] = name
        yield addresses
        nursery.cancel_scope.cancel()


async def good_nsqd(script: Script) -> ScriptedDaemon:
    stats = {"health": "OK", "topics": [topic("t", channel("c", depth=3, client_count=1, clients=[{}]))]}
    nsqd = await script.nsqd(stats, hostname="good")
    for path in ("/topic/pause", "/channel/empty"):
        nsqd.on(path)
    return nsqd


async def check_polls(browser: Browser, good: str, broken: dict[str, str]) -> None:
    poller = browser.console.poller
    with trio.fail_after(patience(30)):
        snapshot = await poller.next_snapshot()
        while len(snapshot.problems) < len(broken) or snapshot.nodes[good].in_rate is None:
            snapshot = await poller.next_snapshot()
    assert sorted(each.address for each in snapshot.problems) == sorted(broken)
    assert snapshot.topics["t"].channels["c"].stats.depth == 3


async def check_pages(browser: Browser, good: str, broken: dict[str, str]) -> None:
    for path in ("/", "/topics/t", "/topics/t/c", "/nodes", f"/nodes/{good}", "/lookup", "/counter"):
        page = await browser.get(path)
        assert page.status_code == 200, (path, page.text)
        assert f"{len(broken)} daemons do" in page.text

    async def check_node(address: str, name: str) -> None:
        page = await browser.get(f"/nodes/{address}")
        assert (page.status_code, "no answer" in page.text) == (200, True), name

    async with trio.open_nursery() as nursery:  # some wait for the consumers until the end of the time
        for address, name in broken.items():
            nursery.start_soon(check_node, address, name)


async def check_api(browser: Browser, path: str, key: str, broken: dict[str, str]) -> None:
    found = await browser.json(f"/api/topics{path}")
    assert found[key] not in (None, [])
    unnamed = {name for address, name in broken.items() if address not in found["message"]}
    assert unnamed <= WITH_A_STATUS, found["message"]
    assert found["message"].count("got response ") == len(unnamed)


async def check_action(browser: Browser, path: str, action: str) -> None:
    done = await browser.ask("POST", f"/api/topics{path}", {"action": action})
    assert done.status_code == 200
    assert json.loads(done.text)["message"].startswith("WARNING: ")


async def test_servers_that_break_the_rules_of_http(caplog: pytest.LogCaptureFixture) -> None:
    async with scripted() as script, breaking_the_rules() as broken:
        good = await good_nsqd(script)
        async with serving(
            nsqds=[*broken, good.address],
            poll=True,
            poll_interval=TIMEOUT_NS,
            http_client_request_timeout=TIMEOUT_NS,
        ) as browser:
            await check_polls(browser, good.address, broken)
            await check_pages(browser, good.address, broken)
            async with trio.open_nursery() as nursery:
                for path, key in (("", "topics"), ("/t", "depth"), ("/t/c", "clients")):
                    nursery.start_soon(check_api, browser, path, key, broken)
                for path, action in (("/t", "pause"), ("/t/c", "empty")):
                    nursery.start_soon(check_action, browser, path, action)
            assert f"POST {good.address}/topic/pause?topic=t" in script.calls
            assert f"POST {good.address}/channel/empty?topic=t&channel=c" in script.calls
            await check_polls(browser, good.address, broken)
    assert [each.getMessage() for each in caplog.records if each.exc_info] == []
