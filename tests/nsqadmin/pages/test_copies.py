"""Copies on the page of a node, badges for missing ones and for stand-ins, and who can adopt what."""

from __future__ import annotations

import json

import msgspec
import pytest

from nsqadmin.model import Copies, Follower, HeldCopy
from nsqadmin.text import UNKNOWN
from tests.nsqadmin.pages.cluster import LIFE, NODE, fake_console, held_copy, node, problem, snapshot
from tests.nsqadmin.pages.reading import HtmlPage, fetch

HOLDER = "10.0.0.2:4151"
STAND_IN = "10.0.0.2:4171"
FOLLOWERS = (
    Follower("10.0.0.2:4159", True, "in step", 0, 4096),
    Follower("10.0.0.3:4159", False, "not connected"),
    Follower("10.0.0.4:4159", False, "catching up", 12_345, 2**20, (("topic-orders", "it has more"),), 3),
)
MISSING = Copies(4, 2, FOLLOWERS)


async def page_of(
    *, copies: Copies | None, health: str = "OK", admin_users: tuple[str, ...] = ()
) -> HtmlPage:
    shown = snapshot(nodes=[node(NODE, copies=copies, health=health)])
    return await fetch(fake_console(shown, admin_users=list(admin_users)), f"/nodes/{NODE}")


async def holder_page(*held: HeldCopy, more: int = 0, answering: bool = True) -> HtmlPage:
    trouble = None if answering else problem(HOLDER)
    holder = node(HOLDER, copies=Copies(1, 1, held=held, more_held=more), trouble=trouble)
    return await fetch(fake_console(snapshot(nodes=[node(NODE), holder])), f"/nodes/{HOLDER}")


async def test_the_page_of_a_leader_shows_its_followers() -> None:
    page = await page_of(copies=MISSING)
    assert page.rows("Nodes that keep a copy") == [
        ["10.0.0.2:4159", "in step", "0", "4.00 KiB"],
        ["10.0.0.3:4159", "out of step not connected", UNKNOWN, "0 B"],
        [
            "10.0.0.4:4159",
            "out of step catching up topic-orders: it has more; nothing of it is copied and 3 more topics",
            "12.3k",
            "1.00 MiB",
        ],
    ]
    assert "2 of 4 copies are in step, its own included" in page.one("section", id="followers").text
    assert not page.all("section", id="held")


async def test_what_keeps_others_from_taking_over_is_said() -> None:
    page = await page_of(copies=Copies(2, 2, FOLLOWERS[:1], obstacle="2 nsqlookupds are configured"))
    said = page.one("section", id="followers").text
    assert "If this node is lost, nobody adopts them by itself: 2 nsqlookupds are configured" in said
    waiting = msgspec.structs.replace(held_copy(), undecided="1 of its 3 nsqlookupds agree")
    page = await holder_page(waiting)
    assert "Not adopted by itself: 1 of its 3 nsqlookupds agree" in page.one("section", id="held").text


@pytest.mark.parametrize("path", ["/nodes", f"/nodes/{NODE}"])
async def test_a_node_with_too_few_copies_has_a_badge_and_is_not_unhealthy(path: str) -> None:
    shown = snapshot(nodes=[node(NODE, copies=MISSING, health="OK - 2 of 3 copies")])
    page = await fetch(fake_console(shown), path)
    badge = page.one("span", class_="badge", title=(
        "Copies of its messages that are in step, its own included; 10.0.0.3:4159: not connected; "
        "10.0.0.4:4159: catching up"
    ))  # fmt: skip
    assert badge.text == "2 of 4 copies"
    assert "unhealthy" not in page.text


@pytest.mark.parametrize("copies", [None, Copies(2, 2), Copies(1, 1, held=(held_copy(),))])
async def test_other_nodes_have_no_such_badge(copies: Copies | None) -> None:
    page = await fetch(fake_console(snapshot(nodes=[node(NODE, copies=copies)])), "/nodes")
    assert page.rows("All nodes")[0][0] == "host-10.0.0.1 10.0.0.1"


async def test_a_node_that_refuses_publishes_is_unhealthy_too() -> None:
    page = await page_of(copies=MISSING, health="NOK - 1 of at least 2 copies are in step")
    assert page.one("h1").text == "host-10.0.0.1 unhealthy 2 of 4 copies"


async def test_the_original_has_no_copies() -> None:
    page = await page_of(copies=None)
    assert not page.all("section", id="followers")
    assert not page.all("section", id="held")


@pytest.mark.parametrize(
    ("copy", "state", "adoptable"),
    [
        (held_copy(silent_seconds=200.0), "silent for 3 min 20 s", True),
        (held_copy(), "not connected", True),
        (held_copy(connected=True, silent_seconds=0.5), "connected", False),
        (held_copy(complete=False, silent_seconds=5.0), "silent for 5 s not complete", False),
        (held_copy(connected=True, clock_skew_seconds=-4.9), "connected", False),
        (held_copy(connected=True, clock_skew_seconds=-8.0), "connected clocks differ", False),
        (held_copy(adopted=True, complete=False), "adopted", False),
    ],
)
async def test_the_state_of_a_held_copy_and_whether_it_can_be_adopted(
    copy: HeldCopy, state: str, adoptable: bool
) -> None:
    page = await holder_page(copy)
    assert page.rows("Copies of other nodes") == [
        [f"10.0.0.1:4150 life {LIFE}", state, "4.00 KiB", UNKNOWN, "Adopt" if adoptable else ""]
    ]
    assert page.one("section", id="held").one("a")["href"] == "/nodes/10.0.0.1%3A4151"


async def test_the_name_of_the_leader_confirms_an_adoption() -> None:
    button = (await holder_page(held_copy())).one("section", id="held").one("button")
    assert (button["data-do"], button["data-url"]) == ("POST", "/api/nodes/10.0.0.2%3A4151")
    assert json.loads(button["data-body"]) == {"action": "adopt_copy", "life": LIFE}
    assert button["data-type"] == "10.0.0.1:4150"
    assert "cannot be undone" in button["data-text"]


async def test_a_silent_holder_cannot_adopt() -> None:
    assert not (await holder_page(held_copy(), answering=False)).one("section", id="held").all("button")


async def test_only_administrators_can_adopt() -> None:
    page = await page_of(copies=Copies(1, 1, held=(held_copy(),)), admin_users=("ann",))
    assert not page.one("section", id="held").all("button")


async def test_copies_that_are_not_shown_are_counted() -> None:
    page = await holder_page(held_copy(), more=7)
    assert page.one("h2", id="held-title").text.endswith("8")
    assert page.rows("Copies of other nodes")[1] == ["and 7 more"]


async def test_a_copy_of_a_node_that_is_gone_has_no_link() -> None:
    page = await holder_page(held_copy("10.0.0.9:4150"))
    assert not page.one("section", id="held").all("a")


async def test_a_stand_in_and_its_copy_lead_to_each_other() -> None:
    copy = held_copy(adopted=True, stand_in_port=4170)
    nodes = [node(HOLDER, copies=Copies(1, 1, held=(copy,))), node(STAND_IN, can_drain=True)]
    console = fake_console(snapshot(nodes=nodes))
    held = (await fetch(console, f"/nodes/{HOLDER}")).one("section", id="held")
    assert held.one("a", href="/nodes/10.0.0.2%3A4171").text == "10.0.0.2:4170"
    page = await fetch(console, f"/nodes/{STAND_IN}")
    assert page.one("h1").text == "host-10.0.0.2:4171 stand-in for 10.0.0.1:4150"
    assert not page.all("div", class_="actions"), "it drains until it is empty"
    listed = (await fetch(console, "/nodes")).rows("All nodes")
    assert [row[0] for row in listed] == [
        "host-10.0.0.2:4151 10.0.0.2",
        "host-10.0.0.2:4171 stand-in for 10.0.0.1:4150 10.0.0.2",
    ]


async def test_a_stand_in_that_no_registry_lists_is_named() -> None:
    page = await holder_page(held_copy(adopted=True, stand_in_port=4170))
    assert page.rows("Copies of other nodes")[0][3] == "10.0.0.2:4170"
