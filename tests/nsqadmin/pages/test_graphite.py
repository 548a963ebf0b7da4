"""Images from Graphite: the names of their series."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from nsqadmin.options import AdminOptions
from nsqadmin.pages.graphite import _target, node_graphs, topic_graphs
from nsqkit.service.statsd_prefix import expand_prefix
from tests.nsqadmin.pages.cluster import NODE, channel, fake_console, snapshot, topic
from tests.nsqadmin.pages.reading import HtmlPage, fetch

GRAPHITE: dict[str, Any] = {"graphite_url": "http://graphite.example:8080"}


async def page_with(path: str, **options: Any) -> HtmlPage:
    shown = snapshot(topic("orders", [channel("orders", "mail")]))
    return await fetch(fake_console(shown, **options), path)


def targets(page: HtmlPage) -> list[list[str]]:
    return [parse_qs(urlsplit(each["src"]).query)["target"] for each in page.all("img", class_="graphite")]


async def test_there_is_no_graphite_section_without_the_option() -> None:
    assert "Graphite" not in (await page_with("/topics/orders")).text


async def test_series_of_a_topic_are_those_of_all_nodes() -> None:
    page = await page_with("/topics/orders", **GRAPHITE)
    assert targets(page) == [
        ['alias(sumSeries(stats.counters.nsq.*.topic.orders.message_count.count),"messages")'],
        [
            'alias(sumSeries(stats.gauges.nsq.*.topic.orders.depth),"depth")',
            'alias(sumSeries(stats.gauges.nsq.*.topic.orders.backend_depth),"on disk")',
        ],
    ]
    first = page.all("img", class_="graphite")[0]
    assert first["src"].startswith("http://graphite.example:8080/render?")
    assert "from=-2h&" in first["src"]


async def test_series_of_a_channel_have_the_configured_formats() -> None:
    options = {"statsd_prefix": "x.%s.y", "statsd_counter_format": "%s", "statsd_gauge_format": "g.%s"}
    page = await page_with("/topics/orders/mail", **GRAPHITE, **options)
    counters, gauges, consumers = targets(page)
    assert counters[0] == 'alias(sumSeries(x.*.y.topic.orders.channel.mail.message_count),"message")'
    assert gauges[2] == 'alias(sumSeries(g.x.*.y.topic.orders.channel.mail.deferred_count),"deferred")'
    assert consumers == ['alias(sumSeries(g.x.*.y.topic.orders.channel.mail.clients),"consumers")']


async def test_series_of_memory_are_those_of_one_node() -> None:
    page = await page_with(f"/nodes/{NODE}", **GRAPHITE)
    assert targets(page)[0][0] == (
        'alias(sumSeries(stats.gauges.nsq.10_0_0_1_4151.mem.heap_in_use_bytes),"heap in use")'
    )


def test_a_node_with_an_ipv6_address_has_the_name_that_it_sends() -> None:
    graphs = node_graphs("[fd00::1]:4151")
    prefix = expand_prefix("nsq.%s", "fd00::1:4151")  # as nsqd sends it
    options = AdminOptions(graphite_url="http://g")
    assert all(f".{prefix}mem." in _target(options, graph.node, *graph.keys[0]) for graph in graphs)


async def test_images_come_from_the_console_if_it_is_the_proxy() -> None:
    page = await page_with("/topics/orders", **GRAPHITE, proxy_graphite=True, base_path="/adm")
    assert all(each["src"].startswith("/adm/render?") for each in page.all("img", class_="graphite"))
    assert "graphite.example" not in page.headers["content-security-policy"]
    assert 'var GRAPHITE_URL = "";' in page.response.text
    assert "var GRAPH_ENABLED = true;" in page.response.text


@pytest.mark.parametrize(
    ("query", "chosen", "images"), [("", "2h", 2), ("?t=48h", "48h", 2), ("?t=off", "off", 0)]
)
async def test_the_time_range_of_images_can_be_chosen(query: str, chosen: str, images: int) -> None:
    page = await page_with(f"/topics/orders{query}", **GRAPHITE)
    menu = page.one("nav", aria_label="Time range of Graphite")
    assert [each.text for each in menu.all("a")] == ["1h", "2h", "12h", "24h", "48h", "168h", "off"]
    assert menu.one("a", aria_current="true").text == chosen
    assert len(page.all("img", class_="graphite")) == images


async def test_a_password_in_the_url_is_not_in_the_policy() -> None:
    page = await page_with("/", graphite_url="http://user:secret@graphite.example")
    assert "img-src 'self' http://graphite.example;" in page.headers["content-security-policy"]


async def test_a_password_in_the_url_is_in_no_page() -> None:
    """The browser asks the user for it; `--proxy-graphite` keeps it here."""
    page = await page_with("/topics/orders", graphite_url="http://user:hunter2@graphite.example")
    assert "hunter2" not in page.response.text
    assert page.all("img", class_="graphite")[0]["src"].startswith("http://graphite.example/render?")


def test_names_are_sanitised_as_by_statsd() -> None:
    keys = [key for graph in topic_graphs("a b/c#ephemeral") for _, key, _ in graph.keys]
    assert keys[0] == "topic.a_b-cephemeral.message_count"
    assert len(keys) == 3
