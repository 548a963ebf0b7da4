"""Bugs of connections with layers, and of sessions that wait for somebody: each was there once."""

from __future__ import annotations

import gc
import json
import random
import weakref
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from nsqd.auth import AuthClient, AuthQueries
from nsqd.auth.state import parse_answer
from nsqd.protocol_v2 import connection
from nsqd.protocol_v2.authorization import MAX_SECRET
from nsqd.protocol_v2.connection import CHUNK, ClientConnection
from nsqd.protocol_v2.phase import SessionPhase
from nsqd.protocol_v2.session import TURN, Session
from nsqkit.wire import OK
from tests.nsqd.protocol_v2.harness import Machine, error, identify, mpub, pub, sized, sub
from tests.nsqd.protocol_v2.serving import Peer, Server, serving

EVERYTHING = {"topic": ".*", "channels": [".*"], "permissions": ["subscribe", "publish"]}
ALLOWED = json.dumps({"ttl": 60, "authorizations": [EVERYTHING]}).encode()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving("plain", limit=60) as server:
        yield server


def connection_of(server: Server, peer: Peer) -> ClientConnection:
    (found,) = [c for c in server._connections.connections.values() if c.session is peer.session]
    return found


def allow(server: Server, client: AuthClient) -> None:
    server.rounds.begin()
    client.authorized(parse_answer(ALLOWED, trio.current_time()))
    server.rounds.end()


@pytest.mark.parametrize("layers", ["tls", "deflate", "tls+snappy"])
async def test_the_layers_of_a_closed_connection_are_gone_at_once(server: Server, layers: str) -> None:
    """They hung in a circle of references, and the collector runs seldom: 100 KiB stayed for each connection."""
    peer = await server.connect(layers=layers)
    await peer.send(pub(b"x"))
    assert await peer.frame() == OK
    gone = weakref.ref(connection_of(server, peer).layers)
    gc.disable()
    try:
        await peer.close()
        await server.settled()
        assert not server.sessions
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("layers", ["plain", "tls", "deflate"])
async def test_an_authorization_that_expires_in_the_middle_of_a_multi_publish(
    server: Server, layers: str
) -> None:
    """When it was there again the connection was never read again."""
    asked: list[AuthClient] = []
    server.context.ask = asked.append
    peer = await server.connect(layers=layers)
    await peer.send(b"AUTH\n" + sized(b"s"))
    await server.settled()
    allow(server, asked.pop())
    await peer.frame()
    assert peer.session.authorization.state is not None
    peer.session.authorization.state.expires = 0
    command = mpub(b"one", b"two" * 1000)
    await peer.send(command[:40])
    await server.settled()
    allow(server, asked.pop())
    await peer.send(command[40:])
    with trio.fail_after(5):
        assert await peer.frame() == OK


async def test_an_error_of_ours_behind_an_answer_of_an_auth_server(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended the whole daemon."""

    class Yes:
        async def query(self, request: object) -> Any:
            return parse_answer(ALLOWED, trio.current_time())

    peer, other = await server.connect(), await server.connect()
    feed = Session.feed

    def broken(session: Session, data: bytes) -> None:
        if session is peer.session and not data:
            raise RuntimeError("a bug")
        feed(session, data)

    monkeypatch.setattr(Session, "feed", broken)
    async with trio.open_nursery() as nursery:
        queries = AuthQueries(Yes(), server.rounds)  # type: ignore[arg-type]
        nursery.start_soon(queries.run)
        await server.settled()
        server.context.ask = queries.ask
        await peer.send(b"AUTH\n" + sized(b"s"))
        await peer.all()
        assert peer.session.closed
        await other.send(b"AUTH\n" + sized(b"s"))
        with trio.fail_after(5):
            await other.frame()
        nursery.cancel_scope.cancel()


def test_a_secret_that_is_none() -> None:
    """Megabytes of it were kept as long as the connection lived, and escaped for a URL."""
    asked: list[AuthClient] = []
    client = Machine(ask=asked.append).client().send(b"AUTH\n" + sized(b"s" * (MAX_SECRET + 1)))
    assert client.answers() == [error("E_AUTH_FAILED AUTH failed")]
    assert not asked


def _undecoded(connection: ClientConnection) -> int:
    layers = connection.layers
    if layers is None:
        return 0
    below = len(layers._tls._waiting) + layers._tls._in.pending if layers._tls else 0
    return below + len(getattr(layers._decoder, "_waiting", b""))


@pytest.mark.parametrize("layers", ["deflate", "tls+deflate"])
async def test_what_is_read_and_not_decoded_is_bounded(server: Server, layers: str) -> None:
    """I12: compressed input was read as fast as it came, and decoded much slower."""
    peer = await server.connect(layers=layers, buffer=1 << 20)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(compressor.compress(b"NOP\n" * (1 << 18)) for _ in range(60))
    bomb += compressor.flush(zlib.Z_FULL_FLUSH)
    connection, highest = connection_of(server, peer), 0

    async def pour() -> None:
        while True:
            await peer.stream.send_raw(bomb)

    with trio.move_on_after(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour)
            while True:
                await trio.sleep(0.02)
                highest = max(highest, _undecoded(connection))
    assert 0 < highest <= 2 * CHUNK


@pytest.mark.parametrize("layers", ["plain", "tls", "deflate"])
async def test_what_waits_for_a_slow_socket_is_counted(server: Server, layers: str) -> None:
    """I12: what was not encoded yet was not."""
    peer = await server.connect(layers=layers)
    await peer.send(sub() + b"RDY 5\n")
    assert await peer.frame() == OK
    producer = await server.connect()
    await producer.send(pub(random.Random(1).randbytes(1 << 20)))
    assert await producer.frame() == OK
    await server.settled()
    assert server.context.buffered > 1 << 19
    await peer.close()
    await server.settled()
    assert server.context.buffered == 0


@pytest.mark.parametrize("layers", ["plain", "tls"])
@pytest.mark.parametrize("buffer", [30_000, 64_000, 130_000])
async def test_a_client_that_talks_and_takes_nothing_is_dropped(
    server: Server, layers: str, buffer: int
) -> None:
    """The limit did not count where the socket had taken a whole piece and the next one was not encoded."""
    peer = await server.connect(layers=layers, buffer=buffer)
    await peer.send(identify(heartbeat_interval=1000) + sub())
    assert await peer.frames(2) == [OK, OK]
    producer = await server.connect()
    await peer.send(b"RDY 1\n")
    await producer.send(pub(random.Random(2).randbytes(950_000)))
    assert await producer.frame() == OK
    with trio.fail_after(6):
        while not peer.session.closed:
            await trio.sleep(0.3)
            if not peer.session.closed:
                await peer.send(b"NOP\n")


@pytest.mark.parametrize("layers", ["tls", "snappy"])
async def test_commands_in_front_of_damage_are_carried_out(server: Server, layers: str) -> None:
    """They were thrown away where both came in one piece."""
    peer = await server.connect(layers=layers)
    stream = peer.stream
    if stream._tls is not None:
        stream._tls.write(pub(b"one"))
        data = stream._out.read() + b"\x17\x03\x03\0\x20" + b"x" * 32
    else:
        assert stream._encoder is not None
        data = stream._encoder.encode(pub(b"one")) + b"\x55" * 5
    await stream.raw.send_all(data)
    await server.settled()
    assert server.broker.topics["t"].message_count == 1
    assert peer.session.closed


async def test_the_end_of_a_client_in_the_handshake_has_its_error(server: Server) -> None:
    peer = await server.connect()
    await peer.send(identify(feature_negotiation=True, tls_v1=True))
    await peer.frame()
    await peer.stream.raw.send_all(b"\x16\x03\x01")
    await server.settled()
    await peer.stream.send_eof()
    assert await peer.all() == [error("E_IDENTIFY_FAILED IDENTIFY failed EOF")]


async def test_a_bad_hello_that_lies_in_the_socket_already(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was read before the layers' own turn had come."""
    peer = await server.connect()
    head = identify(feature_negotiation=True, tls_v1=True)
    monkeypatch.setattr(connection, "CHUNK", len(head))
    await peer.send(head + b"this is no TLS hello at all")
    said = b""
    while data := await peer.stream.raw.receive_some():
        said += data
    assert b"E_IDENTIFY_FAILED IDENTIFY failed" in said
    assert "internal error" not in caplog.text


def test_a_flood_of_tiny_commands_has_its_turns() -> None:
    """I7: a quarter of a megabyte of them held everybody up for a tenth of a second."""
    machine = Machine()
    client = machine.client()
    machine.rounds.begin()
    client.session.feed(pub(b"x") * (TURN + 10))
    assert client.session.phase is SessionPhase.YIELDED
    machine.settle()
    assert len(client.answers()) == TURN
    client.session.feed(b"")
    assert client.session.phase is SessionPhase.READING
    machine.settle()
    assert len(client.answers()) == 10


async def test_a_flood_is_worked_through_without_any_more_input(server: Server) -> None:
    peer, other = await server.connect(buffer=1 << 20), await server.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.send, b"NOP\n" * 500_000 + pub(b"x"))
        for _ in range(5):
            await other.send(pub(b"y", "other"))
            assert await other.frame() == OK
        assert await peer.frame() == OK
