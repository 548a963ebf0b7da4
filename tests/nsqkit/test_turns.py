"""Turns on the event loop: how much of a pass a crowd may take, and who waits how long."""

from __future__ import annotations

import attrs
import pytest
import trio

from nsqkit.turns import Turns, long_work, request_turns
from nsqkit.yielder import Yielder

PASS_S = 0.01
TURN_S = 0.001
FITTING = round(PASS_S / TURN_S)
CROWD = 20 * FITTING


@attrs.define
class Passes:
    """What happened in each pass of the event loop."""

    count: int = 0
    turns: list[int] = attrs.field(factory=lambda: [0])

    async def watch(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            self.count += 1
            self.turns.append(0)

    def note(self) -> None:
        self.turns[-1] += 1


async def flood(turns: Turns, passes: Passes) -> None:
    while True:
        passes.note()
        turns.spent(TURN_S)
        await turns.give_way()


async def wait_passes(passes: Passes, count: int) -> None:
    end = passes.count + count
    while passes.count < end:
        await trio.lowlevel.checkpoint()


async def crowded(nursery: trio.Nursery, turns: Turns) -> Passes:
    """A crowd that has more to do than it ever gets done."""
    passes = Passes()
    nursery.start_soon(passes.watch)
    for _ in range(CROWD):
        nursery.start_soon(flood, turns, passes)
    await wait_passes(passes, 100)
    return passes


async def test_a_turn_costs_no_checkpoint_without_a_crowd() -> None:
    turns = Turns(PASS_S)
    with trio.CancelScope() as scope:
        scope.cancel()
        await turns.take()
        turns.spent(PASS_S / 2)
        await turns.take()
        assert not turns.crowded
    assert not scope.cancelled_caught


async def test_giving_way_is_always_a_checkpoint() -> None:
    turns = Turns(PASS_S)
    with trio.CancelScope() as scope:
        scope.cancel()
        await turns.give_way()
    assert scope.cancelled_caught


async def test_a_crowd_has_a_share_of_each_pass_and_goes_in_order(nursery: trio.Nursery) -> None:
    turns = Turns(PASS_S)
    passes = await crowded(nursery, turns)
    recent = passes.turns[-80:-1]
    # The watcher may run before or after the others in a pass, so two passes may appear as one.
    assert max(recent) <= 2 * (FITTING + 1)
    assert sum(recent) >= len(recent) * FITTING / 2
    nursery.cancel_scope.cancel()


async def test_who_begins_something_goes_before_the_crowd(nursery: trio.Nursery) -> None:
    turns = Turns(PASS_S)
    passes = await crowded(nursery, turns)
    assert turns.crowded
    began = passes.count
    await turns.take()
    beginning = passes.count - began
    began = passes.count
    await turns.take(continued=True)
    continued = passes.count - began
    assert beginning <= 3
    assert CROWD / FITTING / 2 <= continued <= 4 * CROWD / FITTING
    nursery.cancel_scope.cancel()


async def test_many_that_begin_something_do_not_stop_those_that_continue(nursery: trio.Nursery) -> None:
    turns, went_on = Turns(PASS_S), 0

    async def begin() -> None:
        while True:
            await turns.take()
            turns.spent(TURN_S)
            await trio.lowlevel.checkpoint()

    async def go_on() -> None:
        nonlocal went_on
        while True:
            await turns.take(continued=True)
            went_on += 1
            await trio.lowlevel.checkpoint()

    passes = Passes()
    for _ in range(CROWD):
        nursery.start_soon(begin)
    nursery.start_soon(passes.watch)
    nursery.start_soon(go_on)
    await wait_passes(passes, 200)
    assert went_on >= 40
    nursery.cancel_scope.cancel()


async def test_when_the_crowd_has_gone_all_is_as_before(nursery: trio.Nursery) -> None:
    turns = Turns(PASS_S)
    async with trio.open_nursery() as crowd:
        await crowded(crowd, turns)
        crowd.cancel_scope.cancel()  # those that wait are cancelled
    await trio.testing.wait_all_tasks_blocked()
    assert not turns.crowded
    await test_a_turn_costs_no_checkpoint_without_a_crowd()


async def test_yielders_share_their_turns(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.001
        return now

    monkeypatch.setattr("nsqkit.yielder.perf_counter", clock)
    passes = Passes()

    async def work() -> None:
        yielder = Yielder(0.004)
        while True:
            await yielder.maybe_yield()
            passes.note()

    nursery.start_soon(passes.watch)
    for _ in range(100):
        nursery.start_soon(work)
    await wait_passes(passes, 200)
    # A slice has a few steps here, of a millisecond each; all of them would have one in each pass.
    assert max(passes.turns[100:-1]) < 40
    nursery.cancel_scope.cancel()


async def test_each_kind_of_work_has_its_own_turns_in_each_run() -> None:
    assert request_turns() is request_turns()
    assert long_work() is long_work()
    assert request_turns() is not long_work()
