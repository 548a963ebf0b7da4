"""The front page and the page of a topic."""

from __future__ import annotations

import time

import pytest

from nsqadmin.text import UNKNOWN
from tests.nsqadmin.pages.cluster import (
    NODE,
    NOW,
    FakeHistory,
    channel,
    fake_console,
    node,
    problem,
    snapshot,
    topic,
)
from tests.nsqadmin.pages.reading import HtmlPage, fetch

CLUSTER = snapshot(
    topic(
        "orders",
        [
            channel("orders", "audit", depth=30, no_consumer_since=NOW - 100),
            channel("orders", "mail", depth=5, in_flight_count=3, client_count=2, out_rate=8.0),
        ],
        depth=7,
        message_count=123_456,
        in_rate=12.5,
        out_rate=8.0,
    ),
    topic("clicks", [channel("clicks", "count", client_count=1)], in_rate=700.0),
    topic("lonely", depth=4),
)


def names(page: HtmlPage) -> list[str]:
    return [row[0].split()[0] for row in page.rows("Topics of the whole cluster")]


async def test_the_front_page_shows_every_topic_with_its_figures() -> None:
    page = await fetch(fake_console(CLUSTER), "/")
    assert page.rows("Topics of the whole cluster") == [
        ["clicks", "0", "0", "700", "0", "1", "1", "0", UNKNOWN],
        ["lonely no channel", "4", "0", "0", "0", "0", "0", "0", UNKNOWN],
        ["orders 1 without consumer", "42", "3", "12.5", "8", "2", "2", "123k", UNKNOWN],
    ]
    assert page.one("title").text == "Topics · nsq-trio"


async def test_slash_topics_is_the_same_page() -> None:
    console = fake_console(CLUSTER)
    assert names(await fetch(console, "/topics")) == names(await fetch(console, "/"))


async def test_totals_come_first() -> None:
    page = await fetch(fake_console(CLUSTER), "/")
    tiles = {each.one("dt").text: each.all("dd")[0].text for each in page.one("dl").all("div")}
    assert tiles == {
        "Published": "712 /s",
        "Finished": "8 /s",
        "Depth": "46",
        "In flight": "0",
        "Consumers": "3",
        "Timed out": "0 /min",
    }
    assert "1 channel without" in page.one("dl").text


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?sort=depth", ["orders", "lonely", "clicks"]),
        ("?sort=depth&order=asc", ["clicks", "lonely", "orders"]),
        ("?sort=in", ["clicks", "orders", "lonely"]),
        ("?sort=name&order=desc", ["orders", "lonely", "clicks"]),
        ("?sort=nonsense&order=up", ["clicks", "lonely", "orders"]),
        ("?q=CLI", ["clicks"]),
        ("?show=backlog", ["lonely", "orders"]),
        ("?show=idle", ["lonely", "orders"]),
        ("?show=busy", ["clicks", "orders"]),
        ("?show=paused", []),
        ("?show=trouble", []),
    ],
)
async def test_search_order_and_filters_are_in_the_address(query: str, expected: list[str]) -> None:
    page = await fetch(fake_console(CLUSTER), f"/{query}")
    if expected:
        assert names(page) == expected
    else:
        assert "No matches" in page.text


async def test_the_sorted_column_says_so_to_screen_readers() -> None:
    page = await fetch(fake_console(CLUSTER), "/?sort=depth")
    heads = {each.text: each.attributes.get("aria-sort") for each in page.all("thead", "th")}
    assert heads["Depth"] == "descending"
    assert set(heads.values()) == {None, "descending"}


async def test_ten_thousand_topics_are_shown_in_pages_of_fifty() -> None:
    shown = snapshot(
        *(
            topic(f"topic-{n:05}", [channel(f"topic-{n:05}", "c", client_count=5)], message_count=n)
            for n in range(10_000)
        ),
        nodes=[],
    )
    console = fake_console(shown, history=FakeHistory([float(n % 7) for n in range(60)]))
    page = await fetch(console, "/?sort=messages&page=3")
    assert names(page) == [f"topic-{n:05}" for n in range(9_899, 9_849, -1)]
    assert "101\N{EN DASH}150 of 10,000" in page.text
    links = {each.text: each["href"] for each in page.one("nav", class_="pages").all("a")}
    assert links == {
        "First": "/?sort=messages&order=desc",
        "Previous": "/?sort=messages&order=desc&page=2",
        "Next": "/?sort=messages&order=desc&page=4",
    }
    assert len(page.response.content) < 100_000


async def test_an_empty_cluster_shows_how_to_begin() -> None:
    page = await fetch(fake_console(snapshot()), "/")
    assert "No topics yet" in page.text
    assert "curl" in page.text


async def test_pages_say_loading_before_the_first_poll() -> None:
    console = fake_console(snapshot(at=0.0))
    for path in ("/", "/nodes", "/topics/a", "/topics/a/b", f"/nodes/{NODE}"):
        page = await fetch(console, path)
        assert "Loading" in page.text
        assert "No topics yet" not in page.text


async def test_sparklines_are_drawn_on_the_server() -> None:
    page = await fetch(fake_console(CLUSTER, history=FakeHistory([1.0, 5.0, 3.0])), "/")
    assert len(page.all("svg", class_="spark")) == 3


async def test_a_topic_shows_its_channels_and_nodes() -> None:
    other = "10.0.0.2:4151"
    shown = snapshot(
        topic(
            "orders",
            [
                channel(
                    "orders",
                    "mail",
                    nodes=[NODE, other],
                    depth=12,
                    backend_depth=2,
                    in_flight_count=3,
                    deferred_count=4,
                    requeue_count=5,
                    timeout_count=6,
                    message_count=70,
                    client_count=8,
                    out_rate=1.5,
                )
            ],
            nodes=[NODE, other],
            depth=9,
            backend_depth=1,
            message_count=80,
        )
    )
    page = await fetch(fake_console(shown), "/topics/orders")
    assert page.rows("Channels of orders") == [
        ["mail", "12", "10 + 2", "3", "4", "1.5", "5", "6", "70", "8", UNKNOWN]
    ]
    assert page.rows("orders on each node") == [
        ["host-10.0.0.1 10.0.0.1:4151", "21", "18 + 3", "80", "1", UNKNOWN, ""],
        ["host-10.0.0.2 10.0.0.2:4151", "21", "18 + 3", "80", "1", UNKNOWN, ""],
    ]
    assert page.one("tfoot").text == "All nodes 21 18 + 3 80 1 \N{EN DASH}"
    assert page.one("figure", id="chart-rates")["data-chart"] == "/series?topic=orders&span=15m"


async def test_figures_of_a_node_that_does_not_answer_are_marked_as_stale() -> None:
    held = topic("orders", [channel("orders", "mail", client_count=1)])
    shown = snapshot(held, nodes=[node(NODE, [held], trouble=problem())], problems=[problem()])
    for path in ("/topics/orders", "/topics/orders/mail"):
        page = await fetch(fake_console(shown), path)
        assert "stale" in page.text
        notice = page.one("section", aria_labelledby="problems-title").text
        assert NODE in notice
        assert "no answer within 5 s" in notice
        assert "since " + time.strftime("%H:%M:%S", time.localtime(NOW - 60)) in notice


async def test_the_page_of_an_unknown_topic_says_so() -> None:
    page = await fetch(fake_console(CLUSTER), "/topics/unheard-of", status=404)
    assert page.one("h1").text == "unheard-of"
    assert "No node has this topic" in page.text


async def test_the_page_of_a_topic_that_only_registries_know_says_so() -> None:
    page = await fetch(fake_console(snapshot(topic("a", nodes=()))), "/topics/a")
    assert "No producers" in page.text
    assert "No channels" in page.text


@pytest.mark.parametrize("paused", [False, True])
async def test_buttons_describe_their_action_and_ask_for_the_name(paused: bool) -> None:
    page = await fetch(fake_console(snapshot(topic("orders", paused=paused))), "/topics/orders")
    pause, empty, delete = page.one("div", class_="actions").all("button")
    assert pause.text == ("Unpause" if paused else "Pause")
    assert pause["data-body"] == ('{"action": "unpause"}' if paused else '{"action": "pause"}')
    assert "data-type" not in pause.attributes
    assert (empty["data-do"], empty["data-type"]) == ("POST", "orders")
    assert (delete["data-do"], delete["data-url"], delete["data-type"], delete["data-then"]) == (
        "DELETE",
        "/api/topics/orders",
        "orders",
        "/",
    )
    cross = page.one("button", class_="cross", data_type="orders")
    assert (cross["data-do"], cross["data-url"], cross["data-body"]) == (
        "DELETE",
        "/api/nodes/10.0.0.1%3A4151",
        '{"topic": "orders"}',
    )
    assert cross["aria-label"] == "Remove topic orders from 10.0.0.1:4151?"
