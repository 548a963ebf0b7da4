"""The page of a channel: its figures, its nodes, its consumers."""

from __future__ import annotations

from collections import Counter

import trio
import trio.testing

from nsqadmin.model import Latency, Limits, Percentile
from nsqadmin.pages.channels import channel_limits, channel_progress
from nsqadmin.text import UNKNOWN
from tests.nsqadmin.pages.cluster import NODE, NOW, channel, client, fake_console, snapshot, topic
from tests.nsqadmin.pages.reading import fetch

OTHER = "10.0.0.2:4151"


async def test_the_page_shows_counters_of_each_node_and_of_all() -> None:
    held = channel(
        "orders",
        "mail",
        nodes=[NODE, OTHER],
        depth=12,
        backend_depth=2,
        in_flight_count=3,
        deferred_count=4,
        requeue_count=5,
        timeout_count=6,
        message_count=70,
        client_count=8,
        zone_local_msg_count=60,
        region_local_msg_count=30,
        global_msg_count=10,
    )
    page = await fetch(fake_console(snapshot(topic("orders", [held]))), "/topics/orders/mail")
    figures = ["12", "10 + 2", "3", "4", "5", "6", "70", "8", "", UNKNOWN]
    assert page.rows("orders / mail on each node") == [
        [f"host-10.0.0.1 {NODE}", *figures],
        [f"host-10.0.0.2 {OTHER}", *figures],
    ]
    words = "60 % in the same zone, 30 % in the same region, 10 % elsewhere"
    assert [each["title"] for each in page.all("span", class_="share")] == [words] * 3


async def test_limits_are_shown_with_what_they_did() -> None:
    held = channel(
        "a",
        "b",
        limits=Limits(max_depth=1000, max_age="1h0m0s", policy="drop_oldest"),
        dropped_by_limits={"max_depth": 5},
        expired_count=2,
        rejected={"max_bytes": 9},
    )
    page = await fetch(fake_console(snapshot(topic("a", [held]))), "/topics/a/b")
    assert "Dropped by limits 7 max_depth 1,000, max_age 1h0m0s, policy drop_oldest" in page.text
    assert "Publishes refused 9 messages, by max_bytes" in page.text


async def test_channels_without_limits_show_none() -> None:
    page = await fetch(fake_console(snapshot(topic("a", [channel("a", "b")]))), "/topics/a/b")
    assert "limits" not in page.text


async def test_what_limits_did_is_shown_after_they_are_gone() -> None:
    found = channel_limits(channel("a", "b", dropped_by_limits={"max_depth": 5}).stats)
    assert found is not None
    assert (found.settings, found.dropped, found.rejected) == ("", 5, 0)


async def test_there_is_no_delivery_column_without_delivery_counts() -> None:
    page = await fetch(fake_console(snapshot(topic("a", [channel("a", "b")]))), "/topics/a/b")
    assert "Delivered to" not in page.text


async def test_latency_is_shown_for_each_quantile() -> None:
    latency = Latency(9, [Percentile(0.99, 3e6, 3.4e6, 1e6, 8e6, 5), Percentile(0.5, 1e5)])
    held = channel("a", "b", e2e_processing_latency=latency)
    page = await fetch(fake_console(snapshot(topic("a", [held]))), "/topics/a/b")
    quantiles = page.all("span", class_="quantile")
    assert [each.text for each in quantiles] == ["99 % 3.40 ms", "50 % 100 µs"]
    assert quantiles[0]["title"] == "1.00 ms to 8.00 ms over all nodes"


async def test_consumers_are_listed_with_their_features() -> None:
    clients = [
        client(
            "worker-1",
            in_flight_count=2,
            finish_count=30,
            requeue_count=1,
            message_count=33,
            sample_rate=10,
            tls=True,
            tls_version="TLS 1.3",
            tls_cipher_suite="TLS_AES_128_GCM_SHA256",
            deflate=True,
            authed=True,
            auth_identity="ann",
            auth_identity_url="https://people.example/ann",
            topology_region="eu",
            topology_zone="a",
            node_topology_region="eu",
            node_topology_zone="a",
        ),
        client("worker-2", snappy=True, topology_region="eu", node_topology_region="eu", connect_ts=0),
    ]
    held = channel("a", "b", client_count=2)
    page = await fetch(fake_console(snapshot(topic("a", [held])), clients=clients), "/topics/a/b")
    first, second = page.rows("Consumers of a / b")
    assert first[0] == "worker-1 sampled 10 % TLS Deflate ann 10.1.0.7:50312"
    assert first[1:11] == ["nsq-trio/1.4.0", NODE, "2", "200", *[UNKNOWN] * 4, "30", "1"]
    assert first[12] == "eu / a (same zone)"
    assert second[0] == "worker-2 Snappy 10.1.0.7:50312"
    assert second[11:] == [UNKNOWN, "eu (same region)"]
    assert page.one("span", class_="badge", title="TLS 1.3, TLS_AES_128_GCM_SHA256").text == "TLS"
    assert page.one("a", href="https://people.example/ann").text == "ann"
    assert page.one("td", title="33 messages in total").text == UNKNOWN


async def test_consumers_are_listed_with_rate_and_timings() -> None:
    clients = [
        client(
            "busy", delivery_rate=2.5, handling_time_ms=20.3, since_finish_ms=700, oldest_in_flight_ms=65e3
        ),
        client(
            "idle", delivery_rate=0.0, handling_time_ms=None, since_finish_ms=None, oldest_in_flight_ms=None
        ),
        client("of-the-original"),
        client("socket", remote_address="@"),
    ]
    console = fake_console(snapshot(topic("a", [channel("a", "b", client_count=4)])), clients=clients)
    page = await fetch(console, "/topics/a/b")
    assert [row[5:9] for row in page.rows("Consumers of a / b")] == [
        ["2.5", "20.3 ms", "700 ms", "1 min 5 s"],
        ["0", *[UNKNOWN] * 3],
        [UNKNOWN] * 4,
        [UNKNOWN] * 4,
    ]
    [table] = [each for each in page.all("table") if "Consumers of" in each.one("caption").text]
    figures = table.all("td", class_="n")
    reasons = Counter(
        span["title"] for cell in figures for span in cell.all("span") if "title" in span.attributes
    )
    assert reasons == {
        "It has finished no message yet": 2,
        "It has no message in flight": 1,
        "Known with the next update": 1,
        "Its nsqd does not report it": 6,
        "Consumers on a unix socket cannot be told apart": 1,
    }
    for key, first in {"rate": "busy", "handling": "busy", "last": "busy", "oldest": "busy"}.items():
        ordered = await fetch(console, f"/topics/a/b?sort={key}")
        assert ordered.rows("Consumers of a / b")[0][0].startswith(first)


async def test_an_identity_links_to_web_pages_only() -> None:
    clients = [client(authed=True, auth_identity="eve", auth_identity_url="javascript:alert(1)")]
    page = await fetch(
        fake_console(snapshot(topic("a", [channel("a", "b", client_count=1)])), clients=clients),
        "/topics/a/b",
    )
    assert "eve" in page.text
    assert not [each for each in page.all("a") if each["href"].startswith("javascript")]


async def test_thousands_of_consumers_are_shown_in_pages_with_a_search() -> None:
    clients = [client(f"worker-{n:05}", remote_address=f"10.1.0.7:{n}") for n in range(50_000)]
    held = channel("a", "b", client_count=50_000)
    console = fake_console(snapshot(topic("a", [held])), clients=clients)
    page = await fetch(console, "/topics/a/b")
    assert len(page.rows("Consumers of a / b")) == 50
    assert "1\N{EN DASH}50 of 50,000" in page.text
    found = await fetch(console, "/topics/a/b?q=worker-49999")
    assert len(found.rows("Consumers of a / b")) == 1


async def test_hanging_nodes_do_not_delay_the_page_of_a_channel(
    autojump_clock: trio.testing.MockClock,
) -> None:
    held = channel("a", "b", client_count=3, depth=17)
    page = await fetch(fake_console(snapshot(topic("a", [held])), hangs=True), "/topics/a/b")
    assert "No list of consumers yet" in page.text
    assert "17" in page.one("dl").text


async def test_a_channel_shows_since_when_it_has_no_consumer() -> None:
    held = channel("a", "b", depth=9, no_consumer_since=NOW - 7_500)
    page = await fetch(fake_console(snapshot(topic("a", [held]))), "/topics/a/b")
    assert "none for 2 h 5 min" in page.one("dl").text
    assert "there has been none for 2 h 5 min" in page.text
    assert page.one("h1").text == "b no consumer"


async def test_the_oldest_unfinished_message_is_shown_if_it_is_known() -> None:
    for oldest, text in ((200_000, "3 min 20 s"), (None, UNKNOWN)):
        shown = snapshot(topic("a", [channel("a", "b", client_count=1, oldest_unfinished_ms=oldest)]))
        page = await fetch(fake_console(shown), "/topics/a/b")
        tiles = {each.one("dt").text: each.all("dd")[0].text for each in page.one("dl").all("div")}
        assert tiles["Oldest unfinished"] == text


def test_progress_is_drained_or_falling_behind() -> None:
    drained = channel_progress(channel("a", "b", depth=600, in_rate=5.0, out_rate=15.0), NOW)
    assert (drained.drained_in, drained.falling_behind) == ("1 min", False)
    behind = channel_progress(channel("a", "b", depth=600, in_rate=15.0, out_rate=5.0), NOW)
    assert (behind.drained_in, behind.falling_behind) == ("", True)
    even = channel_progress(channel("a", "b", depth=600, in_rate=5.0, out_rate=5.0), NOW)
    assert (even.drained_in, even.falling_behind) == ("", False)
    unknown = channel_progress(channel("a", "b", depth=600, in_rate=None, out_rate=None), NOW)
    assert (unknown.drained_in, unknown.falling_behind) == ("", False)


async def test_the_page_of_an_unknown_channel_says_so() -> None:
    for path in ("/topics/a/unheard-of", "/topics/unheard-of/b"):
        page = await fetch(fake_console(snapshot(topic("a", [channel("a", "b")]))), path, status=404)
        assert "No node has this channel" in page.text


async def test_buttons_call_the_api_of_the_channel() -> None:
    page = await fetch(
        fake_console(snapshot(topic("a", [channel("a", "b#ephemeral")]))), "/topics/a/b%23ephemeral"
    )
    for button in page.one("div", class_="actions").all("button"):
        assert button["data-url"] == "/api/topics/a/b%23ephemeral"
    assert page.one("button", data_do="DELETE")["data-then"] == "/topics/a"
    assert page.one("button", data_do="DELETE")["data-type"] == "b#ephemeral"
