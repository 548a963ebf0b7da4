"""A queue of two priorities, in which an item can become urgent while it waits."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["UrgentFirst"]

_ItemT = TypeVar("_ItemT", bound=Hashable)


class UrgentFirst(Generic[_ItemT]):
    """Distinct items: urgent ones first, each kind in the order in which it was put. All operations take O(1)."""

    def __init__(self) -> None:
        self._urgent: dict[_ItemT, None] = {}
        self._others: dict[_ItemT, None] = {}

    def __bool__(self) -> bool:
        return bool(self._urgent or self._others)

    def put(self, item: _ItemT, *, urgent: bool) -> None:
        (self._urgent if urgent else self._others)[item] = None

    def pop(self) -> _ItemT:
        """Remove and return the next item. There must be one."""
        waiting = self._urgent or self._others
        item = next(iter(waiting))
        del waiting[item]
        return item

    def hurry(self, item: _ItemT) -> None:
        """Make an item urgent, if it is here."""
        if item in self._others:
            del self._others[item]
            self._urgent[item] = None
