"""Tasks that wait for one thing each: the same on both event loops."""

from __future__ import annotations

import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from nsqkit.client.parking import AsyncioParking, parking_here
from tests.nsqkit.client.fake import both_backends, run
from tests.timing import patience


@both_backends
def test_a_task_goes_on_when_its_place_is_left(backend: str) -> None:
    """Each by itself, in any order."""

    async def main() -> None:
        parking = parking_here()
        assert isinstance(parking, AsyncioParking) == (backend == "asyncio")
        places = [parking.new() for _ in range(3)]
        gone: list[int] = []

        async def wait(number: int) -> None:
            await places[number]
            gone.append(number)

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
            for number in (2, 0, 1):
                parking.leave(places[number])
                await anyio.wait_all_tasks_blocked()
        assert gone == [2, 0, 1]

    run(main, backend)


@both_backends
def test_a_place_that_was_left_before_lets_its_task_pass(backend: str) -> None:
    """Whoever answers may be faster."""

    async def main() -> None:
        parking = parking_here()
        place = parking.new()
        parking.leave(place)
        with anyio.fail_after(patience(1)):
            await place

    run(main, backend)


@both_backends
def test_to_leave_a_place_again_does_nothing(backend: str) -> None:
    """Twice, before its task could run, and after it ended."""

    async def main() -> None:
        parking = parking_here()
        place = parking.new()
        ends = 0

        async def wait() -> None:
            nonlocal ends
            await place
            ends += 1
            await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            parking.leave(place)
            parking.leave(place)
        parking.leave(place)
        assert ends == 1

    run(main, backend)


@both_backends
def test_a_cancelled_task_is_not_woken_a_second_time(backend: str) -> None:
    """Its place is left between the cancellation and its turn, and after that."""

    async def main() -> None:
        parking = parking_here()
        place: Any = parking.new()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def wait() -> None:
                    await place

                group.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
                parking.leave(place)
        parking.leave(place)
        await anyio.lowlevel.checkpoint()

    run(main, backend)


@both_backends
def test_a_time_out_ends_the_wait(backend: str) -> None:
    """As in any wait."""

    async def main() -> None:
        with anyio.move_on_after(0.01) as scope:
            await parking_here().new()
        assert scope.cancelled_caught

    run(main, backend)


@pytest.mark.parametrize(("backend", "other"), [("asyncio", time.monotonic), ("trio", None)])
def test_the_clock_is_the_loop_s(backend: str, other: Any) -> None:
    """Deadlines are compared with those of time-outs."""

    async def main() -> None:
        assert parking_here().now() == pytest.approx(anyio.current_time(), abs=0.5)
        if other is not None:
            assert parking_here().now() == pytest.approx(other(), abs=0.5)

    run(main, backend)
