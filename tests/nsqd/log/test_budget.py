"""Memory that several holders share: those that were updated longest ago release theirs."""

from __future__ import annotations

from nsqd.log.budget import MemoryBudget


class Cache:
    """A holder. `step`: it releases multiples of this."""

    def __init__(self, budget: MemoryBudget, step: int = 1) -> None:
        self.budget, self.step, self.size = budget, step, 0

    def grow(self, size: int) -> None:
        self.size += size
        self.budget.update(self, self.size)

    def release(self, size: int) -> int:
        self.size = max(0, self.size - -(-size // self.step) * self.step)
        return self.size


def test_below_the_limit_nobody_releases_anything() -> None:
    budget = MemoryBudget(100)
    one, other = Cache(budget), Cache(budget)
    one.grow(40)
    other.grow(60)
    assert (one.size, other.size, budget.used) == (40, 60, 100)


def test_the_one_that_was_updated_longest_ago_releases_what_is_missing() -> None:
    budget = MemoryBudget(100)
    one, two, three = Cache(budget), Cache(budget, step=25), Cache(budget)
    one.grow(30)
    two.grow(50)
    three.grow(10)
    three.grow(30)
    assert (one.size, two.size, three.size, budget.used) == (10, 50, 40, 100)
    three.grow(20)
    assert (one.size, two.size, three.size, budget.used) == (0, 25, 60, 85)


def test_one_alone_may_exceed_the_limit() -> None:
    budget = MemoryBudget(10)
    one, other = Cache(budget), Cache(budget)
    one.grow(50)
    assert (one.size, budget.used) == (50, 50)
    other.grow(50)
    assert (one.size, other.size, budget.used) == (0, 50, 50)


def test_what_is_released_by_its_holder_is_free() -> None:
    budget = MemoryBudget(100)
    one, other = Cache(budget), Cache(budget)
    one.grow(90)
    one.grow(-90)
    other.grow(100)
    assert (budget.used, other.size) == (100, 100)
