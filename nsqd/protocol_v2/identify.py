"""IDENTIFY: how a client describes itself, and what it asks for.

The JSON is decoded as leniently, and as strictly, as clients have come to expect: keys match in any case,
unknown ones are ignored, null means absent; an integer must be written as one, a string as a string.
"""

from __future__ import annotations

from typing import Any

import attrs

from nsqd.broker import Topology
from nsqkit.service.lenient_json import decode_object
from nsqkit.wire import ProtocolError

__all__ = ["DEFAULT_HEARTBEAT_MS", "IdentifyLimits", "Identity", "decode_identify", "unidentified"]

DEFAULT_HEARTBEAT_MS = 30_000
DEFAULT_BUFFER_SIZE = 16_384
DEFAULT_DEFLATE_LEVEL = 6
MAX_TEXT = 1024  # characters of each text of a client
_INT32 = 1 << 31


@attrs.frozen(kw_only=True)
class IdentifyLimits:
    """What the options allow. Times in milliseconds, sizes in bytes."""

    max_heartbeat_interval: int = 60_000
    output_buffer_timeout: int = 250
    min_output_buffer_timeout: int = 25
    max_output_buffer_timeout: int = 30_000
    max_output_buffer_size: int = 65_536
    msg_timeout: int = 60_000
    max_msg_timeout: int = 900_000


@attrs.define(kw_only=True)
class Identity:
    """A client's own description, after all defaults. Times in milliseconds; a heartbeat of -1 is none."""

    client_id: str = ""
    hostname: str = ""
    user_agent: str = ""
    feature_negotiation: bool = False
    heartbeat_interval: int = DEFAULT_HEARTBEAT_MS
    output_buffer_timeout: int = 250
    output_buffer_size: int = DEFAULT_BUFFER_SIZE
    sample_rate: int = 0
    msg_timeout: int = 60_000
    tls_v1: bool = False
    snappy: bool = False
    deflate: bool = False
    deflate_level: int = 0
    topology: Topology | None = None
    """Where the client says it is; None: it has not sent IDENTIFY."""


def unidentified(remote_ip: str, limits: IdentifyLimits) -> Identity:
    """The identity of a client that has not sent IDENTIFY."""
    return Identity(
        client_id=remote_ip,
        hostname=remote_ip,
        msg_timeout=limits.msg_timeout,
        output_buffer_timeout=limits.output_buffer_timeout,
    )


_STRINGS = {"client_id", "hostname", "user_agent", "topology_region", "topology_zone"}
_BOOLEANS = {"feature_negotiation", "tls_v1", "snappy", "deflate"}
_INTEGERS = {
    "heartbeat_interval",
    "output_buffer_timeout",
    "output_buffer_size",
    "msg_timeout",
    "deflate_level",
    "sample_rate",
}
_TYPES: dict[str, type] = {
    **dict.fromkeys(_STRINGS, str),
    **dict.fromkeys(_BOOLEANS, bool),
    **dict.fromkeys(_INTEGERS, int),
}


def decode_identify(body: bytes, limits: IdentifyLimits) -> Identity:
    """The body of an IDENTIFY. `ProtocolError` (E_BAD_BODY) when it cannot be read or asks for too much."""
    given = _fields(body)
    topology = Topology(given.pop("topology_region", ""), given.pop("topology_zone", ""))
    texts_and_flags = {name: value for name, value in given.items() if name in _STRINGS or name in _BOOLEANS}
    identity = Identity(topology=topology, **texts_and_flags)
    identity.deflate_level = given.get("deflate_level", 0)
    identity.heartbeat_interval = _ranged(
        "heartbeat interval",
        given.get("heartbeat_interval", 0),
        1000,
        limits.max_heartbeat_interval,
        default=DEFAULT_HEARTBEAT_MS,
        off=-1,
    )
    timeout = _ranged(
        "output buffer timeout",
        given.get("output_buffer_timeout", 0),
        limits.min_output_buffer_timeout,
        limits.max_output_buffer_timeout,
        default=limits.output_buffer_timeout,
        off=0,
    )
    size = _ranged(
        "output buffer size",
        given.get("output_buffer_size", 0),
        64,
        limits.max_output_buffer_size,
        default=DEFAULT_BUFFER_SIZE,
        off=1,
    )
    identity.output_buffer_size = size
    identity.output_buffer_timeout = 0 if size == 1 else timeout
    identity.sample_rate = given.get("sample_rate", 0)
    if not 0 <= identity.sample_rate <= 99:
        raise _refused(f"sample rate ({identity.sample_rate}) is invalid")
    identity.msg_timeout = _ranged(
        "msg timeout",
        given.get("msg_timeout", 0),
        1000,
        limits.max_msg_timeout,
        default=limits.msg_timeout,
    )
    return identity


def _fields(body: bytes) -> dict[str, Any]:
    """The known fields that are there, with the types they must have."""
    try:
        fields = decode_object(body, _TYPES)
    except ValueError:
        raise _undecodable() from None
    if not -_INT32 <= fields.get("sample_rate", 0) < _INT32:
        raise _undecodable()
    # Texts are shown, and kept as long as the connection lives.
    return {name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in fields.items()}


def _ranged(name: str, value: int, low: int, high: int, *, default: int, off: int | None = None) -> int:
    """A number within its range; 0 means the default, -1 (where allowed) off."""
    if value == 0:
        return default
    if value == -1 and off is not None:
        return off
    if not low <= value <= high:
        raise _refused(f"{name} ({value}) is invalid")
    return value


def _undecodable() -> ProtocolError:
    return ProtocolError("E_BAD_BODY", "IDENTIFY failed to decode JSON body")


def _refused(reason: str) -> ProtocolError:
    return ProtocolError("E_BAD_BODY", f"IDENTIFY {reason}")
