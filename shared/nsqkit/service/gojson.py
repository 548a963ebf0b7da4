"""Floats in JSON as Go writes them, for clients that compare text.

From 1e-6 to below 1e21 without an exponent, integral numbers without `.0`; an exponent has no leading zero.
"""

from __future__ import annotations

from decimal import Decimal

__all__ = ["float_text"]


def float_text(value: float) -> str:
    """The shortest text that parses to the same number, which must be finite. For msgspec wrap it in `Raw`."""
    if value == 0 or 1e-6 <= abs(value) < 1e21:
        text = format(Decimal(repr(value)), "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    return repr(value).replace("e-0", "e-")
