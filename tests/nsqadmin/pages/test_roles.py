"""What a role may not do is not shown, and what is about topics that are not the user's neither."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

from nsqadmin.access import ROUTES, About
from nsqadmin.alarms.alarm import Alarm, Kind, Subject
from nsqadmin.auth import Identity, Means, Role
from nsqadmin.console import Console
from nsqadmin.model import Copies, Draining, Follower, StuckPlace
from nsqadmin.site import Site
from tests.nsqadmin.auth.people import logged_in, user, with_users
from tests.nsqadmin.pages.cluster import (
    NODE,
    FakeHistory,
    FakeQueries,
    channel,
    client,
    fake_console,
    held_copy,
    node,
    snapshot,
    topic,
)
from tests.nsqadmin.pages.reading import Element, HtmlPage, fetch, respond

PAGES = (
    "/",
    "/topics/orders",
    "/topics/orders/mail",
    "/nodes",
    f"/nodes/{NODE}",
    "/lookup",
    "/alarms",
    "/counter",
)
USERS = (
    user("viewer"),
    user("operator", Role.OPERATOR),
    user("admin", Role.ADMIN),
    user("of-orders", Role.OPERATOR, "ord*"),
    user("owner", Role.ADMIN, "ord*"),
)
SECRET = "hush.hush"
"""A topic that users with the pattern `ord*` must not hear of."""


def alarm(**subject: str) -> Alarm:
    where = subject.get("topic", "some node")
    return Alarm(kind=Kind.OLD, subject=Subject(**subject), since=1.0, text=f"old in {where}", advice="Look.")


@pytest.fixture
def console() -> Console:
    topics = [
        topic("orders", [channel("orders", "mail", depth=3)], depth=1, message_count=10, in_rate=1.0),
        topic(SECRET, [channel(SECRET, "mail", depth=500, client_count=1)], message_count=1000, in_rate=9.0),
    ]
    shown = node(
        NODE,
        topics,
        can_drain=True,
        health=f"OK - topic {SECRET} is refused",
        draining=Draining(
            1, 5, (StuckPlace(SECRET, "mail", 5, "paused"), StuckPlace("orders", "mail", 1, "paused"))
        ),
        copies=Copies(
            wanted=2,
            in_step=2,
            followers=(Follower("10.0.0.9:4159", False, "behind", troubles=((SECRET, "no room"),)),),
            held=(held_copy(),),
        ),
    )
    made = fake_console(
        snapshot(*topics, nodes=[shown]),
        clients=[client()],
        history=FakeHistory([1.0, 2.0]),
        queries=FakeQueries({"orders.old": ["c"], f"{SECRET}.old": ["c"]}),
        alarms=[alarm(topic="orders"), alarm(topic=SECRET, channel="mail"), alarm(node=NODE)],
        graphite_url="http://graphite",
        proxy_graphite=True,
    )
    return with_users(made, *USERS)


def requests_of(page: HtmlPage) -> list[tuple[str, str, Any]]:
    """What the buttons and forms of a page would send: method, path, body."""
    found = []
    for each in page.walk():
        given = each.attributes
        if "data-do" in given:
            body = json.loads(given["data-body"]) if given.get("data-body") else {}
            found.append((given["data-do"], given["data-url"], body))
        if "data-create" in given:
            found.append(("POST", given["data-create"], {"topic": "orders"}))
        if "data-publish" in given:
            found.append(("POST", given["data-publish"], {}))
    return found


def links_of(page: HtmlPage) -> list[str]:
    links: list[Element] = [each for each in page.all("a") if each["href"].startswith("/")]
    return [each["href"] for each in links]


def may(console: Console, identity: Identity, method: str, target: str, body: dict[str, str]) -> bool:
    """As the table has it."""
    parts = urlsplit(target)
    site = Site(console, None)  # type: ignore[arg-type]
    found = site._router._find(unquote(parts.path))
    assert found is not None, target
    need = ROUTES[method, found[0].path]
    about_body = need.about is not About.BODY or identity.topics.include(body["topic"])
    return need.is_met(identity, found[1], dict(parse_qsl(parts.query))) and about_body


def identity_named(name: str) -> Identity:
    [found] = [each for each in USERS if each.name == name]
    return Identity(name, Means.SESSION, found.role, found.topics)


@pytest.mark.parametrize("name", [each.name for each in USERS])
@pytest.mark.parametrize("path", PAGES)
async def test_every_button_and_link_leads_to_what_the_user_may_do(
    console: Console, path: str, name: str
) -> None:
    page, identity = await fetch(console, path, headers=logged_in(console, name)), identity_named(name)
    for method, target, body in requests_of(page):
        assert may(console, identity, method, target, body), (method, target, body)
    for link in links_of(page):
        if not link.startswith("/static"):
            assert may(console, identity, "GET", link, {}), link
    for image in page.all("img"):
        if not image["src"].startswith("/static"):
            assert may(console, identity, "GET", image["src"], {}), image["src"]
    for chart in page.all("figure", class_="chart"):
        assert may(console, identity, "GET", chart["data-chart"], {}), chart["data-chart"]


@pytest.mark.parametrize(
    ("name", "path", "count"),
    [
        ("admin", "/topics/orders", 4),
        ("operator", "/topics/orders", 4),
        ("of-orders", "/topics/orders", 4),
        ("viewer", "/topics/orders", 0),
        ("admin", "/topics/orders/mail", 3),
        ("viewer", "/topics/orders/mail", 0),
        ("operator", f"/nodes/{NODE}", 5),
        ("of-orders", f"/nodes/{NODE}", 1),
        ("viewer", f"/nodes/{NODE}", 0),
        ("operator", "/lookup", 5),
        ("of-orders", "/lookup", 3),
        ("viewer", "/lookup", 0),
    ],
)
async def test_there_are_as_many_buttons_as_a_user_may_press(
    console: Console, name: str, path: str, count: int
) -> None:
    page = await fetch(console, path, headers=logged_in(console, name))
    assert len(requests_of(page)) == count


@pytest.mark.parametrize(
    ("name", "sees"), [("admin", True), ("owner", True), ("operator", False), ("viewer", False)]
)
async def test_the_way_to_the_messages_is_shown_to_administrators(
    console: Console, name: str, sees: bool
) -> None:
    page = await fetch(console, "/topics/orders/mail", headers=logged_in(console, name))
    assert any("/messages/" in link for link in links_of(page)) == sees


@pytest.mark.parametrize("path", PAGES)
async def test_a_user_with_topics_hears_of_no_other(console: Console, path: str) -> None:
    for name in ("of-orders", "owner"):
        page = await fetch(console, path, headers=logged_in(console, name))
        assert "hush" not in page.response.text
    everything = await fetch(console, path, headers=logged_in(console, "viewer"))
    mentioned = path not in ("/topics/orders", "/topics/orders/mail", "/counter")
    assert ("hush" in everything.response.text) == mentioned


async def test_the_sums_of_a_user_with_topics_are_of_these(console: Console) -> None:
    page = await fetch(console, "/", headers=logged_in(console, "owner"))
    assert "1 node, 1 topic, 1 channel" in page.one("p", class_="sub").text
    tiles = [each.text for each in page.all("dl", "dd")]
    assert tiles[0] == "1 /s"
    assert "10 in total" in tiles[1]
    assert page.all("figure") == [], "the history is of the whole cluster"
    counter = await fetch(console, "/counter", headers=logged_in(console, "owner"))
    assert "in 1 channel" in counter.one("main").text


async def test_figures_of_nodes_are_those_of_the_whole_node(console: Console) -> None:
    for name in ("owner", "viewer"):
        page = await fetch(console, "/nodes", headers=logged_in(console, name))
        assert page.rows("All nodes")[0][4] == "504"


async def test_a_user_with_topics_sees_the_alarms_of_these(console: Console) -> None:
    for name, count in (("owner", 1), ("viewer", 3)):
        page = await fetch(console, "/alarms", headers=logged_in(console, name))
        assert len(page.one("ul", class_="alarms").all("li")) == count
        assert page.one("span", id="alarm-count").text == str(count)
        api = (await respond(console, "/api/alarms", headers=logged_in(console, name))).json()
        assert len(api["alarms"]) == count


async def test_a_page_says_who_he_is_and_what_he_may_not(console: Console) -> None:
    page = await fetch(console, "/", headers=logged_in(console, "of-orders"))
    assert page.one("form", class_="who").one("span")["title"] == "of-orders, operator, topics ord*"
    assert "Your topics: ord*" in page.one("footer").text
    viewer = await fetch(console, "/", headers=logged_in(console, "viewer"))
    assert "Read-only: you are a viewer" in viewer.one("footer").text


async def test_scripts_of_others_are_told_whether_a_user_may_change_something(console: Console) -> None:
    for name, told in (("viewer", "false"), ("operator", "true")):
        page = await fetch(console, "/", headers=logged_in(console, name))
        assert f"var IS_ADMIN = {told};" in page.response.text
