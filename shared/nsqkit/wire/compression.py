"""The compressions of the V2 protocol, without any I/O: the interface of both, and deflate.

An encoder turns data into bytes for the stream and flushes: the peer can decode all of it. A decoder takes the bytes of
the stream as they come (`feed`) and returns the data in pieces (`decode`), so that a few bytes that decode to gigabytes
cost no more memory than the caller asks for.

Deflate: one raw stream (no zlib header) in each direction, which never ends, with a sync marker at each flush. Peers
also send markers without data. Snappy is in `nsqkit.wire.snappy`, which needs the extra `compression`.
"""

from __future__ import annotations

import zlib
from typing import Final, Protocol

__all__ = ["CompressionError", "Decoder", "DeflateDecoder", "DeflateEncoder", "Encoder"]

DEFLATE_INPUT: Final = 64 * 1024
"""Bytes of the stream that are decoded at a time."""


class CompressionError(Exception):
    """The stream is damaged; the rest of it cannot be decoded either."""


class Encoder(Protocol):
    """Compresses one direction of a connection."""

    def encode(self, data: bytes) -> bytes:
        """The compressed bytes of `data`, flushed."""


class Decoder(Protocol):
    """Decompresses one direction of a connection."""

    ended: bool
    """Whether the stream has an end mark and it was reached: no data follows."""

    @property
    def undecoded(self) -> int:
        """The bytes of the stream that it holds."""

    def feed(self, data: bytes) -> None:
        """Take more bytes of the stream."""

    def decode(self, limit: int) -> bytes:
        """The next decoded bytes, up to `limit` (and a snappy chunk more). Empty: more must be fed first.

        Raises `CompressionError`.
        """


class DeflateEncoder:
    """`level`: from 1, fast, to 9, small."""

    def __init__(self, level: int) -> None:
        self._compressor = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)

    def encode(self, data: bytes) -> bytes:
        """See Encoder."""
        return self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)


class DeflateDecoder:
    """Holds fed bytes until they are decoded."""

    def __init__(self) -> None:
        self.ended = False
        self._decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
        self._waiting = b""  # fed, and not yet given to the decompressor
        self._more = False  # the decompressor may hold more output

    @property
    def undecoded(self) -> int:
        """See Decoder."""
        return len(self._waiting)

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
