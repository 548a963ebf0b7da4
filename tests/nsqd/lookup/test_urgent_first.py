"""The queue of two priorities."""

from __future__ import annotations

from nsqd.lookup.urgent_first import UrgentFirst


def drained(queue: UrgentFirst[str]) -> list[str]:
    items = []
    while queue:
        items.append(queue.pop())
    return items


def queue_of(*items: str) -> UrgentFirst[str]:
    """Capital ones are urgent."""
    queue: UrgentFirst[str] = UrgentFirst()
    for item in items:
        queue.put(item, urgent=item.isupper())
    return queue


def test_urgent_items_come_first_each_kind_in_order() -> None:
    assert drained(queue_of("a", "X", "b", "Y", "c")) == ["X", "Y", "a", "b", "c"]


def test_an_item_that_becomes_urgent_passes_the_others() -> None:
    queue = queue_of("a", "X", "b")
    queue.hurry("b")
    assert drained(queue) == ["X", "b", "a"]


def test_hurrying_what_is_not_here_or_is_urgent_changes_nothing() -> None:
    queue = queue_of("a", "X", "Y")
    queue.hurry("gone")
    queue.hurry("X")
    assert drained(queue) == ["X", "Y", "a"]
    assert not queue
