"""Which messages pass, and what of them: by the fields of the JSON object that a body is. Pure functions.

Without any rule a body passes unchanged, byte for byte, whatever it is; also with a required field alone. Only a
whitelist makes a new body.

Reading is Go's, as the senders of this field expect: bytes that are no UTF-8 and halves of surrogate pairs become
U+FFFD, the last of several equal keys counts, NaN is no JSON, a number beyond the range of a float is none either.
With two differences. **Integers of 64 bits, signed or not, stay what they are**. (Go reads every number as a float, so
that an id such as 9007199254740993 comes out as another one.) And what is nested deeper than Python can follow counts
as no JSON: 900 levels are sure. (In Go it is what has more than 10,000.)

Writing is Go's, to the byte: keys sorted at every level, no blanks, `<`, `>`, `&` and the two line separators of
Unicode escaped, integral numbers without a fraction, others as the shortest text that gives the same float.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from typing import Any, Final

import attrs

from nsqkit.options import FLOAT
from nsqkit.service.gojson import float_text
from nsqkit.service.lenient_json import refuse_constant, without_surrogates

__all__ = ["Filter", "NotPassed", "Unreadable", "to_json"]

_LOWEST, _HIGHEST = -(1 << 63), (1 << 64) - 1
_LONGEST_INT: Final = len(str(_LOWEST))
_TOO_DEEP: Final = "it is no JSON: nested too deeply"
_ESCAPES: Final = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


class NotPassed(Exception):
    """The message is not for the destination: it is dropped. The text is why; empty if that needs no line."""


class Unreadable(Exception):
    """It cannot be told whether the message is for the destination: it must be kept."""


@attrs.frozen(kw_only=True)
class Filter:
    """The rules of one run."""

    required_field: str = ""
    """Empty: none is required."""
    required_value: str = ""
    """Empty: any value will do."""
    whitelist: Collection[str] = ()
    """Empty: all fields, and the body as it is."""

    @property
    def looks_inside(self) -> bool:
        """Whether it matters what bodies are."""
        return bool(self.required_field or self.whitelist)

    def apply(self, body: bytes) -> bytes:
        """What to publish for this body. Raises `NotPassed`, `Unreadable`."""
        if not self.looks_inside:
            return body
        fields = _read_object(body)
        if self.required_field:
            self._check_required(fields)
        if not self.whitelist:
            return body
        chosen = {name: _whole_if_integral(fields[name]) for name in self.whitelist if name in fields}
        return to_json(chosen).encode()

    def _check_required(self, fields: dict[str, Any]) -> None:
        if self.required_field not in fields:
            if self.required_value:
                raise Unreadable(f"there is no field {self.required_field!r} to check the value of")
            raise NotPassed
        if self.required_value and not _equals(fields[self.required_field], self.required_value):
            raise NotPassed


def _equals(value: Any, text: str) -> bool:
    """Whether a field has this value: as a string, or as a number if it is one."""
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
        value = json.loads(
            body.decode("utf-8", "replace"),
            parse_constant=refuse_constant,
            parse_float=_read_float,
            parse_int=_read_integer,
        )
    except RecursionError:
        raise NotPassed(_TOO_DEEP) from None
    except ValueError as error:
        raise NotPassed(f"it is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise NotPassed("it is no JSON object")
    return value


def _read_integer(text: str) -> int | float:
    if len(text) <= _LONGEST_INT and _LOWEST <= (value := int(text)) <= _HIGHEST:
        return value
    return _read_float(text)


def _read_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"a number out of range: {text[:30]}")
    return value


# --- writing ------------------------------------------------------------------------------------------------


def _whole_if_integral(value: Any) -> Any:
    """As the original does with the fields themselves, and not with what is nested in them."""
    if isinstance(value, float) and value.is_integer() and _LOWEST <= value < -_LOWEST:
        return int(value)
    return value


def to_json(value: Any) -> str:
    """JSON as Go writes it, of what was read here. Raises `NotPassed` when it is nested too deeply."""
    pieces: list[str] = []
    try:
        _write(value, pieces)
    except RecursionError:
        raise NotPassed(_TOO_DEEP) from None
    return "".join(pieces)


def _write(value: Any, pieces: list[str]) -> None:
    """Takes one level of Python's recursion for each of the value, as reading does: what was read can be written."""
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
