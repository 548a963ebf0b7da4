"""How a connection gets its layers, and what happens when that, or what comes through them, goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import time
import zlib

import pytest
import trio

import nsqd.protocol_v2.connection as connection_module
from nsqd.protocol_v2 import connection
from nsqd.protocol_v2.client_stats import client_stats
from nsqd.protocol_v2.connection import CHUNK
from nsqd.protocol_v2.connections import SLICE
from nsqd.protocol_v2.layers import Layers, Upgrade
from nsqkit.wire import HEARTBEAT, OK
from nsqkit.wire.snappy import SnappyDecoder, SnappyEncoder
from tests.nsqd.protocol_v2.harness import Machine, error, fin, identify, pub, sub
from tests.nsqd.protocol_v2.layered import AUTHORITY, client_tls, server_tls
from tests.nsqd.protocol_v2.serving import Peer, Server, serving
from tests.timing import patience

LAYERED = ["tls", "snappy", "deflate", "tls+snappy", "tls+deflate"]
CERTIFICATE_WANTED = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


async def ask(peer: Peer, **fields: object) -> dict[str, object]:
    """IDENTIFY with these fields; the agreement."""
    await peer.send(identify(feature_negotiation=True, **fields))
    answer: dict[str, object] = json.loads((await peer.frame())[8:])
    return answer


async def still_works(server: Server) -> None:
    """Somebody else is served."""
    other = await server.connect()
    await other.send(pub(b"x", "other"))
    assert await other.frame() == OK


async def handshake_and_ok(peer: Peer, context: ssl.SSLContext) -> None:
    await peer.stream.start_tls(context)
    assert await peer.frame() == OK


def test_a_record_of_tls_holds_whole_chunks_of_snappy() -> None:
    """pynsq takes a read that holds no whole chunk for an error, and closes the connection."""
    layers = Layers(Upgrade(tls=True, snappy=True), server_tls())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_tls().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    while not layers.handshake():
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        layers.feed(outgoing.read())
        layers.handshake()
        incoming.write(layers.encode(b""))
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    layers.compress()
    said = os.urandom(100_000)
    incoming.write(layers.encode(OK) + layers.encode(said[:17_000]) + layers.encode(said[17_000:]))
    decoder, heard = SnappyDecoder(), b""
    while len(heard) < len(OK + said):
        decoder.feed(client.read(65_536))  # never more than one record
        decoded = decoder.decode(1 << 20)
        assert decoded
        heard += decoded
    assert heard == OK + said


# --- what is agreed on


@pytest.mark.parametrize(
    ("asked", "agreed"),
    [
        ({}, {"tls_v1": False, "snappy": False, "deflate": False, "deflate_level": 6}),
        ({"deflate_level": 3}, {"deflate": False, "deflate_level": 6}),
        ({"deflate": True}, {"deflate": True, "deflate_level": 6, "max_deflate_level": 6}),
        ({"deflate": True, "deflate_level": 1}, {"deflate": True, "deflate_level": 1}),
        ({"deflate": True, "deflate_level": 9}, {"deflate": True, "deflate_level": 6}),
        ({"deflate": True, "deflate_level": -2}, {"deflate": True, "deflate_level": 6}),
        ({"snappy": True}, {"snappy": True, "deflate": False}),
        ({"tls_v1": True}, {"tls_v1": True}),
    ],
)
async def test_the_agreement(server: Server, asked: dict[str, object], agreed: dict[str, object]) -> None:
    peer = await server.connect()
    answer = await ask(peer, **asked)
    assert {name: answer[name] for name in agreed} == agreed


def test_layers_that_are_switched_off_are_not_agreed_on() -> None:
    machine = Machine(snappy=False, deflate=False)
    for asked in ("snappy", "deflate", "tls_v1"):
        client = machine.client().send(identify(feature_negotiation=True, **{asked: True}))
        assert client.json()[asked] is False
        assert client.send(pub(b"x")).answers() == [OK]


def test_a_lower_limit_of_the_level() -> None:
    machine = Machine(max_deflate_level=2)
    client = machine.client().send(identify(feature_negotiation=True, deflate=True))
    answer = client.json()
    assert (answer["deflate_level"], answer["max_deflate_level"]) == (2, 2)


async def test_both_compressions_are_refused(server: Server) -> None:
    peer = await server.connect()
    await peer.send(identify(feature_negotiation=True, snappy=True, deflate=True) + pub(b"x"))
    assert await peer.all() == [error("E_IDENTIFY_FAILED cannot enable both deflate and snappy compression")]


async def test_nothing_without_feature_negotiation(server: Server) -> None:
    peer = await server.connect()
    await peer.send(identify(snappy=True, deflate=True, tls_v1=True) + pub(b"x"))
    assert await peer.frames(2) == [OK, OK]


@pytest.mark.parametrize("layers", LAYERED)
async def test_asking_again_changes_nothing(server: Server, layers: str) -> None:
    peer = await server.connect(layers=layers)
    again = await ask(peer, tls_v1=True, snappy=True, deflate=True, client_id="me")
    assert (again["tls_v1"], again["snappy"], again["deflate"]) == (False, False, False)
    assert peer.session.identity.client_id == "me"
    await peer.send(pub(b"x"))
    assert await peer.frame() == OK


@pytest.mark.parametrize("layers", LAYERED)
async def test_stats_know_the_layers(server: Server, layers: str) -> None:
    peer = await server.connect(layers=layers)
    stats = client_stats(peer.session)
    assert (stats.tls, stats.snappy, stats.deflate) == tuple(
        n in layers for n in ("tls", "snappy", "deflate")
    )
    assert bool(stats.tls_version.startswith("TLS1.")) == stats.tls
    assert bool(stats.tls_cipher_suite) == stats.tls


# --- the way there


async def test_commands_before_the_upgrade_are_answered_in_clear_and_first(server: Server) -> None:
    peer = await server.connect()
    await peer.send(pub(b"one") + pub(b"two") + identify(feature_negotiation=True, snappy=True))
    assert await peer.frames(2) == [OK, OK]
    assert json.loads((await peer.frame())[8:])["snappy"]
    encoded = SnappyEncoder().encode(OK)
    assert bytes(peer._data) + await peer.stream._exactly(len(encoded) - len(peer._data)) == encoded


async def test_a_hello_that_comes_with_the_identify(server: Server) -> None:
    """A client that does not wait for the answer is understood all the same."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_tls().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    peer = await server.connect()
    await peer.send(identify(feature_negotiation=True, tls_v1=True) + outgoing.read())
    assert json.loads((await peer.frame())[8:])["tls_v1"]
    incoming.write(bytes(peer._data))
    peer._data.clear()
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            incoming.write(await peer.stream.raw.receive_some())
    await peer.stream.raw.send_all(outgoing.read())
    peer.stream._tls, peer.stream._in, peer.stream._out = tls, incoming, outgoing
    assert await peer.frame() == OK
    await peer.send(pub(b"x"))
    assert await peer.frame() == OK


async def test_commands_that_come_with_the_identify_are_compressed(server: Server) -> None:
    peer = await server.connect()
    commands = SnappyEncoder().encode(pub(b"x") + b"NOP\n")
    await peer.send(identify(feature_negotiation=True, snappy=True) + commands)
    assert json.loads((await peer.frame())[8:])["snappy"]
    encoder = SnappyEncoder()
    expected = encoder.encode(OK) + encoder.encode(OK)
    assert bytes(peer._data) + await peer.stream._exactly(len(expected) - len(peer._data)) == expected


@pytest.mark.parametrize("layers", LAYERED)
async def test_heartbeats_come_through(layers: str, autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02  # the kernel has its time to pass bytes on
    async with serving("plain") as server:
        stream = (await server.connect()).stream
        names = {"tls": "tls_v1"}
        asked = {names.get(layer, layer): True for layer in layers.split("+")}
        await stream.upgrade(heartbeat_interval=1000, **asked)
        for _ in range(2):
            assert await stream.frame() == HEARTBEAT
            await stream.send_all(b"NOP\n")


@pytest.mark.parametrize("layers", LAYERED)
async def test_a_large_body_both_ways(server: Server, layers: str) -> None:
    body = b"".join(b"%d," % (n * n) for n in range(12_000))  # some 100 kB
    peer = await server.connect(layers=layers)
    await peer.send(sub() + b"RDY 5\n" + pub(body) + pub(body[::-1]))
    frames = await peer.frames(5)
    bodies = [frame[34:] for frame in frames if frame != OK]
    assert sorted(bodies) == sorted([body, body[::-1]])
    await peer.send(fin(*[frame[18:34] for frame in frames if frame != OK]) + pub(b"end"))
    assert await peer.frame() == OK


async def test_many_handshakes_at_once_do_not_hold_up_a_publish(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I7: between two rounds there is time for few of them."""
    peers = [await server.connect() for _ in range(20)]
    for peer in peers:
        assert (await ask(peer, tls_v1=True))["tls_v1"]
    producer = await server.connect()
    await server.settled()
    steps = 0
    handshake = Layers.handshake

    def slow(layers: Layers) -> bool:
        nonlocal steps
        steps += not layers.ready
        time.sleep(2 * SLICE)
        return handshake(layers)

    monkeypatch.setattr(Layers, "handshake", slow)
    for peer in peers:  # without a turn for the server
        os.write(peer.stream.raw.socket.fileno(), client_hello())
    os.write(producer.stream.raw.socket.fileno(), pub(b"x"))
    assert await producer.frame() == OK
    assert steps <= 3
    await server.settled()
    assert steps == len(peers), "each has its turn"


def client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        client_tls().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1").do_handshake()
    return outgoing.read()


# --- handshakes that fail


async def test_a_handshake_that_is_none(server: Server) -> None:
    """The reason comes in clear, behind what TLS itself has to say."""
    peer = await server.connect()
    assert (await ask(peer, tls_v1=True))["tls_v1"]
    await peer.send(b"PUB t\n\0\0\0\1x this is no TLS, whoever looks at it")
    said = b""
    while data := await peer.stream.raw.receive_some():
        said += data
    assert b"E_IDENTIFY_FAILED IDENTIFY failed " in said
    await peer.close()
    await server.settled()
    assert not server.sessions
    await still_works(server)


async def test_a_handshake_that_stalls(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is held up meanwhile, and it is cut off."""
    monkeypatch.setattr(connection_module, "HANDSHAKE", 0.5)
    peers = [await server.connect() for _ in range(20)]
    for peer in peers:
        assert (await ask(peer, tls_v1=True))["tls_v1"]
        await peer.send(b"\x16\x03\x01")
    await still_works(server)
    for peer in peers:
        assert await peer.all() == [error("E_IDENTIFY_FAILED IDENTIFY failed i/o timeout")]
    assert not [session for session in server.sessions if session.upgrade]


async def test_a_client_that_leaves_in_the_handshake(server: Server) -> None:
    for end in ("half", "whole"):
        peer = await server.connect()
        assert (await ask(peer, tls_v1=True))["tls_v1"]
        await (peer.stream.send_eof() if end == "half" else peer.close())
        await server.settled()
        assert peer.session.closed
    assert not server.sessions


@pytest.mark.parametrize("version", CERTIFICATE_WANTED, ids=str)
async def test_a_client_certificate_is_demanded(server: Server, version: ssl.TLSVersion) -> None:
    context = server_tls()
    context.verify_mode = ssl.CERT_REQUIRED
    AUTHORITY.configure_trust(context)
    server.context.tls = context
    without, having = client_tls(), client_tls()
    AUTHORITY.issue_cert("client").configure_cert(having)
    for client in (without, having):
        client.minimum_version = client.maximum_version = version
    peer = await server.connect()
    assert (await ask(peer, tls_v1=True))["tls_v1"]
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required|handshake.failure"):
        await handshake_and_ok(peer, without)
    await peer.close()
    peer = await server.connect()
    assert (await ask(peer, tls_v1=True))["tls_v1"]
    await handshake_and_ok(peer, having)
    await server.settled()
    assert server.sessions == [peer.session]


# --- TLS required


@pytest.mark.parametrize("command", [pub(b"x"), b"NOP\n", sub(), b"AUTH\n\0\0\0\1x", b"WHAT\n", b"\n"])
def test_without_tls_only_identify_is_heard(command: bytes) -> None:
    name = command.split(b"\n")[0].split(b" ")[0]
    machine = Machine(tls_required=True)
    client = machine.client().send(identify(feature_negotiation=True))
    assert client.json()["tls_v1"] is False
    client.send(command)
    assert client.answers() == [error(b"E_INVALID cannot " + name + b" in current state (TLS required)")]
    assert client.closed


async def test_with_tls_everything_is_heard(server: Server) -> None:
    server.context.tls_required = True
    peer = await server.connect(layers="tls")
    await peer.send(pub(b"x"))
    assert await peer.frame() == OK
    peer = await server.connect(layers="snappy")
    await peer.send(pub(b"x"))
    assert await peer.all() == [error("E_INVALID cannot PUB in current state (TLS required)")]


# --- damage


@pytest.mark.parametrize("layers", LAYERED)
async def test_damage_ends_one_connection_without_a_frame(server: Server, layers: str) -> None:
    peer = await server.connect(layers=layers)
    if layers == "tls":
        await peer.stream.raw.send_all(b"\x17\x03\x03\0\x20" + b"x" * 32)
    else:
        await peer.stream.send_raw(b"\x55\x55\x55PUB t\n\0\0\0\1x")
    with pytest.raises(ssl.SSLError, match=r"(?i)alert") if layers == "tls" else contextlib.nullcontext():
        assert await peer.all() == []
    await peer.close()
    await server.settled()
    assert not server.sessions
    assert server.context.buffered == 0
    await still_works(server)


@pytest.mark.heavy
@pytest.mark.parametrize("layers", ["deflate", "tls+deflate"])
async def test_a_bomb(server: Server, layers: str) -> None:
    """I12, I7: a body far above what is allowed is refused by its size, and 400 MB of commands stop nobody."""
    peer = await server.connect(layers=layers)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = compressor.compress(b"PUB t\n" + (400 << 20).to_bytes(4, "big"))
    bomb = b"".join(compressor.compress(bytes(4 << 20)) for _ in range(100))
    await peer.stream.send_raw(head + bomb + compressor.flush(zlib.Z_SYNC_FLUSH))
    assert await peer.all() == [error(f"E_BAD_MESSAGE PUB message too big {400 << 20} > {1 << 20}")]
    assert server.context.buffered == 0

    peer, other = await server.connect(layers=layers), await server.connect()
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    nops = b"".join(compressor.compress(b"NOP\n" * (1 << 18)) for _ in range(20)) + compressor.compress(
        pub(b"x")
    )
    await peer.stream.send_raw(nops + compressor.flush(zlib.Z_SYNC_FLUSH))
    for _ in range(5):
        await other.send(pub(b"x", "other"))
        assert await other.frame() == OK
        assert server.context.buffered < 2 * CHUNK
    assert "t" not in server.broker.topics, "all of the bomb went off before anybody else had a turn"
    with trio.fail_after(patience(60)):
        assert await peer.frame() == OK


async def test_a_client_that_ends_its_deflate_stream_has_ended(server: Server) -> None:
    peer = await server.connect(layers="deflate")
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    await peer.stream.send_raw(compressor.compress(pub(b"x")) + compressor.flush(zlib.Z_FINISH))
    assert await peer.all() == [OK]


async def test_nsqd_says_goodbye_in_tls(server: Server) -> None:
    """Nobody takes the end for a truncation."""
    peer = await server.connect(layers="tls")
    await peer.send(b"WHAT\n")
    assert await peer.frame() == error("E_INVALID invalid command WHAT")
    assert await peer.stream.ended_in_tls()


async def test_a_client_says_goodbye_in_tls(server: Server) -> None:
    peer = await server.connect(layers="tls")
    await peer.send(pub(b"x"))
    await peer.stream.say_goodbye()
    assert await peer.all() == [OK]


async def test_a_client_that_closes_its_side_in_the_handshake_gets_an_error(server: Server) -> None:
    peer = await server.connect()
    await peer.send(identify(feature_negotiation=True, tls_v1=True))
    await peer.frame()
    await peer.stream.raw.send_all(b"\x16\x03\x01")
    await server.settled()
    await peer.stream.send_eof()
    assert await peer.all() == [error("E_IDENTIFY_FAILED IDENTIFY failed EOF")]


async def test_a_bad_hello_that_is_in_the_socket_already_gets_an_error(
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
