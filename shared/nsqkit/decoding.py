"""JSON and TOML from outside: from peers, servers, clients, and configuration files.

Rules:

- Everything that is wrong with the text is a `DecodeError`, a `ValueError` whose text says what: also nesting that is
  too deep for Python's decoder, and numbers that no float can hold. Nothing else is raised, whatever the text is.
- JSON is decoded as Go does it without a type: an integer of more than 64 bits becomes a float, bytes that are not
  UTF-8 and single surrogates become U+FFFD, and NaN and the infinities are refused.
- The size is the caller's to limit; the time is proportional to it.

No other module decodes such text by itself (`tests/test_decoding.py`). Decoding into types is
`nsqkit.service.typed_json`, with the same rules.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, Final, NoReturn

__all__ = ["DecodeError", "decode_json", "decode_toml", "finite_float", "first_json_value"]
__all__ += ["without_surrogates"]

LOWEST: Final = -(1 << 63)
HIGHEST: Final = (1 << 64) - 1
_LONGEST_INT: Final = 20  # characters of an integer of 64 bits
_SHOWN: Final = 30
_TOO_DEEP: Final = "nested too deeply"
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE: Final = re.compile(r"\\u[dD][89a-fA-F]")


class DecodeError(ValueError):
    """The text cannot be decoded."""


def decode_json(data: bytes | str, *, parse_int: Callable[[str], Any] | None = None) -> Any:
    """The value. `parse_int`: for integers, which may have thousands of digits; may raise `ValueError`."""
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    try:
        value = json.loads(
            text, parse_int=parse_int or _integer, parse_float=finite_float, parse_constant=_refuse_constant
        )
        return _without_surrogates(value) if _SURROGATE_ESCAPE.search(text) else value
    except RecursionError:
        raise DecodeError(_TOO_DEEP) from None
    except ValueError as error:
        raise DecodeError(str(error)) from None


def first_json_value(text: str) -> str:
    """The text of the first value in `text`, which begins with it."""
    try:
        _, end = _SCANNER.raw_decode(text)
    except RecursionError:
        raise DecodeError(_TOO_DEEP) from None
    except ValueError as error:
        raise DecodeError(str(error)) from None
    return text[:end]


def decode_toml(text: str) -> dict[str, Any]:
    """The table. Its integers may have any size."""
    import tomllib  # here, because most programs start without a configuration file

    try:
        return tomllib.loads(text)
    except RecursionError:
        raise DecodeError(_TOO_DEEP) from None
    except ValueError as error:
        raise DecodeError(str(error)) from None


def finite_float(text: str) -> float:
    """The number. `ValueError` if it is too large for a float."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"number out of range: {text[:_SHOWN]}")
    return value


def _integer(text: str) -> int | float:
    if len(text) <= _LONGEST_INT and LOWEST <= (value := int(text)) <= HIGHEST:
        return value
    return finite_float(text)


def without_surrogates(text: str) -> str:
    """The text with U+FFFD for each surrogate."""
    return _SURROGATE.sub("\ufffd", text)


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_SCANNER = json.JSONDecoder(parse_int=_integer, parse_float=finite_float, parse_constant=_refuse_constant)
