"""Floats as Go writes them."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqkit.service.gojson import float_text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (1.0, "1"),
        (7, "7"),
        (-2.5, "-2.5"),
        (0.1, "0.1"),
        (123456789.0, "123456789"),
        (6.458916304923773e16, "64589163049237730"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (2.5e-12, "2.5e-12"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
    ],
)
def test_what_other_programs_compare_as_text(value: float, shown: str) -> None:
    assert float_text(value) == shown
    assert msgspec.json.encode([msgspec.Raw(float_text(value))]) == f"[{shown}]".encode()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_nothing_is_lost(value: float) -> None:
    """Read again it is the same number, sign of zero included."""
    again = float(float_text(value))
    assert (again, math.copysign(1, again)) == (value, math.copysign(1, value))
