"""Floats in JSON as Go writes them: parsers do not care, comparisons of text do.

Integral ones without `.0`; without an exponent from 1e-6 on and below 1e21; an exponent has no leading zero.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

__all__ = ["go_float"]


def go_float(value: float) -> int | msgspec.Raw:
    """A finite number, for msgspec to encode."""
    if value == int(value) and abs(value) < 1e21:
        return int(value)
    if value != 0 and not 1e-6 <= abs(value) < 1e21:
        return msgspec.Raw(repr(value).replace("e-0", "e-").encode())
    return msgspec.Raw(format(Decimal(repr(value)), "f").encode())
