"""Numbers, durations and sizes as plain text. Arguments are in the unit that the name or the docstring says."""

from __future__ import annotations

import math

__all__ = [
    "UNKNOWN",
    "bytes_text",
    "duration_text",
    "milliseconds",
    "nanoseconds",
    "number_text",
    "percent",
    "rate_text",
]

_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_EXACT_BELOW = 10_000
UNKNOWN = "\N{EN DASH}"
"""Shown for a missing value."""


def number_text(value: float) -> str:
    """`9,999`, `12.3k`, `4.56M`: three digits from ten thousand on."""
    if abs(value) < _EXACT_BELOW:
        return f"{round(value):,}"
    for step, letter in _STEPS:
        if abs(value) >= step * 0.9995:
            return f"{_three_digits(value / step)}{letter}"
    return f"{value:,.0f}"


def rate_text(value: float) -> str:
    """A rate without its unit: `0`, `0.25`, `8.1`, `740`, `1.25k`."""
    if value == 0:
        return "0"
    if value < 0.01:
        return "<0.01"
    if value < 0.995:
        return f"{value:.2f}".rstrip("0")
    if value < 100:
        return f"{value:.1f}".removesuffix(".0")
    return number_text(value) if value < 1000 or value >= _EXACT_BELOW else f"{value:,.0f}"


def percent(part: float, whole: float) -> str:
    """`12 %`, `<1 %`; `0 %` if the whole is 0."""
    if not whole or not part:
        return "0 %"
    share = 100 * part / whole
    return "<1 %" if share < 1 else f"{share:.0f} %"


def bytes_text(value: float) -> str:
    """`312 B`, `1.50 KiB`, `2.31 GiB`."""
    if value < 1024:
        return f"{value:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1023.5 or unit == "TiB":
            return f"{_three_digits(value)} {unit}"
    raise AssertionError("the last unit takes everything")


def duration_text(seconds: float | None) -> str:
    """A duration in seconds with at most two units: `0 s`, `12 s`, `3 min 20 s`, `5 h 12 min`, `8 d 3 h`."""
    if seconds is None or math.isnan(seconds):
        return UNKNOWN
    total = max(0, int(seconds))
    for size, unit, small_size, small in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if total >= size:
            rest = total % size // small_size
            return f"{total // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{total} s"


def nanoseconds(value: float) -> str:
    """A latency in nanoseconds: `120 µs`, `3.40 ms`, `2.10 s`; from a minute on as `duration_text`."""
    for size, unit in ((1e3, "µs"), (1e6, "ms")):
        if value < size * 999.5:
            return f"{_three_digits(value / size)} {unit}"
    return f"{_three_digits(value / 1e9)} s" if value < 60e9 else duration_text(value / 1e9)


def milliseconds(value: float) -> str:
    """A duration in milliseconds, in the same form."""
    return nanoseconds(value * 1e6)


def _three_digits(value: float) -> str:
    size = abs(value)
    if size < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if size < 99.95 else f"{value:.0f}"
