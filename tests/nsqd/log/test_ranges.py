"""`RangeSet` against a plain set."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqd.log import ranges as ranges_module
from nsqd.log.ranges import RangeSet, runs

LIMIT = 60

ends = st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT))
additions = st.lists(ends, max_size=25)
numbers = st.sets(st.integers(0, LIMIT))


@pytest.fixture(autouse=True, scope="module", params=[2, 1024])
def block_ranges(request: pytest.FixtureRequest) -> Iterator[None]:
    """The size of a block; a small one, so that small sets have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges_module, "BLOCK_RANGES", request.param)
        yield


def of(plain: set[int]) -> RangeSet:
    return RangeSet((number, number + 1) for number in plain)


def in_order(ranges: RangeSet) -> bool:
    """Neither empty, nor touching, nor overlapping."""
    items = list(ranges)
    return all(start < end for start, end in items) and all(
        end < start for (_, end), (start, _) in itertools.pairwise(items)
    )


def members(ranges: RangeSet) -> set[int]:
    return {number for start, end in ranges for number in range(start, end)}


@given(additions)
def test_adding_says_how_many_numbers_were_new(added: list[tuple[int, int]]) -> None:
    ranges, plain = RangeSet(), set[int]()
    for start, end in added:
        before = len(plain)
        plain |= set(range(start, end))
        assert ranges.add(start, end) == len(plain) - before
        assert in_order(ranges)
        assert ranges.count == len(plain)
        assert members(ranges) == plain


@given(numbers, st.integers(0, LIMIT))
def test_looking_up(plain: set[int], number: int) -> None:
    ranges = of(plain)
    assert (number in ranges) == (number in plain)
    end = number
    while end in plain:
        end += 1
    assert ranges.end_of(number) == end


@given(numbers, st.integers(0, LIMIT + 1))
def test_discarding_what_is_low(plain: set[int], number: int) -> None:
    ranges = of(plain)
    ranges.discard_below(number)
    left = {n for n in plain if n >= number}
    assert members(ranges) == left
    assert ranges.count == len(left)
    assert in_order(ranges)


@given(numbers, st.integers(0, LIMIT), st.integers(0, LIMIT))
def test_gaps_and_counts_of_a_stretch(plain: set[int], start: int, end: int) -> None:
    ranges = of(plain)
    stretch = set(range(start, end))
    gaps = ranges.gaps(start, end)
    assert members(RangeSet(gaps)) == stretch - plain
    assert sum(b - a for a, b in gaps) == len(stretch - plain)
    for limit in (1, 2, LIMIT + 1):
        assert ranges.first_outside(start, end, limit) == sorted(stretch - plain)[:limit]
    assert ranges.count_between(start, end) == len(stretch & plain)


@given(numbers, st.integers(0, LIMIT))
def test_the_next_range(plain: set[int], number: int) -> None:
    ranges = of(plain)
    starts = [n for n in plain if n >= number and n - 1 not in plain]
    assert ranges.next_start(number) == min(starts, default=None)


@given(numbers, numbers)
def test_equal_when_the_numbers_are(one: set[int], other: set[int]) -> None:
    assert (of(one) == of(other)) == (one == other)
    assert bool(of(one)) == bool(one)
    assert len(of(one)) == len(list(of(one)))


@given(st.sets(st.integers(0, LIMIT), min_size=1).flatmap(lambda s: st.permutations(sorted(s))))
def test_runs_are_the_ranges_of_a_list(items: list[int]) -> None:
    assert runs(list(items)) == list(of(set(items)))


def test_the_first_range() -> None:
    assert RangeSet([(5, 7), (1, 2)]).first_range() == (1, 2)
    with pytest.raises(IndexError):
        RangeSet().first_range()


def test_a_set_of_ranges_is_no_key() -> None:
    with pytest.raises(TypeError):
        hash(RangeSet())
    assert RangeSet() != set()
    assert repr(RangeSet([(1, 3)])) == "RangeSet([(1, 3)])"


def test_a_set_that_is_filled_at_random_has_small_blocks() -> None:
    """Otherwise each of a million insertions would move megabytes."""
    ranges, numbers = RangeSet(), list(range(0, 20_000, 2))
    random.Random(1).shuffle(numbers)
    for number in numbers:
        ranges.add(number, number + 1)
    assert len(ranges) == len(numbers)
    assert max(len(starts) for starts, _ in ranges._blocks) <= ranges_module.BLOCK_RANGES
    ranges.add(0, 20_000)
    assert list(ranges) == [(0, 20_000)]


@given(additions, ends)
def test_without(parts: list[tuple[int, int]], gap: tuple[int, int]) -> None:
    plain = {number for start, end in parts for number in range(start, end)}
    ranges, before = RangeSet(parts), list(RangeSet(parts))
    left = ranges.without(*gap)
    assert left == of(plain - set(range(*gap)))
    assert in_order(left)
    assert list(ranges) == before
