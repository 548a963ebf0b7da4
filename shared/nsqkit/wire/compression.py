"""The two compressions of the V2 protocol, without any I/O. Here: what both have in common, and deflate.

An encoder turns what is to be sent into bytes for the stream, flushed: whoever decodes them has everything. A decoder
takes the bytes of the stream as they come (`feed`) and gives back what they stand for a little at a time (`decode`), so
that a few bytes which stand for gigabytes cost no more memory than the caller asks for.

Deflate. One raw stream (no zlib header) in each direction that never ends, and a sync marker at each flush. Peers send
bare markers too: input that stands for nothing. Snappy is in `nsqkit.wire.snappy`, which needs the extra `compression`.
"""

from __future__ import annotations

import zlib
from typing import Final, Protocol

__all__ = ["CompressionError", "Decoder", "DeflateDecoder", "DeflateEncoder", "Encoder"]

DEFLATE_INPUT: Final = 64 * 1024
"""Bytes of a deflate stream that are decoded at a time."""


class CompressionError(Exception):
    """The stream cannot be decoded, and nothing behind this can."""


class Encoder(Protocol):
    """One direction of a stream, out."""

    def encode(self, data: bytes) -> bytes:
        """The bytes that carry `data`, all of it."""


class Decoder(Protocol):
    """One direction of a stream, in."""

    ended: bool
    """Whether the peer has ended the stream in its own way: nothing comes behind."""

    def feed(self, data: bytes) -> None:
        """More bytes of the stream."""

    def decode(self, limit: int) -> bytes:
        """What the bytes so far stand for, at most `limit` (a whole snappy chunk more); empty: feed more first.

        `CompressionError` when they stand for nothing.
        """


class DeflateEncoder:
    """`level`: 1 (fast) to 9 (small)."""

    def __init__(self, level: int) -> None:
        self._compressor = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)

    def encode(self, data: bytes) -> bytes:
        """See Encoder."""
        return self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)


class DeflateDecoder:
    """Holds what the last `feed` brought, until it is decoded."""

    def __init__(self) -> None:
        self.ended = False
        self._decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
        self._waiting = b""  # not given to the decompressor yet
        self._more = False  # it may hold output back

    def feed(self, data: bytes) -> None:
        """See Decoder."""
        self._waiting = self._waiting + data if self._waiting else data

    def decode(self, limit: int) -> bytes:
        """See Decoder."""
        while (self._waiting or self._more) and not self.ended:
            data, rest = self._waiting[:DEFLATE_INPUT], self._waiting[DEFLATE_INPUT:]
            try:
                out = self._decompressor.decompress(data, limit)
            except zlib.error as error:
                raise CompressionError(f"a damaged deflate stream: {error}") from error
            self.ended = self._decompressor.eof
            self._waiting = self._decompressor.unconsumed_tail + rest
            self._more = len(out) == limit
            if out:
                return out
        return b""
