"""Codecs: what turns the values of a program into the bodies of messages, and back.

    Producer(..., codec=Json())          await producer.publish_value("orders", {"id": 7})
    Consumer(..., codec=Json(Order))     message.value is an Order

`Json` without a type needs the standard library only. With a type (a `msgspec.Struct`, a dataclass, an attrs class, a
`TypedDict`, `list[int]` ...) values are validated by msgspec, and so are those of `Msgpack`: install it, or the extra
`codecs`. A codec of your own has the two methods of `Codec`.

A body that a consumer cannot decode goes the way of messages that fail: it is requeued, and given up after
`max_attempts`.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

from nsqkit.decoding import decode_json

__all__ = ["Codec", "Json", "Msgpack"]


class Codec(Protocol):
    """Encodes and decodes bodies. Both raise any `Exception` for what they cannot."""

    def encode(self, value: Any) -> bytes:
        """The body for a value."""

    def decode(self, body: bytes) -> Any:
        """The value of a body."""


class Json:
    """JSON in UTF-8. `type`: of the values, checked when they are decoded; None: anything that JSON has."""

    def __init__(self, type: Any = None) -> None:
        self._encoder = self._decoder = None
        if type is not None:
            module = _msgspec("Json with a type").json
            self._encoder, self._decoder = module.Encoder(), module.Decoder(type)

    def encode(self, value: Any) -> bytes:
        """The body for a value. `TypeError` for what JSON cannot express, `ValueError` for NaN and infinity."""
        if self._encoder is not None:
            encoded: bytes = self._encoder.encode(value)
            return encoded
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()

    def decode(self, body: bytes) -> Any:
        """The value of a body. `ValueError`."""
        if self._decoder is not None:
            return self._decoder.decode(body)
        return decode_json(body, parse_int=int)


class Msgpack:
    """MessagePack. `type`: as in `Json`."""

    def __init__(self, type: Any = Any) -> None:
        module = _msgspec("Msgpack").msgpack
        self._encoder, self._decoder = module.Encoder(), module.Decoder(type)

    def encode(self, value: Any) -> bytes:
        """The body for a value. `TypeError` for what cannot be encoded."""
        encoded: bytes = self._encoder.encode(value)
        return encoded

    def decode(self, body: bytes) -> Any:
        """The value of a body. `ValueError`."""
        return self._decoder.decode(body)


def _msgspec(what: str) -> Any:
    try:
        import msgspec
    except ImportError:
        raise ValueError(
            f"{what} needs a package that is not installed: pip install 'nsqkit[codecs]'"
        ) from None
    return msgspec
