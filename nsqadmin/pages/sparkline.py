"""A row of numbers as a small picture: the two SVG paths of a sparkline, in a box of 100 by 24 units."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from attrs import define

__all__ = ["Sparkline", "sparkline"]

WIDTH = 100
HEIGHT = 24
_PAD = 1.5
_POINTS = 40


@define(frozen=True)
class Sparkline:
    """What the template draws."""

    line: str
    area: str


def sparkline(values: Sequence[float | None]) -> Sparkline | None:
    """Draw the values over equal steps of time; unknown ones count as the one before. None with nothing to draw.

    The scale begins at 0, so that a steady rate is a line at the top and silence one at the bottom.
    """
    points = _thinned(_filled(values))
    if len(points) < 2:
        return None
    top = max(points) or 1.0
    step = WIDTH / (len(points) - 1)
    low = HEIGHT - _PAD
    path = "L".join(
        f"{n * step:.0f} {low - (low - _PAD) * value / top:.1f}".replace(".0", "")
        for n, value in enumerate(points)
    )
    return Sparkline(f"M{path}", f"M0 {HEIGHT}L{path}L{WIDTH} {HEIGHT}Z")


def _filled(values: Sequence[float | None]) -> list[float]:
    filled: list[float] = []
    for value in values:
        if value is not None and value == value:
            filled.append(max(0.0, value))
        elif filled:
            filled.append(filled[-1])
    return filled


def _thinned(values: list[float]) -> list[float]:
    """At most `_POINTS` values: the mean of each piece."""
    if len(values) <= _POINTS:
        return values
    edges = [n * len(values) // _POINTS for n in range(_POINTS + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
