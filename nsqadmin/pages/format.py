"""Numbers, durations and sizes for people, with the exact value in the title: the filters of the templates.

They return `Markup`, which is safe to put into a page, or plain text, which the template escapes. Arguments are in the
unit that the name or the docstring says.
"""

from __future__ import annotations

import math
from urllib.parse import quote

from markupsafe import Markup, escape

__all__ = [
    "UNKNOWN",
    "bytes_text",
    "duration_text",
    "milliseconds",
    "name_of_segment",
    "nanoseconds",
    "number",
    "number_text",
    "percent",
    "rate",
    "rate_text",
    "segment",
]

_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_EXACT_BELOW = 10_000
_DOTS = (".", "..")
UNKNOWN = "\N{EN DASH}"
"""Shown for a missing value."""
_MISSING = Markup('<span class="zero">{}</span>').format(UNKNOWN)


def number_text(value: float) -> str:
    """`9,999`, `12.3k`, `4.56M`: three digits from ten thousand on."""
    if abs(value) < _EXACT_BELOW:
        return f"{round(value):,}"
    for step, letter in _STEPS:
        if abs(value) >= step * 0.9995:
            return f"{_three_digits(value / step)}{letter}"
    return f"{value:,.0f}"


def number(value: float | None) -> Markup:
    """A count, with the exact value in the title if it is shortened; None if it is unknown."""
    if value is None:
        return _MISSING
    text = number_text(value)
    exact = f"{round(value):,}"
    if value == 0:
        return Markup('<span class="zero">0</span>')
    if text == exact:
        return escape(text)
    return Markup('<data value="{}" title="{}">{}</data>').format(round(value), exact, text)


def rate_text(value: float) -> str:
    """A rate without its unit: `0`, `0.25`, `8.1`, `740`, `1.25k`."""
    if value == 0:
        return "0"
    if value < 0.01:
        return "<0.01"
    if value < 1:
        return f"{value:.2f}".rstrip("0")
    if value < 100:
        return f"{value:.1f}".removesuffix(".0")
    return number_text(value) if value < 1000 or value >= _EXACT_BELOW else f"{value:,.0f}"


def rate(value: float | None) -> Markup:
    """A rate with the exact value in the title; None if it is unknown."""
    if value is None:
        return _MISSING
    if value == 0:
        return Markup('<span class="zero">0</span>')
    return Markup('<data value="{0:g}" title="{0:,.3f}">{1}</data>').format(value, rate_text(value))


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


def segment(text: str) -> str:
    """A name as one segment of a path: percent-encoded, slashes too. `.` and `..` get a tilde before them.

    Both are valid names, but browsers and proxies resolve them in a path, also percent-encoded: a request for the
    channel would become one for its topic. No valid name contains a tilde. `name_of_segment` is the reverse.
    """
    return f"~{text}" if text in _DOTS else quote(text, safe="")


def name_of_segment(text: str) -> str:
    """The name that `segment` made this decoded segment of; any other text as it is."""
    return text[1:] if text[:1] == "~" and text[1:] in _DOTS else text


def _three_digits(value: float) -> str:
    size = abs(value)
    if size < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if size < 99.95 else f"{value:.0f}"
