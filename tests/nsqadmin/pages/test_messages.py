"""The page of a channel's messages: states, nodes, bodies, and what can be done."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio.testing

from nsqadmin.console import Console
from nsqadmin.text import UNKNOWN
from tests.nsqadmin.pages.cluster import NODE, FakeQueries, channel, fake_console, node, snapshot, topic
from tests.nsqadmin.pages.messages import FakeUpstream, message, response
from tests.nsqadmin.pages.reading import Element, HtmlPage, fetch

OTHER = "10.0.0.2:4151"
THIRD = "10.0.0.3:4151"
PATH = "/messages/orders/mail"


def console_of(responses: dict[str, Any], *, originals: tuple[str, ...] = (), **options: Any) -> Console:
    """A channel on the nodes that have a response, the first with the most messages."""
    held = topic("orders", [channel("orders", "mail", nodes=list(responses), depth=9)], nodes=list(responses))
    nodes = [node(each, [held], can_drain=each not in originals, version="1.3.0") for each in responses]
    queries = FakeQueries(upstream=FakeUpstream(responses))
    return fake_console(snapshot(held, nodes=nodes), queries=queries, **options)


def asked(console: Console) -> list[tuple[str, dict[str, str]]]:
    upstream: Any = console.queries.upstream
    return upstream.asked  # type: ignore[no-any-return]


def sections(page: HtmlPage) -> dict[str, str]:
    """The text of each node's part."""
    found = {}
    for section in page.all("section", class_="card"):
        for link in section.all("h2", "a"):
            found[link.text] = section.text
    return found


def acting(page: HtmlPage) -> list[Element]:
    """The buttons of messages that ask before they act."""
    return [each for each in page.all("tbody", "button") if "data-do" in each.attributes]


async def test_messages_are_shown_for_each_node() -> None:
    console = console_of(
        {NODE: response(message(1, '{"a":1}')), OTHER: response(message(2, "plain", attempts=3))}
    )
    page = await fetch(console, PATH)
    assert list(sections(page)) == ["host-10.0.0.1", "host-10.0.0.2"]
    first = page.rows("Ready messages of orders / mail on host-10.0.0.1")[0]
    second = page.rows("Ready messages of orders / mail on host-10.0.0.2")[0]
    assert first[0] == f"{1:016x}"
    assert first[1] == 'JSON { "a": 1 } { "a": 1 } Copy Move'
    assert first[2] == "0"
    assert second[:4] == [f"{2:016x}", "text plain plain Copy Move", "3", "5 B"]
    assert [each.text for each in page.all("pre")] == ['{ "a": 1 }', "plain"]
    assert sorted(address for address, _ in asked(console)) == [NODE, OTHER]
    assert asked(console)[0][1] == {
        "topic": "orders",
        "channel": "mail",
        "state": "ready",
        "from": "0",
        "limit": "20",
        "max_bytes": "65536",
    }


async def test_states_are_tabs() -> None:
    console = console_of({NODE: response()})
    page = await fetch(console, f"{PATH}?state=deferred")
    tabs = page.one("nav", aria_label="Messages by state")
    assert [each.text for each in tabs.all("a")] == [
        "Ready",
        "In flight 0",
        "Requeued",
        "Deferred 0",
        "Leaving",
    ]
    assert tabs.one("a", aria_current="true")["href"] == f"{PATH}?state=deferred"
    assert asked(console)[0][1]["state"] == "deferred"
    own = await fetch(console, "/topics/orders/mail")
    links = own.one("nav", aria_label="Messages by state").all("a")
    assert [each["href"] for each in links] == [each["href"] for each in tabs.all("a")]


async def test_a_state_that_is_none_is_ready() -> None:
    console = console_of({NODE: response()})
    await fetch(console, f"{PATH}?state=none&from=x&node=none")
    assert (asked(console)[0][1]["state"], asked(console)[0][1]["from"]) == ("ready", "0")


async def test_who_has_a_message_in_flight_is_shown() -> None:
    consumer = {"client_id": "c", "hostname": "worker-1", "remote_address": "10.1.0.7:50312"}
    due = 4_000_000_000_000_000_000
    console = console_of({NODE: response(message(1, consumer=consumer, due=due), message(2, due=due))})
    page = await fetch(console, f"{PATH}?state=in_flight")
    first, second = page.rows("In flight messages")
    assert first[6] == "worker-1 10.1.0.7:50312"
    assert second[6] == UNKNOWN
    verbs = [each["data-verb"] for each in acting(page)]
    assert verbs == ["Requeue", "Give up", "Finish"] * 2


async def test_an_original_is_not_asked_and_said_to_be_one() -> None:
    console = console_of({NODE: response(message(1)), OTHER: response()}, originals=(OTHER,))
    page = await fetch(console, PATH)
    assert (
        "It is nsqd 1.3.0 of the original project, which cannot show its messages."
        in sections(page)["host-10.0.0.2"]
    )
    assert [address for address, _ in asked(console)] == [NODE]


async def test_nodes_that_cannot_answer_are_named_with_the_reason() -> None:
    unknown = r'GET http://x/channel/peek: got response 404 Not Found "{\"message\":\"NOT_FOUND\"}"'
    console = console_of({NODE: response(message(1)), OTHER: unknown, THIRD: "GET http://x: refused"})
    parts = sections(await fetch(console, PATH))
    assert "Its version of nsqd cannot show its messages." in parts["host-10.0.0.2"]
    assert "It cannot show its messages: GET http://x: refused" in parts["host-10.0.0.3"]
    assert f"{1:016x}" in parts["host-10.0.0.1"]


async def test_a_node_that_does_not_answer_holds_up_nobody(autojump_clock: trio.testing.MockClock) -> None:
    parts = sections(await fetch(console_of({NODE: response(message(1)), OTHER: None}), PATH))
    assert f"{1:016x}" in parts["host-10.0.0.1"]
    assert "It did not answer in time." in parts["host-10.0.0.2"]


async def test_the_next_page_is_of_one_node() -> None:
    console = console_of({NODE: response(message(1), following=17), OTHER: response(message(2))})
    page = await fetch(console, f"{PATH}?state=requeued&q=x")
    following = page.one("a", rel="next")["href"]
    assert following == f"{PATH}?state=requeued&q=x&node=10.0.0.1%3A4151&from=17"
    asked(console).clear()
    page = await fetch(console, following)
    assert [(address, params["from"], params["contains"]) for address, params in asked(console)] == [
        (NODE, "17", "x")
    ]
    assert page.one("a", href=f"{PATH}?state=requeued&q=x&node=10.0.0.2%3A4151&from=").text == (
        "host-10.0.0.2"
    )


async def test_of_many_nodes_the_fullest_are_asked() -> None:
    console = console_of({f"10.0.1.{number}:4151": response() for number in range(15)})
    page = await fetch(console, PATH)
    assert len(asked(console)) == 10
    assert len(page.one("main").all("p", class_="sub")[-3].all("a")) == 5


async def test_a_search_says_how_many_it_has_looked_at() -> None:
    console = console_of({NODE: response(examined=1000, count=20_000, following=1000)})
    page = await fetch(console, f"{PATH}?q=needle")
    assert "20,000 looked at 1,000" in page.text
    assert "No such message among those looked at." in page.text
    assert page.one("input", id="find-q")["value"] == "needle"


async def test_a_message_that_its_node_cannot_read_has_no_actions() -> None:
    nothing = dict.fromkeys(("id", "timestamp", "size", "truncated", "encoding", "body"))
    page = await fetch(console_of({NODE: response(message(1, **nothing))}), PATH)
    (row,) = page.rows("Ready messages")
    assert row == [UNKNOWN, UNKNOWN, "0", UNKNOWN, UNKNOWN, UNKNOWN]
    assert not page.all("tbody", "button")


async def test_finishing_is_confirmed_by_typing_the_id() -> None:
    page = await fetch(console_of({NODE: response(message(5))}), PATH)
    (button,) = [each for each in acting(page) if each["data-verb"] == "Finish"]
    assert (button["data-do"], button["data-url"], button["data-type"]) == (
        "POST",
        f"/api{PATH}",
        f"{5:016x}",
    )
    assert json.loads(button["data-body"]) == {
        "action": "finish",
        "node": NODE,
        "id": f"{5:016x}",
        "seq": "5",
    }
    assert page.one("a", download="")["href"] == f"/api{PATH}/{5:016x}?node=10.0.0.1%3A4151&seq=5"


async def test_the_page_is_not_renewed_by_itself() -> None:
    page = await fetch(console_of({NODE: response()}), PATH)
    assert "data-still" in page.one("main").attributes
    assert "data-still" not in (await fetch(console_of({NODE: response()}), "/")).one("main").attributes


@pytest.mark.parametrize("path", [PATH, f"{PATH}?node={NODE}"])
async def test_only_administrators_see_messages(path: str) -> None:
    console = console_of({NODE: response(message(1))}, admin_users=["ann"])
    page = await fetch(console, path, status=403)
    assert "only administrators can read them" in page.text
    assert asked(console) == []
    assert not page.all("form", id="publish")
    page = await fetch(console, path, headers={"X-Forwarded-User": "ann"})
    assert f"{1:016x}" in page.text
    assert page.one("form", id="publish")["data-publish"] == "/api/messages/orders"


async def test_a_missing_channel_is_not_found() -> None:
    page = await fetch(console_of({NODE: response()}), "/messages/orders/none", status=404)
    assert "No node has this channel" in page.text


async def test_what_can_be_delivered_again_is_shown() -> None:
    unknown = r'GET http://x/channel/seek: got response 404 Not Found "{\"message\":\"NOT_FOUND\"}"'
    console = console_of({NODE: response(), OTHER: response(), THIRD: response()}, originals=(THIRD,))
    upstream: Any = console.queries.upstream
    upstream.extents = {NODE: {"oldest": "2026-12-01T08:00:00.5Z", "since_ever": True}, OTHER: unknown}
    page = await fetch(console, PATH)
    assert [each.text for each in page.one("ul", aria_label="What can be delivered again").all("li")] == [
        "host-10.0.0.1: all messages since 2026-12-01T08:00:00.5Z , the first one",
        "host-10.0.0.2: Its version of nsqd has no replays.",
        "host-10.0.0.3: nsqd 1.3.0 of the original project keeps no finished messages.",
    ]
    form = page.one("form", id="seek")
    assert (form["data-seek"], form["data-channel"]) == ("/api/topics/orders/mail", "mail")
    assert [each["value"] for each in page.all("option") if "2026" in (each["value"] or "")] == [
        "2026-12-01T08:00:00.5Z"
    ]


async def test_nothing_to_be_delivered_again() -> None:
    console = console_of({NODE: response(), OTHER: response(), THIRD: response()})
    upstream: Any = console.queries.upstream
    ephemeral = r'GET http://x/channel/seek: got response 400 Bad Request "{\"message\":\"EPHEMERAL\"}"'
    upstream.extents = {OTHER: ephemeral, THIRD: "GET http://x: refused"}
    page = await fetch(console, PATH)
    assert [each.text for each in page.one("ul", aria_label="What can be delivered again").all("li")] == [
        "host-10.0.0.1: No message is there.",
        "host-10.0.0.2: Ephemeral topics and channels keep nothing.",
        "host-10.0.0.3: Not known: GET http://x: refused",
    ]


async def test_the_page_of_the_channel_leads_to_replays() -> None:
    page = await fetch(console_of({NODE: response()}), "/topics/orders/mail")
    assert f"{PATH}#replay" in [each["href"] for each in page.all("a")]


async def test_where_a_dead_letter_is_from_is_shown() -> None:
    origin = {"topic": "bills", "channel": "mail", "cause": "attempts", "attempts": 5, "last_ns": 0, "seq": 9}
    page = await fetch(console_of({NODE: response(message(1, origin=origin), message(2))}), PATH)
    first, second = [row for row in page.all("tr") if row.attributes.get("id", "").startswith("m-")]
    assert "from bills / mail, given up 1970-01-01 00:00:00 UTC after 5 attempts (attempts)" in first.text
    assert "given up" not in second.text
    assert "Give up" in second.text
    assert "Give up" not in first.text, "it is one already"


async def test_copying_asks_for_a_topic_and_moving_for_the_id_too() -> None:
    page = await fetch(console_of({NODE: response(message(5))}), PATH)
    copy, move = [each for each in page.all("tbody", "button") if "data-submit" in each.attributes]
    where = {"node": NODE, "id": f"{5:016x}", "seq": "5"}
    assert json.loads(copy["data-body"]) == {"action": "copy", **where}
    assert json.loads(move["data-body"]) == {"action": "move", **where}
    assert "data-type" not in copy.attributes
    assert move["data-type"] == f"{5:016x}"
    assert copy["data-title"].endswith("to topic {to}?")


async def test_dead_letters_are_shown_with_how_far_they_were_put_back() -> None:
    console = console_of({NODE: response(), OTHER: response(), THIRD: response()}, originals=(THIRD,))
    upstream: Any = console.queries.upstream
    dead = "orders.mail.dead"
    upstream.redrives = {
        NODE: {
            "state": "waiting",
            "reason": "the topic is paused",
            "moved": 3,
            "left": 1234,
            "dead_topic": dead,
        },
        OTHER: {"state": "none", "reason": "", "moved": 0, "left": 7, "dead_topic": dead},
        THIRD: None,  # it would not answer
    }
    page = await fetch(console, PATH)
    assert [each.text for each in page.one("ul", aria_label="Dead letters of this channel").all("li")] == [
        f"host-10.0.0.1: 1,234 in {dead} ; 3 put back, waiting: the topic is paused",
        f"host-10.0.0.2: 7 in {dead}",
    ]
    begin, stop = page.one("form", id="redrive").all("button")
    assert (begin["data-submit"], begin["data-url"]) == ("POST", "/api/topics/orders/mail")
    assert json.loads(begin["data-body"]) == {"action": "redrive"}
    assert json.loads(stop["data-body"]) == {"action": "stop_redrive"}


async def test_without_dead_letters_nothing_is_said_of_them() -> None:
    console = console_of({NODE: response(), OTHER: response()})
    upstream: Any = console.queries.upstream
    upstream.redrives = {OTHER: "GET http://x: refused"}
    page = await fetch(console, PATH)
    assert not page.all("form", id="redrive")
