"""How long to wait before the next attempt."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import attrs

__all__ = ["LONGEST", "SHORTEST", "Backoff"]

SHORTEST: Final = 0.1  # seconds
LONGEST: Final = 2.5  # so that a registry that is back knows everything within 3 s


@attrs.define
class Backoff:
    """Pauses that double, from `SHORTEST` to `LONGEST` at most.

    Chance takes up to half of each away, so that all daemons do not come back to a registry at the same moment.
    `chance` gives a number from 0 up to 1.
    """

    chance: Callable[[], float] = random.random
    _pause: float = SHORTEST

    def next(self) -> float:
        """Seconds to wait now."""
        pause = self._pause
        self._pause = min(LONGEST, pause * 2)
        return max(SHORTEST, pause * (1 - self.chance() / 2))

    def reset(self) -> None:
        """It went well: begin with the shortest again."""
        self._pause = SHORTEST
