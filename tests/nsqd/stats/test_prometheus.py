"""/metrics as Prometheus reads it: what every series says, and that nobody waits for those who read it."""

from __future__ import annotations

import errno
import gc
import re
import time
from pathlib import Path

import attrs
import pytest
from prometheus_client.parser import text_string_to_metric_families

from nsqd.broker import LimitReached, Topology
from nsqd.broker.log_backlog import LogBacklog
from nsqd.log.origin import Cause
from nsqd.stats import oldest
from nsqd.stats.copies import CopiesStats, FollowerStats, HeldStats, ScrubStats
from nsqd.stats.prometheus import metrics_page
from nsqd.testing.faulty_storage import Fail
from nsqkit.certificates import TlsFiles
from nsqkit.tls import client_context
from tests.nsqd.http.fake_daemon import START_NS, FakeDaemon, client_stats, serving
from tests.nsqkit import promtool
from tests.steps import Steps

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"

Series = dict[tuple[str, ...], float]
"""By the sample's name and the values of its labels."""


def parse(text: str) -> Series:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def series_of(daemon: FakeDaemon) -> Series:
    return parse((await metrics_page(daemon, daemon.broker.wall_ns)).body.decode())


def worked(**options: object) -> FakeDaemon:
    """Topic `a` with a consumer on one of two channels, and a topic that waits for a channel."""
    daemon = FakeDaemon(**options)
    subscription = daemon.subscribe("a", "ch", rdy=3)
    daemon.make("a", "e#ephemeral")
    daemon.put("waits", b"first", b"second")
    daemon.put("a", b"12345", b"1", b"2", b"3", b"4")
    daemon.put("a", b"later", delay_ns=10**9)
    ids = list(subscription.in_flight)
    daemon.round()
    subscription.finish(ids[:1])
    subscription.requeue(ids[1], delay=0)
    subscription.set_rdy(1)
    daemon.end_round()
    daemon.connected = [client_stats(), client_stats()]
    return daemon


async def test_over_http() -> None:
    async with serving(worked()) as client:
        answer = await client.get("/metrics")
        assert (answer.status, answer.headers["Content-Type"]) == (
            200,
            "text/plain; version=0.0.4; charset=utf-8",
        )
        assert "X-Nsq-Content-Type" not in answer.headers
        assert parse(answer.text)[("nsqd_topics",)] == 2
        assert (await client.get("/metrics?a=%zz")).status == 400
        assert (await client.post("/metrics")).status == 405


async def test_a_topic() -> None:
    found = await series_of(worked())
    assert {name: value for (name, *labels), value in found.items() if labels == ["waits"]} == {
        "nsqd_topic_messages_total": 2,
        "nsqd_topic_message_bytes_total": 11,
        "nsqd_topic_dropped_messages_total": 0,
        "nsqd_topic_depth": 2,
        "nsqd_topic_backend_depth": 0,
        "nsqd_topic_log_bytes": found["nsqd_topic_log_bytes", "waits"],
        "nsqd_topic_paused": 0,
        "nsqd_topic_oldest_message_age_seconds": 0.75,
    }
    assert found["nsqd_topic_log_bytes", "waits"] > 80
    assert ("nsqd_topic_oldest_message_age_seconds", "a") not in found, "its channels have all of it"


async def test_a_channel() -> None:
    found = await series_of(worked())
    assert {
        (name, *more): value
        for (name, *labels), value in found.items()
        if labels[:2] == ["a", "ch"]
        for more in [labels[2:]]
    } == {
        ("nsqd_channel_messages_total",): 6,
        ("nsqd_channel_deliveries_total", "global"): 3,
        ("nsqd_channel_finished_messages_total",): 1,
        ("nsqd_channel_requeues_total",): 1,
        ("nsqd_channel_timeouts_total",): 0,
        ("nsqd_channel_dropped_messages_total",): 0,
        ("nsqd_channel_damaged_messages_total",): 0,
        ("nsqd_channel_depth",): 3,
        ("nsqd_channel_backend_depth",): 0,
        ("nsqd_channel_in_flight_messages",): 1,
        ("nsqd_channel_deferred_messages",): 1,
        ("nsqd_channel_clients",): 1,
        ("nsqd_channel_paused",): 0,
        ("nsqd_channel_oldest_message_age_seconds",): 0.5,
    }
    assert found["nsqd_channel_depth", "a", "e#ephemeral"] == 5


async def test_lost_paused_and_timed_out_are_counted() -> None:
    daemon = worked()
    daemon.round()
    topic = daemon.broker.existing("a")
    topic.pause_channel("ch", True)
    topic.pause(True)
    daemon.broker.advance(daemon.broker.now + 61, daemon.broker.wall_ns)
    daemon.broker.fire_timers()
    topic.empty_channel("ch")
    daemon.broker.existing("waits").empty()
    daemon.end_round()
    found = await series_of(daemon)
    assert found["nsqd_channel_timeouts_total", "a", "ch"] == 1
    assert found["nsqd_channel_dropped_messages_total", "a", "ch"] == 5
    assert found["nsqd_channel_paused", "a", "ch"] == found["nsqd_topic_paused", "a"] == 1
    assert found["nsqd_topic_dropped_messages_total", "waits"] == 2
    assert ("nsqd_channel_oldest_message_age_seconds", "a", "ch") not in found


def limited(**options: object) -> FakeDaemon:
    """`c` has dropped two, and expired one; `full` has refused two; topic `own` has refused one; `idle` ends soon."""
    daemon = worked(**options)
    daemon.make("b", "c", "full", "idle")
    daemon.make("own")
    topic = daemon.broker.existing("b")
    topic.set_channel_limits("c", {"max_depth": 2, "policy": "drop_oldest", "max_age": 10**18})
    topic.set_channel_limits("full", {"max_bytes": 1000})
    topic.set_channel_limits("idle", {"idle_ttl": 100 * 10**9})
    daemon.broker.existing("own").set_limits({"max_depth": 1})
    daemon.put("b", b"1", b"2", b"3", b"4")
    daemon.put("own", b"1")
    for name, bodies in (("b", [b"x" * 500, b"y" * 500]), ("own", [b"x"])):
        with pytest.raises(LimitReached):
            daemon.put(name, *bodies)
    channel = topic.existing("c")
    assert isinstance(channel.backlog, LogBacklog)
    channel.expire(channel.backlog.cursor + 1)
    topic.existing("idle").idle_since = daemon.broker.now - 80
    topic.existing("idle").idle_alarm = True
    return daemon


async def test_limits() -> None:
    daemon = limited()
    found = await series_of(daemon)
    assert {
        (name.removeprefix("nsqd_"), *labels): value
        for (name, *labels), value in found.items()
        if "limit" in name or "expired" in name or "rejected" in name or "max_" in name or "idle_" in name
    } == {
        ("topic_rejected_messages_total", "own", "max_depth"): 1,
        ("topic_expired_messages_total", "own"): 0,
        ("channel_rejected_messages_total", "b", "full", "max_bytes"): 2,
        ("channel_limit_dropped_messages_total", "b", "c", "max_depth"): 2,
        ("channel_expired_messages_total", "b", "c"): 1,
        ("channel_expired_messages_total", "b", "full"): 0,
        ("channel_expired_messages_total", "b", "idle"): 0,
        ("channel_max_depth", "b", "c"): 2,
        ("channel_max_bytes", "b", "full"): 1000,
        ("channel_idle_seconds", "b", "idle"): 80,
        ("channel_idle_alarm", "b", "idle"): 1,
    }
    assert found["nsqd_channel_dropped_messages_total", "b", "c"] == 2


async def test_what_is_retained() -> None:
    daemon = worked()
    daemon.broker.existing("a").set_limits({"retain": (3600 * 10**9, None)})
    found = await series_of(daemon)
    assert [key for key in found if "retained" in key[0]] == [("nsqd_topic_retained_bytes", "a")]


async def test_limits_only_where_they_are() -> None:
    names = {name for name, *_ in await series_of(worked())}
    assert "nsqd_topic_retained_bytes" not in names
    assert not [name for name in names if "limit" in name or "expired" in name or "rejected" in name]


async def test_the_daemon() -> None:
    daemon = worked()
    daemon.loop_lag.measure(0.03)
    found = await series_of(daemon)
    assert (found["nsqd_topics",], found["nsqd_channels",], found["nsqd_connections",]) == (2, 2, 2)
    assert found["nsqd_healthy",] == 1
    assert found["nsqd_syncs_total",] == 0
    assert found["nsqd_unsynced_appends",] >= 5
    assert found["nsqd_loop_lag_seconds_bucket", "0.02"] == 0
    assert found["nsqd_loop_lag_seconds_bucket", "0.05"] == 1
    assert ("nsqd_last_sync_time_seconds",) not in found
    assert [name for name, *_ in found if name == "nsqd_build_info"]


async def test_the_daemon_without_its_topics() -> None:
    daemon = worked()
    async with serving(daemon) as client:
        whole = parse((await client.get("/metrics")).text)
        own = parse((await client.get("/metrics?include_topics=false")).text)
    assert {key for key in whole if key[0].startswith(("nsqd_topic_", "nsqd_channel_"))} == set(whole) - set(
        own
    )
    logs = [value for (name, *_), value in whole.items() if name == "nsqd_topic_log_bytes"]
    assert own["nsqd_log_bytes",] == sum(logs) > 0
    assert own["nsqd_disk_free_bytes",] == daemon.storage.free_space() > 0
    assert own["nsqd_topics",] == len(logs)


async def test_a_sync_and_a_disk_that_refuses() -> None:
    daemon = worked()
    before = time.time()
    daemon.round()
    daemon.broker.want_sync()
    daemon.end_round()
    daemon.loop_lag.measure(0.0)
    daemon.broker.store.space.full = "no space left on device"
    found = await series_of(daemon)
    assert (found["nsqd_healthy",], found["nsqd_syncs_total",], found["nsqd_unsynced_appends",]) == (0, 1, 0)
    assert before <= found["nsqd_last_sync_time_seconds",] <= time.time()


async def test_latencies_only_where_they_are_measured() -> None:
    names = {name for name, *_ in await series_of(worked())}
    assert not [name for name in names if "latency" in name]
    found = await series_of(worked(e2e_processing_latency_percentiles=[0.99, 0.5]))
    latencies = {key: value for key, value in found.items() if "latency" in key[0]}
    assert latencies == {
        ("nsqd_topic_e2e_latency_seconds", "a", "0.99"): 0.5,
        ("nsqd_topic_e2e_latency_seconds", "a", "0.5"): 0.5,
        ("nsqd_channel_e2e_latency_seconds", "a", "ch", "0.99"): 0.5,
        ("nsqd_channel_e2e_latency_seconds", "a", "ch", "0.5"): 0.5,
    }


async def test_deliveries_by_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeDaemon, "topology", Topology("eu", "eu-1"))
    daemon = FakeDaemon()
    daemon.subscribe("a", "ch", rdy=2, topology=Topology("eu", "eu-1"))
    daemon.subscribe("a", "ch", rdy=3, topology=Topology("eu", "eu-2"))
    daemon.subscribe("a", "ch", rdy=9)
    daemon.put("a", *[b"x"] * 10)
    found = await series_of(daemon)
    places = {key[-1]: value for key, value in found.items() if key[0] == "nsqd_channel_deliveries_total"}
    assert places == {"zone": 2, "region": 3, "global": 5}


async def test_ages_of_what_is_on_disk_are_read_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oldest, "MAX_READS", 2)
    daemon = FakeDaemon()
    daemon.broker.context.options = attrs.evolve(daemon.broker.options, mem_queue_size=0)
    for number in range(5):
        daemon.make(f"t{number}", "c")
        daemon.put(f"t{number}", b"x")

    async def known() -> int:
        return sum(key[0] == "nsqd_channel_oldest_message_age_seconds" for key in await series_of(daemon))

    assert [await known() for _ in range(4)] == [2, 4, 5, 5]
    found = await series_of(daemon)
    assert found["nsqd_channel_oldest_message_age_seconds", "t4", "c"] == 0
    assert found["nsqd_channel_oldest_message_age_seconds", "t3", "c"] == 0.5


async def test_an_age_that_cannot_be_read_is_left_out() -> None:
    daemon = FakeDaemon()
    daemon.broker.context.options = attrs.evolve(daemon.broker.options, mem_queue_size=0)
    daemon.make("t", "c")
    daemon.put("t", b"x")
    daemon.storage.fault = lambda operation, _path: Fail(errno.EIO) if operation == "read" else None
    found = await series_of(daemon)
    assert found["nsqd_channel_depth", "t", "c"] == 1
    assert ("nsqd_channel_oldest_message_age_seconds", "t", "c") not in found
    daemon.storage.fault = lambda _operation, _path: None
    assert (await series_of(daemon))["nsqd_channel_oldest_message_age_seconds", "t", "c"] == 0


async def test_a_clock_that_was_set_back_makes_no_negative_age() -> None:
    page = await metrics_page(worked(), START_NS - 10**12)
    assert parse(page.body.decode())["nsqd_topic_oldest_message_age_seconds", "waits"] == 0


@promtool.needs_promtool
async def test_promtool_accepts_the_page() -> None:
    daemon = worked(e2e_processing_latency_percentiles=[0.99])
    promtool.check((await metrics_page(daemon, daemon.broker.wall_ns)).body)


async def test_every_series_is_documented() -> None:
    daemon = limited(e2e_processing_latency_percentiles=[0.99])
    daemon.broker.existing("a").set_limits({"retain": (3600 * 10**9, None)})
    daemon.broker.existing("a").channels["ch"].counts.dead_lettered[Cause.ATTEMPTS] = 1
    daemon.loop_lag.last_sync = 1.0
    follower = FollowerStats(
        address="a:1",
        in_step=True,
        state="in step",
        lag=0,
        lag_bytes=0,
        lag_seconds=0.0,
        sent_bytes=5,
        troubles={},
    )
    certificate = TlsFiles("TLS", [], client_context, cert_file="/etc/cert.pem")
    certificate.expires = 2e9
    daemon.tls_files = [certificate, certificate]
    daemon.copies_stats = CopiesStats(
        wanted=2,
        in_step=2,
        restored_bytes=0,
        published_again=0,
        adoptions=0,
        followers=[follower],
        held=[],
        scrub=ScrubStats(
            at_once=False,
            total_bytes=100,
            left_bytes=40,
            passed_at=None,
            passes=0,
            checked_bytes=60,
            mended=2,
            mended_there=1,
            unmended_count=1,
            unmended={"topic-t/00000000000000000000.log": "100 bytes are damaged"},
        ),
    )
    text = (await metrics_page(daemon, daemon.broker.wall_ns)).body.decode()
    assert text.count('nsqd_certificate_expiry_timestamp_seconds{file="/etc/cert.pem"} 2000000000.0\n') == 1
    documented = set(re.findall(r"`((?:nsqd|process)_[a-z_0-9]+)`", DOCS.read_text()))
    assert set(re.findall(r"# TYPE (\w+)", text)) == {
        name for name in documented if name[:11] != "nsqlookupd_"
    }


async def test_two_copies_of_one_leader_are_two_series() -> None:
    """Of a life that has ended, and of the one that has followed; and of two nodes that say the same name."""
    daemon = FakeDaemon()
    held = [
        HeldStats(
            life=life * 32,
            name="host:4150",
            complete=True,
            connected=connected,
            bytes=1,
            silent_seconds=1.0,
            hanging_seconds=0.0,
            adopted=not connected,
            stand_in_port=None,
            clock_skew_seconds=0.25,
        )
        for life, connected in (("a", True), ("b", False), ("c", True))
    ]
    daemon.copies_stats = CopiesStats(
        wanted=1, in_step=1, restored_bytes=0, published_again=0, adoptions=0, followers=[], held=held
    )
    text = (await metrics_page(daemon, START_NS)).body.decode()
    series = re.findall(r"^(nsqd_copy_clock_skew_seconds\S*) 0.25$", text, re.MULTILINE)
    assert len(set(series)) == len(series) == 2


@pytest.mark.parametrize("shape", [(1000, 2), (1, 2000)])
async def test_a_page_of_thousands_of_channels_leaves_turns_to_others(shape: tuple[int, int]) -> None:
    topics, channels = shape
    daemon = FakeDaemon()
    for number in range(topics):
        daemon.make(f"t{number}", *[f"c{at}" for at in range(channels)])
    gc.collect()
    gc.disable()  # as good as in the daemon, which collects seldom
    try:
        steps = Steps()
        with steps.measured():
            await metrics_page(daemon, START_NS)
    finally:
        gc.enable()
    assert steps.longest_s < steps.total_s / 5
