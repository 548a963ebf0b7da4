"""Asking real HTTP servers: what is sent, which answers count, and that no server can keep a client waiting."""

from __future__ import annotations

import json
import logging
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import define, field

from nsqd.auth import AuthFailed, Authorizer, AuthRequest, AuthState
from nsqd.auth.authorizer import ASKING, ASKING_FOR_ADDRESS, FAILED_SECONDS
from nsqd.auth.state import token_state
from nsqd.options import NsqdOptions
from nsqkit.access import Scopes, Token
from nsqkit.http_client import MAX_BODY, Answer, HttpClient, HttpFailed, HttpOptions
from nsqkit.service.listeners import with_tls
from nsqkit.tls import client_context
from tests.nsqkit.access.credentials import make_credentials
from tests.nsqkit.certificates import Certificates
from tests.timing import patience

SECRET = "s3cr3t"
REQUEST = AuthRequest(secret=SECRET, remote_ip="10.0.0.7")
GOOD = b'{"ttl":60,"identity":"joe","authorizations":[{"topic":"t","channels":[".*"],"permissions":["publish"]}]}'


def response(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = "".join(f"{line}\r\n" for line in headers)
    return f"HTTP/1.1 {status}\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


@define
class AuthServer:
    """Says the same to everybody; `then` keeps the connection open behind it."""

    said: bytes = response(GOOD)
    stays: bool = False
    port: int = 0
    requests: list[tuple[str, dict[str, str], bytes]] = field(factory=list)
    """First line, headers, body."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def serve(self, stream: trio.abc.Stream) -> None:
        data = b""
        try:
            while b"\r\n\r\n" not in data:
                data += await _some(stream)
            head, _, body = data.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            while len(body) < int(headers.get("content-length", "0")):
                body += await _some(stream)
            self.requests.append((first, headers, body))
            await stream.send_all(self.said)
            if self.stays:
                await trio.sleep_forever()
        except trio.BrokenResourceError:
            pass


async def _some(stream: trio.abc.Stream) -> bytes:
    data = await stream.receive_some(1 << 16)
    if not data:
        raise trio.BrokenResourceError
    return bytes(data)


@asynccontextmanager
async def running(*servers: AuthServer, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for server in servers:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            server.port = listeners[0].socket.getsockname()[1]
            served = listeners if tls is None else with_tls(listeners, lambda: tls)
            nursery.start_soon(trio.serve_listeners, server.serve, served)
        yield
        nursery.cancel_scope.cancel()


def authorizer(
    *addresses: str, method: str = "get", request_timeout: float = 5.0, root_ca_file: str = ""
) -> Authorizer:
    options = NsqdOptions(auth_http_addresses=list(addresses), auth_http_request_method=method)
    tls = partial(client_context, root_ca_file=root_ca_file)
    return Authorizer(options, HttpClient(HttpOptions(request_timeout=request_timeout, tls=tls)))


async def test_an_answer_is_a_state() -> None:
    server = AuthServer()
    async with running(server):
        before = trio.current_time()
        state = await authorizer(server.address).query(REQUEST)
    assert isinstance(state, AuthState)
    assert (state.identity, state.permission_count, state.allows("t", "")) == ("joe", 1, True)
    assert before + 60 <= state.expires <= trio.current_time() + 60


@pytest.mark.parametrize(
    ("request_", "query"),
    [
        (REQUEST, "common_name=&remote_ip=10.0.0.7&secret=s3cr3t&tls=false"),
        (
            AuthRequest(secret=b"a b&c=\xff/+~", remote_ip="::1", tls=True, common_name="Jörg <x>"),
            "common_name=J%C3%B6rg+%3Cx%3E&remote_ip=%3A%3A1&secret=a+b%26c%3D%FF%2F%2B~&tls=true",
        ),
        (AuthRequest(secret=b"x", remote_ip=""), "common_name=&remote_ip=&secret=x&tls=false"),
    ],
)
async def test_get(request_: AuthRequest, query: str) -> None:
    server = AuthServer()
    async with running(server):
        await authorizer(server.address).query(request_)
    [(first, headers, body)] = server.requests
    assert (first, body) == (f"GET /auth?{query} HTTP/1.1", b"")
    assert headers["accept"] == "application/vnd.nsq; version=1.0"
    assert headers["host"] == server.address


@pytest.mark.parametrize(
    ("path", "line"),
    [("/check", "/check?common_name="), ("/check?a=b", "/check?a=b?common_name="), ("", "/?common_name=")],
)
async def test_a_full_url_is_used_unchanged(path: str, line: str) -> None:
    """The question mark comes behind it whatever it has already, as with the original."""
    server = AuthServer()
    async with running(server):
        await authorizer(f"http://{server.address}{path}").query(REQUEST)
    assert server.requests[0][0].startswith(f"GET {line}")


async def test_post() -> None:
    server = AuthServer()
    async with running(server):
        await authorizer(server.address, method="post").query(
            AuthRequest(secret=b"s\xff<", remote_ip="10.0.0.7", tls=True, common_name="cn")
        )
    [(first, headers, body)] = server.requests
    assert first == "POST /auth HTTP/1.1"
    assert headers["content-type"] == "application/json"
    text = '{"common_name":["cn"],"remote_ip":["10.0.0.7"],"secret":["s\ufffd\\u003c"],"tls":["true"]}'
    assert body == text.encode()


async def test_user_and_password_of_a_url_are_used(caplog: pytest.LogCaptureFixture) -> None:
    server = AuthServer(response(b"", "500 Internal Server Error"))
    async with running(server):
        with pytest.raises(AuthFailed):
            await authorizer(f"http://joe:pass@{server.address}/auth?key=k3y").query(REQUEST)
    assert server.requests[0][1]["authorization"] == "Basic am9lOnBhc3M="
    assert f"AUTH: http://{server.address}/auth - status 500" in caplog.messages
    assert not any("pass" in line or "k3y" in line for line in caplog.messages)


@pytest.mark.parametrize(
    "address", ["http://joe:pa/ss@h:1/", "http://joe:pass@h:99999/", "joe:pass@[::/auth"]
)
async def test_an_address_that_is_none_is_not_repeated(
    caplog: pytest.LogCaptureFixture, address: str
) -> None:
    with pytest.raises(AuthFailed):
        await authorizer(address, request_timeout=1.0).query(REQUEST)
    assert len(caplog.messages) == 1
    assert "pa" not in caplog.messages[0].removesuffix("this address and this request make no valid URL")


@pytest.mark.parametrize("start", [0, 1, 2])
async def test_round_the_list_from_a_random_one(monkeypatch: pytest.MonkeyPatch, start: int) -> None:
    bad, worse, good = AuthServer(response(b"", "403 Forbidden")), AuthServer(b"what?\r\n\r\n"), AuthServer()
    servers = (bad, worse, good)
    monkeypatch.setattr(random, "randrange", lambda count: start)
    async with running(*servers):
        state = await authorizer(*[server.address for server in servers]).query(REQUEST)
    assert state.identity == "joe"
    assert [len(server.requests) for server in servers] == [start <= 0, start <= 1, 1]


async def test_addresses_may_change() -> None:
    server = AuthServer()
    options = NsqdOptions()
    asked = Authorizer(options, HttpClient(HttpOptions()))
    assert not asked.enabled
    with pytest.raises(AuthFailed):
        await asked.query(REQUEST)
    async with running(server):
        options.auth_http_addresses = [server.address]
        assert asked.enabled
        assert (await asked.query(REQUEST)).identity == "joe"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (response(GOOD, "201 Created"), "status 201"),
        (response(GOOD, "404 Not Found"), "status 404"),
        (response(GOOD, "403 Forbidden"), "status 403"),
        (response(b'{"https_port":0}', "403 Forbidden"), "status 403"),
        (response(b"", "302 Found", "Location: http://127.0.0.1:1/auth"), "status 302"),
        (response(b'{"ttl":1.0}'), "bad JSON"),
        (response(b'{"ttl":0}'), "invalid TTL 0"),
        (response(GOOD.replace(b"publish", b"everything")), "unknown permission 'everything'"),
        (response(GOOD.replace(b'"t"', b'"("')), "unable to compile topic '('"),
        (response(GOOD.replace(b".*", b"*")), "unable to compile channel '*'"),
        (response(GOOD)[:-1], "peer closed connection"),
        (b"", "Server disconnected"),
        (b"NSQ what?\r\n\r\n", "illegal status line"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (MAX_BODY + 1) + GOOD, "more than 1048576 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 100_000, "Receive buffer too long"),
    ],
)
async def test_unusable_answers_refuse_the_client(
    said: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = AuthServer(said)
    async with running(server):
        with pytest.raises(AuthFailed, match="no auth server has given a usable answer"):
            await authorizer(server.address).query(REQUEST)
    [line] = [record.getMessage() for record in caplog.records if record.name.startswith("nsq.")]
    assert line.startswith(f"AUTH: {server.address} - ")
    assert reason in line
    assert SECRET not in line


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "no such host.example:80", "http://", "ftp://127.0.0.1/x", ""]
)
async def test_an_unreachable_server_refuses_the_client(address: str) -> None:
    with pytest.raises(AuthFailed):
        await authorizer(address, request_timeout=2.0).query(REQUEST)


async def _raises_nothing_but_auth_failed(asked: Authorizer, request: AuthRequest = REQUEST) -> None:
    with pytest.raises(AuthFailed):
        await asked.query(request)


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"], ids=["silent", "in the middle"]
)
async def test_a_slow_server_is_left_in_time(said: bytes) -> None:
    server = AuthServer(said, stays=True)
    async with running(server):
        with trio.fail_after(patience(2)):
            await _raises_nothing_but_auth_failed(authorizer(server.address, request_timeout=0.2))


async def test_a_drip_is_left_in_time() -> None:
    """Each byte keeps a read time-out from passing; the request as a whole has a limit, too."""

    async def drip(stream: trio.SocketStream) -> None:
        try:
            await _some(stream)
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
            while True:
                await stream.send_all(b" ")
                await trio.sleep(0.02)
        except (trio.BrokenResourceError, OSError):
            pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, drip, 0)
        address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        with trio.fail_after(patience(2)):
            await _raises_nothing_but_auth_failed(authorizer(address, request_timeout=0.3))
        nursery.cancel_scope.cancel()


@define
class Silence:
    """What an HTTP client is to the authorizer, with nobody at the other end."""

    asked: int = 0
    at_once: int = 0
    most: int = 0

    async def ask(self, url: str, **_: object) -> Answer:
        self.asked += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await trio.sleep(20)
        finally:
            self.at_once -= 1
        raise HttpFailed("nobody")


async def test_many_silent_servers_are_left_in_time_altogether(
    autojump_clock: trio.testing.MockClock,
) -> None:
    silence = Silence()
    options = NsqdOptions(auth_http_addresses=[f"a{number}:80" for number in range(10)])
    before = trio.current_time()
    await _raises_nothing_but_auth_failed(Authorizer(options, silence))  # type: ignore[arg-type]
    assert trio.current_time() - before == 30
    assert silence.asked == 2


async def test_a_crowd_waits_for_its_turn_and_not_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    silence = Silence()
    asked = Authorizer(NsqdOptions(auth_http_addresses=["a:80"]), silence)  # type: ignore[arg-type]
    before = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(_raises_nothing_but_auth_failed, asked, _from(number % 10))
    assert trio.current_time() - before == 30
    assert silence.most == ASKING


def _from(number: int) -> AuthRequest:
    """A request of a client at another address."""
    return AuthRequest(secret=SECRET, remote_ip=f"192.0.2.{number}")


async def test_the_clients_of_one_address_leave_turns_for_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    silence = Silence()
    asked = Authorizer(NsqdOptions(auth_http_addresses=["a:80"]), silence)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        for _ in range(300):
            nursery.start_soon(_raises_nothing_but_auth_failed, asked)
        await trio.testing.wait_all_tasks_blocked()
        assert silence.at_once == ASKING_FOR_ADDRESS
        nursery.start_soon(_raises_nothing_but_auth_failed, asked, _from(1))
        await trio.testing.wait_all_tasks_blocked()
        assert silence.at_once == ASKING_FOR_ADDRESS + 1
    assert not asked._server("a:80")._turns_of_address


@define
class OneHangs:
    """Two auth servers: `hangs` gives no answer for five seconds, any other answers at once."""

    asked: list[str] = field(factory=list)

    async def ask(self, url: str, **_: object) -> Answer:
        name = url.removeprefix("http://").split(":")[0]
        self.asked.append(name)
        if name == "hangs":
            await trio.sleep(5)
            raise HttpFailed("no answer within 5 s")
        await trio.lowlevel.checkpoint()
        return Answer(200, [], GOOD)


async def test_a_server_that_hangs_keeps_nobody_from_another(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its turns are its own, and a query that would have to wait for one goes to the other server."""
    monkeypatch.setattr(random, "randrange", lambda count: 0)  # all begin with it
    servers = OneHangs()
    asked = Authorizer(NsqdOptions(auth_http_addresses=["hangs:1", "works:1"]), servers)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        for number in range(ASKING):
            nursery.start_soon(asked.query, _from(number))
        await trio.testing.wait_all_tasks_blocked()
        assert servers.asked == ["hangs"] * ASKING
        before = trio.current_time()
        for number in range(3 * ASKING):
            assert (await asked.query(_from(number))).identity == "joe"
        assert trio.current_time() == before


async def test_a_server_that_did_not_answer_is_asked_last_for_a_while(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "randrange", lambda count: 0)
    servers = OneHangs()
    asked = Authorizer(NsqdOptions(auth_http_addresses=["hangs:1", "works:1"]), servers)  # type: ignore[arg-type]
    for _ in range(3):
        await asked.query(REQUEST)
    assert servers.asked == ["hangs", "works", "works", "works"]
    await trio.sleep(FAILED_SECONDS)
    await asked.query(REQUEST)
    assert servers.asked[4:] == ["hangs", "works"]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def _server_context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.server.configure_cert(context)
    return context


async def test_https_with_the_root_ca_file(certificates: Certificates) -> None:
    server = AuthServer()
    async with running(server, tls=_server_context(certificates)):
        trusting = authorizer(f"https://{server.address}/auth", root_ca_file=certificates.root_ca_file)
        assert (await trusting.query(REQUEST)).identity == "joe"
        await _raises_nothing_but_auth_failed(authorizer(f"https://{server.address}/auth"))


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("form", ["{}", "http://{}/auth"])
async def test_a_server_with_tls_only_is_asked_over_tls(
    certificates: Certificates, method: str, form: str
) -> None:
    secure = AuthServer()
    async with running(secure, tls=_server_context(certificates)):
        said = json.dumps({"message": "TLS_REQUIRED", "https_port": secure.port}).encode()
        plain = AuthServer(response(said, "403 Forbidden"))
        async with running(plain):
            asked = authorizer(
                form.format(plain.address), method=method, root_ca_file=certificates.root_ca_file
            )
            assert (await asked.query(REQUEST)).identity == "joe"
    assert [request[0] for request in plain.requests] == [request[0] for request in secure.requests]
    assert [request[2] for request in plain.requests] == [request[2] for request in secure.requests]


async def test_over_tls_a_403_is_final(certificates: Certificates) -> None:
    secure = AuthServer(response(b'{"https_port":1}', "403 Forbidden"))
    async with running(secure, tls=_server_context(certificates)):
        asked = authorizer(f"https://{secure.address}/auth", root_ca_file=certificates.root_ca_file)
        await _raises_nothing_but_auth_failed(asked)
    assert len(secure.requests) == 1


async def test_a_missing_root_ca_file_refuses_the_client(tmp_path: Path) -> None:
    asked = authorizer("https://127.0.0.1:1/auth", root_ca_file=str(tmp_path / "gone.pem"))
    await _raises_nothing_but_auth_failed(asked)


async def test_the_secret_is_in_no_line(caplog: pytest.LogCaptureFixture) -> None:
    """Of ours, and of nothing of httpx that the daemons show (from WARNING on)."""
    server = AuthServer(response(SECRET.encode()))
    with caplog.at_level(logging.DEBUG, "nsq"):
        async with running(server):
            for method in ("get", "post"):
                await _raises_nothing_but_auth_failed(authorizer(server.address, method=method))
        long = AuthRequest(secret=SECRET * 20_000, remote_ip="")
        with pytest.raises(AuthFailed):
            await authorizer(server.address).query(long)
    shown = [r for r in caplog.records if r.name.startswith("nsq") or r.levelno >= logging.WARNING]
    assert len(shown) == 3
    assert not any(SECRET in record.getMessage() for record in shown)
    assert SECRET not in repr(long)


async def test_tokens_stay_here_and_other_secrets_go_to_the_server(tmp_path: Path) -> None:
    credentials = make_credentials(tmp_path)
    server = AuthServer()
    async with running(server):
        options = NsqdOptions(auth_http_addresses=[server.address])
        both = Authorizer(options, HttpClient(HttpOptions()), credentials.access)

        async def query(who: str) -> AuthState:
            return await both.query(AuthRequest(secret=credentials.secrets[who], remote_ip="10.0.0.7"))

        state = await query("publisher")
        assert state.allows("orders", "")
        assert not state.allows("orders", "billing")
        with pytest.raises(AuthFailed, match="the token has expired"):
            await query("expired admin")
        assert server.requests == []
        assert (await both.query(REQUEST)).identity == "joe"
        await query("revoked admin")  # which is a secret like any other
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("scopes", "count", "allowed"),
    [
        (["publish:a*"], 1, {("a1", "")}),
        (["consume:a*/c*"], 1, {("a1", "c1")}),
        (["consume:*/c1", "publish:b1", "read"], 2, {("a1", "c1"), ("b1", "c1"), ("b1", "")}),
        (["admin"], 1, {("a1", ""), ("b1", ""), ("a1", "c1"), ("b1", "c1"), ("a1", "d1"), ("b1", "d1")}),
        (["read", "operate"], 0, set()),
    ],
)
def test_what_a_token_allows(scopes: list[str], count: int, allowed: set[tuple[str, str]]) -> None:
    state = token_state(Token("t", b"", Scopes.parse(scopes)))
    names = [(topic, channel) for topic in ("a1", "b1") for channel in ("", "c1", "d1")]
    assert {each for each in names if state.allows(*each)} == allowed
    assert (state.permission_count, state.identity) == (count, "t")
    assert not state.is_expired(1e12)
