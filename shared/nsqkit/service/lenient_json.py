"""JSON objects from peers, decoded as leniently, and as strictly, as NSQ's clients and daemons have come to expect.

Keys match whatever their case, unknown ones are ignored, the last of several counts, null means absent (also in place
of the whole object). A string must be written as one, a boolean as one, an integer as one (no `1.0`, no `1e3`) of 64
bits.
Bytes that are no UTF-8 and halves of surrogate pairs become U+FFFD.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

__all__ = ["decode_object", "refuse_constant", "without_surrogates"]

_INT64 = 1 << 63
_SURROGATE = re.compile("[\ud800-\udfff]")


def decode_object(body: bytes, fields: Mapping[str, type]) -> dict[str, Any]:
    """Those of the fields that are there; `ValueError` for what is no JSON object or has a field of another type.

    `fields` maps names in lower case to `str`, `bool` or `int`.
    """
    try:
        decoded = json.loads(body.decode("utf-8", "replace"), parse_constant=refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if decoded is None:
        return {}
    if not isinstance(decoded, dict):
        raise ValueError("not an object")
    found = {}
    for key, value in decoded.items():
        name = key.lower()
        if name in fields and value is not None:
            found[name] = _checked(name, value, fields[name])
    return found


def _checked(name: str, value: Any, wanted: type) -> Any:
    if type(value) is not wanted:  # not isinstance: True is no integer
        raise ValueError(f"{name} is no {wanted.__name__}")
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise ValueError(f"{name} is out of range")
    return value


def without_surrogates(text: str) -> str:
    """The text with U+FFFD for each half of a pair."""
    return _SURROGATE.sub("\ufffd", text)


def refuse_constant(text: str) -> NoReturn:
    """For `json.loads` as `parse_constant`: NaN and the infinities are no JSON."""
    raise ValueError(f"{text} is not JSON")
