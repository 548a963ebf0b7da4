"""Parts of collections that can only be walked."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from nsqd.broker.paging import part_of


@given(st.integers(0, 20), st.integers(0, 25), st.integers(1, 25))
def test_a_part_is_a_slice(count: int, start: int, limit: int) -> None:
    items = list(range(count))
    assert part_of(deque(items), start, limit) == items[start : start + limit]
    assert part_of(dict.fromkeys(items, "x").keys(), start, limit) == items[start : start + limit]
