"""Numbers with the exact value in the title: filters of the templates. Plain text is made by `nsqadmin.text`."""

from __future__ import annotations

from markupsafe import Markup, escape

from nsqadmin.text import UNKNOWN, number_text, rate_text

__all__ = ["number", "rate"]

_MISSING = Markup('<span class="zero">{}</span>').format(UNKNOWN)


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


def rate(value: float | None) -> Markup:
    """A rate with the exact value in the title; None if it is unknown."""
    if value is None:
        return _MISSING
    if value == 0:
        return Markup('<span class="zero">0</span>')
    return Markup('<data value="{0:g}" title="{0:,.3f}">{1}</data>').format(value, rate_text(value))
