"""What nodes use: asked with each poll, and never waited for."""

from __future__ import annotations

import trio
import trio.testing

from nsqadmin.cluster.snapshot import Usage
from nsqadmin.cluster.usage import usage_between
from nsqadmin.upstream.metrics import ProcessMetrics
from tests.nsqadmin.cluster.polling import (
    ONE,
    OTHER_REGISTRY,
    REGISTRY,
    TWO,
    Stage,
    nsqds,
    polling,
    registries,
)


def page(cpu: float, lag: float = 0.0, measured: int = 0) -> bytes:
    """A /metrics."""
    return (
        f"process_resident_memory_bytes 1000\nprocess_cpu_seconds_total {cpu}\nnsqd_disk_free_bytes 5\n"
        f"nsqd_log_bytes 4\nnsqd_loop_lag_seconds_sum {lag}\nnsqd_loop_lag_seconds_count {measured}\n"
    ).encode()


async def usage(stage: Stage, address: str = ONE, after_s: float = 5) -> Usage:
    """After the answer of one more poll."""
    await stage.round(after_s)
    await trio.testing.wait_all_tasks_blocked()
    return (await stage.round()).nodes[address].usage


async def test_usage_is_between_two_answers(autojump_clock: trio.testing.MockClock) -> None:
    async with polling(**nsqds(ONE)) as stage:
        stage.upstream.nsqd(ONE)
        stage.upstream.responses[ONE]["/metrics"] = page(100)
        first = await stage.round()
        assert first.nodes[ONE].usage.memory_bytes == 1000
        assert first.nodes[ONE].usage.cpu is None
        stage.upstream.responses[ONE]["/metrics"] = page(102, lag=0.5, measured=10)
        shown = await stage.round(after_s=10)
        assert shown.nodes[ONE].usage == Usage(0.2, 1000, 5, 4, 0.05, missing="")


def test_after_a_restart_nothing_is_negative() -> None:
    before, after = (
        ProcessMetrics(cpu_s=100, lag_s=3, lag_count=50),
        ProcessMetrics(cpu_s=1, lag_s=0, lag_count=1),
    )
    found = usage_between(before, after, 5.0)
    assert (found.cpu, found.loop_lag_s) == (None, None)
    assert usage_between(after, after, 5.0).loop_lag_s is None, "not measured again yet"
    assert usage_between(after, after, 0.0).cpu is None


async def test_a_node_without_metrics_is_asked_once_a_minute(autojump_clock: trio.testing.MockClock) -> None:
    async with polling(**nsqds(ONE)) as stage:
        stage.upstream.nsqd(ONE)
        for _ in range(10):
            shown = await stage.round(after_s=5)
        assert shown.problems == (), "it is no trouble"
        assert shown.nodes[ONE].usage.missing.startswith("It does not answer /metrics, which the original")
        assert stage.upstream.requests[f"{ONE}/metrics"] == 1
        stage.upstream.responses[ONE]["/metrics"] = page(1)
        for _ in range(3):
            shown = await stage.round(after_s=5)
        assert stage.upstream.requests[f"{ONE}/metrics"] == 2
        assert shown.nodes[ONE].usage.memory_bytes == 1000


async def test_a_poll_does_not_wait_for_metrics(autojump_clock: trio.testing.MockClock) -> None:
    async with polling(**nsqds(ONE, TWO)) as stage:
        answers = trio.Event()
        for address in (ONE, TWO):
            stage.upstream.nsqd(address)
        stage.upstream.hanging[f"{TWO}/metrics"] = answers
        stage.upstream.responses[TWO]["/metrics"] = page(1)
        began = trio.current_time()
        for _ in range(3):
            shown = await stage.round()
        assert trio.current_time() == began
        assert shown.nodes[TWO].usage == Usage()
        answers.set()
        assert (await usage(stage, TWO)).memory_bytes == 1000
        assert stage.upstream.requests[f"{TWO}/metrics"] <= 3, "one at a time"


async def test_a_node_that_does_not_answer_shows_no_old_usage(autojump_clock: trio.testing.MockClock) -> None:
    async with polling(**nsqds(ONE)) as stage:
        stage.upstream.nsqd(ONE)
        stage.upstream.responses[ONE]["/metrics"] = page(1)
        assert (await usage(stage)).memory_bytes == 1000
        del stage.upstream.responses[ONE]
        shown = await stage.round(after_s=5)
        assert shown.nodes[ONE].usage == Usage(missing="It does not answer")


async def test_the_certificate_of_a_registry_is_in_the_snapshot(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """That of the original has no /metrics."""
    async with polling(**registries(REGISTRY, OTHER_REGISTRY)) as stage:
        for registry in (REGISTRY, OTHER_REGISTRY):
            stage.upstream.registry(registry, [])
        line = b'nsqlookupd_certificate_expiry_timestamp_seconds{file="/c"} 2000000000.0\n'
        stage.upstream.responses[REGISTRY]["/metrics"] = line
        await stage.round()
        await trio.testing.wait_all_tasks_blocked()
        assert (await stage.round()).certificates == {REGISTRY: 2e9}
