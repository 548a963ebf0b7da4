"""The two compressions: what is encoded is decoded however it is cut, and what is damaged is told, in little memory."""

from __future__ import annotations

import contextlib
import tracemalloc
import zlib

import cramjam
import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from nsqkit.wire import OK
from nsqkit.wire.compression import CompressionError, Decoder, DeflateDecoder, DeflateEncoder, Encoder
from nsqkit.wire.snappy import MAX_SNAPPY_CHUNK, SnappyDecoder, SnappyEncoder

IDENTIFIER = bytes.fromhex("ff060000734e61507059")
MARKER = b"\0\0\xff\xff"


def pair(name: str) -> tuple[Encoder, Decoder]:
    return (SnappyEncoder(), SnappyDecoder()) if name == "snappy" else (DeflateEncoder(6), DeflateDecoder())


def everything(decoder: Decoder, limit: int = 4096) -> bytes:
    return b"".join(iter(lambda: decoder.decode(limit), b""))


def chunk(kind: int, data: bytes) -> bytes:
    return bytes([kind]) + len(data).to_bytes(3, "little") + data


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


class _Long(bytes):
    """A body of some hundred kB, which hypothesis does not write out."""

    def __new__(cls, seed: bytes) -> _Long:
        return super().__new__(cls, seed * 50_000)

    def __repr__(self) -> str:
        return f"{bytes(self[:3])!r} and so on"


@pytest.mark.parametrize("name", ["snappy", "deflate"])
@settings(deadline=None, max_examples=50)
@given(
    sent=st.lists(st.binary(max_size=200) | st.builds(_Long, st.binary(min_size=1, max_size=3)), max_size=5),
    size=st.integers(1, 5000),
    limit=st.integers(10, 100_000),
)
def test_what_is_encoded_is_decoded_however_it_is_cut(
    name: str, sent: list[bytes], size: int, limit: int
) -> None:
    encoder, decoder = pair(name)
    stream = b"".join(encoder.encode(data) for data in sent)
    got = b""
    for at in range(0, len(stream), size):
        decoder.feed(stream[at : at + size])
        got += everything(decoder, limit)
    assert got == b"".join(sent)
    assert not decoder.ended


@pytest.mark.parametrize("name", ["snappy", "deflate"])
def test_each_encode_can_be_decoded_at_once(name: str) -> None:
    encoder, decoder = pair(name)
    for data in (b"a", b"b" * 300_000, b"c"):
        decoder.feed(encoder.encode(data))
        assert everything(decoder) == data


def test_the_first_ok_as_nsqd_sends_it() -> None:
    """Bytes as they were seen on the wire of the original."""
    first = SnappyEncoder().encode(OK)
    assert first == bytes.fromhex("ff060000734e61507059010e000026982bcf00000006000000004f4b")


def test_deflate_is_raw_and_ends_in_a_marker() -> None:
    encoder = DeflateEncoder(6)
    first, second = encoder.encode(b"hello"), encoder.encode(b"hello")
    assert first.endswith(MARKER)
    assert second.endswith(MARKER)
    assert zlib.decompressobj(-15).decompress(first + second) == b"hellohello"


def test_higher_levels_are_smaller() -> None:
    text = b" ".join(b"%d" % (n * n) for n in range(5000))
    assert len(DeflateEncoder(9).encode(text)) < len(DeflateEncoder(1).encode(text))


# --- what peers do


def test_identifiers_in_the_middle_and_chunks_to_skip() -> None:
    """pynsq sends an identifier before every command."""
    encoder, decoder = SnappyEncoder(), SnappyDecoder()
    one = encoder.encode(b"one")
    stream = one + IDENTIFIER + chunk(0xFE, b"\0" * 100_000) + chunk(0x80, b"later") + encoder.encode(b"two")
    for byte in stream:
        decoder.feed(bytes([byte]))
    assert everything(decoder) == b"onetwo"


def test_a_chunk_that_is_compressed_by_the_reference() -> None:
    text = b"the same, the same, the same, the same, the same"
    data = masked(text) + bytes(cramjam.snappy.compress_raw(text))
    decoder = SnappyDecoder()
    decoder.feed(IDENTIFIER + chunk(0x00, data))
    assert everything(decoder) == text


def test_bare_markers_stand_for_nothing() -> None:
    decoder = DeflateDecoder()
    decoder.feed((b"\0" + MARKER) * 1000)
    assert everything(decoder) == b""
    decoder.feed(DeflateEncoder(1).encode(b"x"))
    assert everything(decoder) == b"x"


def test_a_peer_may_end_its_stream() -> None:
    decoder = DeflateDecoder()
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    decoder.feed(compressor.compress(b"bye") + compressor.flush(zlib.Z_FINISH) + b"what comes behind")
    assert everything(decoder) == b"bye"
    assert decoder.ended


# --- damage and bombs


@pytest.mark.parametrize(
    "stream",
    [
        b"PUB t\n\0\0\0\1x",
        b"\xff\x06\0\0sNaPpX",
        b"\xff\x07\0\0sNaPpYY",
        chunk(0x02, b"reserved"),
        chunk(0x7F, b"reserved"),
        chunk(0x01, b"\0\0\0\0" + b"wrong checksum"),
        chunk(0x01, b"\0\0"),
        chunk(0x00, b"\0\0\0\0" + b"\xff" * 50),
        chunk(0x01, masked(b"x" * 65_537) + b"x" * 65_537),
        b"\x00" + (MAX_SNAPPY_CHUNK + 1).to_bytes(3, "little"),
        chunk(0x00, masked(bytes(1 << 20)) + bytes(cramjam.snappy.compress_raw(bytes(1 << 20)))),
    ],
)
def test_damaged_snappy(stream: bytes) -> None:
    decoder = SnappyDecoder()
    decoder.feed(stream)
    with pytest.raises(CompressionError, match="snappy"):
        everything(decoder)


def test_damaged_deflate() -> None:
    decoder = DeflateDecoder()
    decoder.feed(b"  V2 is no deflate")
    with pytest.raises(CompressionError, match="deflate"):
        everything(decoder)


@pytest.mark.parametrize("decoder", [SnappyDecoder(), DeflateDecoder()])
@given(junk=st.binary(max_size=300))
def test_any_junk_is_data_or_damage(decoder: Decoder, junk: bytes) -> None:
    fresh = type(decoder)()
    fresh.feed(junk)
    with contextlib.suppress(CompressionError):
        everything(fresh)


def test_a_bomb_costs_no_more_than_is_asked_for() -> None:
    """I12: half a megabyte that stands for half a gigabyte."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(200)) + compressor.flush(
        zlib.Z_SYNC_FLUSH
    )
    decoder = DeflateDecoder()
    tracemalloc.start()
    decoder.feed(bomb)
    size = 0
    while data := decoder.decode(65_536):
        assert len(data) <= 65_536
        size += len(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 200 << 20
    assert peak < 2 << 20
