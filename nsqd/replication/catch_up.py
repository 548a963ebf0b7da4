"""How fast a follower that catches up is supplied: slowly enough that live traffic keeps disk and network."""

from __future__ import annotations

from typing import Final

import attrs

__all__ = ["CatchUpRate"]

BURST: Final = 0.1  # seconds: what was not used for longer is not made up for


@attrs.define(eq=False)
class CatchUpRate:
    """A limit of `rate` bytes a second, and as many bytes as are written meanwhile; 0: no limit.

    So what a follower lacks shrinks at this rate, and it gets into step, however much is written. Times are seconds of
    any one clock; `written` counts the bytes that were appended so far.
    """

    rate: int
    _now: float
    _written: int
    _earned: float = attrs.field(default=0.0, init=False)  # by time; below 0: what was sent too early
    _free: int = attrs.field(default=0, init=False)  # bytes: as many as were written, less what was sent

    def delay(self, now: float, written: int) -> float:
        """Seconds until more may be sent if nothing is written meanwhile; 0: at once."""
        self._earned = min(self._earned + self.rate * (now - self._now), self.rate * BURST)
        self._free += written - self._written
        self._now, self._written = now, written
        debt = -(self._earned + self._free)
        # A fraction of a byte would be a time that no clock can tell.
        return debt / self.rate if self.rate and debt >= 1 else 0.0

    def sent(self, size: int) -> None:
        """So many bytes were sent."""
        used = min(size, self._free)
        self._free -= used
        self._earned -= size - used
