"""Pauses between attempts."""

from __future__ import annotations

import pytest

from nsqd.lookup.backoff import Backoff


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(chance=lambda: 0.0)
    assert [backoff.next() for _ in range(7)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.5, 2.5]


def test_chance_takes_away_up_to_half_but_never_goes_below_the_shortest() -> None:
    backoff = Backoff(chance=lambda: 1.0)
    assert [backoff.next() for _ in range(7)] == pytest.approx([0.1, 0.1, 0.2, 0.4, 0.8, 1.25, 1.25])


def test_reset() -> None:
    backoff = Backoff(chance=lambda: 0.0)
    for _ in range(5):
        backoff.next()
    backoff.reset()
    assert backoff.next() == 0.1
