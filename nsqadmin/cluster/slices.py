"""Long work in slices: other tasks have their turn after every few milliseconds."""

from __future__ import annotations

from time import perf_counter

import trio

__all__ = ["Slices"]

_SLICE_S = 0.004


class Slices:
    """Call `turn` after each small piece of a long work."""

    __slots__ = ("_began", "busy_s")

    def __init__(self) -> None:
        self._began = perf_counter()
        self.busy_s = 0.0
        """Seconds worked so far, without the turns of others."""

    async def turn(self) -> None:
        """Give way if this slice was long enough."""
        worked = perf_counter() - self._began
        if worked > _SLICE_S:
            self.busy_s += worked
            await trio.lowlevel.checkpoint()
            self._began = perf_counter()
