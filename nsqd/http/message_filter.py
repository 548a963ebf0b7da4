"""Which messages a look shows: those whose bodies contain a text, or have a value at a place of their JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from nsqkit.decoding import DecodeError, decode_json
from nsqkit.service.http import HttpError

__all__ = ["MessageFilter"]

_JSON: Final = "json:"
_MISSING: Final = object()
_INDEX: Final = re.compile("0|[1-9][0-9]{0,8}")


@attrs.frozen
class MessageFilter:
    """All conditions must hold. `values`: (path, expected text), the path as the keys and indexes that lead there."""

    contains: bytes = b""
    values: Sequence[tuple[Sequence[str], str]] = ()

    @classmethod
    def of(cls, params: Mapping[str, str]) -> MessageFilter:
        """From `contains=TEXT` and `json:/path/to=VALUE` (a JSON pointer, RFC 6901). `HttpError` for another path."""
        values = []
        for name, expected in params.items():
            if name.startswith(_JSON):
                pointer = name[len(_JSON) :]
                if pointer and not pointer.startswith("/"):
                    raise HttpError(400, "INVALID_ARG_JSON")
                keys = [key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/")[1:]]
                values.append((keys, expected))
        return cls(params.get("contains", "").encode(), values)

    def __bool__(self) -> bool:
        """Whether there are conditions at all."""
        return bool(self.contains or self.values)

    def matches(self, body: bytes) -> bool:
        """Whether a message with this body is to be shown."""
        if self.contains not in body:
            return False
        if not self.values:
            return True
        try:
            value = decode_json(body)
        except DecodeError:
            return False
        return all(_equals(_at(value, keys), expected) for keys, expected in self.values)


def _at(value: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key, _MISSING)
        elif isinstance(value, list) and _INDEX.fullmatch(key) and int(key) < len(value):
            value = value[int(key)]
        else:
            return _MISSING
    return value


def _equals(value: Any, text: str) -> bool:
    """A string equals its characters, anything else the JSON that means the same: `42`, `4.2e1`, `true`, `null`."""
    if isinstance(value, str):
        return value == text
    try:
        expected = decode_json(text)
    except DecodeError:
        return False
    return bool(value == expected) and isinstance(value, bool) == isinstance(expected, bool)
