"""Findings in the sessions and their drivers. Every test here states what should hold, and failed once."""

from __future__ import annotations

import gc
import json
import weakref

import trio

from nsqkit.wire import OK
from tests.nsqd.protocol_v2.harness import MAGIC, Machine, error, identify, pub, sized, sub
from tests.nsqd.protocol_v2.serving import serving


async def _closed_connections_keep_nothing() -> int:
    async with serving("plain") as server:
        producer = await server.connect()
        for _ in range(3):
            await producer.send(pub(b"x" * 1_000_000))
        await producer.frames(3)
        alive = []
        for _ in range(3):
            peer = await server.connect(MAGIC + identify(msg_timeout=900_000) + sub() + b"RDY 2500\n")
            await server.settled()
            (connection,) = [c for c in server._connections.connections.values() if c.session is peer.session]
            alive.append(weakref.ref(connection))
            del connection
            server.peers.remove(peer)
            await peer.close()
            del peer
            await server.settled()
        assert len(server._connections.connections) == 1
        gc.collect()
        return sum(c.output.waits for ref in alive if (c := ref()) is not None)


def test_a_closed_connection_keeps_no_unsent_bytes() -> None:
    """A time-out in the heap holds the subscription, its session, its driver and the frames it was sending."""
    assert trio.run(_closed_connections_keep_nothing) == 0


def test_what_a_client_says_of_itself_is_bounded() -> None:
    """IDENTIFY strings live as long as the connection, and count against nothing."""
    machine = Machine()
    for _ in range(4):
        body = json.dumps({"user_agent": "\U0001f600" + "x" * 5_000_000}, ensure_ascii=False).encode()
        machine.client().send(b"IDENTIFY\n" + sized(body))
    kept = sum(len(s.identity.user_agent) for s in machine.sessions)
    assert kept <= machine.context.buffered + 4 * 64 * 1024


async def _consumer_that_lingers() -> tuple[int, int, bool]:
    async with serving("plain") as server:
        producer, consumer = await server.connect(), await server.connect()
        await consumer.send(sub() + b"RDY 1\n")
        await producer.send(pub(b"x"))
        assert (await consumer.frames(2))[0] == OK
        await consumer.send(b"BOGUS\n")
        assert await consumer.frame() == error("E_INVALID invalid command BOGUS")
        await server.settled()  # it does not close its side
        channel = server.context.broker.topics["t"].channels["c"]
        gone = consumer.session not in server.sessions
        return len(channel.subscriptions), channel.in_flight_count, gone


def test_behind_a_fatal_error_nobody_is_a_consumer_any_more() -> None:
    """Its messages and its place are free at once, also while it has yet to read the error and to close."""
    assert trio.run(_consumer_that_lingers) == (0, 0, True)
