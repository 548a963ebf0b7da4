"""Quantiles are as near to the true ones as promised, whatever came in and however it was put together."""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsqd.broker.quantiles import ERROR, TAIL_ERROR, Sketch

FRACTIONS = (0.01, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)


def off_by(values: list[int], fraction: float, found: int) -> int:
    """How many ranks the answer is away from the one asked for; `values` are sorted."""
    wanted = max(1, math.ceil(fraction * len(values) - 1e-6))
    return max(0, bisect_left(values, found) + 1 - wanted, wanted - bisect_right(values, found))


def check(sketch: Sketch, values: list[int]) -> None:
    values = sorted(values)
    assert sketch.count == len(values)
    for fraction in FRACTIONS:
        found = sketch.quantile(fraction)
        assert found in values
        behind = len(values) * (1 - fraction)
        allowed = min(ERROR * len(values), TAIL_ERROR * behind / (1 - TAIL_ERROR)) + 1
        assert off_by(values, fraction, found) <= allowed, (fraction, found)
    assert sketch.quantile(1.0) == values[-1]


def stream(kind: str, count: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return {
        "any": lambda: [rng.randrange(10**10) for _ in range(count)],
        "latencies": lambda: [int(rng.paretovariate(1.1) * 1e6) for _ in range(count)],
        "rising": lambda: list(range(count)),
        "falling": lambda: list(range(count, 0, -1)),
        "few": lambda: [rng.randrange(4) for _ in range(count)],
        "one": lambda: [7] * count,
        "zigzag": lambda: [i if i % 2 else 10**9 - i for i in range(count)],
    }[kind]()


KINDS = st.sampled_from(["any", "latencies", "rising", "falling", "few", "one", "zigzag"])


@settings(max_examples=60, deadline=None)
@given(kind=KINDS, count=st.integers(1, 8000), chunk=st.integers(1, 700), seed=st.integers(0, 1 << 30))
def test_near_the_true_ones(kind: str, count: int, chunk: int, seed: int) -> None:
    values = stream(kind, count, seed)
    sketch = Sketch()
    for at in range(0, count, chunk):
        sketch.extend(values[at : at + chunk])
    check(sketch, values)


@settings(max_examples=40, deadline=None)
@given(
    parts=st.lists(st.tuples(KINDS, st.integers(0, 3000)), min_size=1, max_size=6),
    seed=st.integers(0, 1 << 30),
)
def test_merging_does_not_raise_the_error(parts: list[tuple[str, int]], seed: int) -> None:
    whole, values = Sketch(), []
    for at, (kind, count) in enumerate(parts):
        part, of_part = Sketch(), stream(kind, count, seed + at)
        part.extend(of_part)
        whole.merge(part)
        values += of_part
        assert part.count == count
    if values:
        check(whole, values)
    else:
        assert (whole.count, whole.quantile(0.5)) == (0, 0)


@given(values=st.lists(st.integers(0, 100), min_size=1, max_size=49))
def test_few_values_are_exact(values: list[int]) -> None:
    sketch = Sketch()
    sketch.extend(values)
    for fraction in FRACTIONS:
        assert sketch.quantile(fraction) == sorted(values)[max(1, math.ceil(fraction * len(values))) - 1]


def test_nothing_yet() -> None:
    assert (Sketch().count, Sketch().quantile(0.99), len(Sketch())) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["any", "latencies", "rising", "falling", "few", "zigzag"])
def test_the_size_of_a_sketch_hardly_grows(kind: str) -> None:
    sketch = Sketch()
    for at in range(20):
        sketch.extend(stream(kind, 5000, at))
    assert sketch.count == 100_000
    assert len(sketch) < 600


def test_a_merged_sketch_and_its_parts_go_on_alone() -> None:
    part, whole = Sketch(), Sketch()
    part.extend([1, 2, 3])
    whole.merge(part)
    part.extend([1000] * 600)
    assert (whole.count, whole.quantile(1.0)) == (3, 3)
    whole.extend([5] * 600)
    assert (part.count, part.quantile(1.0), whole.quantile(1.0)) == (603, 1000, 5)
