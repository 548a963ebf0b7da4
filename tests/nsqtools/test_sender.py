"""One message, one request: what counts as taken, and what goes over the wire."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial

import attrs
import pytest
import trio

from nsqkit.http_client import HttpFailed
from nsqkit.service.http import Request, Response, text
from nsqkit.version import VERSION
from nsqtools.nsq_to_http.sender import MOST_READ, Sender, Unsendable, open_sender
from tests.nsqkit.http_target import Target, never
from tests.timing import patience

LONGEST_URL = 65_536


@pytest.fixture
def target() -> Iterator[Target]:
    """A server."""
    with Target() as target:
        yield target


def sending(
    *, is_get: bool = False, timeout_s: float = 5.0, headers: dict[str, str] | None = None
) -> AbstractAsyncContextManager[Sender]:
    """A sender."""
    return open_sender(
        "nsq_to_http",
        is_get=is_get,
        headers=headers or {},
        connect_timeout_s=1.0,
        timeout_s=timeout_s,
    )


def header(request: Request, name: bytes) -> bytes | None:
    """One header."""
    return request.header(name)


async def test_post(target: Target) -> None:
    """The body byte for byte; connections are kept."""
    async with sending(headers={"Content-Type": "a/b", "X-Token": "t"}) as sender:
        for body in (b"one", b"\x00\xff\r\n", b"x" * 300_000):
            await sender.send(target.url("/in?a=%20b"), body)
    assert target.bodies == [b"one", b"\x00\xff\r\n", b"x" * 300_000]
    request = target.requests[0]
    assert (request.method, request.target) == ("POST", b"/in?a=%20b")
    assert header(request, b"user-agent") == f"nsq_to_http v{VERSION}".encode()
    assert (header(request, b"content-type"), header(request, b"x-token")) == (b"a/b", b"t")
    assert len({request.remote for request in target.requests}) == 1


async def test_own_user_agent(target: Target) -> None:
    """In any letters."""
    async with sending(headers={"user-agent": "me"}) as sender:
        await sender.send(target.url(), b"x")
    found = [value for name, value in target.requests[0].headers if name == b"user-agent"]
    assert found == [b"me"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"a b+c&d=e/f?g#h%", b"a+b%2Bc%26d%3De%2Ff%3Fg%23h%25"),
        (b"-_.~'*()!", b"-_.~%27%2A%28%29%21"),
        (b"\x00\xff\n", b"%00%FF%0A"),
    ],
)
async def test_get(target: Target, body: bytes, expected: bytes) -> None:
    """The body escaped as in a query; the rest of the URL stays as it is."""
    async with sending(is_get=True) as sender:
        await sender.send(target.url("/p%2Fq?x=%s&y=%20"), body)
    assert target.requests[0].target == b"/p%2Fq?x=" + expected + b"&y=%20"
    assert target.requests[0].body == b""
    assert header(target.requests[0], b"content-type") is None


@pytest.mark.parametrize(
    ("status", "post", "get"),
    [(200, True, True), (204, True, False), (299, True, False), (300, False, False), (404, False, False)],
)
async def test_statuses(target: Target, status: int, post: bool, get: bool) -> None:
    """Any 2xx to a POST, only 200 to a GET."""
    target.answer = lambda request: Response(status)
    for is_get, taken, url in ((False, post, target.url()), (True, get, target.url("/%s"))):
        async with sending(is_get=is_get) as sender:
            if taken:
                await sender.send(url, b"x")
            else:
                with pytest.raises(HttpFailed, match=f"got status code {status}"):
                    await sender.send(url, b"x")


def redirect(status: int, to: str) -> Response:
    """Elsewhere."""
    return Response(status, headers=((b"Location", to.encode()),))


@pytest.mark.parametrize(
    ("status", "method", "body"),
    [(301, "POST", b"x"), (302, "POST", b"x"), (307, "POST", b"x"), (308, "POST", b"x"), (303, "GET", b"")],
)
async def test_redirects_do_not_lose_the_body(target: Target, status: int, method: str, body: bytes) -> None:
    """Only "see other" means that it was taken."""
    target.answer = lambda request: redirect(status, "/there") if request.path == "/" else text("OK")
    async with sending(headers={"Content-Type": "a/b"}) as sender:
        await sender.send(target.url("/"), b"x")
    assert [request.path for request in target.requests] == ["/", "/there"]
    assert (target.requests[1].method, target.requests[1].body) == (method, body)


async def test_redirects_of_a_get(target: Target) -> None:
    """Are followed."""
    target.answer = lambda request: redirect(301, "/there?x") if request.path == "/" else text("OK")
    async with sending(is_get=True) as sender:
        await sender.send(target.url("/?%s"), b"x")
    assert [request.target for request in target.requests] == [b"/?x", b"/there?x"]


async def test_endless_redirects(target: Target) -> None:
    """Have an end."""
    target.answer = lambda request: redirect(307, "/")
    async with sending() as sender:
        with pytest.raises(HttpFailed, match="more than 10 redirects"):
            await sender.send(target.url(), b"x")
    assert len(target.requests) == 11


async def test_cookies_are_not_kept(target: Target) -> None:
    """Each message is on its own."""
    target.answer = lambda request: Response(200, headers=((b"Set-Cookie", b"a=b"),))
    async with sending() as sender:
        await sender.send(target.url(), b"x")
        await sender.send(target.url(), b"x")
    assert header(target.requests[1], b"cookie") is None


async def test_no_answer(target: Target) -> None:
    """A time-out for the whole, whatever the server does."""
    target.answer = never
    async with sending(timeout_s=0.2) as sender:
        with pytest.raises(HttpFailed, match=r"no answer within 0\.2 s"):
            await sender.send(target.url(), b"x")


@attrs.define(eq=False)
class RawServer:
    """Answers everything with the same bytes; then it closes the connection, or waits for more."""

    answer: bytes
    close: bool
    connections: int = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection."""
        self.connections += 1
        async with stream:
            try:
                while await stream.receive_some():
                    await stream.send_all(self.answer)
                    if self.close:
                        return
            except trio.BrokenResourceError:
                return


async def listen(nursery: trio.Nursery, serve: Callable[[trio.SocketStream], Awaitable[None]]) -> str:
    """The URL of this server."""
    listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
    return f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/%s"


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CUT = {
    "too short": HEAD + b"Content-Length: 10\r\n\r\nabc",
    "chunk too short": CHUNKED + b"5\r\nabc",
    "no last chunk": CHUNKED + b"3\r\nabc\r\n",
}
UNFIT = {
    "chunk without size": CHUNKED + b"xyz\r\nabc\r\n0\r\n\r\n",
    "too long": HEAD + b"Content-Length: %d\r\n\r\n" % (2 * MOST_READ) + b"x" * (MOST_READ + 1),
}


@pytest.mark.parametrize("is_get", [False, True])
@pytest.mark.parametrize(
    ("answer", "close"),
    [(answer, True) for answer in CUT.values()] + [(answer, False) for answer in UNFIT.values()],
    ids=[*CUT, *UNFIT],
)
async def test_status_is_the_answer(nursery: trio.Nursery, answer: bytes, close: bool, is_get: bool) -> None:
    """Whatever becomes of the body: the message was taken. The connection is not used again."""
    server = RawServer(answer, close)
    url = await listen(nursery, server.serve)
    async with sending(is_get=is_get) as sender:
        for count in (1, 2):
            await sender.send(url, b"x")
            assert server.connections == count


async def test_status_that_says_no_with_a_cut_body(nursery: trio.Nursery) -> None:
    """It is the reason, not the body."""
    refusal = CUT["too short"].replace(b"200 OK", b"503 No")
    url = await listen(nursery, RawServer(refusal, close=True).serve)
    async with sending() as sender:
        with pytest.raises(HttpFailed, match="got status code 503"):
            await sender.send(url, b"x")


async def test_redirect_with_a_cut_body(target: Target, nursery: trio.Nursery) -> None:
    """Is followed."""
    head = b"HTTP/1.1 307 There\r\nLocation: %s\r\nContent-Length: 10\r\n\r\nabc"
    server = RawServer(head % target.url("/there").encode(), close=True)
    url = await listen(nursery, server.serve)
    async with sending() as sender:
        await sender.send(url, b"x")
    assert [(request.path, request.body) for request in target.requests] == [("/there", b"x")]


async def test_body_without_end(nursery: trio.Nursery) -> None:
    """A trickle of bytes is read until the time-out, and counts as taken."""
    connections = 0

    async def trickle(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        async with stream:
            await stream.receive_some()
            await stream.send_all(HEAD + b"Content-Length: 1000\r\n\r\n")
            while True:
                try:
                    await stream.send_all(b"x")
                except trio.BrokenResourceError:
                    return
                await trio.sleep(0.02)

    url = await listen(nursery, trickle)
    async with sending(timeout_s=0.2) as sender:
        for count in (1, 2):
            began = trio.current_time()
            await sender.send(url, b"x")
            assert 0.2 <= trio.current_time() - began < patience(5)
            assert connections == count


async def test_head_without_end(nursery: trio.Nursery) -> None:
    """A status line alone is no answer."""
    url = await listen(nursery, RawServer(HEAD, close=False).serve)
    async with sending(timeout_s=0.2) as sender:
        with pytest.raises(HttpFailed, match=r"no answer within 0\.2 s"):
            await sender.send(url, b"x")


async def test_an_unreachable_target_is_named_and_tried_again(target: Target) -> None:
    """Said with the address; and it works again when somebody is."""
    async with sending() as sender:
        await sender.send(target.url(), b"1")
        target.stop()
        for _ in range(3):
            with pytest.raises(HttpFailed, match=f"127.0.0.1:{target.port}"):
                await sender.send(target.url(), b"2")
        target.start()
        await sender.send(target.url(), b"3")
    assert target.bodies == [b"1", b"3"]


async def test_connection_that_breaks(nursery: trio.Nursery) -> None:
    """Before, and in the middle of, the head of an answer: not taken. Nor is what is no HTTP."""
    async with sending() as sender:
        for answer in (b"", HEAD, b"220 smtp.example.org\r\n"):
            url = await listen(nursery, RawServer(answer, close=True).serve)
            with pytest.raises(HttpFailed):
                await sender.send(url, b"x")


@attrs.define(eq=False)
class OneShot:
    """Answers one request on each connection, and ends it without having said so."""

    reset: bool
    """Whether it forgets the connection, and answers the next bytes with a reset; else it closes the connection."""
    answers: int = 0
    connections: int = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection."""
        self.connections += 1
        async with stream:
            await stream.receive_some()
            if self.answers == 0:
                return
            self.answers -= 1
            await stream.send_all(HEAD + b"Content-Length: 0\r\n\r\n")
            if self.reset:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await stream.receive_some()


# httpx leaves the generator of a body that it could not send to the garbage collector, of which trio warns.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("reset", [False, True])
async def test_kept_connection_that_the_server_has_closed(nursery: trio.Nursery, reset: bool) -> None:
    """The request is made again on a new connection, and no more than once."""
    server = OneShot(reset, answers=30)
    url = await listen(nursery, server.serve)
    async with sending() as sender:
        for _ in range(30):
            await sender.send(url, b"x")
        assert server.connections == 30
        with pytest.raises(HttpFailed):
            await sender.send(url, b"x")
    assert server.connections == 31


async def test_message_too_long_for_a_url(nursery: trio.Nursery) -> None:
    """Is never sent, and that is no server's fault; what just fits is sent."""
    server = RawServer(HEAD + b"Content-Length: 0\r\n\r\n", close=True)
    url = await listen(nursery, server.serve)
    longest = LONGEST_URL - len(url) + len("%s")
    async with sending(is_get=True) as sender:
        with pytest.raises(Unsendable, match=re.escape(f"{url}: this message makes no URL: URL too long")):
            await sender.send(url, b"x" * (longest + 1))
        assert server.connections == 0
        await sender.send(url, b"x" * longest)
    assert server.connections == 1
