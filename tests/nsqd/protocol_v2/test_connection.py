"""One connection: what it keeps in memory, for how long, and what is counted of it."""

from __future__ import annotations

import gc
import random
import socket
import weakref
from collections.abc import Awaitable, Callable

import pytest
import trio

from nsqd.protocol_v2.session import Session
from nsqkit.wire import OK, Message, decode_message
from nsqkit.wire.frames import is_message
from tests.nsqd.protocol_v2.harness import MAGIC, error, fin, identify, mpub, pub, sub
from tests.nsqd.protocol_v2.serving import Peer, Server, serving
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


# --- a client that closes its side, or is to be closed, while messages wait for it

BODIES = [b"%02d" % number + random.Random(number).randbytes(20_000) for number in range(40)]
LAYERS_OF_EACH_KIND = pytest.mark.parametrize("layers", ["plain", "tls", "deflate", "tls+snappy"])


async def stuck_consumer(server: Server, layers: str = "plain") -> Peer:
    """A consumer that has not read its messages: some are on their way, others wait, and the channel has the rest."""
    peer = await server.connect(layers=layers)
    await peer.send(sub() + b"RDY 100\n")
    assert await peer.frame() == OK
    producer = await server.connect()
    await producer.send(mpub(*BODIES))
    assert await producer.frame() == OK
    await server.settled()
    assert server.connection_of(peer).output.waits
    return peer


async def messages_of_another(server: Server) -> list[Message]:
    """All messages of the channel, which a second consumer gets."""
    peer = await server.connect(sub_and_ready())
    assert await peer.frame() == OK
    messages = []
    for _ in BODIES:
        messages.append(await peer.message())
        await peer.send(fin(messages[-1].id))
    return messages


def sub_and_ready() -> bytes:
    return MAGIC + sub() + b"RDY 100\n"


async def half_close(peer: Peer) -> None:
    await peer.stream.raw.send_eof()


async def fatal_error(peer: Peer) -> None:
    await peer.send(b"BOGUS\n")


@LAYERS_OF_EACH_KIND
@pytest.mark.parametrize("ending", [half_close, fatal_error])
async def test_messages_do_not_wait_for_a_client_that_ends(
    server: Server, layers: str, ending: Callable[[Peer], Awaitable[None]]
) -> None:
    """I4, I5: they go back at once; an attempt counts only for those that have left."""
    peer = await stuck_consumer(server, layers)
    await ending(peer)
    await server.settled()
    assert peer.session not in server.sessions
    assert not server.broker.existing("t").existing("c").subscriptions
    messages = await messages_of_another(server)
    assert sorted(message.body for message in messages) == BODIES
    attempts = [message.attempts for message in messages]
    assert attempts.count(2) + attempts.count(1) == len(BODIES)
    assert attempts.count(1) > 0
    assert attempts.count(2) > 0


@LAYERS_OF_EACH_KIND
async def test_answers_still_leave_after_a_half_close(server: Server, layers: str) -> None:
    """I15: between whole frames; of the messages only those come that were on their way."""
    peer = await stuck_consumer(server, layers)
    await peer.send(pub(b"x", "other") + b"BOGUS\n")
    await half_close(peer)
    await server.settled()
    frames = await peer.all()
    assert frames[-2:] == [OK, error("E_INVALID invalid command BOGUS")]
    assert 0 < sum(map(is_message, frames)) == len(frames) - 2 < len(BODIES)
    assert {decode_message(frame).body for frame in frames[:-2]} <= set(BODIES)
    await server.settled()
    assert server.context.buffered == 0


@LAYERS_OF_EACH_KIND
async def test_a_half_close_is_seen_where_no_input_is_wanted(server: Server, layers: str) -> None:
    """Too much waits for the client: what it sent before it closed is read when its messages wait no more."""
    peer = await stuck_consumer(server, layers)
    server.context.max_buffered_bytes = 0
    assert not peer.session.wants_input
    await peer.send(pub(b"x", "other"))
    await server.settled()
    assert "other" not in server.broker.topics
    in_flight = server.broker.existing("t").existing("c").in_flight_count
    await half_close(peer)
    await server.settled()
    server.context.max_buffered_bytes = 1 << 20
    assert server.broker.existing("other").message_count == 1
    assert peer.session not in server.sessions
    messages = await messages_of_another(server)
    assert sorted(message.body for message in messages) == BODIES
    assert 0 < sum(message.attempts == 2 for message in messages) < in_flight, "some had not left"


async def test_a_client_that_half_closes_during_the_sync_of_its_subscribe_gets_nothing() -> None:
    async with serving("plain", sync_on_commit=True) as server:
        producer = await server.connect()
        await producer.send(mpub(*BODIES))
        assert await producer.frame() == OK
        want = server.broker.store.syncer.want
        server.broker.store.syncer.want = lambda ticket: None  # type: ignore[method-assign]  # it lasts
        peer = await server.connect(sub_and_ready())
        await half_close(peer)
        await server.settled()
        channel = server.broker.existing("t").existing("c")
        assert not channel.subscriptions
        server.broker.store.syncer.want = want  # type: ignore[method-assign]
        assert len(await messages_of_another(server)) == len(BODIES)
        assert await peer.all() == [OK]
