"""Input that comes through TLS and compression: bounded, and complete up to the damage."""

from __future__ import annotations

import zlib

import pytest
import trio

from nsqd.protocol_v2.connection import CHUNK, ClientConnection
from tests.nsqd.protocol_v2.harness import pub
from tests.nsqd.protocol_v2.serving import Server


def _undecoded(connection: ClientConnection) -> int:
    layers = connection.layers
    if layers is None:
        return 0
    below = len(layers._tls._waiting) + layers._tls._in.pending if layers._tls else 0
    return below + len(getattr(layers._decoder, "_waiting", b""))


@pytest.mark.heavy
@pytest.mark.parametrize("layers", ["deflate", "tls+deflate"])
async def test_input_that_is_read_and_not_decoded_is_bounded(server: Server, layers: str) -> None:
    """I12: compressed input was read as fast as it came, and decoded much slower."""
    peer = await server.connect(layers=layers, buffer=1 << 20)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(compressor.compress(b"NOP\n" * (1 << 18)) for _ in range(60))
    bomb += compressor.flush(zlib.Z_FULL_FLUSH)
    connection, highest = server.connection_of(peer), 0

    async def pour() -> None:
        while True:
            await peer.stream.send_raw(bomb)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour)
        for _ in range(40):
            await trio.sleep(0.02)
            highest = max(highest, _undecoded(connection))
        nursery.cancel_scope.cancel()
    assert 0 < highest <= 2 * CHUNK


@pytest.mark.parametrize("layers", ["tls", "snappy"])
async def test_commands_before_damaged_input_are_carried_out(server: Server, layers: str) -> None:
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
