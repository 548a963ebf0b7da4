"""JSON objects from peers, decoded with the leniency of Go's encoding/json.

Keys match in any case, unknown ones are ignored, the last of several counts, and null means absent (also in place of
the object). Types must match: a string, a boolean, or an integer of 64 bits (not `1.0` or `1e3`). Bytes that are not
UTF-8, and surrogates, become U+FFFD.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nsqkit.decoding import decode_json

__all__ = ["decode_object"]

_INT64 = 1 << 63


def decode_object(body: bytes, fields: Mapping[str, type]) -> dict[str, Any]:
    """The fields that are present. `fields` maps names in lower case to `str`, `bool` or `int`.

    `ValueError` if the body is not a JSON object, or a field has another type.
    """
    decoded = decode_json(body)
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
    if type(value) is not wanted:  # not isinstance: True is not an integer
        raise ValueError(f"{name} is no {wanted.__name__}")
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise ValueError(f"{name} is out of range")
    return value
