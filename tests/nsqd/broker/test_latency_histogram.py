"""Quantiles are as near to the true ones as promised, and merging loses nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqd.broker.latency import BITS, LatencyHistogram

FRACTIONS = (0.001, 0.01, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)

values_lists = st.lists(
    st.one_of(st.integers(0, 100), st.integers(0, 10**6), st.integers(0, 10**12), st.integers(0, 2**63)),
    min_size=1,
    max_size=300,
)


def histogram_of(values: list[int]) -> LatencyHistogram:
    histogram = LatencyHistogram()
    histogram.extend(values)
    return histogram


def true_quantile(values: list[int], fraction: float) -> int:
    return sorted(values)[max(1, math.ceil(fraction * len(values) - 1e-6)) - 1]


@given(values=values_lists, fraction=st.one_of(st.sampled_from(FRACTIONS), st.floats(0.0001, 1.0)))
def test_a_quantile_is_right_but_for_the_width_of_its_bucket(values: list[int], fraction: float) -> None:
    found, true = histogram_of(values).quantile(fraction), true_quantile(values, fraction)
    assert abs(found - true) * 2**BITS <= true


@given(values=st.lists(st.integers(0, 2**BITS - 1), min_size=1), fraction=st.sampled_from(FRACTIONS))
def test_small_values_are_exact(values: list[int], fraction: float) -> None:
    assert histogram_of(values).quantile(fraction) == true_quantile(values, fraction)


@given(parts=st.lists(values_lists, min_size=1, max_size=5), fraction=st.sampled_from(FRACTIONS))
def test_merged_parts_are_the_whole(parts: list[list[int]], fraction: float) -> None:
    merged = LatencyHistogram()
    for part in parts:
        merged.merge(histogram_of(part))
    whole = histogram_of([value for part in parts for value in part])
    assert (merged.count, len(merged), merged.quantile(fraction)) == (
        whole.count,
        len(whole),
        whole.quantile(fraction),
    )


def test_an_empty_histogram() -> None:
    assert (LatencyHistogram().count, LatencyHistogram().quantile(0.99), len(LatencyHistogram())) == (0, 0, 0)


@pytest.mark.parametrize("step", [1, 977, 10**6])
def test_the_number_of_buckets_grows_with_the_logarithm(step: int) -> None:
    histogram = histogram_of(list(range(0, 100_000 * step, step)))
    assert histogram.count == 100_000
    assert len(histogram) <= 64 * 2 ** (BITS - 1)


def test_a_merged_histogram_and_its_parts_count_on_alone() -> None:
    part, whole = histogram_of([1, 2, 3]), LatencyHistogram()
    whole.merge(part)
    part.extend([40] * 600)
    assert (whole.count, whole.quantile(1.0)) == (3, 3)
    whole.extend([5] * 600)
    assert (part.count, part.quantile(1.0), whole.quantile(1.0)) == (603, 40, 5)
