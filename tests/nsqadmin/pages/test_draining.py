"""A draining node on every page that shows it, and the panel of its own page."""

from __future__ import annotations

import time

import msgspec
import pytest

from nsqadmin.cluster.snapshot import ClusterSnapshot
from nsqadmin.model import Copies, Draining, StuckPlace
from tests.nsqadmin.pages.cluster import NODE, NOW, channel, fake_console, node, problem, snapshot, topic
from tests.nsqadmin.pages.reading import HtmlPage, fetch

OTHER = "10.0.0.2:4151"
SINCE = int(NOW) - 200
STUCK = (
    StuckPlace("lonely", "", 3, "no channel"),
    StuckPlace("orders", "mail", 12_345, "paused"),
    StuckPlace("orders", "later#ephemeral", 1, "deferred"),
    StuckPlace("orders", "audit", 2, "no consumer"),
)
DRAIN = Draining(SINCE, 12_400, STUCK, 2)


def cluster(drain: Draining | None, *, unreachable: bool = False) -> ClusterSnapshot:
    held = topic("orders", [channel("orders", "mail", nodes=[NODE, OTHER])], nodes=[NODE, OTHER])
    trouble = problem() if unreachable else None
    nodes = [node(NODE, [held], draining=drain, trouble=trouble), node(OTHER, [held])]
    return snapshot(held, nodes=nodes, problems=[trouble] if trouble else [])


async def panel(drain: Draining, *, unreachable: bool = False) -> str:
    page = await fetch(fake_console(cluster(drain, unreachable=unreachable)), f"/nodes/{NODE}")
    return page.one("section", id="drain").text


async def front(shown: ClusterSnapshot) -> HtmlPage:
    return await fetch(fake_console(shown), "/")


async def test_the_nodes_page_shows_the_messages_left_on_a_draining_node() -> None:
    page = await fetch(fake_console(cluster(DRAIN)), "/nodes")
    assert [row[0] for row in page.rows("All nodes")] == [
        "host-10.0.0.1 draining, 12.4k left 10.0.0.1",
        "host-10.0.0.2 10.0.0.2",
    ]
    assert page.one("tr", class_="caution")["id"] == f"n-{NODE}"


async def test_a_drain_of_unknown_size_is_shown_without_a_number() -> None:
    page = await fetch(fake_console(cluster(Draining())), "/nodes")
    assert page.rows("All nodes")[0][0] == "host-10.0.0.1 draining 10.0.0.1"
    text = await panel(Draining())
    assert "The number of remaining messages is unknown." in text
    assert "began at" not in text
    assert "no action is needed" not in text


async def test_topic_and_channel_mark_a_draining_node() -> None:
    console = fake_console(cluster(DRAIN))
    for path, caption in (("/topics/orders", "orders on each"), ("/topics/orders/mail", "orders / mail on")):
        page = await fetch(console, path)
        first, second = page.rows(caption)
        assert first[0] == f"host-10.0.0.1 draining {NODE}"
        assert second[0] == f"host-10.0.0.2 {OTHER}"


async def test_the_front_page_counts_the_draining_nodes() -> None:
    link = (await front(cluster(DRAIN))).one("a", id="draining")
    assert (link.text, link["href"]) == ("1 node draining", "/nodes")
    both = snapshot(nodes=[node(NODE, draining=DRAIN), node(OTHER, draining=DRAIN)])
    assert (await front(both)).one("a", id="draining").text == "2 nodes draining"
    for shown in (cluster(None), cluster(DRAIN, unreachable=True)):
        assert not (await front(shown)).all("a", id="draining")


async def test_the_page_of_a_draining_node_says_what_is_left_and_what_to_do() -> None:
    page = await fetch(fake_console(cluster(DRAIN)), f"/nodes/{NODE}")
    assert page.one("h1").text == "host-10.0.0.1 draining, 12.4k left"
    shown = page.one("section", id="drain")
    assert shown.one("strong", id="drain-title").text == "This node is draining."
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(SINCE))
    assert f"12.4k messages are left. The drain began at {began}, 3 min 20 s ago." in shown.text
    assert [each.text for each in shown.all("li")] == [
        "lonely no channel 3 messages: create a channel for them, or delete the topic",
        "orders / mail paused 12.3k messages: unpause it",
        "orders / later#ephemeral deferred 1 message: wait until they are due",
        "orders / audit no consumer 2 messages: start a consumer, or empty or delete the channel",
        "and 2 more",
    ]
    assert [each["href"] for each in shown.all("a")] == [
        "/topics/lonely",
        "/topics/orders/mail",
        "/topics/orders/later%23ephemeral",
        "/topics/orders/audit",
    ]
    assert "With --drain-timeout it exits after that time in any case." in shown.text


async def test_a_drain_without_stuck_messages_needs_no_action() -> None:
    text = await panel(Draining(SINCE, 1))
    assert "1 message is left." in text
    assert "no action is needed" in text
    assert "--drain-timeout" not in text


async def test_a_drain_says_when_it_will_be_done() -> None:
    drain, held = Draining(SINCE, 600), topic("orders")
    shown = snapshot(held, nodes=[msgspec.structs.replace(node(NODE, [held], draining=drain), out_rate=2.5)])
    page = await fetch(fake_console(shown), f"/nodes/{NODE}")
    assert "At this rate they are finished in 4 min." in page.one("section", id="drain").text
    assert "At this rate" not in await panel(drain), "nothing is finished"


async def test_a_drain_is_begun_by_typing_the_address_and_cancelled_by_a_click() -> None:
    shown = snapshot(nodes=[node(can_drain=True)])
    [begin] = (await fetch(fake_console(shown), f"/nodes/{NODE}")).one("div", class_="actions").all("button")
    assert (begin.text, begin["data-do"], begin["data-url"]) == (
        "Drain",
        "POST",
        "/api/nodes/10.0.0.1%3A4151",
    )
    assert (begin["data-body"], begin["data-type"]) == ('{"action": "drain"}', NODE)
    assert begin["data-title"] == f"Drain host-10.0.0.1 ({NODE})?"
    shown = snapshot(nodes=[node(can_drain=True, draining=DRAIN)])
    [cancel] = (await fetch(fake_console(shown), f"/nodes/{NODE}")).one("div", class_="actions").all("button")
    assert (cancel.text, cancel["data-body"]) == ("Cancel the drain", '{"action": "cancel_drain"}')
    assert "data-type" not in cancel.attributes


@pytest.mark.parametrize("draining", [None, DRAIN])
async def test_a_node_with_a_follower_in_step_can_be_handed_over(draining: Draining | None) -> None:
    shown = snapshot(nodes=[node(can_drain=True, draining=draining, copies=Copies(2, 2))])
    page = await fetch(fake_console(shown), f"/nodes/{NODE}")
    [hand_over, _] = page.one("div", class_="actions").all("button")
    assert (hand_over.text, hand_over["data-body"]) == ("Hand over", '{"action": "hand_over"}')
    assert hand_over["data-type"] == NODE
    shown = snapshot(nodes=[node(can_drain=True, draining=draining, copies=Copies(2, 1))])
    page = await fetch(fake_console(shown), f"/nodes/{NODE}")
    assert len(page.one("div", class_="actions").all("button")) == 1


async def test_there_is_no_button_to_drain_what_cannot_be_drained() -> None:
    for each in (node(), node(can_drain=True, trouble=problem())):
        page = await fetch(fake_console(snapshot(nodes=[each])), f"/nodes/{NODE}")
        assert not page.all("div", class_="actions")
    console = fake_console(snapshot(nodes=[node(can_drain=True)]), admin_users=["ann"])
    assert not (await fetch(console, f"/nodes/{NODE}")).all("div", class_="actions")


async def test_unreadable_stuck_places_are_counted() -> None:
    assert "Messages are stuck in 3 places." in await panel(Draining(SINCE, 9, (), 3))


async def test_an_unknown_reason_is_shown_without_advice() -> None:
    text = await panel(Draining(SINCE, 5, (StuckPlace("<b>", "x", 5, "<i>moon"),)))
    assert "<b> / x <i>moon 5 messages With" in text


async def test_a_draining_node_that_does_not_answer_may_have_exited() -> None:
    shown = cluster(DRAIN, unreachable=True)
    assert "This node was draining. It does not answer any more, and may have exited" in await panel(
        DRAIN, unreachable=True
    )
    page = await fetch(fake_console(shown), "/nodes")
    assert page.rows("All nodes")[0][0] == "host-10.0.0.1 no answer was draining 10.0.0.1"
    page = await fetch(fake_console(shown), "/topics/orders")
    assert page.rows("orders on each")[0][0] == f"host-10.0.0.1 stale was draining {NODE}"


@pytest.mark.parametrize("path", ["/", "/nodes", f"/nodes/{NODE}", "/topics/orders", "/topics/orders/mail"])
async def test_pages_without_a_drain_do_not_mention_it(path: str) -> None:
    assert "draining" not in (await fetch(fake_console(cluster(None)), path)).text
