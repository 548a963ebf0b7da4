"""Requests over HTTP to real servers: what is sent, what is an answer, and the bounds in time and bytes."""

from __future__ import annotations

import contextlib
import gc
import logging
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import attrs
import httpx
import pytest
import trio

from nsqkit import http_client
from nsqkit.certificates import TlsFiles
from nsqkit.http_client import (
    MAX_BODY,
    MAX_URL,
    Answer,
    AnswerTooLarge,
    HttpClient,
    HttpFailed,
    HttpOptions,
    HttpTimeout,
    InvalidUrl,
    http_url,
    https_url,
)
from nsqkit.service.http import ByteBudget, Response, text
from nsqkit.tls import client_context
from nsqkit.version import VERSION
from tests.nsqkit.certificates import Certificates
from tests.nsqkit.client.fake import both_backends, run
from tests.nsqkit.http_target import Target, never
from tests.timing import patience

SECRET = "nsq_secret"
TLS_REQUIRED = b'{"message": "TLS_REQUIRED", "https_port": 4152}'


@pytest.fixture
def target() -> Iterator[Target]:
    with Target() as target:
        yield target


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@contextlib.contextmanager
def raw_server(said: bytes, *, close: bool = True) -> Iterator[int]:
    """One that answers any first bytes with these, and then closes the connection, or leaves it open: its port."""
    started: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope, int]] = []
    ready = threading.Event()

    async def serve(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                await stream.send_all(said)
                if close:
                    return
        await stream.aclose()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
            port = listeners[0].socket.getsockname()[1]
            started.append((trio.lowlevel.current_trio_token(), nursery.cancel_scope, port))
            ready.set()

    thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
    thread.start()
    assert ready.wait(10)
    token, scope, port = started[0]
    try:
        yield port
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join(10)


def answer_of(body: bytes, status: int = 200) -> Answer:
    return Answer(status, [], body)


@attrs.define(eq=False)
class Seen:
    """What the servers of a test got, by the paths of the requests."""

    target: Target

    def headers(self) -> list[tuple[bytes, bytes]]:
        return sorted(self.target.requests[-1].headers)

    def lines(self) -> list[str]:
        return [f"{request.method} {request.target.decode()}" for request in self.target.requests]


class TestWhatIsSent:
    @both_backends
    def test_ask_sends_the_headers_of_the_api(self, target: Target, backend: str) -> None:
        async def main() -> None:
            answer = await HttpClient(HttpOptions()).ask(
                target.url("/lookup?topic=a%20b"), headers={"X-Token": "t"}
            )
            assert (answer.status, answer.body) == (200, b"OK")

        run(main, backend)
        assert Seen(target).lines() == ["GET /lookup?topic=a%20b"]
        assert Seen(target).headers() == [
            (b"accept", b"application/vnd.nsq; version=1.0"),
            (b"accept-encoding", b"identity"),
            (b"host", f"127.0.0.1:{target.port}".encode()),
            (b"user-agent", f"nsqkit/{VERSION}".encode()),
            (b"x-token", b"t"),
        ]

    async def test_headers_of_the_api_may_be_replaced(self, target: Target) -> None:
        await HttpClient(HttpOptions()).ask(target.url(), headers={"user-agent": "me", "ACCEPT": "a/b"})
        found = dict(Seen(target).headers())
        assert (found[b"user-agent"], found[b"accept"]) == (b"me", b"a/b")
        assert len(Seen(target).headers()) == 4

    async def test_request_sends_what_is_given_and_host(self, target: Target) -> None:
        await HttpClient(HttpOptions()).request("GET", target.url(), [(b"X", b"1"), (b"X", b"2")])
        host = (b"host", f"127.0.0.1:{target.port}".encode())
        assert Seen(target).headers() == [host, (b"x", b"1"), (b"x", b"2")]

    async def test_another_host_may_be_given(self, target: Target) -> None:
        await HttpClient(HttpOptions()).request("GET", target.url(), [(b"host", b"console.example")])
        assert Seen(target).headers() == [(b"host", b"console.example")]

    @pytest.mark.parametrize("body", [b"", b"\x00\xff" * 100_000])
    async def test_post(self, target: Target, body: bytes) -> None:
        await HttpClient(HttpOptions()).request("POST", target.url("/x"), content=body)
        assert Seen(target).lines() == ["POST /x"]
        assert target.bodies == [body]
        assert (b"content-length", str(len(body)).encode()) in Seen(target).headers()

    async def test_a_user_in_the_url_is_authorization(self, target: Target) -> None:
        url = target.url().replace("http://", "http://j%C3%B6:p%3Ass@")
        await HttpClient(HttpOptions()).request("GET", url, [(b"Authorization", b"other")])
        assert (b"authorization", b"Basic asO2OnA6c3M=") in Seen(target).headers()
        assert len(Seen(target).headers()) == 2

    @pytest.mark.parametrize(
        ("path", "sent"),
        [
            ("", "/"),
            ("?a=b", "/?a=b"),
            ("/a%2Fb?c=%20&d=+", "/a%2Fb?c=%20&d=+"),
            ('/ä b?ö=<ü>"', "/%C3%A4%20b?%C3%B6=%3C%C3%BC%3E%22"),
            ("/render?target=a.{b,c}[1]*|x;y'()", "/render?target=a.{b,c}[1]*|x;y'()"),
            ("/x#fragment", "/x"),
        ],
    )
    async def test_paths_and_queries(self, target: Target, path: str, sent: str) -> None:
        await HttpClient(HttpOptions()).request("GET", f"http://127.0.0.1:{target.port}{path}")
        assert Seen(target).lines() == [f"GET {sent}"]

    async def test_no_proxy_of_the_environment(self, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
        assert (await HttpClient(HttpOptions()).ask(target.url())).status == 200

    async def test_cookies_are_not_kept(self, target: Target) -> None:
        target.answer = lambda request: Response(200, headers=((b"Set-Cookie", b"a=b"),))
        client = HttpClient(HttpOptions())
        for _ in range(2):
            await client.ask(target.url())
        assert target.requests[1].header(b"cookie") is None

    async def test_a_malformed_header_is_not_repeated(self, target: Target) -> None:
        with pytest.raises(HttpFailed) as failure:
            await HttpClient(HttpOptions()).ask(target.url(), headers={"Authorization": "secret\n"})
        assert "secret" not in str(failure.value)

    def test_http_library_is_not_imported_before_it_is_needed(self) -> None:
        code = "import sys, nsqd.daemon; sys.exit('httpx' in sys.modules or 'httpcore' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestAnswers:
    async def test_any_status_is_an_answer(self, target: Target) -> None:
        target.answer = lambda request: Response(404, b"no", headers=((b"X-A", b"1"), (b"X-A", b"2")))
        answer = await HttpClient(HttpOptions()).ask(target.url())
        assert (answer.status, answer.body) == (404, b"no")
        assert [value for name, value in answer.headers if name.lower() == b"x-a"] == [b"1", b"2"]

    def test_body_of_ok(self) -> None:
        assert answer_of(b"x").body_of_ok() == b"x"

    @pytest.mark.parametrize(
        ("status", "body", "said"),
        [
            (404, b'{"message":"X"}', 'got response 404 Not Found "{\\"message\\":\\"X\\"}"'),
            (201, "ä\n".encode(), 'got response 201 Created "ä\\n"'),
            (599, b"\xff", 'got response 599 "\ufffd"'),
            (500, b"x" * 9999, f'got response 500 Internal Server Error "{"x" * 512}"'),
        ],
    )
    def test_body_of_another_status(self, status: int, body: bytes, said: str) -> None:
        with pytest.raises(HttpFailed) as failure:
            answer_of(body, status).body_of_ok()
        assert str(failure.value) == said

    async def test_nothing_is_decompressed(self, target: Target) -> None:
        target.answer = lambda request: Response(200, b"\x1f\x8b!", headers=((b"Content-Encoding", b"gzip"),))
        assert (await HttpClient(HttpOptions()).ask(target.url())).body == b"\x1f\x8b!"

    @both_backends
    def test_too_large(self, backend: str) -> None:
        endless = b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (MAX_BODY + 1)

        async def main() -> None:
            with pytest.raises(AnswerTooLarge, match="response of more than 1048576 bytes"):
                await HttpClient(HttpOptions()).ask(f"http://127.0.0.1:{port}/")

        with raw_server(endless, close=False) as port:
            run(main, backend)

    async def test_other_tasks_run_between_chunks_that_came_together(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """10,000 chunks of a byte in one read were 80 ms in which nothing else happened."""
        chunks = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 2_000 + b"0\r\n\r\n"
        )
        monkeypatch.setattr(http_client, "_SLICE_S", 0.0)
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        with raw_server(chunks, close=False) as port:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(count_turns)
                answer = await HttpClient(HttpOptions()).ask(f"http://127.0.0.1:{port}/")
                nursery.cancel_scope.cancel()
        assert answer.body == b"x" * 2_000
        assert turns >= 2_000

    async def test_after_one_too_large_comes_the_next(self, target: Target) -> None:
        client = HttpClient(HttpOptions(max_body=10, max_idle=1))
        target.answer = lambda request: text("x" * 1_000_000)
        with pytest.raises(AnswerTooLarge):
            await client.ask(target.url())
        target.answer = lambda request: text("x" * 10)
        assert (await client.ask(target.url())).body == b"x" * 10
        await client.aclose()

    async def test_a_budget_for_all_answers(self, target: Target) -> None:
        """It is given back after an answer, and after one that it had no room for."""
        target.answer = lambda request: text("x" * 100)
        budget = ByteBudget(150)
        client = HttpClient(HttpOptions(budget=budget))
        for _ in range(3):
            assert len((await client.ask(target.url())).body) == 100
        target.answer = lambda request: text("x" * 200_000)
        with pytest.raises(HttpFailed, match="too many responses are being read"):
            await client.ask(target.url())
        assert budget.take(150)

    @both_backends
    @pytest.mark.parametrize(
        ("said", "reason"),
        [
            (b"", "Server disconnected without sending a response"),
            (b"  V1 what?\r\n\r\n", "illegal status line"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", "peer closed connection"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "illegal chunk header"),
            (b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 100_000, "Receive buffer too long"),
        ],
    )
    def test_no_http(self, said: bytes, reason: str, backend: str) -> None:
        async def main() -> None:
            with pytest.raises(HttpFailed, match=reason):
                await HttpClient(HttpOptions()).ask(f"http://127.0.0.1:{port}/")

        with raw_server(said) as port:
            run(main, backend)

    @both_backends
    def test_nobody_there(self, target: Target, backend: str) -> None:
        async def main() -> None:
            with pytest.raises(HttpFailed, match=r"^connection refused$"):
                await HttpClient(HttpOptions()).ask(target.url())

        target.stop()
        run(main, backend)


class TestTimes:
    @both_backends
    @pytest.mark.parametrize("begun", [False, True])
    def test_a_whole_answer(self, target: Target, begun: bool, backend: str) -> None:
        """From the beginning to the end, whatever trickles in."""
        said = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{" if begun else b"HTTP/1.1 "

        async def main() -> None:
            began = anyio.current_time()
            with pytest.raises(HttpTimeout, match=r"^no answer within 0\.3 s$"):
                await HttpClient(HttpOptions(request_timeout=0.3)).ask(f"http://127.0.0.1:{port}/")
            assert 0.29 <= anyio.current_time() - began < 5

        with raw_server(said, close=False) as port:
            run(main, backend)

    async def test_a_connection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def connect(*args: object, **options: object) -> None:
            await trio.sleep_forever()

        monkeypatch.setattr(trio, "open_tcp_stream", connect)
        with pytest.raises(HttpTimeout, match=r"^no connection within 0\.1 s$"):
            await HttpClient(HttpOptions(connect_timeout=0.1)).ask("http://127.0.0.1:1/")

    async def test_no_limit(self, target: Target) -> None:
        client = HttpClient(HttpOptions(connect_timeout=0, request_timeout=0))
        target.answer = never
        with trio.move_on_after(0.2) as scope:
            await client.ask(target.url())
        assert scope.cancelled_caught
        target.answer = lambda request: text("OK")
        assert (await client.ask(target.url())).status == 200


class TestConnections:
    async def test_each_request_has_one_of_its_own(self, target: Target) -> None:
        client = HttpClient(HttpOptions())
        for _ in range(3):
            await client.ask(target.url())
        assert len({request.remote for request in target.requests}) == 3

    @both_backends
    def test_they_are_kept(self, target: Target, backend: str) -> None:
        async def main() -> None:
            client = HttpClient(HttpOptions(max_idle=2))
            for _ in range(3):
                await client.ask(target.url())
            await client.aclose()

        run(main, backend)
        assert len({request.remote for request in target.requests}) == 1

    @pytest.mark.parametrize("max_idle", [0, 5])
    def test_one_that_is_made_when_its_request_ends_is_closed(
        self, target: Target, max_idle: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The time-out of a request that is so late that its connection is there already."""
        made: list[trio.SocketStream] = []

        async def main() -> None:
            client = HttpClient(HttpOptions(max_idle=max_idle))
            connect = trio.open_tcp_stream

            async def too_late(*args: object, **kwargs: object) -> trio.SocketStream:
                made.append(await connect(*args, **kwargs))  # type: ignore[arg-type]
                scope.cancel()
                return made[-1]

            monkeypatch.setattr(trio, "open_tcp_stream", too_late)
            with trio.CancelScope() as scope:
                await client.ask(target.url())
            assert scope.cancelled_caught
            assert made[0].socket.fileno() == -1
            monkeypatch.undo()
            assert (await client.ask(target.url())).status == 200
            await client.aclose()

        trio.run(main)
        assert len(made) == 1

    async def test_but_not_for_long(self, target: Target) -> None:
        client = HttpClient(HttpOptions(max_idle=2, idle_timeout=0.05))
        await client.ask(target.url())
        await trio.sleep(0.1)
        await client.ask(target.url())
        await client.aclose()
        assert len({request.remote for request in target.requests}) == 2

    async def test_many_at_once(self, target: Target) -> None:
        client = HttpClient(HttpOptions(max_idle=1))
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(client.ask, target.url(f"/{number}"))
        await client.aclose()
        assert len(target.requests) == 50

    @both_backends
    def test_a_handshake_that_takes_too_long_leaves_no_socket_open(self, backend: str) -> None:
        """Not even until the garbage collector comes."""

        async def main() -> None:
            async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
                port = listener.extra(anyio.abc.SocketAttribute.local_port)
                client = HttpClient(HttpOptions(request_timeout=0.2))
                with pytest.raises(HttpTimeout):
                    await client.ask(f"https://127.0.0.1:{port}/ping")
                closed = anyio.Event()

                async def read_to_the_end(stream: anyio.abc.SocketStream) -> None:
                    async with stream:
                        with contextlib.suppress(anyio.EndOfStream):
                            while True:
                                await stream.receive()
                    closed.set()

                async with anyio.create_task_group() as group:
                    group.start_soon(listener.serve, read_to_the_end)
                    with anyio.fail_after(patience(5)):
                        await closed.wait()
                    group.cancel_scope.cancel()

        gc.disable()
        try:
            run(main, backend)
        finally:
            gc.enable()


class TestUrls:
    @pytest.mark.parametrize(
        "url",
        [
            *("", "/x", "127.0.0.1:4151", "ftp://127.0.0.1/", "http://", "http:///x", "http://:80/"),
            *("http://h:99999/", "http://joe:pa/ss@h:1/", "http://[::/", "http://a b/", "http://a..b/"),
            *(f"http://{'x' * 80}/", "http://a\x00/", "unix:///run/x", f"http://h/{'x' * MAX_URL}"),
        ],
    )
    async def test_invalid(self, url: str) -> None:
        """Nothing is sent, and nothing of it is repeated, as there may be a password in it."""
        with pytest.raises(InvalidUrl) as failure:
            await HttpClient(HttpOptions()).ask(url)
        assert "pa" not in str(failure.value)

    async def test_names_that_are_not_ascii(self) -> None:
        """Looked up as IDNA has them."""
        with pytest.raises(HttpFailed) as failure:
            await HttpClient(HttpOptions()).ask("http://bücher.invalid/")
        assert not isinstance(failure.value, InvalidUrl)

    @pytest.mark.parametrize(
        ("host", "url"),
        [
            ("a.example", "http://a.example:4161/channels?topic=a.b%23ephemeral"),
            ("127.0.0.1", "http://127.0.0.1:4161/channels?topic=a.b%23ephemeral"),
            ("::1", "http://[::1]:4161/channels?topic=a.b%23ephemeral"),
        ],
    )
    def test_of_a_host(self, host: str, url: str) -> None:
        assert http_url(host, 4161, "/channels", {"topic": "a.b#ephemeral"}) == url
        assert http_url(host, 4161, "/channels") == url.partition("?")[0]

    @pytest.mark.parametrize(
        "host", ["", "a b", "a/../b", "a?b", "a#b", "a@b", "[::1]", "a\nb", "a\n", "a..b"]
    )
    def test_of_more_than_a_host(self, host: str) -> None:
        with pytest.raises(InvalidUrl):
            http_url(host, 1, "/")


class TestTlsRequired:
    """A daemon that wants TLS sends whoever asks it over plain HTTP to another port."""

    @pytest.mark.parametrize(
        ("url", "secure"),
        [
            ("http://a:4151/stats?format=json&topic=t%23", "https://a:4152/stats?format=json&topic=t%23"),
            ("http://a", "https://a:4152"),
            ("http://[::1]:4151/x", "https://[::1]:4152/x"),
            ("http://[::1]/x", "https://[::1]:4152/x"),
            ("http://joe:pass@a:4151/auth", "https://joe:pass@a:4152/auth"),
        ],
    )
    def test_the_same_place_over_https(self, url: str, secure: str) -> None:
        assert https_url(url, answer_of(TLS_REQUIRED, 403)) == secure

    @pytest.mark.parametrize("status", [200, 401, 404])
    def test_only_a_403_sends_elsewhere(self, status: int) -> None:
        assert https_url("http://a:4151/", answer_of(TLS_REQUIRED, status)) == ""

    @pytest.mark.parametrize("url", ["https://a:4151/", "HTTPS://a:4151/"])
    def test_over_https_it_is_final(self, url: str) -> None:
        assert https_url(url, answer_of(TLS_REQUIRED, 403)) == ""

    @pytest.mark.parametrize(
        "body",
        [
            *(
                b"",
                b"no",
                b"[]",
                b"null",
                b'{"https_port":0}',
                b'{"https_port":"1"}',
                b'{"https_port":65536}',
            ),
            *(b'{"https_port":true}', b'{"https_port":1.5}', b"[" * 100_000),
            b'{"https_port":4152,"x":['
            + b"[]," * 2_000
            + b"[]]}",  # not worth the time that its decoding takes
        ],
    )
    def test_a_403_without_a_port_sends_nowhere(self, body: bytes) -> None:
        assert https_url("http://a:4151/", answer_of(body, 403)) == ""

    def trusting(self, certificates: Certificates) -> HttpClient:
        return HttpClient(HttpOptions(tls=partial(client_context, root_ca_file=certificates.root_ca_file)))

    def server_context(self, certificates: Certificates) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificates.server.configure_cert(context)
        return context

    @both_backends
    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_is_followed(self, target: Target, certificates: Certificates, method: str, backend: str) -> None:
        async def main() -> None:
            url = target.url("/stats?x=y")
            answer = await self.trusting(certificates).ask(url, method=method, content=b"body")
            assert answer.body == b"OK"

        with Target(tls=self.server_context(certificates)) as secure:
            target.answer = lambda request: text(f'{{"https_port":{secure.port}}}', 403)
            run(main, backend)
        assert Seen(secure).lines() == Seen(target).lines() == [f"{method} /stats?x=y"]
        assert secure.requests[0].body == target.requests[0].body == b"body"

    async def test_over_tls_a_403_is_final(self, certificates: Certificates) -> None:
        with Target(tls=self.server_context(certificates)) as secure:
            secure.answer = lambda request: text(f'{{"https_port":{secure.port}}}', 403)
            assert (await self.trusting(certificates).ask(secure.url())).status == 403
        assert len(secure.requests) == 1

    async def test_clients_with_the_same_options_share_a_context(self, certificates: Certificates) -> None:
        made: list[ssl.SSLContext] = []

        def make() -> ssl.SSLContext:
            made.append(client_context(root_ca_file=certificates.root_ca_file))
            return made[-1]

        options = HttpOptions(tls=make)
        with Target(tls=self.server_context(certificates)) as secure:
            for each in (options, options, attrs.evolve(options, max_idle=0)):
                assert (await HttpClient(each).ask(secure.url())).status == 200
        assert len(made) == 1

    async def test_nothing_is_sent_without_tls_where_that_is_asked_for(
        self, target: Target, certificates: Certificates
    ) -> None:
        """The plain port is asked where the other one is, once."""
        options = attrs.evolve(
            self.trusting(certificates).options, tls_only=True, bearer=lambda: SECRET, max_idle=1
        )
        client = HttpClient(options)
        with Target(tls=self.server_context(certificates)) as secure:
            target.answer = lambda request: text(f'{{"https_port":{secure.port}}}', 403)
            for _ in range(2):
                answer = await client.ask(target.url("/pub?topic=t"), method="POST", content=b"secret")
                assert answer.body == b"OK"
            assert Seen(secure).lines() == ["POST /pub?topic=t"] * 2
            assert all(
                (b"authorization", f"Bearer {SECRET}".encode()) in each.headers for each in secure.requests
            )
        assert Seen(target).lines() == ["GET /ping"]
        assert not {name for name, _ in target.requests[0].headers} & {b"authorization"}
        await client.aclose()

    async def test_a_port_that_is_not_right_any_more_is_asked_for_again(
        self, target: Target, certificates: Certificates
    ) -> None:
        client = HttpClient(attrs.evolve(self.trusting(certificates).options, tls_only=True))
        for _ in range(2):
            with Target(tls=self.server_context(certificates)) as secure:
                target.answer = lambda request, port=secure.port: text(f'{{"https_port":{port}}}', 403)
                assert (await client.ask(target.url())).body == b"OK"
            with pytest.raises(HttpFailed, match="connection refused"):
                await client.ask(target.url())

    async def test_a_daemon_without_tls_is_asked_for_nothing(self, target: Target) -> None:
        client = HttpClient(HttpOptions(tls_only=True, bearer=lambda: SECRET))
        with pytest.raises(HttpFailed, match="names no port for https"):
            await client.ask(target.url("/stats"))
        assert Seen(target).lines() == ["GET /ping"]

    async def test_new_connections_use_new_files(self, certificates: Certificates, tmp_path: Path) -> None:
        authority = tmp_path / "ca.pem"
        certificates.stranger.cert_pem.write_to_path(str(authority))
        files = TlsFiles("TLS", [str(authority)], partial(client_context, root_ca_file=str(authority)))
        client = HttpClient(HttpOptions(tls=files))
        with Target(tls=self.server_context(certificates)) as secure:
            with pytest.raises(HttpFailed, match="certificate verify failed"):
                await client.ask(secure.url())
            certificates.authority.cert_pem.write_to_path(str(authority))
            assert files.look()()
            assert (await client.ask(secure.url())).body == b"OK"

    async def test_request_does_not_follow(self, target: Target) -> None:
        target.answer = lambda request: text('{"https_port":1}', 403)
        assert (await HttpClient(HttpOptions()).request("GET", target.url())).status == 403

    @both_backends
    def test_a_certificate_of_nobody_we_trust(self, certificates: Certificates, backend: str) -> None:
        async def main() -> None:
            with pytest.raises(HttpFailed, match="certificate verify failed"):
                await HttpClient(HttpOptions()).ask(secure.url())

        with Target(tls=self.server_context(certificates)) as secure:
            run(main, backend)

    async def test_authorities_that_cannot_be_read(self, tmp_path: Path) -> None:
        missing = partial(client_context, root_ca_file=str(tmp_path / "gone.pem"))
        with pytest.raises(HttpFailed, match=r"gone\.pem: No such file"):
            await HttpClient(HttpOptions(tls=missing)).ask("https://127.0.0.1:1/")


def redirect(status: int, to: str) -> Response:
    return Response(status, b"elsewhere", headers=((b"Location", to.encode()),))


async def test_requests_are_not_logged(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    """httpx does at INFO; its other users still can."""
    with caplog.at_level(logging.INFO):
        await HttpClient(HttpOptions()).ask(target.url())
        assert caplog.messages == []
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.get(target.url())
        assert len(caplog.messages) == 1


class TestRedirects:
    async def test_are_answers_unless_asked_for(self, target: Target) -> None:
        target.answer = lambda request: redirect(302, "/there")
        assert (await HttpClient(HttpOptions()).ask(target.url())).status == 302

    @both_backends
    @pytest.mark.parametrize(
        ("status", "method", "body"),
        [
            (301, "POST", b"x"),
            (302, "POST", b"x"),
            (307, "POST", b"x"),
            (308, "POST", b"x"),
            (303, "GET", b""),
        ],
    )
    def test_only_see_other_drops_the_body(
        self, target: Target, status: int, method: str, body: bytes, backend: str
    ) -> None:
        async def main() -> None:
            client = HttpClient(HttpOptions(max_redirects=1))
            answer = await client.request("POST", target.url("/a/b?c"), [(b"X", b"y")], b"x")
            assert (answer.status, answer.body) == (200, b"OK")

        target.answer = lambda request: (
            redirect(status, "../there?d") if request.path == "/a/b" else text("OK")
        )
        run(main, backend)
        assert Seen(target).lines() == ["POST /a/b?c", f"{method} /there?d"]
        assert (target.requests[1].body, target.requests[1].header(b"x")) == (body, b"y")

    async def test_a_chain_keeps_the_body(self, target: Target) -> None:
        paths = {"/": redirect(307, "/1"), "/1": redirect(302, "/2"), "/2": redirect(301, "/3")}
        target.answer = lambda request: paths.get(request.path) or text("OK")
        await HttpClient(HttpOptions(max_redirects=3)).request("POST", target.url(), content=b"x")
        assert Seen(target).lines() == ["POST /", "POST /1", "POST /2", "POST /3"]
        assert [request.body for request in target.requests] == [b"x"] * 4

    @pytest.mark.parametrize(("most", "asked"), [(1, 2), (3, 4)])
    async def test_one_too_many(self, target: Target, most: int, asked: int) -> None:
        target.answer = lambda request: redirect(307, "/")
        with pytest.raises(HttpFailed, match=f"more than {most} redirects"):
            await HttpClient(HttpOptions(max_redirects=most)).ask(target.url())
        assert len(target.requests) == asked

    async def test_credentials_stay_with_their_server(self, target: Target) -> None:
        with Target() as other:
            target.answer = lambda request: (
                redirect(302, "/2") if request.path == "/" else redirect(302, other.url())
            )
            client = HttpClient(HttpOptions(max_redirects=2))
            await client.ask(target.url(), headers={"Authorization": "Bearer x", "X-Token": "t"})
        sent = [request.header(b"authorization") for request in (*target.requests, *other.requests)]
        assert sent == [b"Bearer x", b"Bearer x", None]
        assert other.requests[0].header(b"host") == f"127.0.0.1:{other.port}".encode()
        assert other.requests[0].header(b"x-token") == b"t"

    async def test_to_another_host_if_the_options_say_so(self, target: Target) -> None:
        target.answer = lambda request: redirect(302, "http://localhost:1/")
        with pytest.raises(HttpFailed, match="another host"):
            await HttpClient(HttpOptions(max_redirects=2, leave_host=False)).ask(target.url())
        target.answer = lambda request: redirect(302, "/2") if request.path == "/" else text("OK")
        answer = await HttpClient(HttpOptions(max_redirects=2, leave_host=False)).ask(target.url())
        assert answer.body == b"OK"

    @pytest.mark.parametrize("to", ["ftp://127.0.0.1/", "http://h:99999/"])
    async def test_to_no_url(self, target: Target, to: str) -> None:
        """That is the server's fault, not the caller's."""
        target.answer = lambda request: redirect(302, to)
        with pytest.raises(HttpFailed, match="bad redirect") as failure:
            await HttpClient(HttpOptions(max_redirects=2)).ask(target.url())
        assert not isinstance(failure.value, InvalidUrl)

    async def test_without_a_location_it_is_an_answer(self, target: Target) -> None:
        target.answer = lambda request: Response(301)
        assert (await HttpClient(HttpOptions(max_redirects=2)).ask(target.url())).status == 301


HEAD = b"HTTP/1.1 202 Accepted\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


class TestStatusOf:
    @both_backends
    @pytest.mark.parametrize(
        "said",
        [
            HEAD + b"Content-Length: 10\r\n\r\nabc",
            CHUNKED + b"5\r\nabc",
            CHUNKED + b"xyz\r\nabc\r\n0\r\n\r\n",
            HEAD + b"Content-Length: %d\r\n\r\n" % (2 * MAX_BODY) + b"x" * (MAX_BODY + 1),
        ],
        ids=["cut off", "cut off in a chunk", "malformed", "too large"],
    )
    def test_whatever_becomes_of_the_body(self, said: bytes, backend: str) -> None:
        async def main() -> None:
            client = HttpClient(HttpOptions(max_idle=1))
            for _ in range(2):
                assert await client.status_of("POST", f"http://127.0.0.1:{port}/", content=b"x") == 202
            await client.aclose()

        with raw_server(said) as port:
            run(main, backend)

    @both_backends
    def test_a_body_without_end_is_left_in_time(self, backend: str) -> None:
        async def main() -> None:
            client = HttpClient(HttpOptions(request_timeout=0.3))
            began = anyio.current_time()
            assert await client.status_of("GET", f"http://127.0.0.1:{port}/") == 202
            assert 0.29 <= anyio.current_time() - began < 5

        with raw_server(HEAD + b"Content-Length: 10\r\n\r\nabc", close=False) as port:
            run(main, backend)

    async def test_the_connection_is_used_again(self, target: Target) -> None:
        target.answer = lambda request: text("x" * 100_000)
        client = HttpClient(HttpOptions(max_idle=1))
        for _ in range(3):
            assert await client.status_of("GET", target.url()) == 200
        await client.aclose()
        assert len({request.remote for request in target.requests}) == 1

    async def test_a_status_that_does_not_come(self, target: Target) -> None:
        target.answer = never
        with pytest.raises(HttpTimeout):
            await HttpClient(HttpOptions(request_timeout=0.2)).status_of("GET", target.url())


async def test_the_reason_is_found_below_groups() -> None:
    inner = OSError(113, "No route to host")
    outer = OSError("all attempts failed")
    outer.__cause__ = ExceptionGroup("several", [inner, OSError()])
    assert http_client._reason(outer) == "no route to host"
    assert http_client._reason(ValueError()) == "ValueError"


@both_backends
def test_a_token_is_shown_to_daemons_and_to_nobody_else(backend: str, target: Target) -> None:
    async def main() -> None:
        client = HttpClient(HttpOptions(bearer=lambda: SECRET))
        await client.ask(target.url("/daemon"))
        await client.ask(target.url("/own"), headers={"Authorization": "Bearer other"})
        await client.request("GET", target.url("/webhook"))

    run(main, backend)
    shown = {request.path: request.header(b"authorization") for request in target.requests}
    assert shown == {"/daemon": f"Bearer {SECRET}".encode(), "/own": b"Bearer other", "/webhook": None}
    assert SECRET not in repr(HttpOptions(bearer=lambda: SECRET))
