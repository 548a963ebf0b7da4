"""What a client sees does not depend on what lies between its socket and its session."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator

import pytest
import trio

from nsqd.protocol_v2.session import ANSWERS_LIMIT, OUTBOX_LIMIT, Session
from nsqkit.wire import OK
from nsqkit.wire.frames import message_frame
from tests.nsqd.protocol_v2.harness import FIN_FAILED, UNKNOWN_ID, error, fin, identify, mpub, pub, sub
from tests.nsqd.protocol_v2.serving import BUFFER, LAYERS, Peer, Server, serving
from tests.timing import patience

MEGABYTE = 1 << 20
NOISE = random.Random(1).randbytes(MEGABYTE)  # which no compression makes smaller


@pytest.fixture(params=LAYERS)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async with serving(request.param) as server:
        yield server


async def consumer(server: Server, rdy: int, greeting: bytes = b"") -> Peer:
    """A client that has subscribed, and read the answers."""
    peer = await server.connect()
    await peer.send(greeting + sub())
    assert await peer.frames(2 if greeting else 1) == [OK] * (2 if greeting else 1)
    await peer.send(b"RDY %d\n" % rdy)
    return peer


async def publish(server: Server, *data: bytes) -> None:
    """Each in a round trip of its own."""
    producer = await server.connect()
    for piece in data:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.send, piece)
            assert await producer.frame() == OK
    await producer.close()


# --- the plain way


async def test_a_conversation(server: Server) -> None:
    peer = await server.connect()
    await peer.send(identify(client_id="me") + sub() + b"RDY 1\n" + pub(b"one") + pub(b"two"))
    frames = await peer.frames(5)
    assert frames.count(OK) == 4
    (message_id,) = [frame[18:34] for frame in frames if frame != OK]
    await peer.send(fin(message_id))
    second = await peer.message()
    assert (second.body, second.attempts) == (b"two", 1)
    await peer.send(fin(second.id, second.id))
    assert await peer.frame() == FIN_FAILED.replace(UNKNOWN_ID, second.id)


async def test_every_byte_in_a_piece_of_its_own(server: Server) -> None:
    peer = await server.connect(b"")
    for byte in b"  V2" + mpub(b"one", b"two") + sub() + b"RDY 2\n":
        await peer.send(bytes([byte]))
    assert await peer.frames(2) == [OK, OK]
    assert [(await peer.message()).body for _ in range(2)] == [b"one", b"two"]


@pytest.mark.parametrize("size", [100, 200_000, MEGABYTE])
async def test_large_bodies(server: Server, size: int) -> None:
    peer = await consumer(server, 3)
    await publish(server, pub(b"x" * size), mpub(b"y" * size, b"z" * size))
    assert [(await peer.message()).body for _ in range(3)] == [letter * size for letter in (b"x", b"y", b"z")]


async def test_a_wide_window_fills_without_any_input(server: Server) -> None:
    """More than an outbox holds: what the socket took makes room, and the next follow by themselves."""
    await publish(server, *[mpub(*[b"x" * 1000] * 800)] * 3)
    peer = await consumer(server, 2500)
    for _ in range(2400):
        await peer.message()


async def test_messages_that_others_publish_are_delivered_without_input(server: Server) -> None:
    """A round of somebody else (an HTTP request) hands out its first part, and nobody's input moves the rest."""
    peer = await consumer(server, 2500)
    began = trio.current_time()
    await publish(server, mpub(*[b"x" * 5000] * 200))
    for _ in range(200):
        await peer.message()
    usual_s = trio.current_time() - began  # for a tenth
    await server.settled()
    server.rounds.begin()
    ids = server.broker.store.ids
    frames = [message_frame(ids.take(1), server.broker.wall_ns, b"x" * 5000) for _ in range(2000)]
    server.broker.topic("t").publish(frames, sum(map(len, frames)))
    server.rounds.end()
    with trio.fail_after(max(6, 100 * usual_s)):  # a second a megabyte if only housekeeping moves it
        for _ in range(2000):
            await peer.message()


@pytest.mark.heavy
async def test_many_connections(server: Server) -> None:
    peers: list[Peer] = []
    count = 200 if server.layers == "plain" else 40

    async def talk(peer: Peer, number: int) -> None:
        for _ in range(3):
            await peer.send(pub(b"%d" % number, f"t{number % 7}"))
            assert await peer.frame() == OK

    for _ in range(count):
        peers.append(await server.connect())
    assert len(server.sessions) == count
    async with trio.open_nursery() as nursery:
        for number, peer in enumerate(peers):
            nursery.start_soon(talk, peer, number)
    assert sum(topic.message_count for topic in server.broker.topics.values()) == 3 * count
    for peer in peers:
        await peer.close()
    await server.settled()
    assert not server.sessions


# --- ends


async def test_commands_before_a_half_close_are_executed(server: Server) -> None:
    peer = await server.connect()
    await peer.send(pub(b"one") + mpub(b"two", b"three") + pub(b"cut off")[:-1])
    await peer.stream.send_eof()
    assert await peer.all() == [OK, OK, error("E_BAD_MESSAGE PUB failed to read message body")]
    peer = await server.connect()
    await peer.send(pub(b"four") + b"NOP")
    await peer.stream.send_eof()
    assert await peer.all() == [OK]
    await peer.close()
    assert server.broker.topics["t"].message_count == 4


async def test_a_half_close_before_the_magic(server: Server) -> None:
    peer = await server.connect(b"  ")
    await peer.stream.send_eof()
    assert await peer.all() == []
    await server.settled()
    assert not server.sessions


async def test_a_wrong_magic(server: Server) -> None:
    peer = await server.connect(b"GET / HTTP/1.1\r\n\r\n")
    assert await peer.all() == [error("E_BAD_PROTOCOL")]


async def test_the_last_error_is_delivered_though_input_is_pending(server: Server) -> None:
    """Closing with unread input would have the kernel throw the error away."""
    peer = await server.connect()

    async def pour() -> None:
        with trio.CancelScope() as scope:
            pouring.append(scope)
            with contextlib.suppress(trio.BrokenResourceError):
                await peer.send(pub(b"x") + b"what\n" + b"x" * 500_000)

    pouring: list[trio.CancelScope] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour)
        await server.settled()
        assert await peer.all() == [OK, error("E_INVALID invalid command what")]
        assert not peer.was_reset
        pouring[0].cancel()
    await peer.close()
    await server.settled()
    assert not server.sessions


async def test_a_line_without_end(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """I12: closed, without a frame."""
    caplog.set_level("INFO")
    peer = await server.connect()
    await peer.send(pub(b"x"))
    assert await peer.frame() == OK
    with trio.move_on_after(patience(5)):
        with contextlib.suppress(trio.BrokenResourceError):
            for _ in range(50):
                await peer.send(b"x" * 10_000)
    assert await peer.all() == []
    await server.settled()
    assert not server.sessions
    assert "closing: command line longer than 16384 bytes" in caplog.text


@pytest.mark.parametrize("what", ["channel", "topic"])
async def test_a_deleted_channel_closes_its_clients(server: Server, what: str) -> None:
    """The end, without a frame; others stay."""
    peer, other = await consumer(server, 5), await server.connect()
    await server.settled()
    server.rounds.begin()
    if what == "channel":
        server.broker.existing("t").delete_channel("c")
    else:
        server.broker.delete_topic("t")
    server.rounds.end()
    assert await peer.all() == []
    await other.send(pub(b"x"))
    assert await other.frame() == OK
    assert server.sessions == [other.session]


async def test_an_error_of_ours_ends_one_session_only(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = await server.connect(), await server.connect()
    await server.settled()
    feed = Session.feed

    def broken(session: Session, data: bytes) -> None:
        if session is bad.session:
            raise RuntimeError("a bug")
        feed(session, data)

    monkeypatch.setattr(Session, "feed", broken)
    await bad.send(b"NOP\n")
    assert await bad.all() == []
    await good.send(pub(b"x"))
    assert await good.frame() == OK
    assert server.sessions == [good.session]
    assert "a bug" in caplog.text


async def test_a_reset_in_the_middle(server: Server) -> None:
    """What was in flight goes to another at once (I4)."""
    await publish(server, mpub(b"one", b"two"))
    peer = await consumer(server, 2)
    await peer.frames(2)
    await peer.send(b"PUB t\n\0\0")
    await server.settled()
    other = await consumer(server, 5)
    await peer.close()
    again = [await other.message() for _ in range(2)]
    assert sorted((message.body, message.attempts) for message in again) == [(b"one", 2), (b"two", 2)]
    await server.settled()
    assert server.context.buffered == 0


# --- clients that do not read


@pytest.mark.heavy
async def test_a_reader_that_never_reads(server: Server) -> None:
    """I12: RDY 2500 with bodies of 1 MB keeps little more than one of them. I7: nobody else is stopped."""
    stuck = await consumer(server, 2500)
    other = await server.connect()
    await publish(server, *[pub(NOISE)] * 5)
    for _ in range(3):
        await publish(server, *[pub(NOISE)] * 5)
        await server.settled()
        assert stuck.session.outbox.size <= OUTBOX_LIMIT + MEGABYTE + 34
        assert server.context.buffered <= OUTBOX_LIMIT + MEGABYTE + 34
    taken = server.broker.existing("t").existing("c").in_flight_count
    assert taken <= 3
    await other.send(sub() + b"RDY 2500\n")
    assert await other.frame() == OK
    for _ in range(20 - taken):
        assert len((await other.message()).body) == MEGABYTE
    await stuck.close()
    for _ in range(taken):
        assert len((await other.message()).body) == MEGABYTE
    await server.settled()
    assert server.context.buffered == 0


@pytest.mark.heavy
async def test_a_hundred_thousand_publishes_before_an_answer_is_read(server: Server) -> None:
    """I12: no deadlock, and no answer is lost."""
    peer = await server.connect()
    await peer.send(pub(b"x") * 100_000)
    assert peer.session.outbox.size <= ANSWERS_LIMIT + BUFFER
    left = 100_000 * len(OK)
    while left:
        left -= len(await peer.stream.receive_some(1 << 20))
    assert server.broker.topics["t"].message_count == 100_000


# To a compression such answers are nothing.
@pytest.mark.parametrize("server", ["plain", "tls"], indirect=True)
async def test_reading_goes_on_when_the_answers_were_taken(server: Server) -> None:
    """A client is not read while a megabyte of answers waits for it; when it has taken them it is read again."""
    count = 60_000
    peer = await consumer(server, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.send, fin(UNKNOWN_ID) * count)
        while peer.session.wants_input:
            await server.settled()
        assert ANSWERS_LIMIT <= peer.session.outbox.size < 2 * ANSWERS_LIMIT
        left = count * len(FIN_FAILED)
        while left:
            left -= len(await peer.stream.receive_some(1 << 20))
    await peer.send(pub(b"x", "u"))
    assert await peer.frame() == OK


async def test_reading_goes_on_when_a_large_socket_takes_all_at_once(server: Server) -> None:
    """The same where the kernel takes what has gathered in one go."""
    count = 100_000
    peer = await server.connect(buffer=4 << 20)
    await peer.send(sub())
    assert await peer.frame() == OK
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.send, fin(UNKNOWN_ID) * count)
        left = count * len(FIN_FAILED)
        while left:
            if not peer.session.wants_input:
                await server.settled()
            left -= len(await peer.stream.receive_some(4 << 20))


@pytest.mark.heavy
async def test_frames_that_were_never_taken_go_back_without_an_attempt(server: Server) -> None:
    """I5: what was never delivered counts no attempt, and what was delivered counts one."""
    await publish(server, mpub(*[b"%04d" % number + NOISE[number * 1000 :][:1000] for number in range(900)]))
    stuck = await consumer(server, 900)
    seen: set[bytes] = set()
    for _ in range(4):  # the socket takes some more in between
        await server.settled()
        seen |= {(await stuck.message()).id for _ in range(15)}
    await server.settled()
    in_flight = server.broker.existing("t").existing("c").in_flight_count
    assert in_flight > 120
    await stuck.close()
    await server.settled()
    other = await consumer(server, 900)
    messages = [await other.message() for _ in range(900)]
    assert len({message.body for message in messages}) == 900
    again = {message.id for message in messages if message.attempts == 2}
    assert {message.attempts for message in messages} == {1, 2}
    assert seen <= again
    assert len(again) < in_flight


async def test_a_blocked_client_stops_no_one(server: Server) -> None:
    """I7: neither its own channel, nor another, nor a publisher."""
    stuck = await consumer(server, 2500)
    await publish(server, *[mpub(*[NOISE[at : at + 1000] for at in range(0, 500_000, 1000)])] * 2)
    await server.settled()
    assert stuck.session.outbox.size
    same, producer = await consumer(server, 1), await server.connect()
    for _ in range(50):
        await producer.send(pub(b"y"))
        assert await producer.frame() == OK
        message = await same.message()
        await same.send(fin(message.id))


async def test_a_client_that_floods_does_not_starve_another(server: Server) -> None:
    """I7."""
    flooder, quiet = await server.connect(), await server.connect()
    flood = mpub(*[b"x" * 100] * 1000, topic="flood")

    async def send() -> None:
        while True:
            await flooder.send(flood)

    async def read() -> None:
        while True:
            await flooder.frame()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        nursery.start_soon(read)
        with trio.fail_after(patience(5)):
            for _ in range(20):
                await quiet.send(pub(b"x"))
                assert await quiet.frame() == OK
        nursery.cancel_scope.cancel()
    assert server.broker.topics["flood"].message_count > 0


async def test_a_fast_consumer_does_not_keep_others_from_being_read(server: Server) -> None:
    """I7: while there is always more to hand out, input is read all the same."""
    await publish(server, *[mpub(*[b"x" * 500] * 2000)] * 20)
    fast, quiet = await server.connect(layers="plain"), await server.connect()
    await fast.send(sub())
    assert await fast.frame() == OK

    async def consume() -> None:
        await fast.send(b"RDY 2500\n")
        while True:
            message = await fast.message()
            await fast.send(fin(message.id))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        for _ in range(20):
            await quiet.send(pub(b"x", "u"))
            assert await quiet.frame() == OK
        assert server.broker.existing("t").existing("c").depth > 20_000
        nursery.cancel_scope.cancel()


async def test_endless_delivery_does_not_keep_clients_from_being_read(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I7, the same at its worst: there is always something left over."""
    quiet = await server.connect()
    pump = server.broker.pump

    def endless() -> bool:
        pump()
        return True

    monkeypatch.setattr(server.broker, "pump", endless)
    for _ in range(20):
        await quiet.send(pub(b"x"))
        assert await quiet.frame() == OK
    monkeypatch.undo()


# --- all connections are taken


async def come(server: Server, host: int, *commands: bytes) -> Peer | None:
    """A client at that address, if it is let in, which gets an OK for each of the commands."""
    remote = f"192.0.2.{host}:5000"
    if server._connections.refusal(remote):
        return None
    peer = await server.connect(remote=remote, layers="plain")
    for command in commands:
        await peer.send(command)
        assert await peer.frame() == OK
    return peer


def still_there(server: Server, *peers: Peer | None) -> list[bool]:
    return [peer is not None and peer.session in server.sessions for peer in peers]


async def test_clients_without_use_give_way_to_new_ones(caplog: pytest.LogCaptureFixture) -> None:
    """The oldest of the address with most of these: silence keeps nobody out, not even within one address (I7)."""
    caplog.set_level("INFO")
    async with serving("plain") as server:
        server._connections._max_connections = 6
        useful = [await come(server, 1, sub()), await come(server, 1, pub(b"x"))]
        other = await come(server, 2)
        silent = [await come(server, 1, identify(heartbeat_interval=-1)) for _ in range(3)]
        newcomers = [await come(server, 1, sub()), await come(server, 3, sub())]
        assert still_there(server, *useful, *silent) == [True, True, False, False, True]
        assert still_there(server, other, *newcomers) == [True] * 3
        assert "closing: 6 connections, the most that the descriptor limit allows" in caplog.text
        assert await come(server, 3, sub()) is not None
        assert still_there(server, silent[2], other) == [False, True]


async def test_an_address_with_a_large_share_of_connections_gives_way_to_others() -> None:
    """Its newest; with a quarter of all it stays, and no address gives way to itself."""
    async with serving("plain") as server:
        server._connections._max_connections = 8
        large = [await come(server, 1, sub()) for _ in range(4)]
        small = [await come(server, host, sub()) for host in (2, 3, 4, 5)]
        assert await come(server, 1) is None
        newcomers = [await come(server, host, sub()) for host in (6, 7)]
        assert await come(server, 8) is None
        assert still_there(server, *large) == [True, True, False, False]
        assert still_there(server, *small, *newcomers) == [True] * 6


async def test_an_address_has_a_limit_of_its_own() -> None:
    async with serving("plain") as server:
        server._connections._max_per_address = 2
        silent, first, other = await come(server, 1), await come(server, 1, sub()), await come(server, 2)
        second = await come(server, 1, sub())
        assert still_there(server, silent, first, second, other) == [False, True, True, True]
        assert server._connections.refusal("192.0.2.1:9") == (
            "2 connections of its address (--max-connections-per-address)"
        )
        assert server._connections.refusal("@") == "", "a unix socket"
        assert first is not None
        await first.close()
        await server.settled()
        assert await come(server, 1) is not None
        assert still_there(server, second, other) == [True, True]


async def test_connections_that_end_leave_nothing_behind_in_the_shares() -> None:
    async with serving("plain") as server:
        peers = [await come(server, host) for host in (1, 1, 2)]
        for peer in peers:
            assert peer is not None
            await peer.close()
        await server.settled()
        assert (server._connections._open.total, server._connections._idle.total) == (0, 0)


@pytest.mark.heavy
async def test_one_that_sends_little_waits_for_small_turns_of_many_that_send_much() -> None:
    """I7. Before, each of the many was read 256 KiB at once, before the one had its turn."""
    command = pub(b"x" * 1000, "flood")
    async with serving("plain") as server:
        many = [await server.connect(buffer=1 << 20) for _ in range(70)]
        one = await server.connect()
        await server.settled()
        sent = 0
        for peer in many:  # without waiting: the daemon has them all at once
            sock = peer.stream.raw.socket
            with contextlib.suppress(BlockingIOError):
                sent += sock._sock.send(command * 300)  # type: ignore[attr-defined]
        one.stream.raw.socket._sock.send(pub(b"x"))  # type: ignore[attr-defined]
        assert await one.frame() == OK
        published = server.broker.topics["flood"].message_count * len(command)
        assert published < sent / 2
