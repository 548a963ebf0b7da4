"""Concurrent and recent calls share one result."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from nsqadmin.cluster.coalesce import Coalescer


async def test_the_first_caller_may_be_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    coalescer: Coalescer[str] = Coalescer(5)

    async def slow() -> str:
        await trio.sleep(2)
        return "result"

    async with trio.open_nursery() as nursery, coalescer.running(nursery):
        with trio.move_on_after(1):
            await coalescer.get("q", slow)
        with trio.fail_after(1.5):
            assert await coalescer.get("q", slow) == "result"


async def test_results_are_kept_for_their_time_and_not_longer(autojump_clock: trio.testing.MockClock) -> None:
    coalescer: Coalescer[int] = Coalescer(5)
    calls = 0

    async def count() -> int:
        nonlocal calls
        calls += 1
        return calls

    async with trio.open_nursery() as nursery, coalescer.running(nursery):
        got = []
        for _ in range(4):
            got.append(await coalescer.get("q", count))
            await trio.sleep(2)
    assert got == [1, 1, 1, 2]


async def test_results_that_nobody_asks_for_again_are_dropped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    # Each can be the 50,000 consumers of a channel.
    coalescer: Coalescer[int] = Coalescer(5)

    async def one() -> int:
        return 1

    async with trio.open_nursery() as nursery, coalescer.running(nursery):
        await coalescer.get("q", one)
        await trio.sleep(4)
        assert len(coalescer._calls) == 1
        await trio.sleep(2)
        assert len(coalescer._calls) == 0
        nursery.cancel_scope.cancel()


async def test_the_number_of_results_is_bounded() -> None:
    coalescer: Coalescer[int] = Coalescer(5)

    async def one() -> int:
        return 1

    async with trio.open_nursery() as nursery, coalescer.running(nursery):
        for number in range(1_000):
            await coalescer.get(number, one)
        assert len(coalescer._calls) <= 64
        nursery.cancel_scope.cancel()


async def test_calls_before_the_start_are_an_error() -> None:
    async def one() -> int:
        return 1

    with pytest.raises(RuntimeError, match="before the start"):
        await Coalescer[int](5).get("q", one)
