"""JSON objects of any size: short ones as a whole, and long ones encoded while they are sent.

A channel may have 50,000 clients. As one text these are 70 MB, and as much again for the copy that is sent.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Final

import attrs

from nsqkit.service.http import Response
from nsqkit.service.http.message import JSON, json_bytes

__all__ = ["Each", "Members", "json_response"]

_PIECE: Final = 64 * 1024
"""Bytes, encoded in less than a millisecond."""


@attrs.frozen
class Each:
    """An array whose items are made one by one."""

    items: Iterable[Any]


@attrs.frozen
class Members:
    """An object whose members are made one by one. No key occurs twice."""

    items: Iterable[tuple[str, Any]]


def json_response(value: dict[str, Any]) -> Response:
    """The response with this object, whose parts may be `Each` and `Members`."""
    pieces = _joined(_encoded(value))
    first = next(pieces)
    second = next(pieces, None)
    if second is None:
        return Response(200, first, JSON)
    return Response(200, content_type=JSON, pieces=itertools.chain([first, second], pieces))


def _encoded(value: Any) -> Iterator[bytes]:
    if isinstance(value, Each):
        yield from _enclosed(b"[]", ((b"", item) for item in value.items))
    elif isinstance(value, Members):
        yield from _enclosed(b"{}", ((json_bytes(key) + b":", member) for key, member in value.items))
    elif isinstance(value, dict) and any(isinstance(member, Each | Members) for member in value.values()):
        yield from _encoded(Members(value.items()))
    else:
        yield json_bytes(value)


def _enclosed(brackets: bytes, parts: Iterable[tuple[bytes, Any]]) -> Iterator[bytes]:
    before = brackets[:1]
    for prefix, value in parts:
        yield before + prefix
        yield from _encoded(value)
        before = b","
    yield brackets[1:] if before == b"," else brackets


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of about `_PIECE`, of which none is empty."""
    joined = bytearray()
    for piece in pieces:
        joined += piece
        if len(joined) >= _PIECE:
            yield bytes(joined)
            joined.clear()
    if joined:
        yield bytes(joined)
