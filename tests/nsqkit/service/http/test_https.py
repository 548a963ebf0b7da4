"""HTTP over TLS: the same answers, and a handshake that holds nobody up."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from nsqkit.service.http import HttpServer, Limits, Request, Router, text
from nsqkit.service.listeners import bound_address, open_listeners, with_tls
from nsqkit.service.tls import server_context
from tests.nsqkit.certificates import Certificates
from tests.nsqkit.service.http.http_peer import WITHIN_S, Client, get, post, settle, small_api
from tests.timing import patience


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@asynccontextmanager
async def https(
    certificates: Certificates,
    app: Router | None = None,
    *,
    limits: Limits | None = None,
    policy: str = "",
) -> AsyncIterator[tuple[HttpServer, int]]:
    """A server and its port."""
    context = server_context(
        certificates.cert_file,
        certificates.key_file,
        client_auth_policy=policy,
        root_ca_file=certificates.root_ca_file,
    )
    server = HttpServer(app or small_api(), limits or Limits())
    listeners = await open_listeners("127.0.0.1:0")
    async with trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: server.run(with_tls(listeners, lambda: context), task_status=task_status)
        )
        yield server, bound_address(listeners[0]).port
        server.stop()


async def connect(port: int, context: ssl.SSLContext) -> Client:
    raw = await trio.open_tcp_stream("127.0.0.1", port)
    return Client(trio.SSLStream(raw, context, server_hostname="127.0.0.1", https_compatible=True))


async def test_requests_and_answers(certificates: Certificates) -> None:
    async with https(certificates) as (_, port):
        client = await connect(port, certificates.client_context())
        async with client.stream:
            for number in range(3):
                assert (await client.ask(get(f"/config/{number}"))).body == b"%d" % number
            assert (await client.ask(post("/pub", b"x" * 100))).body == b"x" * 100
            assert (await client.ask(get("/big"))).body == b"x" * 4_000_000
            await client.send(get("/ping") + get("/config/a"))
            assert [(await client.answer()).body for _ in range(2)] == [b"OK", b"a"]


async def test_a_handler_knows_that_it_is_safe(certificates: Certificates) -> None:
    router = Router()
    router.add("GET", "/who", lambda request: text(f"{request.secure} {request.remote.rpartition(':')[0]}"))
    async with https(certificates, router) as (_, port):
        client = await connect(port, certificates.client_context())
        async with client.stream:
            assert (await client.ask(get("/who"))).body == b"True 127.0.0.1"


async def test_client_certificates(certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever has none of the authority's gets no answer, and is told why, as is the log."""
    with caplog.at_level(logging.INFO, "nsq"):
        async with https(certificates, policy="require-verify") as (server, port):
            for shown, alert in (
                (None, "TLSV13_ALERT_CERTIFICATE_REQUIRED"),
                (certificates.unknown_client, "TLSV1_ALERT_UNKNOWN_CA"),
            ):
                client = await connect(port, certificates.client_context(shown))
                with pytest.raises(trio.BrokenResourceError) as told:
                    await client.ask(get("/ping"))
                assert alert in str(told.value.__cause__)
                await trio.aclose_forcefully(client.stream)
            client = await connect(port, certificates.client_context(certificates.client))
            async with client.stream:
                assert (await client.ask(get("/ping"))).body == b"OK"
            await settle(server)
    reasons = [line for line in caplog.messages if line.startswith("HTTPS: handshake with 127.0.0.1:")]
    assert len(reasons) == 2
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in reasons[0]
    assert "CERTIFICATE_VERIFY_FAILED" in reasons[1]


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01\x00"], ids=["nothing", "half a hello"])
async def test_a_stalled_handshake_is_cut_and_holds_nobody_up(
    certificates: Certificates, caplog: pytest.LogCaptureFixture, said: bytes
) -> None:
    with caplog.at_level(logging.INFO, "nsq"):
        async with https(certificates, limits=Limits(handshake_seconds=1.5)) as (server, port):
            stalled = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(20)]
            for stream in stalled:
                if said:
                    await stream.send_all(said)
            client = await connect(port, certificates.client_context())
            assert (await client.ask(get("/ping"))).body == b"OK"
            assert server.connection_count == 21, "the answer came while the others were stalled"
            for stream in stalled:
                with trio.fail_after(patience(WITHIN_S)):
                    assert await stream.receive_some(1) == b""
                await stream.aclose()
            assert server.connection_count == 1
            await client.stream.aclose()
    assert sum("not done within" in line for line in caplog.messages) == 20


def test_the_default_limit() -> None:
    assert Limits().handshake_seconds == 5


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"  V2NOP\n", bytes(2000)])
async def test_what_is_no_tls(certificates: Certificates, said: bytes) -> None:
    async with https(certificates) as (server, port):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(said)
            with trio.fail_after(patience(WITHIN_S)):
                with suppress(trio.BrokenResourceError):
                    assert not (await stream.receive_some(100)).startswith(b"HTTP")
        client = await connect(port, certificates.client_context())
        async with client.stream:
            assert (await client.ask(get("/ping"))).body == b"OK"
        await settle(server)


async def test_a_client_that_goes_in_the_middle(certificates: Certificates) -> None:
    async with https(certificates) as (server, port):
        client = await connect(port, certificates.client_context())
        await client.send(get("/big") * 5)
        await client.answer()
        await trio.aclose_forcefully(client.stream)
        await settle(server)


async def test_handshakes_that_begin_at_once_take_turns(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each costs a millisecond: in every pass of the loop everything else has its turn between two of them."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = certificates.client_context().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    steps = 0
    do_handshake = ssl.SSLObject.do_handshake

    def counted(tls: ssl.SSLObject) -> None:
        nonlocal steps
        steps += 1
        do_handshake(tls)

    answers = 0

    async def answered(stream: trio.SocketStream) -> None:
        nonlocal answers
        await stream.receive_some(1)
        answers += 1

    async with https(certificates) as (server, port), trio.open_nursery() as nursery:
        streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(20)]
        while server.connection_count < len(streams):  # noqa: ASYNC110
            await trio.sleep(0.01)
        await trio.testing.wait_all_tasks_blocked()
        monkeypatch.setattr(ssl.SSLObject, "do_handshake", counted)
        for stream in streams:
            os.write(stream.socket.fileno(), hello)
            nursery.start_soon(answered, stream)
        most = before = 0
        with trio.fail_after(patience(WITHIN_S)):
            while answers < len(streams):
                await trio.lowlevel.checkpoint()
                most, before = max(most, steps - before), steps
        assert 0 < most <= 8
        for stream in streams:
            await trio.aclose_forcefully(stream)
        await settle(server)
        nursery.cancel_scope.cancel()


async def test_handshakes_count_as_connections(certificates: Certificates) -> None:
    async with https(certificates, limits=Limits(connections=2)) as (server, port):
        held = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(2)]
        with trio.fail_after(patience(WITHIN_S)):
            while server.connection_count < 2:  # noqa: ASYNC110
                await trio.sleep(0.01)
        third = await trio.open_tcp_stream("127.0.0.1", port)
        with trio.fail_after(patience(2)):
            assert await third.receive_some(1) == b""
        for stream in (*held, third):
            await stream.aclose()
        await settle(server)


async def test_a_stop_waits_for_a_request_and_for_no_handshake(certificates: Certificates) -> None:
    called = trio.Event()

    async def slow(request: Request):  # type: ignore[no-untyped-def]
        called.set()
        await trio.sleep(0.2)
        return text("slow")

    router = Router()
    router.add("GET", "/slow", slow)
    async with https(certificates, router) as (server, port):
        silent = await trio.open_tcp_stream("127.0.0.1", port)
        client = await connect(port, certificates.client_context())
        await client.send(get("/slow"))
        await called.wait()
        before = trio.current_time()
        server.stop()
        assert (await client.answer()).body == b"slow"
        assert await client.rest() == b""
    assert trio.current_time() - before < Limits().handshake_seconds
    await silent.aclose()
    await trio.aclose_forcefully(client.stream)
