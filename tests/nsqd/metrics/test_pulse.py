"""The daemon feels its own pulse: how late it runs, and when the disk was last synced."""

from __future__ import annotations

import time

import pytest
import trio
import trio.testing

from nsqd.metrics.pulse import PERIOD, Pulse


def lag(pulse: Pulse) -> dict[str, float]:
    return dict(pulse.lag.family("lag", "Lag.").samples)


async def test_an_idle_loop_is_never_late(autojump_clock: trio.testing.MockClock) -> None:
    pulse = Pulse(lambda: 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pulse.run)
        await trio.sleep(PERIOD * 8.5)
        nursery.cancel_scope.cancel()
    assert lag(pulse)["_count"] == lag(pulse)['_bucket{le="0.001"}'] == 8
    assert pulse.last_sync is None


async def test_whoever_holds_up_the_loop_is_seen(mock_clock: trio.testing.MockClock) -> None:
    pulse = Pulse(lambda: 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pulse.run)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(PERIOD + 0.3)  # as if something had held the loop for so long
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    found = lag(pulse)
    assert (found['_bucket{le="0.25"}'], found['_bucket{le="0.5"}'], found["_count"]) == (0, 1, 1)
    assert found["_sum"] == pytest.approx(0.3)


def test_the_time_of_the_last_sync() -> None:
    syncs = 7  # that were done before it was made do not count
    pulse = Pulse(lambda: syncs)
    pulse.look(0.0)
    assert pulse.last_sync is None
    syncs += 2
    before = time.time()
    pulse.look(0.0)
    assert pulse.last_sync is not None
    assert before <= pulse.last_sync <= time.time()
    seen = pulse.last_sync
    pulse.look(0.0)
    assert pulse.last_sync == seen
