"""/stats: the figures, the filters, the exact JSON and the exact text."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from nsqd.broker import LimitReached, Topology
from nsqd.broker.latency import BITS
from nsqd.protocol_v2.client_stats import Timings
from nsqd.stats.as_json import stats_json
from nsqd.stats.as_text import stats_text
from nsqd.stats.collect import ChannelStats, Latency, Stats, StatsQuery, TopicStats, collect
from tests.nsqd.http.fake_daemon import START_NS, FakeDaemon, client_stats, serving

JSON = "application/json; charset=utf-8"
TEXT = "text/plain; charset=utf-8"

MEMORY_KEYS = [
    "heap_objects",
    "heap_idle_bytes",
    "heap_in_use_bytes",
    "heap_released_bytes",
    "gc_pause_usec_100",
    "gc_pause_usec_99",
    "gc_pause_usec_95",
    "next_gc_bytes",
    "gc_total_runs",
]
CLIENT_KEYS = [
    "client_id",
    "hostname",
    "version",
    "remote_address",
    "state",
    "ready_count",
    "in_flight_count",
    "message_count",
    "finish_count",
    "requeue_count",
    "connect_ts",
    "sample_rate",
    "deflate",
    "snappy",
    "user_agent",
    "authed",
    "auth_identity",
    "auth_identity_url",
    "topology_zone",
    "topology_region",
    "pub_counts",
    "tls",
    "tls_cipher_suite",
    "tls_version",
    "tls_negotiated_protocol",
    "tls_negotiated_protocol_is_mutual",
]


def worked() -> FakeDaemon:
    """A daemon with three topics, of which `a` has been worked on."""
    daemon = FakeDaemon()
    daemon.make("zeta")
    daemon.make("b", "ch", "only-b")
    daemon.make("a", "ch", "other")
    subscription = daemon.subscribe("a", "ch", rdy=3)
    daemon.put("a", b"12345", b"1", b"2", b"3", b"4")
    daemon.put("a", b"later", delay_ns=10**9)
    ids = list(subscription.in_flight)
    daemon.round()
    subscription.finish(ids[:1])
    subscription.requeue(ids[1], delay=0)
    subscription.set_rdy(1)
    daemon.end_round()
    daemon.connected = [
        client_stats(hostname="p", pub_counts={"a": 6, "b": 1}),
        client_stats(hostname="s", state=3, subscribed=("a", "ch"), ready_count=1),
        client_stats(hostname="idle"),
    ]
    return daemon


async def stats_of(daemon: FakeDaemon, query: str = "") -> Any:
    async with serving(daemon) as client:
        answer = await client.get(f"/stats?format=json&{query}")
        assert (answer.status, answer.headers["Content-Type"]) == (200, JSON)
        assert answer.headers["X-Nsq-Content-Type"] == "nsq; version=1.0"
        return answer.json


# --- the figures


async def test_latencies_of_channels_and_of_their_topic() -> None:
    daemon = FakeDaemon(e2e_processing_latency_percentiles=[1.0, 0.5])
    fast, slow = daemon.subscribe("t", "fast", rdy=9), daemon.subscribe("t", "slow", rdy=9)
    daemon.make("t", "idle")
    daemon.put("t", b"1", b"2", b"3")
    for subscription in (fast, slow):
        daemon.round()
        subscription.finish(list(subscription.in_flight))
        daemon.end_round()
    (topic,) = (await stats_of(daemon))["topics"]
    shown = {channel["channel_name"]: channel["e2e_processing_latency"] for channel in topic["channels"]}
    assert shown == {
        "fast": {
            "count": 3,
            "percentiles": [{"quantile": 1, "value": 250_000_000}, {"quantile": 0.5, "value": 250_000_000}],
        },
        "slow": {
            "count": 3,
            "percentiles": [{"quantile": 1, "value": 500_000_000}, {"quantile": 0.5, "value": 500_000_000}],
        },
        "idle": {"count": 0, "percentiles": [{"quantile": 1, "value": 0}, {"quantile": 0.5, "value": 0}]},
    }
    whole = topic["e2e_processing_latency"]
    assert (whole["count"], [each["quantile"] for each in whole["percentiles"]]) == (6, [1, 0.5])
    values = [each["value"] for each in whole["percentiles"]]
    assert values == pytest.approx([500_000_000, 250_000_000], rel=2**-BITS)
    (topic,) = (await stats_of(daemon, "topic=t&channel=fast"))["topics"]
    assert [channel["channel_name"] for channel in topic["channels"]] == ["fast"]
    assert topic["e2e_processing_latency"] == whole, "the topic's is that of all its channels"


async def test_a_topic_without_channels_has_no_latencies() -> None:
    daemon = FakeDaemon(e2e_processing_latency_percentiles=[1.0, 0.5])
    daemon.make("bare")
    daemon.make("t", "ch")
    bare, topic = (await stats_of(daemon))["topics"]
    assert bare["e2e_processing_latency"] == {"count": 0, "percentiles": None}
    assert len(topic["e2e_processing_latency"]["percentiles"]) == 2
    async with serving(daemon) as client:
        text = (await client.get("/stats")).body.decode()
    (line,) = [line for line in text.splitlines() if "[bare " in line]
    assert line.endswith("e2e%: ")


async def test_deliveries_by_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeDaemon, "topology", Topology("eu", "eu-1"))
    daemon = FakeDaemon()
    daemon.subscribe("t", "c", rdy=2, topology=Topology("eu", "eu-1"))
    daemon.subscribe("t", "c", rdy=3, topology=Topology("eu", "eu-2"))
    daemon.put("t", *[b"x"] * 5)
    (channel,) = (await stats_of(daemon))["topics"][0]["channels"]
    assert (channel["zone_local_msg_count"], channel["region_local_msg_count"]) == (2, 3)
    assert "global_msg_count" not in channel, "a 0 is left out"
    keys = list(channel)
    assert keys[keys.index("message_count") :][:3] == [
        "message_count",
        "zone_local_msg_count",
        "region_local_msg_count",
    ]


async def test_figures() -> None:
    stats = await stats_of(worked())
    a, b, zeta = stats["topics"]
    assert (a["depth"], a["backend_depth"], a["message_count"], a["message_bytes"]) == (0, 0, 6, 14)
    assert a["disk_bytes"] > 300
    ch, other = a["channels"]
    assert (ch["depth"], ch["in_flight_count"], ch["deferred_count"], ch["requeue_count"]) == (3, 1, 1, 1)
    assert (ch["message_count"], ch["client_count"], len(ch["clients"])) == (6, 1, 1)
    assert (other["depth"], other["in_flight_count"], other["deferred_count"]) == (5, 0, 1)
    assert (other["client_count"], other["clients"]) == (0, [])
    assert [c["channel_name"] for c in b["channels"]] == ["ch", "only-b"]
    assert zeta["channels"] == []
    assert [client["hostname"] for client in ch["clients"]] == ["s"]
    assert [client["hostname"] for client in stats["producers"]] == ["p"]


async def test_dropped_and_timed_out() -> None:
    daemon = FakeDaemon()
    subscription = daemon.subscribe("a", "ch", rdy=1)
    daemon.put("a", b"1", b"2")
    daemon.round()
    daemon.broker.advance(daemon.broker.now + 61, daemon.broker.wall_ns)
    subscription.set_rdy(0)
    daemon.broker.fire_timers()
    daemon.end_round()
    async with serving(daemon) as client:
        channel = (await client.get("/stats?format=json")).json["topics"][0]["channels"][0]
        assert (channel["timeout_count"], channel["depth"], channel["dropped_count"]) == (1, 2, 0)
        await client.post("/channel/empty?topic=a&channel=ch")
        channel = (await client.get("/stats?format=json")).json["topics"][0]["channels"][0]
    assert (channel["depth"], channel["dropped_count"], channel["damaged_count"]) == (0, 2, 0)


async def test_what_is_retained() -> None:
    daemon = FakeDaemon()
    daemon.make("a", "ch")
    daemon.make("b", "ch")
    daemon.broker.existing("a").set_limits({"retain": (3600 * 10**9, None)})
    daemon.broker.retentions["a"].retained_bytes = 77
    async with serving(daemon) as client:
        kept, other = (await client.get("/stats?format=json")).json["topics"]
    assert kept["retained_bytes"] == 77
    assert "retained_bytes" not in other


async def test_limits() -> None:
    daemon = FakeDaemon()
    daemon.make("a", "ch", "free", "idle")
    topic = daemon.broker.existing("a")
    topic.set_channel_limits("ch", {"max_depth": 1, "policy": "drop_oldest", "max_age": 3600 * 10**9})
    topic.set_channel_limits("idle", {"idle_ttl": 60 * 10**9, "max_depth": 4})
    topic.set_limits({"retain": (3600 * 10**9, None)})
    daemon.put("a", b"1", b"2", b"3")
    with pytest.raises(LimitReached):
        daemon.put("a", b"4", b"5")
    topic.existing("idle").idle_since = daemon.broker.now - 10
    async with serving(daemon) as client:
        shown = (await client.get("/stats?format=json")).json["topics"][0]
    limited, free, idle = shown["channels"]
    names = ("limits", "dropped_by_limits", "expired_count", "rejected")
    assert [shown[name] for name in names] == [{"retain": ["1h0m0s"]}, {}, 0, {}]
    assert not {*names, "idle"} & free.keys()
    assert [limited[name] for name in names] == [
        {"max_depth": 1, "max_age": "1h0m0s", "policy": "drop_oldest"},
        {"max_depth": 2},
        0,
        {},
    ]
    assert limited["dropped_count"] == 2
    assert [idle[name] for name in names] == [
        {"max_depth": 4, "policy": "reject", "idle_ttl": "1m0s", "idle_action": "delete"},
        {},
        0,
        {"max_depth": 2},
    ]
    assert idle["idle"]["ttl_ms"] == 60_000
    assert 10_000 <= idle["idle"].pop("idle_ms") <= 11_000
    assert idle["idle"] == {"ttl_ms": 60_000, "action": "delete", "alarm": False}


async def test_the_queue_on_disk_is_told_apart() -> None:
    daemon = FakeDaemon()
    daemon.broker.context.options = attrs.evolve(daemon.broker.options, mem_queue_size=0)
    daemon.make("a", "ch")
    daemon.put("a", b"1", b"2")
    (topic,) = (await stats_of(daemon))["topics"]
    assert (topic["channels"][0]["depth"], topic["channels"][0]["backend_depth"]) == (2, 2)


async def test_ephemeral_topic() -> None:
    daemon = FakeDaemon()
    daemon.make("e#ephemeral", "c#ephemeral")
    daemon.put("e#ephemeral", b"1")
    (topic,) = (await stats_of(daemon))["topics"]
    assert (topic["disk_bytes"], topic["message_count"], topic["channels"][0]["depth"]) == (0, 1, 1)


async def test_health() -> None:
    daemon = FakeDaemon()
    assert (await stats_of(daemon))["health"] == "OK"
    daemon.broker.store.space.full = "no space left on device"
    assert (await stats_of(daemon))["health"] == "NOK - no space left on device"


# --- the filters


def names(stats: Any) -> object:
    """Topics with their channels."""
    if stats["topics"] is None:
        return None
    return {t["topic_name"]: [c["channel_name"] for c in t["channels"]] for t in stats["topics"]}


ALL = {"a": ["ch", "other"], "b": ["ch", "only-b"], "zeta": []}


@pytest.mark.parametrize(
    ("query", "expected", "has_producers"),
    [
        ("", ALL, True),
        ("topic=&channel=", ALL, True),
        ("topic=b", {"b": ["ch", "only-b"]}, True),
        ("topic=b&topic=a", {"b": ["ch", "only-b"]}, True),
        ("topic=unknown", None, False),
        ("topic=!", None, False),
        ("topic=unknown&channel=ch", None, False),
        ("topic=a&channel=other", {"a": ["other"]}, True),
        ("topic=a&channel=only-b", {}, True),
        ("channel=ch", {"a": ["ch"], "b": ["ch"]}, True),
        ("channel=only-b", {"b": ["only-b"]}, True),
        ("channel=unknown", {}, True),
    ],
)
async def test_filters(query: str, expected: object, has_producers: bool) -> None:
    stats = await stats_of(worked(), query)
    assert names(stats) == expected
    assert (stats["producers"] is not None) is has_producers


async def test_no_topics_at_all() -> None:
    stats = await stats_of(FakeDaemon())
    assert (stats["topics"], stats["producers"]) == ([], None)


@pytest.mark.parametrize(
    ("value", "included"),
    [("true", True), ("1", True), ("false", False), ("0", False), ("False", True), ("", True), ("no", True)],
)
async def test_the_booleans(value: str, included: bool) -> None:
    daemon = worked()
    stats = await stats_of(daemon, f"include_mem={value}")
    assert ("memory" in stats) is included
    stats = await stats_of(daemon, f"include_clients={value}")
    channel = stats["topics"][0]["channels"][0]
    assert (channel["clients"] is not None) is included
    assert (stats["producers"] is not None) is included
    assert channel["client_count"] == 1


@pytest.mark.parametrize(
    ("query", "shown"),
    [("", [{"topic": "a", "count": 6}]), ("topic=b", [{"topic": "b", "count": 1}]), ("topic=zeta", None)],
)
async def test_at_most_one_publish_count(query: str, shown: object) -> None:
    stats = await stats_of(worked(), query)
    assert stats["producers"][0].get("pub_counts") == shown


async def test_bad_query() -> None:
    async with serving(FakeDaemon()) as client:
        answer = await client.get("/stats?topic=%zz")
    assert (answer.status, answer.body) == (400, b'{"message":"INVALID_REQUEST"}')


@pytest.mark.parametrize("query", ["", "?format=text", "?format=JSON", "?format="])
async def test_anything_but_json_is_text(query: str) -> None:
    async with serving(FakeDaemon()) as client:
        answer = await client.get(f"/stats{query}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, TEXT)
    assert answer.headers["X-Nsq-Content-Type"] == "nsq; version=1.0"
    assert answer.text.startswith("nsqd v1.4.0 (built w/python3.")


async def test_timings_of_consumers_are_shown_on_request() -> None:
    daemon = FakeDaemon()
    daemon.connected = [
        client_stats(hostname="idle", subscribed=("t", "c"), timings=Timings(None, None, None)),
        client_stats(hostname="busy", subscribed=("t", "c"), timings=Timings(1.5, 0.0203051, 70.0)),
        client_stats(hostname="unknown", subscribed=("t", "c")),
    ]
    daemon.make("t", "c")
    (topic,) = (await stats_of(daemon, "include_timings=true"))["topics"]
    idle, busy, unknown = topic["channels"][0]["clients"]
    expected = [("since_finish_ms", 1500), ("handling_time_ms", 20.305), ("oldest_in_flight_ms", 70_000)]
    assert list(busy.items())[len(unknown) :] == expected, "at the end"
    assert list(idle.items())[len(unknown) :] == [(name, None) for name, _ in expected]
    assert list(unknown) == CLIENT_KEYS[:15] + CLIENT_KEYS[18:20] + CLIENT_KEYS[21:]


@pytest.mark.parametrize(
    ("value", "requested"), [("true", True), ("1", True), ("false", False), ("0", False), ("yes", False)]
)
async def test_timings_are_requested_with_a_parameter(value: str, requested: bool) -> None:
    daemon = FakeDaemon()
    await stats_of(daemon)
    assert daemon.timings_at is None
    await stats_of(daemon, f"include_timings={value}")
    assert (daemon.timings_at is not None) is requested


# --- the exact JSON


async def test_order_of_the_keys() -> None:
    daemon = worked()
    daemon.connected.append(
        client_stats(
            subscribed=("a", "ch"), authed=True, auth_identity="i", auth_identity_url="u", pub_counts={"a": 1}
        )
    )
    stats = await stats_of(daemon)
    assert list(stats) == ["version", "health", "start_time", "topics", "memory", "producers", "durability"]
    assert list(stats["memory"]) == MEMORY_KEYS
    assert all(type(value) is int and value >= 0 for value in stats["memory"].values())
    assert list(stats["topics"][0]["channels"][0]["clients"][1]) == CLIENT_KEYS
    assert list(stats["producers"][1]) == CLIENT_KEYS


async def test_exact_json() -> None:
    daemon = FakeDaemon(durability="disk")
    daemon.make("b")
    daemon.make("a", "ch")
    daemon.round()
    daemon.broker.topics["b"].pause(True)
    daemon.end_round()
    daemon.connected = [
        client_stats(
            hostname="<h>",
            state=3,
            subscribed=("a", "ch"),
            connect_time=1700000001,
            user_agent="ua/1 & \u00e9",
            tls=True,
            tls_version="TLS1.3",
        )
    ]
    async with serving(daemon) as client:
        answer = await client.get("/stats?format=json&include_mem=false")
    disk = {name: topic.store.bytes_on_disk for name, topic in daemon.broker.topics.items()}
    off = '{"count":0,"percentiles":null}'
    shown_client = (
        '{"client_id":"c","hostname":"\\u003ch\\u003e","version":"V2","remote_address":"10.0.0.7:5000","state":3,'
        '"ready_count":0,"in_flight_count":0,"message_count":0,"finish_count":0,"requeue_count":0,'
        '"connect_ts":1700000001,"sample_rate":0,"deflate":false,"snappy":false,"user_agent":"ua/1 \\u0026 \u00e9",'
        '"topology_zone":"","topology_region":"","tls":true,"tls_cipher_suite":"","tls_version":"TLS1.3",'
        '"tls_negotiated_protocol":"","tls_negotiated_protocol_is_mutual":true}'
    )
    channel = (
        '{"channel_name":"ch","depth":0,"backend_depth":0,"in_flight_count":0,"deferred_count":0,"message_count":0,'
        f'"requeue_count":0,"timeout_count":0,"client_count":0,"clients":[{shown_client}],"paused":false,'
        f'"e2e_processing_latency":{off},"dropped_count":0,"damaged_count":0}}'
    )
    assert answer.text == (
        '{"version":"1.4.0","health":"OK","start_time":1700000000,"topics":['
        f'{{"topic_name":"a","channels":[{channel}],"depth":0,"backend_depth":0,"message_count":0,"message_bytes":0,'
        f'"paused":false,"e2e_processing_latency":{off},"disk_bytes":{disk["a"]}}},'
        '{"topic_name":"b","channels":[],"depth":0,"backend_depth":0,"message_count":0,"message_bytes":0,'
        f'"paused":true,"e2e_processing_latency":{off},"disk_bytes":{disk["b"]}}}'
        '],"producers":null,"durability":"disk"}'
    )


# --- from plain figures


def channel_of(**changes: Any) -> ChannelStats:
    counts = {
        field.name: 0
        for field in attrs.fields(ChannelStats)
        if field.name.endswith("_count") or field.name.endswith("depth")
    }
    return ChannelStats(**{"name": "ch", "clients": [], "paused": False, **counts, **changes})


def topic_of(**changes: Any) -> TopicStats:
    values = {
        "name": "t",
        "channels": [],
        "depth": 0,
        "backend_depth": 0,
        "message_count": 0,
        "message_bytes": 0,
        "disk_bytes": 0,
        "paused": False,
    }
    return TopicStats(**{**values, **changes})


def stats_with(**changes: Any) -> Stats:
    values = {
        "query": StatsQuery(),
        "version": "1.4.0",
        "health": "OK",
        "start_time_ns": START_NS,
        "topics": [],
        "producers": None,
        "memory": None,
        "durability": "os",
    }
    return Stats(**{**values, **changes})


MEASURED = Latency(7, [(1.0, 2.5e9), (0.99, 3_700_000.0), (0.5, 0.0)])


async def test_deliveries_are_global_ones_and_none_are_left_out() -> None:
    daemon = FakeDaemon()
    daemon.publish("t", [b"a", b"b", b"c"], None)
    before = await stats_of_channel(daemon, "t", "c")
    assert "global_msg_count" not in before
    subscription = daemon.subscribe("t", "c", rdy=2)
    daemon.round()
    daemon.end_round()
    after = await stats_of_channel(daemon, "t", "c")
    assert subscription.subscription.message_count == after["global_msg_count"] == 2
    keys = list(after)
    assert keys[keys.index("message_count") + 1] == "global_msg_count"


async def stats_of_channel(daemon: FakeDaemon, topic: str, channel: str) -> Any:
    daemon.round()
    daemon.broker.topic(topic).channel(channel)
    daemon.end_round()
    stats = await stats_of(daemon, f"&topic={topic}&channel={channel}")
    return stats["topics"][0]["channels"][0]


async def test_latencies_in_json() -> None:
    stats = stats_with(topics=[topic_of(latency=MEASURED, channels=[channel_of(latency=MEASURED)])])
    shown = (
        b'"e2e_processing_latency":{"count":7,"percentiles":[{"quantile":1,"value":2500000000},'
        b'{"quantile":0.99,"value":3700000},{"quantile":0.5,"value":0}]}'
    )
    assert (await stats_json(stats, START_NS)).body.count(shown) == 2


# --- the exact text

AT_NS = START_NS + 361_975_424


def body_of(page: str) -> str:
    """Without the head, which has versions and local time in it."""
    head, _, rest = page.partition("\n\nHealth: ")
    assert len(head.splitlines()) == 3
    return rest


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TZ", "UTC0")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


async def test_text_head(berlin: None) -> None:
    page = await stats_text(stats_with(health="NOK - broken"), AT_NS)
    assert re.sub(r"python[\d.]+\w*", "python", page) == (
        "nsqd v1.4.0 (built w/python)\n"
        "start_time 2023-11-14T23:13:20+01:00\n"
        "uptime 361.975424ms\n"
        "\nHealth: NOK - broken\n"
        "\nTopics: None\n"
        "\nProducers: None\n"
    )


async def test_text_head_in_utc(utc: None) -> None:
    page = await stats_text(stats_with(), START_NS + 3_661 * 10**9)
    assert "\nstart_time 2023-11-14T22:13:20Z\nuptime 1h1m1s\n" in page


async def test_text_of_the_lines() -> None:
    consumer = client_stats(
        hostname="host.example",
        remote_address="10.0.0.7:40008",
        user_agent="ua/2",
        state=3,
        in_flight_count=3,
        ready_count=3,
        finish_count=1,
        message_count=4,
        connect_time=START_NS // 10**9 - 1,
    )
    producer = client_stats(
        hostname="h",
        remote_address="[::1]:39986",
        user_agent="",
        pub_counts={"a": 1},
        connect_time=START_NS // 10**9 - 3_600,
    )
    unix = client_stats(
        hostname="a-rather-long-name", remote_address="@", connect_time=START_NS // 10**9 - 123
    )
    measured = Latency(1, [(0.99, 3_700_000.0), (0.9, 1e9), (0.5, 0.0), (0.1, 2e10), (0.2, 1001.0)])
    stats = stats_with(
        topics=[
            topic_of(name="alpha", message_count=5, latency=measured),
            topic_of(
                name="beta",
                depth=123456,
                channels=[
                    channel_of(name="b", paused=True),
                    channel_of(
                        name="ch",
                        depth=1,
                        backend_depth=2,
                        in_flight_count=3,
                        deferred_count=4,
                        requeue_count=5,
                        timeout_count=6,
                        message_count=7,
                        clients=[consumer, producer, unix],
                        latency=measured,
                    ),
                    channel_of(name="hidden", clients=None),
                ],
            ),
            topic_of(name="zeta", depth=5, message_count=5, paused=True),
        ],
        producers=[producer],
    )
    e2e = "3.7ms, 1000.0ms, 0.0ns, 20.0s, 1.0us"
    none = (
        "depth: 0     be-depth: 0     inflt: 0    def: 0    re-q: 0     timeout: 0     msgs: 0        e2e%: "
    )
    assert body_of(await stats_text(stats, START_NS)) == (
        "OK\n"
        "\n"
        "Topics:\n"
        f"   [alpha          ] depth: 0     be-depth: 0     msgs: 5        e2e%: {e2e}\n"
        "\n"
        "   [beta           ] depth: 123456 be-depth: 0     msgs: 0        e2e%: \n"
        f"   *P [b                        ] {none}\n"
        "      [ch                       ] depth: 1     be-depth: 2     inflt: 3    def: 4    re-q: 5     "
        f"timeout: 6     msgs: 7        e2e%: {e2e}\n"
        "        [V2 host.example:40008 ua/2] state: 3 inflt: 3    rdy: 3    fin: 1        re-q: 0        "
        "msgs: 4        connected: 1s\n"
        "        [V2 h:39986              ] msgs: 1        topics: a=1 connected: 1h0m0s\n"
        "        [V2 a-rather-long-name:  ] state: 0 inflt: 0    rdy: 0    fin: 0        re-q: 0        "
        "msgs: 0        connected: 2m3s\n"
        f"      [hidden                   ] {none}\n"
        "\n"
        "*P [zeta           ] depth: 5     be-depth: 0     msgs: 5        e2e%: \n"
        "\n"
        "Producers:\n"
        "   [V2 h:39986              ] msgs: 1        topics: a=1 connected: 1h0m0s\n"
    )


async def test_text_over_http() -> None:
    daemon = worked()
    async with serving(daemon) as client:
        whole = (await client.get("/stats")).text
        without = (await client.get("/stats?include_mem=0&include_clients=0&topic=b&channel=ch")).text
        unknown = (await client.get("/stats?include_mem=0&topic=unknown")).text
    memory = re.search(r"\n\nHealth: OK\n\nMemory:\n((?:   .*\n)+)\nTopics:\n   \[a ", whole)
    assert memory is not None
    lines = memory[1].splitlines()
    assert [line[3:28].rstrip() for line in lines] == MEMORY_KEYS
    assert all(re.fullmatch(r"   \w+ +\t\d+", line) and line[28] == "\t" for line in lines)
    # The clock may have gone on by a second or two since the client "connected".
    producers = (
        r"\nProducers:\n   \[V2 p:5000               \] msgs: 6        topics: a=6 connected: 1m[1-3]s\n"
    )
    assert re.search(producers + r"\Z", whole)
    assert body_of(without) == (
        "OK\n\nTopics:\n   [b              ] depth: 0     be-depth: 0     msgs: 0        e2e%: \n"
        "      [ch                       ] depth: 0     be-depth: 0     inflt: 0    def: 0    re-q: 0     "
        "timeout: 0     msgs: 0        e2e%: \n\nProducers: None\n"
    )
    assert body_of(unknown) == "OK\n\nTopics: None\n\nProducers: None\n"


# --- many


MANY = 200


@pytest.fixture
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece of work takes as long as a slice."""
    monkeypatch.setattr("nsqkit.yielder.perf_counter", itertools.count().__next__)


async def run_beside(function: Callable[[], Any]) -> tuple[Any, int]:
    """What it returns, and how often another task had its turn meanwhile."""
    turns = 0

    async def turn(task_status: trio.TaskStatus[None]) -> None:
        nonlocal turns
        task_status.started()
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        await nursery.start(turn)
        result = await function()
        nursery.cancel_scope.cancel()
    return result, turns


@pytest.mark.usefixtures("short_slices")
@pytest.mark.parametrize(("topics", "channels"), [(1, MANY), (MANY, 1)])
async def test_other_tasks_run_while_many_topics_or_channels_are_collected(
    topics: int, channels: int
) -> None:
    daemon = FakeDaemon()
    for number in range(topics):
        daemon.make(f"t{number:03}", *[f"c{number:03}" for number in range(channels)])
    stats, turns = await run_beside(lambda: collect(daemon, StatsQuery()))
    assert [len(topic.channels) for topic in stats.topics] == [channels] * topics
    assert turns >= MANY
    assert (await run_beside(lambda: stats_json(stats, START_NS)))[1] >= MANY
    assert (await run_beside(lambda: stats_text(stats, START_NS)))[1] >= MANY


@pytest.mark.usefixtures("short_slices")
async def test_a_topic_that_goes_meanwhile_is_left_out() -> None:
    daemon = FakeDaemon()
    for number in range(MANY):
        daemon.make(f"t{number:03}")
    found: list[Stats] = []

    async def ask() -> None:
        found.append(await collect(daemon, StatsQuery()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        for _ in range(2):  # `ask` has begun then, and has slices left to do
            await trio.lowlevel.checkpoint()
        assert not found
        daemon.round()
        daemon.broker.delete_topic(f"t{MANY - 1:03}")
        daemon.end_round()
    assert found[0].topics is not None
    assert len(found[0].topics) == MANY - 1


# --- beyond the original's


async def test_how_old_the_oldest_unfinished_message_is() -> None:
    """Of a topic that no channel has got it from, and of each channel; nothing where nothing waits."""
    daemon = FakeDaemon()
    daemon.make("t", "c")
    daemon.put("t", b"x")
    daemon.put("lonely", b"x")
    daemon.make("idle", "c")
    later = START_NS + 90 * 10**9
    stats = json.loads((await stats_json(await collect(daemon, StatsQuery()), later)).body)
    idle, lonely, other = stats["topics"]
    assert "oldest_unfinished_ms" not in idle
    assert "oldest_unfinished_ms" not in idle["channels"][0]
    assert lonely["oldest_unfinished_ms"] == pytest.approx(90_000, abs=1000)
    assert "oldest_unfinished_ms" not in other
    assert other["channels"][0]["oldest_unfinished_ms"] == pytest.approx(90_000, abs=1000)


async def test_a_drain() -> None:
    daemon = FakeDaemon()
    daemon.make("t", "c")
    daemon.put("t", b"x", b"y")
    daemon.put("lonely", b"x")
    async with serving(daemon) as client:
        assert "draining" not in json.loads((await client.get("/stats?format=json")).body)
        assert "Draining" not in (await client.get("/stats")).text
        assert (await client.post("/drain")).status == 200
        drain = json.loads((await client.get("/stats?format=json")).body)["draining"]
        assert drain["messages_left"] == 3
        assert drain["stuck"] == [
            {"topic": "lonely", "channel": "", "messages": 1, "reason": "no channel"},
            {"topic": "t", "channel": "c", "messages": 2, "reason": "no consumer"},
        ]
        said = (await client.get("/stats")).text
        assert "\nDraining, messages left: 3\n" in said
        assert "stuck: 2, no consumer" in said
        assert (await client.get("/ping")).text == "OK - draining"
        assert (await client.post("/pub?topic=t", b"z")).status == 503
