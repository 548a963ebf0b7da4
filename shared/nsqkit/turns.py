"""Turns on the event loop, shared by many tasks that each have more to do than fits into one.

trio runs all tasks that are ready, one step each, before it looks at sockets again. Hundreds of tasks with a step of
some milliseconds each would make that a second, for everybody. With `Turns` they have a few milliseconds in all of each
pass of the event loop. The others wait in two queues, first come, first served: those that begin something, and those
that continue. The first go before the second, of which at least one goes in each pass. So one that has little to do
hardly waits, and the rest of the program waits for a few milliseconds.

    await turns.take()                 # before some work: returns at once, without a checkpoint, unless others wait
    ...
    turns.spent(seconds)               # after it
    await turns.give_way()             # where there is more to do: the next turn, after those of all others

Theory of operation. The time that was spent is added up. When it is as much as a pass may have, a task begins to end
passes: after each of them it forgets the time, and it ends when nobody waits. Usually that was the time of many passes.
If it becomes `CROWD` times as much before the task runs, there is a crowd: all that come are parked, and after each
pass the task wakes as many of them as are likely to fit into the next one, until none is left. Without a crowd, a turn
costs an addition and a comparison.
"""

from __future__ import annotations

from typing import Final

import trio

__all__ = ["Turns", "long_work", "request_turns"]

PASS_SECONDS: Final = 0.005
CROWD = 2
MOST_WOKEN = 64  # at once; the average that it is computed from may belong to cheaper work
_WEIGHT: Final = 1 / 16  # of the last turn in the average


class Turns:
    """The turns of one kind of work in one run of trio. `pass_s`: seconds that it may take in each pass."""

    def __init__(self, pass_s: float = PASS_SECONDS) -> None:
        self._pass_s = pass_s
        self._spent_s = 0.0
        self._average_s = pass_s / 8
        self._beginning = trio.lowlevel.ParkingLot()
        self._continuing = trio.lowlevel.ParkingLot()
        self._ending_passes = False
        self.crowded = False
        """Whether `take` has to wait."""

    def spent(self, seconds: float) -> None:
        """Note how long a turn took."""
        self._spent_s += seconds
        self._average_s += (seconds - self._average_s) * _WEIGHT
        if self._spent_s >= self._pass_s:
            if not self._ending_passes:
                self._ending_passes = True
                trio.lowlevel.spawn_system_task(self._end_passes)
            if self._spent_s >= CROWD * self._pass_s:
                self.crowded = True

    async def take(self, *, continued: bool = False) -> None:
        """Wait for a turn. A checkpoint only if others wait, or the time of this pass is used up.

        `continued`: behind all that begin something.
        """
        if self.crowded:
            await (self._continuing if continued else self._beginning).park()

    async def give_way(self) -> None:
        """Let other tasks run, and wait for the next turn. Always a checkpoint."""
        if self.crowded:
            await self._continuing.park()
        else:
            await trio.lowlevel.checkpoint()

    async def _end_passes(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            self._spent_s = 0.0
            if not self._beginning and not self._continuing:
                break
            fitting = int(self._pass_s / max(self._average_s, self._pass_s / MOST_WOKEN))
            fitting -= len(self._beginning.unpark(count=max(1, fitting)))
            self._continuing.unpark(count=max(1, fitting))
        self._ending_passes = self.crowded = False


_requests: trio.lowlevel.RunVar[Turns] = trio.lowlevel.RunVar("nsqkit.turns.requests")
_long_work: trio.lowlevel.RunVar[Turns] = trio.lowlevel.RunVar("nsqkit.turns.long_work")


def request_turns() -> Turns:
    """Those of all connections over HTTP."""
    return _of_this_run(_requests)


def long_work() -> Turns:
    """Those of all work in slices, see `Yielder`."""
    return _of_this_run(_long_work)


def _of_this_run(variable: trio.lowlevel.RunVar[Turns]) -> Turns:
    try:
        return variable.get()
    except LookupError:
        turns = Turns()
        variable.set(turns)
        return turns
