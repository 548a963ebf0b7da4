"""Durations as flags, configuration files and `/config` have them.

A duration is an **int of nanoseconds** everywhere in the programs. Its text is Go's: one or more decimal numbers,
each with a unit (`300ms`, `1.5h`, `1h2m3.5s`), with an optional sign in front.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "HOUR",
    "INT64_MAX",
    "INT64_MIN",
    "MILLISECOND",
    "MINUTE",
    "SECOND",
    "format_duration",
    "parse_duration",
]

MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000 * MILLISECOND
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE

INT64_MAX = (1 << 63) - 1
INT64_MIN = -(1 << 63)

_MICROSECOND = "\u00b5s"
_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    _MICROSECOND: 1_000,
    "\u03bcs": 1_000,  # the Greek letter, which is easier to type than the micro sign
    "ms": MILLISECOND,
    "s": SECOND,
    "m": MINUTE,
    "h": HOUR,
}
_LONGEST = 100  # characters: enough for every unit once, and converting thousands of digits would take long
_NUMBER = re.compile(r"[0-9]+\.?[0-9]*|\.[0-9]+")
_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]+)")


def parse_duration(text: str) -> int:
    """Nanoseconds of a duration in Go's form; fractions of a nanosecond are cut off.

    A number without a unit is an error, except 0. Raises `ValueError` for anything that is no duration and for one
    of more than 64 bits (292 years).
    """
    if len(text) > _LONGEST:
        raise ValueError(f"duration of more than {_LONGEST} characters")
    unsigned = text[1:] if text[:1] in ("+", "-") else text
    if unsigned == "0":
        return 0
    total = sum(_parts(text, unsigned))
    signed = -total if text.startswith("-") else total
    if not INT64_MIN <= signed <= INT64_MAX:
        raise ValueError("duration out of range, the longest is 292 years")
    return signed


def _parts(text: str, unsigned: str) -> list[int]:
    parts: list[int] = []
    at = 0
    while at < len(unsigned):
        match = _PART.match(unsigned, at)
        if match is None:
            example = f"{text}s" if at == 0 and _NUMBER.fullmatch(unsigned) else "5s, 250ms or 1h30m"
            raise ValueError(f"duration without a unit: write {example}")
        whole, fraction, unit = match.groups(default="")
        scale = _NANOSECONDS.get(unit)
        if scale is None or not (whole or fraction):
            raise ValueError("no duration: write 5s, 250ms or 1h30m")
        parts.append(int(whole or "0") * scale + int(fraction or "0") * scale // 10 ** len(fraction))
        at = match.end()
    if not parts:
        raise ValueError("empty duration")
    return parts


def format_duration(nanoseconds: int) -> str:
    """The duration in Go's form: `1h0m0s`, `1.5s`, `361.975424ms`, `0s`."""
    if nanoseconds == 0:
        return "0s"
    sign = "-" if nanoseconds < 0 else ""
    rest = abs(nanoseconds)
    for unit in ("ns", _MICROSECOND, "ms"):
        if rest < _NANOSECONDS[unit] * 1_000:
            return f"{sign}{_decimal(rest, _NANOSECONDS[unit])}{unit}"
    hours, rest = divmod(rest, _NANOSECONDS["h"])
    minutes, rest = divmod(rest, _NANOSECONDS["m"])
    text = f"{_decimal(rest, _NANOSECONDS['s'])}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    if hours:
        text = f"{hours}h{text}"
    return sign + text


def _decimal(value: int, scale: int) -> str:
    """`value / scale`, exactly, without trailing zeros; `scale` is a power of ten."""
    whole, rest = divmod(value, scale)
    if rest == 0:
        return str(whole)
    digits = len(str(scale)) - 1
    return f"{whole}.{rest:0{digits}d}".rstrip("0")
