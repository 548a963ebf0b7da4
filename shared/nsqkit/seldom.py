"""Log lines about single messages, at most one a second, so that a stream of bad messages fills no disk."""

from __future__ import annotations

import logging
from typing import Final

import attrs

__all__ = ["Seldom"]

BETWEEN_S: Final = 1.0


@attrs.define(eq=False)
class Seldom:
    """A logger that says the first of many like it, and later how many it has left out."""

    log: logging.Logger
    level: int = logging.WARNING
    _next_at: float = float("-inf")
    _left_out: int = 0

    def tell(self, now: float, text: str, *values: object) -> None:
        """Log, or count; `now` is in seconds of any clock."""
        if now < self._next_at:
            self._left_out += 1
            return
        if self._left_out:
            text += " (and %d more since the last such line)"
            values += (self._left_out,)
        self.log.log(self.level, text, *values)
        self._next_at, self._left_out = now + BETWEEN_S, 0
