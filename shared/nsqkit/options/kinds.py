"""The kinds of values that an option can have: how each is read from a flag, from a TOML file, and shown.

A `Kind` is a set of functions. A program that needs one of its own (a list whose items are checked, say) makes
it with `attrs.evolve(STRINGS, from_text=...)`. Kinds are compared by identity: `kind is DURATION`.

All functions raise `ValueError` with a short reason for a value that they do not accept. For flags the reason
begins as Go's does (`parse error`, `value out of range`), because scripts match on it; for files it says what was
expected.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

import attrs

from nsqkit.logging import LogLevel
from nsqkit.options.durations import INT64_MAX, INT64_MIN, format_duration, parse_duration

__all__ = [
    "BOOL",
    "DURATION",
    "FLOAT",
    "FLOATS",
    "INT",
    "LOG_LEVEL",
    "STRING",
    "STRINGS",
    "TLS_REQUIRED",
    "TLS_VERSION",
    "TLS_VERSIONS",
    "FatalValueError",
    "Kind",
    "TlsRequired",
    "TlsVersion",
]


class TlsRequired(IntEnum):
    """Whether clients must use TLS, by the number in `/config/tls_required`."""

    NO = 0
    TCP_HTTPS = 1
    """On TCP yes, but plain HTTP stays open."""
    YES = 2


class TlsVersion(IntEnum):
    """TLS versions by their number on the wire."""

    TLS1_0 = 0x0301
    TLS1_1 = 0x0302
    TLS1_2 = 0x0303
    TLS1_3 = 0x0304


class FatalValueError(ValueError):
    """A flag's value that ends the program with exit code 1 and this line, where other mistakes have 2."""


@attrs.frozen(eq=False, kw_only=True)
class Kind:
    """How values of one kind are read and shown."""

    name: str
    """E.g. `duration`."""
    placeholder: str
    """For the value, in the help."""
    from_text: Callable[[str], Any]
    """Text of one flag -> value. With `merge` it is called once for each time that the flag is given."""
    from_toml: Callable[[Any], Any]
    """Result of the TOML parser -> value."""
    to_text: Callable[[Any], str]
    """Value -> text, as in the help. Empty: nothing to show."""
    boolean: bool = False
    """The flag alone means true, and its value can only follow a `=`."""
    merge: Callable[[Any, Any], Any] | None = None
    """Value so far, another one -> both, for flags that may be given several times. None: the last one wins."""
    words: tuple[str, ...] = ()
    """The texts of all values, if there are only a few."""


# --- from flags ---------------------------------------------------------------------------------------------

_TRUE_WORDS = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE_WORDS = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_INTEGER = re.compile(
    r"[+-]?(?:0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|(0(?:_?[0-7])*)|[1-9](?:_?[0-9])*)"
)
_LONGEST_NUMBER = 100  # 64 bits take 64 binary digits; converting thousands of them would take long
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
TLS_VERSIONS: Final = {
    "tls1.0": TlsVersion.TLS1_0,
    "tls1.1": TlsVersion.TLS1_1,
    "tls1.2": TlsVersion.TLS1_2,
    "tls1.3": TlsVersion.TLS1_3,
}
"""By their words in options."""
_TLS_REQUIRED = {"false": TlsRequired.NO, "tcp-https": TlsRequired.TCP_HTTPS, "true": TlsRequired.YES}


def _bool_from_text(text: str) -> bool:
    if text in _TRUE_WORDS:
        return True
    if text in _FALSE_WORDS:
        return False
    raise ValueError("parse error")


def _int_from_text(text: str) -> int:
    match = _INTEGER.fullmatch(text)
    if match is None:
        raise ValueError("parse error")
    if len(text) > _LONGEST_NUMBER:
        raise ValueError("value out of range")
    # Python's own base 0 knows all of these forms but Go's octal by a leading zero alone.
    value = int(text, 8 if match[1] else 0)
    return _within_int64(value)


def _within_int64(value: int) -> int:
    if not INT64_MIN <= value <= INT64_MAX:
        raise ValueError("value out of range")
    return value


def _duration_from_text(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ValueError(f"parse error ({error})") from None


def _float_from_text(text: str) -> float:
    if _DECIMAL.fullmatch(text) is None:
        raise ValueError("parse error")
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("value out of range")
    return value


def _floats_from_text(text: str) -> list[float]:
    return sorted(_floats_in_order(text), reverse=True)


def _floats_in_order(text: str) -> list[float]:
    values: list[float] = []
    for word in text.split(","):
        try:
            values.append(_float_from_text(word))
        except ValueError:
            raise FatalValueError(f"Could not parse: {word}") from None
    return values


def _tls_version_from_text(text: str) -> TlsVersion:
    version = TLS_VERSIONS.get(text.lower() or "tls1.2")
    if version is None:
        raise ValueError(f"unknown TLS version ({', '.join(TLS_VERSIONS)})")
    return version


def _tls_required_from_text(text: str) -> TlsRequired:
    if text.lower() == "tcp-https":
        return TlsRequired.TCP_HTTPS
    return TlsRequired.YES if _bool_from_text(text) else TlsRequired.NO


# --- from TOML ----------------------------------------------------------------------------------------------


def _bool_from_toml(value: object) -> bool:
    # 0 and 1 too, because the flag accepts them (the original inverts them: not copied).
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value in _TRUE_WORDS | _FALSE_WORDS:
        return value in _TRUE_WORDS
    raise ValueError("expected true or false")


def _int_from_toml(value: object) -> int:
    if isinstance(value, str):
        try:
            return _int_from_text(value)
        except ValueError:
            raise ValueError("expected an integer") from None
    if isinstance(value, int) and not isinstance(value, bool):
        return _within_int64(value)
    raise ValueError("expected an integer")


def _string_from_toml(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("expected a string")


def _duration_from_toml(value: object) -> int:
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _within_int64(value * 1_000_000)
    raise ValueError('expected a duration such as "5s", or an integer of milliseconds')


def _strings_from_toml(value: object) -> list[str]:
    if isinstance(value, str):
        return [word for word in (part.strip() for part in value.split(",")) if word]
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return list(value)
    raise ValueError("expected an array of strings, or one string with commas")


def _float_from_toml(value: object) -> float:
    if isinstance(value, str):
        return _float_from_text(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError("expected a number that a float can hold") from None
    raise ValueError("expected a number")


def _floats_from_toml(value: object) -> list[float]:
    if isinstance(value, str):
        return _floats_in_order(value)
    if isinstance(value, list):
        return [_float_from_toml(number) for number in value]
    raise ValueError("expected an array of numbers, or one string with commas")


def _log_level_from_toml(value: object) -> LogLevel:
    return LogLevel.parse(_string_from_toml(value))


def _tls_version_from_toml(value: object) -> TlsVersion:
    return _tls_version_from_text(_string_from_toml(value))


def _tls_required_from_toml(value: object) -> TlsRequired:
    if isinstance(value, bool):
        return TlsRequired.YES if value else TlsRequired.NO
    return _tls_required_from_text(_string_from_toml(value))


# --- to text ------------------------------------------------------------------------------------------------


def _bool_to_text(value: bool) -> str:
    return "true" if value else "false"


def _float_to_text(value: float) -> str:
    return repr(value).removesuffix(".0")


def _word_of(value: IntEnum, words: dict[str, Any]) -> str:
    return next(word for word, meaning in words.items() if meaning is value)


# --- the kinds ----------------------------------------------------------------------------------------------

BOOL = Kind(
    name="bool",
    placeholder="",
    from_text=_bool_from_text,
    from_toml=_bool_from_toml,
    to_text=_bool_to_text,
    boolean=True,
)
INT = Kind(
    name="int",
    placeholder="N",
    from_text=_int_from_text,
    from_toml=_int_from_toml,
    to_text=str,
)
"""An int of 64 bits."""
FLOAT = Kind(
    name="float",
    placeholder="X",
    from_text=_float_from_text,
    from_toml=_float_from_toml,
    to_text=_float_to_text,
)
STRING = Kind(
    name="string",
    placeholder="TEXT",
    from_text=str,
    from_toml=_string_from_toml,
    to_text=str,
)
DURATION = Kind(
    name="duration",
    placeholder="DURATION",
    from_text=_duration_from_text,
    from_toml=_duration_from_toml,
    to_text=format_duration,
)
"""An int of nanoseconds."""
STRINGS = Kind(
    name="strings",
    placeholder="TEXT",
    from_text=lambda text: [text],
    from_toml=_strings_from_toml,
    to_text=", ".join,
    merge=lambda so_far, more: so_far + more,
)
"""A list of str; a flag adds one each time."""
FLOATS = Kind(
    name="floats",
    placeholder="X,...",
    from_text=_floats_from_text,
    from_toml=_floats_from_toml,
    to_text=lambda values: ", ".join(map(_float_to_text, values)),
    merge=lambda so_far, more: sorted(so_far + more, reverse=True),
)
"""A list of float: from flags sorted descending, from a file in the file's order."""
LOG_LEVEL = Kind(
    name="log level",
    placeholder="LEVEL",
    from_text=LogLevel.parse,
    from_toml=_log_level_from_toml,
    to_text=lambda level: level.name,
    words=("debug", "info", "warn", "error", "fatal"),
)
"""A `LogLevel`."""
TLS_VERSION = Kind(
    name="TLS version",
    placeholder="VERSION",
    from_text=_tls_version_from_text,
    from_toml=_tls_version_from_toml,
    to_text=lambda value: _word_of(value, TLS_VERSIONS),
    words=tuple(TLS_VERSIONS),
)
"""A `TlsVersion`; an empty text is TLS 1.2."""
TLS_REQUIRED = Kind(
    name="TLS required",
    placeholder="[=tcp-https]",
    from_text=_tls_required_from_text,
    from_toml=_tls_required_from_toml,
    to_text=lambda value: _word_of(value, _TLS_REQUIRED),
    boolean=True,
    words=tuple(_TLS_REQUIRED),
)
"""A `TlsRequired`."""
