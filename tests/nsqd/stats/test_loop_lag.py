"""The daemon feels its own loop_lag: how late it runs, and when the disk was last synced."""

from __future__ import annotations

import time

import pytest
import trio
import trio.testing

from nsqd.stats.loop_lag import PERIOD, EventLoopLag


def lag(loop_lag: EventLoopLag) -> dict[str, float]:
    return dict(loop_lag.histogram.family("lag", "Lag.").samples)


async def test_an_idle_loop_is_never_late(autojump_clock: trio.testing.MockClock) -> None:
    loop_lag = EventLoopLag(lambda: 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop_lag.run)
        await trio.sleep(PERIOD * 8.5)
        nursery.cancel_scope.cancel()
    assert lag(loop_lag)["_count"] == lag(loop_lag)['_bucket{le="0.001"}'] == 8
    assert loop_lag.last_sync is None


async def test_a_task_that_holds_the_loop_is_measured(mock_clock: trio.testing.MockClock) -> None:
    loop_lag = EventLoopLag(lambda: 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop_lag.run)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(PERIOD + 0.3)  # as if something had held the loop for so long
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    found = lag(loop_lag)
    assert (found['_bucket{le="0.25"}'], found['_bucket{le="0.5"}'], found["_count"]) == (0, 1, 1)
    assert found["_sum"] == pytest.approx(0.3)


def test_the_time_of_the_last_sync() -> None:
    syncs = 7  # that were done before it was made do not count
    loop_lag = EventLoopLag(lambda: syncs)
    loop_lag.measure(0.0)
    assert loop_lag.last_sync is None
    syncs += 2
    before = time.time()
    loop_lag.measure(0.0)
    assert loop_lag.last_sync is not None
    assert before <= loop_lag.last_sync <= time.time()
    seen = loop_lag.last_sync
    loop_lag.measure(0.0)
    assert loop_lag.last_sync == seen
