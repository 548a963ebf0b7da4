"""Long work on the event loop, done in slices: other tasks run after each of them.

yielder = Yielder()
for topic in topics:
    ...
    await yielder.maybe_yield()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter
from typing import TypeVar

from nsqkit.turns import long_work

__all__ = ["Yielder"]

_ItemT = TypeVar("_ItemT")
_ResultT = TypeVar("_ResultT")


class Yielder:
    """Call `maybe_yield` after each small piece of the work; `slice_s` is the length of a slice in seconds.

    All yielders of a run share their turns (`nsqkit.turns`): a hundred of them delay other tasks no more than one.
    """

    __slots__ = ("_slice_began", "_slice_s", "busy_s")

    def __init__(self, slice_s: float = 0.004) -> None:
        self._slice_s = slice_s
        self._slice_began = perf_counter()
        self.busy_s = 0.0
        """Seconds worked in the slices that have ended, without the turns of other tasks."""

    async def maybe_yield(self) -> None:
        """Let other tasks run if the slice has lasted long enough."""
        # By the clock and not by the number of pieces: these differ by a factor of a hundred in cost, and a
        # look at the clock takes 0.05 us.
        worked_s = perf_counter() - self._slice_began
        if worked_s > self._slice_s:
            self.busy_s += worked_s
            turns = long_work()
            turns.spent(worked_s)
            await turns.give_way()
            self._slice_began = perf_counter()

    async def map(self, function: Callable[[_ItemT], _ResultT], items: Iterable[_ItemT]) -> list[_ResultT]:
        """`function` of each item, with other tasks in between."""
        results: list[_ResultT] = []
        for item in items:
            results.append(function(item))
            await self.maybe_yield()
        return results
