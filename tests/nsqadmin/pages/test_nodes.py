"""The pages of nodes and of the registries, and the counter."""

from __future__ import annotations

import msgspec
import trio
import trio.testing

from nsqadmin.cluster.snapshot import NodeSnapshot, Usage
from nsqadmin.text import UNKNOWN
from tests.nsqadmin.pages.cluster import (
    NODE,
    FakeQueries,
    channel,
    client,
    fake_console,
    node,
    problem,
    snapshot,
    topic,
)
from tests.nsqadmin.pages.reading import fetch


def using(shown: NodeSnapshot, usage: Usage) -> NodeSnapshot:
    """The same node, which uses this."""
    return msgspec.structs.replace(shown, usage=usage)


OTHER = "10.0.0.2:4151"


async def test_all_nodes_are_listed_with_badges() -> None:
    held = topic("orders", nodes=[NODE, OTHER], depth=3, message_count=40)
    nodes = [
        node(NODE, [held], topology_region="eu", topology_zone="a"),
        node(
            OTHER,
            [held],
            version="1.3.0",
            out_of_date=True,
            remote_addresses=["10.9.0.1:4161/10.0.0.2:9"],
            tombstoned=["orders"],
            trouble=problem(OTHER),
        ),
    ]
    page = await fetch(fake_console(snapshot(held, nodes=nodes)), "/nodes")
    first, second = page.rows("All nodes")
    assert first == [
        "host-10.0.0.1 10.0.0.1", "4150", "4151", "1.4.0", "3", "0", "40", *[UNKNOWN] * 4, "0", "eu", "a", "2",
        "1 orders",
    ]  # fmt: skip
    assert second[0] == "host-10.0.0.2 no answer 10.0.0.2"
    assert second[14:] == ["1 of 2", "1 orders orders tombstoned"]
    assert (
        page.one("span", class_="warn", title="Lower than the highest version in the cluster").text == "1.3.0"
    )


async def test_nodes_on_one_host_are_told_apart() -> None:
    addresses = ["10.0.0.1:4151", "10.0.0.1:4251", OTHER, "10.0.0.3:4151"]
    titles = ["host-10.0.0.1:4151", "host-10.0.0.1:4251", "host-10.0.0.2", "10.0.0.3:4151"]
    held = topic("orders", [channel("orders", "mail", nodes=addresses, client_count=1)], nodes=addresses)
    nodes = [node(each, [held]) for each in addresses[:3]] + [node(addresses[3], [held], hostname="")]
    console = fake_console(snapshot(held, nodes=nodes))
    for path, caption in (
        ("/nodes", "All nodes"),
        ("/topics/orders", "orders on each node"),
        ("/topics/orders/mail", "orders / mail on each node"),
    ):
        shown = [row[0].split()[0] for row in (await fetch(console, path)).rows(caption)]
        assert sorted(shown) == sorted(titles), path
    for address, title in zip(addresses, titles, strict=True):
        assert (await fetch(console, f"/nodes/{address}")).one("h1").text == title


async def test_without_registries_the_registries_column_is_missing() -> None:
    shown = snapshot(topic("a"))
    page = await fetch(fake_console(shown, nsqd_http_addresses=[NODE]), "/nodes")
    assert "Registries" not in page.text
    assert "As configured" in page.text


async def test_an_unhealthy_node_shows_the_reason() -> None:
    shown = snapshot(nodes=[node(health="NOK - disk is full")])
    for path in ("/nodes", f"/nodes/{NODE}"):
        page = await fetch(fake_console(shown), path)
        assert page.one("span", class_="badge", title="NOK - disk is full").text == "unhealthy"


async def test_nodes_show_what_they_use() -> None:
    usage = Usage(0.1234, 50 * 2**20, 2.5 * 2**30, 3 * 2**20, 0.0004, missing="")
    shown = snapshot(nodes=[using(node(), usage), node(OTHER)])
    console = fake_console(shown)
    page = await fetch(console, "/nodes?sort=cpu")
    assert [row[7:11] for row in page.rows("All nodes")] == [
        ["12.3 %", "50.0 MiB", "2.50 GiB", "400 µs"],
        [UNKNOWN] * 4,
    ]
    assert len(page.all("span", title="Its first answer is still to come")) == 4
    _, tiles = (await fetch(console, f"/nodes/{NODE}")).all("dl")
    for text in (
        "12.3 % of one core",
        "50.0 MiB resident",
        "2.50 GiB where its data is",
        "3.00 MiB of all",
        "400 µs on average",
    ):
        assert text in tiles.text


async def test_a_figure_that_the_next_update_tells_says_so() -> None:
    usage = Usage(memory_bytes=1, missing="")
    page = await fetch(fake_console(snapshot(nodes=[using(node(), usage)])), f"/nodes/{NODE}")
    assert len(page.all("span", title="Known with the next update")) == 4


async def test_a_cluster_without_nodes_says_so() -> None:
    assert "No nsqd has registered" in (await fetch(fake_console(snapshot()), "/nodes")).text


async def test_a_node_shows_topics_channels_and_consumers() -> None:
    held = topic("orders", [channel("orders", "mail", depth=5, client_count=12)], depth=3, message_count=40)
    shown = snapshot(held, nodes=[node(NODE, [held], tombstoned=["orders"])])
    clients = [client(f"w{n}") for n in range(12)]
    page = await fetch(fake_console(shown, clients=clients), f"/nodes/{NODE}")
    rows = page.rows("Topics on this node")
    assert rows[0][:4] == ["orders tombstoned", "3", "3 + 0", "40"]
    assert rows[1][:9] == ["mail", "5", "5 + 0", "0", "0", "0", "0", "0", "12"]
    details = page.one("details")
    assert details.one("summary").text == "12 consumers"
    assert len(details.all("li")) == 11
    assert details.all("li")[-1].text == "2 more"
    assert "up for 1 h 1 min" in page.one("dl").text
    assert "loop lag are unknown. Its first answer is still to come." in page.text
    assert page.one("button", class_="cross", data_do="DELETE")["data-url"] == "/api/nodes/10.0.0.1%3A4151"


async def test_the_topics_of_a_node_are_paged() -> None:
    held = [topic(f"t{n:04}", [channel(f"t{n:04}", "c")]) for n in range(1_000)]
    page = await fetch(fake_console(snapshot(*held)), f"/nodes/{NODE}?page=2")
    assert page.rows("Topics on this node")[0][0] == "t0025"
    assert "26\N{EN DASH}50 of 1,000" in page.text


async def test_a_hanging_node_does_not_delay_its_page(autojump_clock: trio.testing.MockClock) -> None:
    held = topic("orders", [channel("orders", "mail", client_count=2)])
    page = await fetch(fake_console(snapshot(held), hangs=True), f"/nodes/{NODE}")
    assert page.rows("Topics on this node")[1][0] == "mail"


async def test_the_page_of_an_unknown_node_says_so() -> None:
    assert "No such node" in (await fetch(fake_console(snapshot()), f"/nodes/{NODE}", status=404)).text


async def test_the_lookup_page_lists_topics_that_only_registries_know() -> None:
    shown = snapshot(problems=[problem("10.9.0.2:4161", kind="nsqlookupd", error="connection refused")])
    console = fake_console(shown, queries=FakeQueries({"old": ["a", "b"], "older": []}))
    page = await fetch(console, "/lookup")
    registries = [each.text for each in page.one("ul", class_="list").all("li")]
    assert registries == ["10.9.0.1:4161 answers", "10.9.0.2:4161 no answer connection refused"]
    assert [each.text for each in page.one("ul", class_="tree").all("a")] == ["old", "a", "b", "older"]
    crosses = page.one("ul", class_="tree").all("button")
    assert [each["data-url"] for each in crosses] == [
        "/api/topics/old",
        "/api/topics/old/a",
        "/api/topics/old/b",
        "/api/topics/older",
    ]
    form = page.one("form", class_="create")
    assert form["data-create"] == "/api/topics"
    assert [each["name"] for each in form.all("input")] == ["topic", "channel"]


async def test_the_lookup_page_names_failing_registries() -> None:
    page = await fetch(fake_console(snapshot(), queries=FakeQueries(fails=True)), "/lookup")
    assert "10.9.0.1:4161: connection refused" in page.text
    assert "Every topic that the registries know" not in page.text


async def test_hanging_registries_do_not_delay_the_lookup_page(
    autojump_clock: trio.testing.MockClock,
) -> None:
    page = await fetch(fake_console(snapshot(), queries=FakeQueries(hangs=True)), "/lookup")
    assert "did not answer within 4 s" in page.text


async def test_the_lookup_page_without_registries_says_so() -> None:
    page = await fetch(fake_console(snapshot(), nsqd_http_addresses=[NODE]), "/lookup")
    assert "No registries" in page.text
    assert not page.all("form", class_="create")


async def test_the_counter_sums_up_the_messages_of_all_channels() -> None:
    shown = snapshot(
        topic("a", [channel("a", "b", message_count=1_000_000, in_rate=10.0)], message_count=5),
        topic("c", [channel("c", "d", message_count=234_567, in_rate=2.5)]),
    )
    page = await fetch(fake_console(shown), "/counter")
    assert page.one("output").text == "1,234,567"
    assert page.one("div", id="counter")["data-count"] == "1234567"
    assert page.one("div", id="counter")["data-rate"] == "12.500"
