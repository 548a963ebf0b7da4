"""Who gives way when the memory for all connections is used up."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsqd.protocol_v2.buffers import Buffers, Holding
from nsqkit.wire import OK
from tests.nsqd.protocol_v2.harness import Client, Machine, fin, identify, mpub, pub, size, sub
from tests.nsqd.protocol_v2.serving import Server, serving

REFUSED = b"E_INVALID too many bytes wait in unfinished commands, try again later"


class Scene:
    """A limit of 1,000 bytes, and what it does to those that hold them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.gone: list[str] = []
        self.buffers = Buffers(1_000, lambda: self.now)

    def holding(self, name: str, group: str = "a") -> Holding:
        return Holding(self.buffers, group, lambda: self.gone.append(name))


def test_the_address_that_holds_most_gives_way() -> None:
    scene = Scene()
    scene.holding("large", "other").add(101)
    for number in range(9):
        scene.holding(f"small {number}", "crowd").add(100)
    assert scene.gone == ["small 0"]
    assert scene.buffers.used == 901


def test_of_one_address_the_one_gives_way_that_has_held_most_for_longest() -> None:
    scene = Scene()
    old = [scene.holding(f"old {number}") for number in range(3)]
    for number, holding in enumerate(old):
        holding.add(100 + number)
    scene.now += 10
    scene.holding("large").add(600)
    scene.holding("one more").add(100)
    assert scene.gone == ["old 2"]
    scene.now += 2
    scene.holding("another").add(101)
    assert scene.gone == ["old 2", "old 1"]
    scene.now += 2
    scene.holding("the last").add(101)
    assert scene.gone == ["old 2", "old 1", "large"]


def test_nothing_that_is_held_no_more_has_an_age() -> None:
    scene = Scene()
    busy, idle = scene.holding("busy"), scene.holding("idle")
    busy.add(400)
    scene.now += 30
    busy.add(-400)
    idle.add(400)
    scene.now += 1
    busy.add(401)
    scene.holding("more").add(400)
    assert scene.gone == ["idle"]


def test_some_is_free_afterwards() -> None:
    """Who gives way is looked for once, and not for each byte that comes."""
    scene = Scene()
    for number in range(1_001):
        scene.holding(str(number)).add(1)
    assert scene.buffers.used == 1_000 - 1_000 // 16
    assert len(scene.gone) == 1_001 - scene.buffers.used


def test_what_has_ended_counts_no_more() -> None:
    scene = Scene()
    holding = scene.holding("large")
    holding.add(1_001)
    assert (scene.gone, scene.buffers.used) == (["large"], 0)
    for change in (5, -1_001):
        holding.add(change)
    holding.end()
    holding.move_to(Buffers(1, lambda: 0.0))
    assert scene.buffers.used == 0
    other = scene.holding("other")
    other.add(10)
    other.end()
    assert scene.buffers.used == 0


def test_moving_to_another_limit() -> None:
    scene, other = Scene(), Scene()
    holding = scene.holding("x")
    holding.add(500)
    holding.move_to(scene.buffers)
    holding.move_to(other.buffers)
    assert (scene.buffers.used, other.buffers.used) == (0, 500)
    holding.add(501)
    assert (scene.gone, other.buffers.used) == (["x"], 0)


# --- sessions


@pytest.mark.parametrize("remote", ["192.0.2.1:4", "192.0.2.2:4"], ids=["same address", "other address"])
@pytest.mark.parametrize("each", [290_000, 20_000])
def test_unfinished_commands_keep_no_publisher_out(each: int, remote: str) -> None:
    """I12, I7: neither few with much nor many with little, from its own address or from another one."""
    machine = Machine(max_buffered_bytes=1_000_000, max_msg_size=400_000)
    strangers = [
        machine.client(remote=f"192.0.2.1:{port}").send(
            identify(heartbeat_interval=-1) + b"PUB t\n" + size(300_000) + b"x" * each
        )
        for port in range(1_000_000 // each + 2)
    ]
    machine.advance(1)
    honest = machine.client(remote=remote)
    for _ in range(3):
        honest.send_in_pieces(pub(b"y" * 250_000), 50_000)
        assert honest.answers() == [OK]
    refused = [stranger for stranger in strangers if stranger.closed]
    assert len(refused) >= 2
    for stranger in refused:
        assert stranger.answers()[-1][8:] == REFUSED
    assert machine.context.buffered <= 1_000_000
    machine.advance(61)
    assert all(stranger.closed for stranger in strangers)
    assert machine.context.buffered == 0


def test_little_is_never_refused_beside_much() -> None:
    machine = Machine(max_buffered_bytes=100_000)
    small = machine.client().send(b"PUB t\n" + size(100) + b"x")
    machine.advance(20)
    machine.client().send(mpub(b"y", b"x" * 200_000)[:-1])
    small.send(b"x" * 99)
    assert small.answers() == [OK]


async def not_reading(server: Server, remote: str) -> None:
    """A client with answers that it does not read."""
    peer = await server.connect(remote=remote)
    noise = random.Random(remote).randbytes(8 * 8_000).hex().encode()
    await peer.send(sub() + fin(*[noise[at : at + 16] for at in range(0, len(noise), 16)]))
    await server.settled()


@pytest.mark.parametrize("layers", ["plain", "tls", "deflate"])
async def test_all_that_waits_for_a_socket_counts(layers: str) -> None:
    """I12: also what was answered after the socket had taken its last byte."""
    async with serving(layers) as server:
        await not_reading(server, "192.0.2.1:1")
        (session,) = server.sessions
        assert session.outbox.size > 100_000
        assert server.context.buffered >= session.outbox.size


@pytest.mark.parametrize("layers", ["plain", "tls", "deflate"])
async def test_unread_answers_keep_no_publisher_out(layers: str) -> None:
    """I12, I7."""
    async with serving(layers) as server:
        server.context.buffers.capacity = 1_000_000
        honest = await server.connect(remote="192.0.2.2:7")
        for port in range(8):
            await not_reading(server, f"192.0.2.1:{port}")
            assert server.context.buffered <= 1_000_000
        assert len(server.sessions) < 9
        body = pub(b"x" * 400_000)
        await honest.send(body[:300_000])
        await server.settled()
        await honest.send(body[300_000:])
        assert await honest.frame() == OK


@pytest.mark.parametrize(
    ("layers", "piece"),
    [("snappy", b"\0\0\0\1" + b"x" * 50_000), ("tls+snappy", b"\0\0\0\1" + b"x" * 50_000)],
)
async def test_what_the_layers_have_not_decoded_counts(layers: str, piece: bytes) -> None:
    """I12: a part of a chunk, which is no part of a command yet."""
    async with serving(layers) as server:
        peer = await server.connect()
        before = server.context.buffered
        await peer.stream.send_raw(piece)
        await server.settled()
        assert server.context.buffered - before >= len(piece) - 5
        await peer.close()
        await server.settled()
        assert server.context.buffered == 0


async def test_without_heartbeats_a_part_of_a_chunk_must_be_complete_in_time(autojump_clock: object) -> None:
    async with serving("snappy", limit=1_000.0) as server:
        peer = await server.connect()
        peer.session.deadlines.start(0, server.broker.now)
        await peer.stream.send_raw(b"\0\0\0\1" + b"x" * 50_000)
        assert await peer.all() == []
        assert peer.session.closed


def test_holders_that_end_leave_nothing_behind() -> None:
    machine = Machine()
    clients: list[Client] = [machine.client().send(b"PUB t\n" + size(100) + b"x") for _ in range(10)]
    for client in clients:
        client.drop()
    assert machine.context.buffers.shares.largest() == ""


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5), st.sampled_from(["part", "rest", "nop", "drop", "wait"]), st.integers(1, 3_000)
        ),
        max_size=60,
    )
)
def test_what_is_counted_is_what_is_held(steps: list[tuple[int, str, int]]) -> None:
    """Whoever sends what, and whoever gives way."""
    machine = Machine(max_buffered_bytes=5_000)
    clients: dict[int, Client] = {}
    missing: dict[Client, int] = {}
    for number, what, count in steps:
        client = clients.get(number)
        if client is None or client.closed:
            client = clients[number] = machine.client(remote=f"192.0.2.{number % 3}:{number}")
        if what == "part" and client not in missing:
            client.send(b"PUB t\n" + size(count + 1) + b"x" * count)
            missing[client] = 1
        elif what == "rest":
            client.send(b"x" * missing.pop(client, 0))
        elif what == "nop" and client not in missing:
            client.send(b"NOP\n")
        elif what == "drop":
            client.drop()
        elif what == "wait":
            machine.advance(1)
        held = [len(each.session.partial.data) for each in clients.values() if not each.closed]
        assert machine.context.buffered == sum(held) <= 5_000
    for client in clients.values():
        if not client.closed:
            client.drop()
    assert machine.context.buffered == 0
