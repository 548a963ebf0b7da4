"""The figures of an nsqd's process, whatever it sends as /metrics."""

from __future__ import annotations

import random

import pytest

from nsqadmin.upstream.metrics import ProcessMetrics, metrics, read_metrics
from nsqd.stats.prometheus import metrics_page
from tests.nsqadmin.fake_upstream import FakeUpstream
from tests.nsqd.http.fake_daemon import FakeDaemon


async def test_the_page_of_an_nsqd_has_all_figures() -> None:
    daemon = FakeDaemon()
    daemon.make("t", "c")
    daemon.loop_lag.measure(0.25)
    daemon.loop_lag.measure(0.5)
    found = read_metrics((await metrics_page(daemon, 0, include_topics=False)).body)
    assert (found.lag_s, found.lag_count) == (0.75, 2)
    assert found.cpu_s
    assert found.memory_bytes
    assert found.disk_free_bytes
    assert found.log_bytes
    assert read_metrics((await metrics_page(daemon, 0)).body).memory_bytes, "also with its topics"


@pytest.mark.parametrize("daemon", ["nsqd", "nsqlookupd"])
def test_of_several_certificates_the_first_that_expires_counts(daemon: str) -> None:
    page = "".join(
        f'{daemon}_certificate_expiry_timestamp_seconds{{file="/a b/{number}.pem"}} {expiry}\n'
        for number, expiry in enumerate(["3e9", "2e9", "x"])
    )
    assert read_metrics(page.encode()) == ProcessMetrics(certificate_expiry=2e9)


@pytest.mark.parametrize(
    "value", [b"", b"x", b"nan", b"inf", b"-1", b"1e999", b"9" * 5000, b"1 2", b"\xff", b"0x10"]
)
def test_a_value_that_is_none_is_left_out(value: bytes) -> None:
    page = b"process_cpu_seconds_total " + value + b"\nnsqd_log_bytes 7\n"
    assert read_metrics(page) == ProcessMetrics(log_bytes=7)


def test_any_bytes_can_be_read() -> None:
    chance = random.Random(7)
    words = [b"process_cpu_seconds_total", b"nsqd_log_bytes", b" ", b"\n", b"{", b"1", b"e", b"9", b"\x00"]
    for _ in range(2_000):
        found = read_metrics(b"".join(chance.choices(words, k=chance.randrange(20))))
        assert found.cpu_s is None or found.cpu_s >= 0


def test_only_the_beginning_of_a_page_is_read() -> None:
    assert read_metrics(b"# x\n" * 1_000_000 + b"nsqd_log_bytes 7\n") == ProcessMetrics()


async def test_topics_are_not_requested() -> None:
    upstream = FakeUpstream.make()
    upstream.responses["a:1"] = {"/metrics": b"nsqd_log_bytes 7\n"}
    assert (await metrics(upstream, "a:1")).log_bytes == 7
    assert upstream.params == [{"include_topics": "false"}]
