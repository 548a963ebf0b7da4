"""Charts: series as far back as requested, time ranges, sparklines."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqadmin.cluster.history import Metric, Resolution
from nsqadmin.pages.charts import SPARKLINE_HEIGHT, SPARKLINE_WIDTH, sparkline
from tests.nsqadmin.pages.cluster import NOW, FakeHistory, fake_console, snapshot
from tests.nsqadmin.pages.reading import fetch, respond


async def series(history: FakeHistory, query: str) -> dict[str, Any]:
    answer = await respond(fake_console(snapshot(), history=history), f"/series?{query}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = msgspec.json.decode(answer.content)
    return found


async def test_rates_and_depths_of_one_channel() -> None:
    history = FakeHistory([1.0, 0.0, 2.25])
    found = await series(history, "topic=a&channel=b%23ephemeral")
    assert found["at"] == [NOW - 10, NOW - 5, NOW]
    assert found["lines"] == {
        "in": [1, 0, 2.25],
        "out": [1, 0, 2.25],
        "depth": [1, 0, 2.25],
        "in_flight": [1, 0, 2.25],
        "timeouts": [60, 0, 135],
        "requeues": [60, 0, 135],
    }
    assert {asked[1:] for asked in history.queried} == {("a", "b#ephemeral", Resolution.POLL)}
    assert {asked[0] for asked in history.queried} == set(Metric)


async def test_unknown_values_of_a_series_are_null() -> None:
    found = await series(FakeHistory([1.0, float("nan"), 2.0]), "")
    assert found["lines"]["in"] == [1, None, 2]


async def test_an_unknown_series_is_empty() -> None:
    found = await series(FakeHistory(), "topic=unheard-of")
    assert found["at"] == []
    assert set(map(len, found["lines"].values())) == {0}


@pytest.mark.parametrize(
    ("query", "span", "points"),
    [
        ("", Resolution.POLL, 16),
        ("span=15m", Resolution.POLL, 16),
        ("span=1h", Resolution.MINUTE, 61),
        ("span=12h", Resolution.MINUTE, 721),
        ("span=for-ever", Resolution.POLL, 16),
    ],
)
async def test_the_time_range_of_a_series_is_in_the_address(
    query: str, span: Resolution, points: int
) -> None:
    history = FakeHistory([1.0] * 900, step=60.0)
    found = await series(history, query)
    assert len(found["at"]) == points
    assert history.queried[0][3] is span


async def test_links_to_time_ranges_keep_the_search() -> None:
    page = await fetch(fake_console(snapshot()), "/?span=1h&q=abc")
    links = page.one("nav", class_="segments").all("a")
    assert [(each.text, each["href"], "aria-current" in each.attributes) for each in links] == [
        ("15 min", "/?q=abc&span=15m", False),
        ("1 h", "/?q=abc&span=1h", True),
        ("12 h", "/?q=abc&span=12h", False),
    ]


async def test_the_time_range_in_a_cookie_applies_unless_the_address_has_one() -> None:
    console = fake_console(snapshot())
    cookie = {"Cookie": "console_span=12h; console_t=%3Cb%3E"}
    for path, chosen in (("/", "12 h"), ("/?span=1h", "1 h")):
        page = await fetch(console, path, headers=cookie)
        assert page.one("nav", class_="segments").one("a", aria_current="true").text == chosen
    page = await fetch(console, "/", headers={"Cookie": "console_span=nonsense"})
    assert page.one("nav", class_="segments").one("a", aria_current="true").text == "15 min"


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)]


def test_a_sparkline_of_rising_values_rises() -> None:
    drawn = sparkline([0, 1, 2, 3])
    assert drawn is not None
    heights = [y for _, y in points(drawn.line)]
    assert heights == sorted(heights, reverse=True)
    assert points(drawn.line)[0][0] == 0
    assert points(drawn.line)[-1][0] == SPARKLINE_WIDTH


def test_a_sparkline_of_zeros_is_a_line_at_the_bottom() -> None:
    drawn = sparkline([0, 0, 0])
    assert drawn is not None
    assert {y for _, y in points(drawn.line)} == {SPARKLINE_HEIGHT - 1.5}


def test_a_sparkline_needs_two_values() -> None:
    assert sparkline([]) is None
    assert sparkline([4.0]) is None
    assert sparkline([float("nan"), None, 3.0]) is None


def test_unknown_values_of_a_sparkline_repeat_the_one_before() -> None:
    assert sparkline([2.0, None, float("nan"), 4.0]) == sparkline([2.0, 2.0, 2.0, 4.0])


@given(st.lists(st.one_of(st.none(), st.floats(allow_infinity=False, width=32)), max_size=300))
def test_a_sparkline_is_small_and_stays_in_its_box(values: list[float | None]) -> None:
    drawn = sparkline(values)
    if drawn is not None:
        assert len(drawn.line) < 600
        assert all(0 <= x <= SPARKLINE_WIDTH and 0 <= y <= SPARKLINE_HEIGHT for x, y in points(drawn.line))
