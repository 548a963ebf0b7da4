"""A limit in bytes on memory whose content can be read from disk again."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

__all__ = ["Holder", "MemoryBudget"]


class Holder(Protocol):
    """An object that holds bytes which can be read again."""

    def release(self, size: int) -> int:
        """Release at least `size` bytes, or all that it holds; returns how many it still holds."""


class MemoryBudget:
    """Bytes that all holders may have together."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = 0
        self._held: OrderedDict[Holder, int] = OrderedDict()

    def update(self, holder: Holder, size: int) -> None:
        """Set how many bytes a holder has. Above the limit, those that were updated longest ago release theirs."""
        self.used += size - self._held.pop(holder, 0)
        if size:
            self._held[holder] = size
        # The last one may exceed the limit alone: without its bytes it could not make progress.
        while self.used > self.max_bytes and len(self._held) > 1:
            oldest, held = next(iter(self._held.items()))
            left = oldest.release(self.used - self.max_bytes)
            self.used -= held - left
            if left:
                self._held[oldest] = left
            else:
                del self._held[oldest]
