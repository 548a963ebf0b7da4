"""Floats in JSON as Go writes them: parsers do not care, comparisons of text do.

Without an exponent from 1e-6 on and below 1e21, integral ones then without `.0`; an exponent has no leading zero.
"""

from __future__ import annotations

from decimal import Decimal

__all__ = ["float_text"]


def float_text(value: float) -> str:
    """The shortest text that gives the same number again; for msgspec, wrap it in `Raw`. The number is finite."""
    if value == 0 or 1e-6 <= abs(value) < 1e21:
        text = format(Decimal(repr(value)), "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    return repr(value).replace("e-0", "e-")
