"""How many nodes have an nsqd's messages, decoded leniently from its `/stats`: only some nsqds report it.

    "copies": {"wanted": 3, "in_step": 2}

Anything of another form means that it is unknown.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from nsqadmin.model import Copies
from nsqkit.decoding import DecodeError
from nsqkit.service.typed_json import decode_bounded

__all__ = ["read_copies"]

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _RawCopies(msgspec.Struct):
    wanted: _Count
    in_step: _Count


def read_copies(raw: msgspec.Raw) -> Copies | None:
    """Decode the value of the key, which is empty if the key is missing. Never raises."""
    try:
        copies = decode_bounded(raw, _RawCopies)
    except DecodeError:
        return None
    return Copies(copies.wanted, copies.in_step)
