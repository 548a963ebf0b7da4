"""Numbers with the exact value in the title, and names that can be broken into lines: filters of the templates.

Plain text is made by `nsqadmin.text`.
"""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from nsqadmin.text import UNKNOWN, number_text, rate_text

__all__ = ["breakable", "missing", "number", "rate"]

_PART_OF_NAME = re.compile(r"(?<=[-._:/])(?=[^-._:/])|(?<=[a-z0-9])(?=[A-Z])|(?<=.)(?=#)")
_LINE_BREAK_OPPORTUNITY = Markup("<wbr>")


def breakable(name: str) -> Markup:
    """A name that may be broken into lines between its parts: after dots, dashes and the like, and before capitals.

    Browsers see one word in `emails.outbound_eu`, and on a narrow screen break it between any two letters.
    """
    return _LINE_BREAK_OPPORTUNITY.join(_PART_OF_NAME.split(name))


def missing(reason: str) -> Markup:
    """A dash for a value that is not there, with the reason in its title."""
    return Markup('<span class="zero" title="{}">{}</span>').format(reason, UNKNOWN)


def number(value: float | None) -> Markup:
    """A count, with the exact value in the title if it is shortened; None if it is unknown."""
    if value is None:
        return missing("Not reported")
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
        return missing("Rates are known after two polls")
    if value == 0:
        return Markup('<span class="zero">0</span>')
    return Markup('<data value="{0:g}" title="{0:,.3f}">{1}</data>').format(value, rate_text(value))
