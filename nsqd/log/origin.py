"""Where a dead letter is from, as it stands beside the message in the log: a msgpack map.

A reader takes what it knows of the map, so that later versions may say more.
"""

from __future__ import annotations

import enum
from typing import Any

import attrs
import msgpack

from nsqd.log.records import FormatError

__all__ = ["Cause", "Origin"]


class Cause(enum.Enum):
    """Why a message became a dead letter."""

    ATTEMPTS = "attempts"
    MAX_AGE = "max_age"
    MAX_DEPTH = "max_depth"
    MAX_BYTES = "max_bytes"
    OPERATOR = "operator"


@attrs.frozen(kw_only=True)
class Origin:
    """The message was `seq` of `topic`, for the channel `channel`, whose generation in the log was `generation` (0: a
    channel in memory).

    `cause`: a value of `Cause`. `attempts`: deliveries, those included that ended with a lost connection. `first_ns`:
    when it was published, `last_ns`: when it was given up, wall time in nanoseconds.
    """

    topic: str
    channel: str
    generation: int
    seq: int
    cause: str
    attempts: int
    first_ns: int
    last_ns: int

    def encode(self) -> bytes:
        return bytes(msgpack.packb(attrs.asdict(self)))

    @classmethod
    def decode(cls, data: bytes) -> Origin:
        """`FormatError` when it is none."""
        try:
            found: Any = msgpack.unpackb(data)
            values = {field.name: found[field.name] for field in attrs.fields(cls)}
        except Exception as error:  # msgpack's own errors have no common base
            raise FormatError(f"an origin that cannot be read: {error!r}") from error
        for name, value in values.items():
            if not isinstance(value, str if name in ("topic", "channel", "cause") else int):
                raise FormatError(f"an origin whose {name} is {value!r}")
        return cls(**values)
