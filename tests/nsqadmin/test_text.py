"""Numbers, durations and sizes are short."""

from __future__ import annotations

import pytest

from nsqadmin.text import bytes_text, duration_text, nanoseconds, number_text, percent, rate_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (9_999, "9,999"),
        (10_000, "10.0k"),
        (12_345, "12.3k"),
        (123_456, "123k"),
        (999_949, "1.00M"),
        (4_561_000, "4.56M"),
        (2_000_000_000, "2.00G"),
        (7_300_000_000_000, "7.30T"),
        (-25_000, "-25.0k"),
    ],
)
def test_counts_are_shortened_from_ten_thousand_on(value: float, text: str) -> None:
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.004, "<0.01"),
        (0.25, "0.25"),
        (0.5, "0.5"),
        (0.994, "0.99"),
        (0.996, "1"),
        (8.123, "8.1"),
        (42.0, "42"),
        (740.4, "740"),
        (1_250.0, "1,250"),
        (31_000.0, "31.0k"),
    ],
)
def test_rates_have_few_digits(value: float, text: str) -> None:
    assert rate_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (-3, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (3_600, "1 h"),
        (18_720, "5 h 12 min"),
        (86_400 * 8 + 3 * 3_600, "8 d 3 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.50 KiB"), (5 * 2**30, "5.00 GiB"), (2**60, "1048576 TiB")],
)
def test_sizes_have_binary_units(value: float, text: str) -> None:
    assert bytes_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(120_000, "120 µs"), (3_400_000, "3.40 ms"), (2_100_000_000, "2.10 s"), (200e9, "3 min 20 s")],
)
def test_latencies_are_given_in_nanoseconds(value: float, text: str) -> None:
    assert nanoseconds(value) == text


def test_percentages_are_rounded() -> None:
    assert percent(1, 3) == "33 %"
    assert percent(1, 1_000) == "<1 %"
    assert percent(0, 0) == "0 %"
