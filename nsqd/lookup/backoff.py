"""The pauses between attempts to connect."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import attrs

__all__ = ["LONGEST", "SHORTEST", "Backoff"]

SHORTEST: Final = 0.1  # seconds
LONGEST: Final = 2.5  # seconds; a registry that is back knows everything within 3 s


@attrs.define
class Backoff:
    """Pauses that double, from `SHORTEST` up to `LONGEST`.

    Each is shortened by a random part of up to one half, so that not all daemons return to a registry at the same
    moment. `chance` returns a number in [0, 1).
    """

    chance: Callable[[], float] = random.random
    _pause: float = SHORTEST

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        pause = self._pause
        self._pause = min(LONGEST, pause * 2)
        return max(SHORTEST, pause * (1 - self.chance() / 2))

    def reset(self) -> None:
        """Start again with the shortest pause, after a success."""
        self._pause = SHORTEST
