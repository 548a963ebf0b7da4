"""The memory that all channels together may use for messages read ahead of their consumers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

__all__ = ["ReadAheadBudget"]


class Holder(Protocol):
    """An object that holds bytes which can be read again."""

    def drop(self) -> None:
        """Release the bytes, and update the budget."""


class ReadAheadBudget:
    """Bytes that all readers may hold together."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = 0
        self._held: OrderedDict[Holder, int] = OrderedDict()

    def update(self, reader: Holder, size: int) -> None:
        """Set how many bytes a reader holds. Above the limit, those that read longest ago are dropped."""
        self.used += size - self._held.pop(reader, 0)
        if size:
            self._held[reader] = size
        # The last one may exceed the limit alone: without its frames the reader could not make progress.
        while self.used > self.max_bytes and len(self._held) > 1:
            oldest = next(iter(self._held))
            oldest.drop()
