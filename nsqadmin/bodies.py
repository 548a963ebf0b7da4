"""Message bodies for people: JSON indented, MessagePack and gzip decoded, text as it is, hexadecimal for the rest."""

from __future__ import annotations

import json
import zlib
from typing import Any, Final

import attrs
import msgspec

from nsqkit.decoding import DecodeError, decode_json

__all__ = ["MAX_SHOWN", "ShownBody", "preview", "shown_body"]

MAX_SHOWN: Final = 32 * 1024  # characters
_MAX_UNPACKED: Final = 256 * 1024  # bytes that come out of gzip
_MAX_HEX: Final = 2 * 1024  # bytes
_PREVIEW: Final = 120
_GZIP: Final = b"\x1f\x8b"
_WITH_GZIP_HEADER: Final = 31  # of zlib's window sizes
_LINE: Final = 16
_CONTROLS: Final = frozenset(range(32)) - frozenset(b"\t\n\r\x0c\x1b")


@attrs.frozen
class ShownBody:
    """`format`: what it was taken for. `text`: at most `MAX_SHOWN` characters. `is_cut`: there is more of it."""

    format: str
    text: str
    is_cut: bool


def shown_body(body: bytes, *, is_cut: bool = False) -> ShownBody:
    """The body. `is_cut`: there is more of it, which has not been fetched."""
    if body.startswith(_GZIP) and (unpacked := _unpacked(body)) is not None:
        content, is_complete = unpacked
        inner = _shown(content, is_cut or not is_complete)
        return attrs.evolve(inner, format=f"{inner.format} in gzip")
    return _shown(body, is_cut)


def _shown(body: bytes, is_cut: bool) -> ShownBody:
    for form, decode in (("JSON", _json), ("text", _text), ("MessagePack", _message_pack)):
        if (text := decode(body, is_cut)) is not None:
            return ShownBody(form, text[:MAX_SHOWN], is_cut or len(text) > MAX_SHOWN)
    return ShownBody("binary", _hex(body[:_MAX_HEX]), is_cut or len(body) > _MAX_HEX)


def preview(shown: ShownBody) -> str:
    """Its beginning in one line."""
    return " ".join(shown.text[: 4 * _PREVIEW].split())[:_PREVIEW]


def _unpacked(body: bytes) -> tuple[bytes, bool] | None:
    """The content, and whether that is all of it; None if it is not gzip."""
    decoder = zlib.decompressobj(_WITH_GZIP_HEADER)
    try:
        content = decoder.decompress(body, _MAX_UNPACKED)
    except zlib.error:
        return None
    return content, decoder.eof


def _json(body: bytes, is_cut: bool) -> str | None:
    if is_cut:
        return None
    try:
        return _indented(decode_json(body.decode()))
    except (DecodeError, UnicodeDecodeError):
        return None


def _text(body: bytes, is_cut: bool) -> str | None:
    if not _CONTROLS.isdisjoint(body):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        # The last character may be cut, too.
        return body[: error.start].decode() if is_cut and len(body) - error.start < 4 else None


def _message_pack(body: bytes, is_cut: bool) -> str | None:
    if is_cut:
        return None
    try:
        value = msgspec.msgpack.decode(body)
        # Any byte is a number in MessagePack.
        return _indented(_plain(value)) if isinstance(value, dict | list) else None
    except (ValueError, RecursionError):
        return None


def _plain(value: Any) -> Any:
    """The value with keys that JSON can have."""
    if isinstance(value, dict):
        return {each if isinstance(each, str) else repr(each): _plain(held) for each, held in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _indented(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=repr)


def _hex(body: bytes) -> str:
    """Lines of 16 bytes: offset, hexadecimal, and the characters."""
    lines = []
    for offset in range(0, len(body), _LINE):
        line = body[offset : offset + _LINE]
        letters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
        lines.append(f"{offset:06x}  {line.hex(' '):{3 * _LINE - 1}}  {letters}")
    return "\n".join(lines)
