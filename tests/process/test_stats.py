"""A real nsqd: what a statsd daemon gets from it, and latencies, places and /metrics from clients on the wire."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.nsqkit import promtool
from tests.process.daemon import Daemon
from tests.process.raw import RawClient
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = pytest.mark.process

LINE = re.compile(r"^nsq\.here_example_(\d+)\.(\S+):(\d+)\|([cg])$")
TOPIC_KEYS = [("message_count", "c"), ("message_bytes", "c"), ("depth", "g"), ("backend_depth", "g")]
CHANNEL_KEYS = [
    ("message_count", "c"),
    ("depth", "g"),
    ("backend_depth", "g"),
    ("in_flight_count", "g"),
    ("deferred_count", "g"),
    ("requeue_count", "c"),
    ("timeout_count", "c"),
    ("clients", "g"),
]
LATENCY_KEYS = [("e2e_processing_latency_99", "g"), ("e2e_processing_latency_50", "g")]
MEMORY_KEYS = [
    ("heap_objects", "g"),
    ("heap_idle_bytes", "g"),
    ("heap_in_use_bytes", "g"),
    ("heap_released_bytes", "g"),
    ("gc_pause_usec_100", "g"),
    ("gc_pause_usec_99", "g"),
    ("gc_pause_usec_95", "g"),
    ("next_gc_bytes", "g"),
    ("gc_runs", "c"),
]


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(patience(10))
        yield sock


@pytest.fixture
def nsqd(tmp_path: Path, receiver: socket.socket) -> Iterator[Daemon]:
    flags = [
        "--broadcast-address=here.example",
        f"--statsd-address=127.0.0.1:{receiver.getsockname()[1]}",
        "--statsd-interval=1s",
        "--e2e-processing-latency-percentile=0.5,0.99",
        "--enable-experiment=topology-aware-consumption",
        "--topology-region=eu",
        "--topology-zone=eu-1",
    ]
    with Daemon(tmp_path, flags) as daemon:
        daemon.start()
        yield daemon


def one_push(receiver: socket.socket, port: int) -> list[tuple[str, int, str]]:
    """Name, value and kind of every line of the next whole push."""
    lines: list[tuple[str, int, str]] = []
    while not lines or lines[-1][0] != "mem.gc_runs":
        packet = receiver.recv(65536)
        assert 0 < len(packet) <= 508
        assert packet.endswith(b"\n")
        for line in packet.decode().splitlines():
            match = LINE.match(line)
            assert match is not None, line
            assert match[1] == str(port)
            lines.append((match[2], int(match[3]), match[4]))
    return lines


def test_the_packets_for_statsd(nsqd: Daemon, receiver: socket.socket) -> None:
    nsqd.create_channel("t", "c")
    nsqd.create_channel("t", "d#ephemeral")
    one_push(receiver, nsqd.http_port)
    with RawClient.connect(nsqd.tcp_port) as client:
        client.mpub("t", [b"123", b"4", b"5"])
        client.sub("t", "c")
        client.rdy(2)
        first, _second = client.message(), client.message()
        client.fin(first.id)
        wait_until(lambda: nsqd.channel_stats("t", "c")["in_flight_count"] == 2, 5.0, "the third is out")
        total: dict[str, int] = {}
        while total.get("topic.t.message_count", 0) < 3:
            lines = one_push(receiver, nsqd.http_port)
            for name, value, kind in lines:
                total[name] = total.get(name, 0) + value if kind == "c" else value
    expected = [(f"topic.t.{key}", kind) for key, kind in TOPIC_KEYS + LATENCY_KEYS]
    for channel in ("c", "d#ephemeral"):
        expected += [(f"topic.t.channel.{channel}.{key}", kind) for key, kind in CHANNEL_KEYS + LATENCY_KEYS]
    expected += [(f"mem.{key}", kind) for key, kind in MEMORY_KEYS]
    assert [(name, kind) for name, _, kind in lines] == expected
    assert total["topic.t.message_bytes"] == 5
    assert total["topic.t.channel.c.message_count"] == 3
    assert total["topic.t.channel.d#ephemeral.depth"] == 3
    assert total["topic.t.channel.c.in_flight_count"] == 2
    assert total["topic.t.channel.c.clients"] == 1
    assert 0 < total["topic.t.channel.c.e2e_processing_latency_99"] < 10 * 10**9
    assert total["mem.heap_in_use_bytes"] > 1 << 20


def test_latencies_in_stats(nsqd: Daemon) -> None:
    with RawClient.connect(nsqd.tcp_port) as client:
        client.sub("t", "c")
        client.rdy(1)
        client.pub("t", b"x")
        message = client.message()
        client.req(message.id, 100)
        message = client.message()
        client.fin(message.id)
        waited = time.time_ns() - message.timestamp_ns
        wait_until(
            lambda: nsqd.channel_stats("t", "c")["e2e_processing_latency"]["count"] == 1,
            5.0,
            "it is finished",
        )
    latency = nsqd.channel_stats("t", "c")["e2e_processing_latency"]
    assert [row["quantile"] for row in latency["percentiles"]] == [0.99, 0.5]
    assert 100 * 10**6 < latency["percentiles"][0]["value"] <= waited + 10**9
    (topic,) = nsqd.stats()["topics"]
    assert topic["e2e_processing_latency"] == latency
    status, page = nsqd.request("GET", "/stats")
    assert status == 200
    assert len(re.findall(rb"e2e%: \d+\.\dms, \d+\.\dms\n", page)) == 2


def test_timings_of_a_consumer(nsqd: Daemon) -> None:
    with RawClient.connect(nsqd.tcp_port) as client:
        client.sub("t", "c")
        client.rdy(2)
        client.mpub("t", [b"1", b"2"])
        client.message()
        client.fin(client.message().id)
        wait_until(lambda: clients_of(nsqd)[0]["finish_count"] == 1, 5.0, "one is finished")
        (plain,), (timed,) = clients_of(nsqd), clients_of(nsqd, "&include_timings=true")
    assert set(timed) - set(plain) == {"since_finish_ms", "handling_time_ms", "oldest_in_flight_ms"}
    assert timed["oldest_in_flight_ms"] >= timed["handling_time_ms"] >= 0
    assert timed["since_finish_ms"] >= 0


def test_near_consumers_come_first(nsqd: Daemon) -> None:
    places = [("us", "us-1"), ("eu", "eu-2"), ("eu", "eu-1")]
    clients = [RawClient.connect(nsqd.tcp_port) for _ in range(4)]
    for client, (region, zone) in zip(clients, places, strict=False):
        client.identify(topology_region=region, topology_zone=zone)
    for client in clients:  # the last one has not said who it is
        client.sub("t", "c")
        client.rdy(3)
    far, region, zone, nobody = clients
    wait_until(lambda: [c["ready_count"] for c in clients_of(nsqd)] == [3] * 4, 5.0, "all are ready")
    far.mpub("t", [b"%d" % number for number in range(8)])
    assert [zone.message().body for _ in range(3)] == [b"0", b"1", b"2"]
    assert [region.message().body for _ in range(3)] == [b"3", b"4", b"5"]
    assert {far.message().body, nobody.message().body} == {b"6", b"7"}
    channel = nsqd.channel_stats("t", "c")
    counts = [channel[f"{topology}_msg_count"] for topology in ("zone_local", "region_local", "global")]
    assert counts == [3, 3, 2]
    for client in clients:
        client.close()


def clients_of(nsqd: Daemon, more: str = "") -> list[dict[str, int]]:
    status, body = nsqd.request("GET", "/stats?format=json&topic=t" + more)
    assert status == 200
    return list(json.loads(body)["topics"][0]["channels"][0]["clients"])


def test_the_page_for_prometheus(nsqd: Daemon) -> None:
    with RawClient.connect(nsqd.tcp_port) as client:
        client.pub("t", b"x")
        client.sub("t", "c")
        client.rdy(1)
        client.fin(client.message().id)
        wait_until(
            lambda: b'nsqd_channel_e2e_latency_seconds{topic="t"' in nsqd.metrics(), 5.0, "it is measured"
        )
        wait_until(lambda: b"\nnsqd_last_sync_time_seconds" in nsqd.metrics(), 5.0, "it is synced")
        page = nsqd.metrics()
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }
    assert found["nsqd_connections",] == 1
    assert found["nsqd_channel_finished_messages_total", "t", "c"] == 1
    assert found["nsqd_loop_lag_seconds_count",] >= 1
    assert abs(found["nsqd_last_sync_time_seconds",] - time.time()) < 30


@promtool.needs_promtool
def test_promtool_accepts_the_page_of_a_daemon(nsqd: Daemon) -> None:
    nsqd.create_channel("t", "c#ephemeral")
    promtool.check(nsqd.metrics())
