"""The numbers of the charts: what was asked for, as far back as was asked for, and nothing made up."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nsqadmin.cluster.history import Kind, Span
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
    assert {asked[1:] for asked in history.asked} == {("a", "b#ephemeral", Span.MINUTES)}
    assert {asked[0] for asked in history.asked} == set(Kind)


async def test_what_is_not_known_is_a_gap() -> None:
    found = await series(FakeHistory([1.0, float("nan"), 2.0]), "")
    assert found["lines"]["in"] == [1, None, 2]


async def test_nothing_known_is_nothing() -> None:
    found = await series(FakeHistory(), "topic=unheard-of")
    assert found["at"] == []
    assert set(map(len, found["lines"].values())) == {0}


@pytest.mark.parametrize(
    ("query", "span", "points"),
    [
        ("", Span.MINUTES, 16),
        ("span=15m", Span.MINUTES, 16),
        ("span=1h", Span.HOURS, 61),
        ("span=12h", Span.HOURS, 721),
        ("span=for-ever", Span.MINUTES, 16),
    ],
)
async def test_how_far_back_is_in_the_address(query: str, span: Span, points: int) -> None:
    history = FakeHistory([1.0] * 900, step=60.0)
    found = await series(history, query)
    assert len(found["at"]) == points
    assert history.asked[0][3] is span


async def test_the_page_offers_the_choices_and_keeps_its_search() -> None:
    page = await fetch(fake_console(snapshot()), "/?span=1h&q=abc")
    links = page.one("nav", class_="segments").all("a")
    assert [(each.text, each["href"], "aria-current" in each.attributes) for each in links] == [
        ("15 min", "/?q=abc&span=15m", False),
        ("1 h", "/?q=abc&span=1h", True),
        ("12 h", "/?q=abc&span=12h", False),
    ]


async def test_the_choice_holds_for_all_pages_until_an_address_says_otherwise() -> None:
    console = fake_console(snapshot())
    cookie = {"Cookie": "console_span=12h; console_t=%3Cb%3E"}
    for path, chosen in (("/", "12 h"), ("/?span=1h", "1 h")):
        page = await fetch(console, path, headers=cookie)
        assert page.one("nav", class_="segments").one("a", aria_current="true").text == chosen
    page = await fetch(console, "/", headers={"Cookie": "console_span=nonsense"})
    assert page.one("nav", class_="segments").one("a", aria_current="true").text == "15 min"
