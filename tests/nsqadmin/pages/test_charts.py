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
from tests.nsqadmin.pages.cluster import NOW, FakeHistory, channel, fake_console, snapshot, topic
from tests.nsqadmin.pages.reading import HtmlPage, fetch, respond


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
        "timeouts": [5, 5, 16],
        "requeues": [5, 5, 16],
    }
    assert {asked[1:] for asked in history.queried} == {("a", "b#ephemeral", Resolution.POLL)}
    assert {asked[0] for asked in history.queried} == set(Metric)


async def test_timeouts_and_requeues_are_those_of_the_minute_before() -> None:
    rates = [0.0] * 12 + [2.0] + [0.0] * 12 + [float("nan"), 1.0]
    found = await series(FakeHistory(rates), "")
    assert found["lines"]["timeouts"] == [0] * 12 + [10] * 12 + [0, 0, 5]
    by_minute = await series(FakeHistory([0.5, 0.0, 0.25], step=60.0), "span=1h")
    assert by_minute["lines"]["requeues"] == [30, 0, 15]
    assert (await series(FakeHistory([3.0]), ""))["lines"]["timeouts"] == [0]


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


def figures(page: HtmlPage, chart: str) -> dict[str, str]:
    items = page.one("ul", id=f"legend-{chart}").all("li")
    return {each["data-label"]: each.one("b").text for each in items}


def tiles(page: HtmlPage) -> dict[str, str]:
    return {each.one("dt").text: each.all("dd")[0].text for each in page.one("dl").all("div")}


async def test_legends_and_tiles_agree_and_a_topic_counts_what_waits_in_its_channels() -> None:
    mail = channel(
        "orders",
        "mail",
        depth=30,
        in_flight_count=4,
        client_count=1,
        in_rate=12.5,
        out_rate=8.0,
        timeouts_per_minute=6,
        requeues_per_minute=2,
    )
    orders = topic("orders", [mail], depth=7, in_rate=12.5, out_rate=8.0)
    console = fake_console(snapshot(orders), history=FakeHistory([99.0, 98.0]))
    waiting = {"/": "37", "/topics/orders": "37", "/topics/orders/mail": "30"}
    for path, depth in waiting.items():
        page = await fetch(console, path)
        shown = tiles(page)
        assert figures(page, "rates") == {"in": "12.5", "out": "8"}
        assert "12.5 /s" in shown.values()
        assert "8 /s" in shown.values()
        assert figures(page, "depth")["ready"] == shown["Depth"] == depth
        assert figures(page, "depth")["in flight"] == shown["In flight"]
        if path != "/":
            assert figures(page, "trouble") == {"timed out": "6", "requeued": "2"}
            assert shown["Timed out"] == "6 /min"


async def test_charts_of_counts_have_whole_ticks() -> None:
    page = await fetch(fake_console(snapshot(topic("a"))), "/topics/a")
    whole = {each["id"]: "data-counts" in each.attributes for each in page.all("figure")}
    assert whole == {"chart-rates": False, "chart-depth": True, "chart-trouble": True}
