"""The curves as SVG, readable on light and dark pages, without dependencies.
(a quantity of 0 stands at the

Two panels side by side, messages a second and CPU of a message, both axes logarithmic (a quantity of 0 stands at the
(a quantity of 0 is at the
left edge). Numbers in a picture are in units of its `viewBox`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

import attrs

from bench.report import Drawn, median_cpu_us, median_rate

__all__ = ["svg"]

WIDTH = 840
PANEL_WIDTH, PANEL_HEIGHT = 330, 200
PANEL_LEFTS, PANEL_TOP = (60, 480), 40
LEGEND_LINE = 18
COLOURS = ("#2f6fdb", "#d1602b", "#3a9a5b")
"""With enough contrast on white and on GitHub's dark grey."""
STYLE = """
  text { font: 12px -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #57606a }
  .title { font-weight: 600; fill: #24292f }
  .grid { stroke: #d0d7de; stroke-width: 1 }
  .line { fill: none; stroke-width: 2.2; stroke-linejoin: round }
  @media (prefers-color-scheme: dark) {
    text { fill: #9da7b3 }
    .title { fill: #e6edf3 }
    .grid { stroke: #3d444d }
  }
"""


@attrs.frozen
class _Line:
    colour: str
    points: Sequence[tuple[float, float]]


def svg(drawn: Drawn) -> str:
    """A curve as SVG; points without a figure are omitted."""
    series = drawn.curve.series
    height = PANEL_TOP + PANEL_HEIGHT + 50 + LEGEND_LINE * len(series)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(drawn.curve.title)}</title>",
        f"<style>{STYLE}</style>",
    ]
    for left, title, figure in zip(
        PANEL_LEFTS,
        ("messages a second", "microseconds of CPU a message"),
        (median_rate, median_cpu_us),
        strict=True,
    ):
        lines = [
            _Line(
                COLOURS[number % len(COLOURS)],
                [
                    (point.x, figure(point.cell))
                    for point in drawn.points
                    if point.series is one and point.cell.measurements and figure(point.cell) > 0
                ],
            )
            for number, one in enumerate(series)
        ]
        parts += _panel(left, title, drawn.curve.axis, lines)
    for number, one in enumerate(series):
        y = PANEL_TOP + PANEL_HEIGHT + 58 + LEGEND_LINE * number
        parts.append(
            f'<rect x="{PANEL_LEFTS[0]}" y="{y - 8}" width="14" height="4" fill="{COLOURS[number]}"/>'
        )
        parts.append(f'<text x="{PANEL_LEFTS[0] + 22}" y="{y}">{escape(one.title)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(left: int, title: str, axis: str, lines: Sequence[_Line]) -> list[str]:
    points = [point for line in lines for point in line.points]
    if not points:
        return []
    across = _Axis.of([x for x, _ in points], left, left + PANEL_WIDTH)
    up = _Axis.of([y for _, y in points], PANEL_TOP + PANEL_HEIGHT, PANEL_TOP, whole_decades=True)
    bottom = PANEL_TOP + PANEL_HEIGHT
    parts = [f'<text class="title" x="{left}" y="{PANEL_TOP - 16}">{title}</text>']
    for value in up.decades():
        y = up.place(value)
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{left + PANEL_WIDTH}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    for value in sorted({x for x, _ in points}):
        x = across.place(value)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{_short(value)}</text>')
    middle = left + PANEL_WIDTH / 2
    parts.append(f'<text x="{middle}" y="{bottom + 36}" text-anchor="middle">{escape(axis)}</text>')
    for line in lines:
        places = [(across.place(x), up.place(y)) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="line" stroke="{line.colour}" points="{path}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{line.colour}"/>' for x, y in places]
    return parts


@attrs.frozen
class _Axis:
    """A logarithmic scale from `low` at `start` to `high` at `end`."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float, *, whole_decades: bool = False) -> _Axis:
        """A scale for these values; 0 is shown a decade below the smallest other value."""
        positive = [value for value in values if value > 0] or [1.0]
        low, high = math.log10(min(positive)), math.log10(max(positive))
        if len(positive) < len(values):
            low -= 1
        if whole_decades:
            low, high = math.floor(low), math.ceil(high)
        return cls(low, high if high > low else low + 1, start, end)

    def place(self, value: float) -> float:
        exponent = math.log10(value) if value > 0 else self.low
        return self.start + (self.end - self.start) * (exponent - self.low) / (self.high - self.low)

    def decades(self) -> list[float]:
        return [10.0**exponent for exponent in range(math.ceil(self.low), math.floor(self.high) + 1)]


def _short(value: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
