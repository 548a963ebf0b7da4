"""Snappy in its framing format, without any I/O. Needs the extra `compression` of nsqkit.

A chunk has a type (one byte), a length (three bytes, little-endian) and data. Types: 0x00 compressed and 0x01
uncompressed, both with a masked CRC-32C of the decoded data, at most 64 KiB, in front; 0xff the identifier of the
stream, which some clients repeat before every command; 0x80 to 0xfe are skipped; all others are errors.
Source: the "Snappy framing format description" that comes with the reference implementation.
"""

from __future__ import annotations

from typing import Final

import cramjam
from crc32c import crc32c

from nsqkit.wire.compression import CompressionError

__all__ = ["MAX_SNAPPY_CHUNK", "SNAPPY_WRITTEN", "SnappyDecoder", "SnappyEncoder"]

_SNAPPY_IDENTIFIER: Final = b"\xff\x06\x00\x00sNaPpY"
_COMPRESSED, _UNCOMPRESSED, _IDENTIFIER = 0x00, 0x01, 0xFF
_FIRST_SKIPPABLE: Final = 0x80
_HEAD: Final = 4  # bytes: type and length
_CRC: Final = 4
SNAPPY_BLOCK: Final = 65_536
"""Maximum of decoded bytes in a chunk."""
SNAPPY_WRITTEN: Final = 16_384 - len(_SNAPPY_IDENTIFIER) - _HEAD - _CRC
"""Maximum of decoded bytes in a chunk that is written, so that it fits into one TLS record: pynsq closes the connection
when a read does not hold a whole chunk."""
MAX_SNAPPY_CHUNK: Final = _CRC + 32 + SNAPPY_BLOCK + SNAPPY_BLOCK // 6
"""Maximum of bytes after the length: what 64 KiB that cannot be compressed take."""
_NOT_WORTH_IT: Final = 7 / 8  # data that compresses to more than this part is sent uncompressed
_SMALL: Final = 32  # bytes that are not worth compressing


def _masked_crc(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class SnappyEncoder:
    """Writes the identifier once, then a chunk for each `SNAPPY_WRITTEN` bytes."""

    def __init__(self) -> None:
        self._begun = False

    def encode(self, data: bytes) -> bytes:
        """See Encoder."""
        out = [] if self._begun else [_SNAPPY_IDENTIFIER]
        self._begun = True
        for start in range(0, len(data), SNAPPY_WRITTEN):
            out += _snappy_chunk(data[start : start + SNAPPY_WRITTEN])
        return b"".join(out)


def _snappy_chunk(block: bytes) -> list[bytes]:
    kind, data = _UNCOMPRESSED, block
    if len(block) > _SMALL:
        compressed = bytes(cramjam.snappy.compress_raw(block))
        if len(compressed) < len(block) * _NOT_WORTH_IT:
            kind, data = _COMPRESSED, compressed
    head = kind | (_CRC + len(data)) << 8
    return [head.to_bytes(4, "little"), _masked_crc(block).to_bytes(4, "little"), data]


class SnappyDecoder:
    """Decodes chunk by chunk; holds an incomplete chunk and the bytes fed last."""

    def __init__(self) -> None:
        self.ended = False
        self._buffer = b""
        self._skip = 0  # bytes left of a chunk that is skipped

    @property
    def undecoded(self) -> int:
        """See Decoder."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """See Decoder."""
        if self._skip:
            passed = min(self._skip, len(data))
            self._skip -= passed
            data = data[passed:]
        self._buffer = self._buffer + data if self._buffer else data

    def decode(self, limit: int) -> bytes:
        """See Decoder. Data before a damaged chunk is returned first."""
        out: list[bytes] = []
        try:
            self._decode(limit, out)
        except CompressionError:
            if not out:
                raise
        return b"".join(out)

    def _decode(self, limit: int, out: list[bytes]) -> None:
        size, position, buffer = 0, 0, self._buffer
        try:
            while size < limit and len(buffer) - position >= _HEAD:
                kind = buffer[position]
                start = position + _HEAD
                stop = start + int.from_bytes(buffer[position + 1 : start], "little")
                _check_head(kind, stop - start)
                if stop > len(buffer):
                    if kind < _FIRST_SKIPPABLE or kind == _IDENTIFIER:
                        break
                    self._skip = stop - len(buffer)
                    stop = len(buffer)
                elif kind in (_COMPRESSED, _UNCOMPRESSED):
                    out.append(_snappy_block(kind, buffer[start:stop]))
                    size += len(out[-1])
                elif kind == _IDENTIFIER and buffer[position:stop] != _SNAPPY_IDENTIFIER:
                    raise CompressionError("a snappy identifier of another kind")
                position = stop
        finally:
            self._buffer = buffer[position:]


def _check_head(kind: int, size: int) -> None:
    """Raise `CompressionError` for a bad type or length, before the chunk is complete."""
    if kind in (_COMPRESSED, _UNCOMPRESSED):
        if size > MAX_SNAPPY_CHUNK:
            raise CompressionError("a snappy chunk is too long")
    elif kind == _IDENTIFIER:
        if size != len(_SNAPPY_IDENTIFIER) - _HEAD:
            raise CompressionError("a snappy identifier of another kind")
    elif kind < _FIRST_SKIPPABLE:
        raise CompressionError(f"a snappy chunk of the unknown type {kind:#04x}")


def _snappy_block(kind: int, data: bytes) -> bytes:
    if len(data) < _CRC:
        raise CompressionError("a snappy chunk without its checksum")
    block = data[_CRC:]
    if kind == _COMPRESSED:
        block = _decompressed(block)
    if len(block) > SNAPPY_BLOCK:
        raise CompressionError("a snappy chunk stands for more than 64 KiB")
    if _masked_crc(block) != int.from_bytes(data[:_CRC], "little"):
        raise CompressionError("a snappy chunk with a wrong checksum")
    return block


def _decompressed(data: bytes) -> bytes:
    try:
        # Before decoding, which would allocate so much.
        if cramjam.snappy.decompress_raw_len(data) > SNAPPY_BLOCK:
            raise CompressionError("a snappy chunk stands for more than 64 KiB")
        return bytes(cramjam.snappy.decompress_raw(data))
    except cramjam.DecompressionError as error:
        raise CompressionError(f"a damaged snappy chunk: {error}") from error
