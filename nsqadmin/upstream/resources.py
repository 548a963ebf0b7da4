"""What only some nsqds report of themselves in `/stats`, decoded leniently: another form means "unknown".

"copies": {"wanted": 3, "in_step": 2}     nodes that have its messages, if it replicates them
"disk": {"free_bytes": 52428800}          free space for its data path
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from nsqadmin.model import Copies
from nsqkit.decoding import DecodeError
from nsqkit.service.typed_json import decode_json_as

__all__ = ["read_copies", "read_free_bytes"]

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _RawCopies(msgspec.Struct):
    wanted: _Count
    in_step: _Count


class _RawDisk(msgspec.Struct):
    free_bytes: _Count


def read_copies(raw: msgspec.Raw) -> Copies | None:
    """Decode the value of the key, which is empty if the key is missing. Never raises."""
    try:
        copies = decode_json_as(raw, _RawCopies)
    except DecodeError:
        return None
    return Copies(copies.wanted, copies.in_step)


def read_free_bytes(raw: msgspec.Raw) -> int | None:
    """Decode the value of the key, which is empty if the key is missing. Never raises."""
    try:
        return decode_json_as(raw, _RawDisk).free_bytes
    except DecodeError:
        return None
