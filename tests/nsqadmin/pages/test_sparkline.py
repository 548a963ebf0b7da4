"""A sparkline is small, stays in its box, and says nothing where nothing is known."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from nsqadmin.pages.sparkline import HEIGHT, WIDTH, sparkline


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)]


def test_a_rise_goes_up() -> None:
    drawn = sparkline([0, 1, 2, 3])
    assert drawn is not None
    heights = [y for _, y in points(drawn.line)]
    assert heights == sorted(heights, reverse=True)
    assert points(drawn.line)[0][0] == 0
    assert points(drawn.line)[-1][0] == WIDTH


def test_silence_is_a_line_at_the_bottom() -> None:
    drawn = sparkline([0, 0, 0])
    assert drawn is not None
    assert {y for _, y in points(drawn.line)} == {HEIGHT - 1.5}


def test_one_value_is_no_line() -> None:
    assert sparkline([]) is None
    assert sparkline([4.0]) is None
    assert sparkline([float("nan"), None, 3.0]) is None


def test_unknown_values_count_as_the_one_before() -> None:
    assert sparkline([2.0, None, float("nan"), 4.0]) == sparkline([2.0, 2.0, 2.0, 4.0])


@given(st.lists(st.one_of(st.none(), st.floats(allow_infinity=False, width=32)), max_size=300))
def test_it_stays_in_its_box_and_small(values: list[float | None]) -> None:
    drawn = sparkline(values)
    if drawn is not None:
        assert len(drawn.line) < 600
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points(drawn.line))
