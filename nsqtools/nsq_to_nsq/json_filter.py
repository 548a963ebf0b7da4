"""Filtering and reduction of messages, by the fields of the JSON object in a body. Pure functions.

Without rules any body passes unchanged; with only a required field it is unchanged too. Only a whitelist creates a new
body.

Parsing is that of Go: invalid UTF-8 and unpaired surrogates become U+FFFD, the last of several equal keys counts, NaN
and numbers beyond the range of a float are invalid. With two differences. **Integers of 64 bits, signed or not, are
exact.** (Go reads every number as a float, so that an id such as 9007199254740993 is changed.) And JSON that is nested
too deeply for Python's recursion is invalid: 900 levels are always possible (in Go, 10,000).

Output is that of Go, to the byte: keys sorted at every level, no spaces, `<`, `>`, `&` and the two line separators of
Unicode escaped, integral numbers without a fraction, others as the shortest text that gives the same float.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Final

import attrs

from nsqkit.decoding import DecodeError, decode_json, finite_float, without_surrogates
from nsqkit.options import FLOAT
from nsqkit.service.gojson import float_text

__all__ = ["Dropped", "Filter", "Undecidable", "to_json"]

_LOWEST, _HIGHEST = -(1 << 63), (1 << 64) - 1
_LONGEST_INT: Final = len(str(_LOWEST))
_TOO_DEEP: Final = "not JSON: nested too deeply"
_ESCAPES: Final = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


class Dropped(Exception):
    """The message does not pass the filter. The text is the reason; empty if it is not to be logged."""


class Undecidable(Exception):
    """Whether the message passes cannot be decided: it must be kept."""


@attrs.frozen(kw_only=True)
class Filter:
    """The rules of one run."""

    required_field: str = ""
    """Empty: no field is required."""
    required_value: str = ""
    """Empty: any value passes."""
    whitelist: Collection[str] = ()
    """Fields to publish; empty: all, and the body is unchanged."""

    @property
    def parses_bodies(self) -> bool:
        """Whether bodies have to be parsed."""
        return bool(self.required_field or self.whitelist)

    def apply(self, body: bytes) -> bytes:
        """The body to publish. `Dropped`, `Undecidable`."""
        if not self.parses_bodies:
            return body
        fields = _read_object(body)
        if self.required_field:
            self._check_required(fields)
        if not self.whitelist:
            return body
        chosen = {name: _integral_as_int(fields[name]) for name in self.whitelist if name in fields}
        return to_json(chosen).encode()

    def _check_required(self, fields: dict[str, Any]) -> None:
        if self.required_field not in fields:
            if self.required_value:
                raise Undecidable(f"there is no field {self.required_field!r} to check the value of")
            raise Dropped
        if self.required_value and not _equals(fields[self.required_field], self.required_value):
            raise Dropped


def _equals(value: Any, text: str) -> bool:
    """Whether a field has this value, as a string or as a number."""
    if isinstance(value, str):
        return value == text
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        number = FLOAT.from_text(text)
    except ValueError:
        return False
    if isinstance(value, int) and text.lstrip("+-").isdigit():
        return value == int(text)
    return bool(value == number)


# --- reading ------------------------------------------------------------------------------------------------


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        value = decode_json(body, parse_int=_read_integer)
    except DecodeError as error:
        raise Dropped(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Dropped("not a JSON object")
    return value


def _read_integer(text: str) -> int | float:
    if len(text) <= _LONGEST_INT and _LOWEST <= (value := int(text)) <= _HIGHEST:
        return value
    return finite_float(text)


# --- writing ------------------------------------------------------------------------------------------------


def _integral_as_int(value: Any) -> Any:
    """An integral float as an int. As in the original, for the fields of the object only, not for nested values."""
    if isinstance(value, float) and value.is_integer() and _LOWEST <= value < -_LOWEST:
        return int(value)
    return value


def to_json(value: Any) -> str:
    """JSON as Go writes it, of a parsed value. `Dropped` if it is nested too deeply."""
    pieces: list[str] = []
    try:
        _write(value, pieces)
    except RecursionError:
        raise Dropped(_TOO_DEEP) from None
    return "".join(pieces)


def _write(value: Any, pieces: list[str]) -> None:
    # One level of recursion for each level of nesting, as in parsing: every parsed value can be written.
    if isinstance(value, dict):
        fields = {without_surrogates(name): field for name, field in value.items()}
        for number, name in enumerate(sorted(fields)):
            pieces += ("," if number else "{", _string(name), ":")
            _write(fields[name], pieces)
        pieces.append("}" if fields else "{}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            pieces.append("," if number else "[")
            _write(item, pieces)
        pieces.append("]" if value else "[]")
    elif isinstance(value, str):
        pieces.append(_string(without_surrogates(value)))
    elif isinstance(value, float):
        pieces.append(float_text(value))
    else:
        pieces.append(json.dumps(value))  # an integer, true, false, null


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).translate(_ESCAPES)
