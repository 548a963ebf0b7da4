"""Other tasks run between the slices of long work."""

from __future__ import annotations

import attrs
import pytest
import trio

from nsqkit import yielder as module
from nsqkit.yielder import Yielder


@attrs.define
class Clock:
    """What `perf_counter` tells."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "perf_counter", clock)
    return clock


@pytest.fixture
async def turns(nursery: trio.Nursery) -> list[int]:
    """Grows by one for each turn that another task has."""
    seen: list[int] = []

    async def run() -> None:
        while True:
            seen.append(len(seen))
            await trio.lowlevel.checkpoint()

    nursery.start_soon(run)
    await trio.lowlevel.checkpoint()
    return seen


async def test_a_checkpoint_follows_each_slice_and_none_comes_before(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = 0

    async def checkpoint() -> None:
        nonlocal checkpoints
        checkpoints += 1

    monkeypatch.setattr(trio.lowlevel, "checkpoint", checkpoint)
    yielder = Yielder(0.01)
    had = []
    for _ in range(6):
        clock.now += 0.004
        before = checkpoints
        await yielder.maybe_yield()
        had.append(checkpoints > before)
    assert had == [False, False, True, False, False, True]


async def test_busy_time_is_that_of_the_slices(clock: Clock) -> None:
    yielder = Yielder(0.01)
    for _ in range(7):
        clock.now += 0.004
        await yielder.maybe_yield()
    assert yielder.busy_s == pytest.approx(0.024)


async def test_map_keeps_the_order_and_lets_other_tasks_run(clock: Clock, turns: list[int]) -> None:
    def double(number: int) -> int:
        clock.now += 1.0
        return number * 2

    before = len(turns)
    assert await Yielder().map(double, range(50)) == [number * 2 for number in range(50)]
    # Trio runs the tasks of a round in any order: of the first or the last turn one may be outside.
    assert len(turns) - before >= 49
