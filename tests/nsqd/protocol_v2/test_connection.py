"""One connection: what it keeps in memory, for how long, and what is counted of it."""

from __future__ import annotations

import gc
import random
import socket
import weakref

import pytest
import trio

from nsqd.protocol_v2.session import Session
from nsqkit.wire import OK
from tests.nsqd.protocol_v2.harness import MAGIC, error, identify, pub, sub
from tests.nsqd.protocol_v2.serving import Server, serving
from tests.timing import patience


async def test_a_closed_connection_keeps_no_unsent_bytes(server: Server) -> None:
    """A time-out in the heap holds the subscription, its session, its connection and the frames it was sending."""
    producer = await server.connect()
    for _ in range(3):
        await producer.send(pub(b"x" * 1_000_000))
    await producer.frames(3)
    alive = []
    for _ in range(3):
        peer = await server.connect(MAGIC + identify(msg_timeout=900_000) + sub() + b"RDY 2500\n")
        await server.settled()
        alive.append(weakref.ref(server.connection_of(peer)))
        server.peers.remove(peer)
        await peer.close()
        del peer
        await server.settled()
    assert len(server._connections.connections) == 1
    gc.collect()
    assert sum(c.output.waits for ref in alive if (c := ref()) is not None) == 0


async def test_a_client_with_a_fatal_error_is_no_consumer_any_more(server: Server) -> None:
    """Its messages and its subscription are free at once, also while it has yet to read the error and to close."""
    producer, consumer = await server.connect(), await server.connect()
    await consumer.send(sub() + b"RDY 1\n")
    await producer.send(pub(b"x"))
    assert (await consumer.frames(2))[0] == OK
    await consumer.send(b"BOGUS\n")
    assert await consumer.frame() == error("E_INVALID invalid command BOGUS")
    await server.settled()  # it does not close its side
    channel = server.context.broker.topics["t"].channels["c"]
    assert not channel.subscriptions
    assert channel.in_flight_count == 0
    assert consumer.session not in server.sessions


@pytest.mark.parametrize("layers", ["tls", "deflate", "tls+snappy"])
async def test_the_layers_of_a_closed_connection_are_freed_at_once(server: Server, layers: str) -> None:
    """They hung in a circle of references, and the collector runs seldom: 100 KiB stayed for each connection."""
    peer = await server.connect(layers=layers)
    await peer.send(pub(b"x"))
    assert await peer.frame() == OK
    gone = weakref.ref(server.connection_of(peer).layers)
    gc.disable()
    try:
        await peer.close()
        await server.settled()
        assert not server.sessions
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("layers", ["plain", "tls", "deflate"])
async def test_bytes_that_wait_for_a_slow_socket_are_counted(server: Server, layers: str) -> None:
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
async def test_a_client_that_sends_commands_and_reads_nothing_is_dropped(
    server: Server, layers: str, buffer: int, autojump_clock: trio.testing.MockClock
) -> None:
    """The limit did not count where the socket had taken a whole piece and the next one was not encoded."""
    autojump_clock.autojump_threshold = 0.02  # the kernel has its time to pass bytes on
    peer = await server.connect(layers=layers, buffer=buffer)
    await peer.send(identify(heartbeat_interval=1000) + sub())
    assert await peer.frames(2) == [OK, OK]
    producer = await server.connect()
    await peer.send(b"RDY 1\n")
    await producer.send(pub(random.Random(2).randbytes(950_000)))
    assert await producer.frame() == OK
    with trio.fail_after(patience(6)):
        while not peer.session.closed:
            await trio.sleep(0.3)
            if not peer.session.closed:
                await peer.send(b"NOP\n")


async def test_a_client_that_closed_is_not_read_again_and_again_during_a_sync(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving("plain", sync_on_commit=True) as server:
        server.broker.store.syncer.want = lambda ticket: None  # type: ignore[method-assign]  # it lasts
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        ours.setblocking(False)
        server._connections.add(ours, "@")
        reads = 0
        eof = Session.eof

        def counted(session: Session) -> None:
            nonlocal reads
            reads += 1
            eof(session)

        monkeypatch.setattr(Session, "eof", counted)
        theirs.sendall(MAGIC + pub(b"x"))
        theirs.close()
        await trio.sleep(0.3)
        assert reads <= 3
