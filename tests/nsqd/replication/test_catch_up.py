"""The limit for a follower that catches up. On a connection: `test_to_follower.py`."""

from __future__ import annotations

import pytest

from nsqd.replication.catch_up import BURST, CatchUpRate

CHUNK = 500


def supply(rate: CatchUpRate, lacking: int, *, written_a_second: float = 0.0, now: float = 0.0) -> float:
    """When everything was sent, chunk by chunk, if sending takes no time; fails after an hour."""
    began, taken = now, 0
    while now < began + 3600:
        written = int(written_a_second * (now - began))
        if delay := rate.delay(now, written):
            now += delay
            continue
        left = lacking + written - taken
        if left <= CHUNK:
            return now
        rate.sent(CHUNK)
        taken += CHUNK
        now += 0.001
    raise AssertionError(f"{lacking} bytes were not sent within an hour")


@pytest.mark.parametrize("written_a_second", [0.0, 500.0, 1000.0, 50_000.0])
def test_what_is_lacking_is_sent_at_the_rate_however_much_is_written(written_a_second: float) -> None:
    took = supply(CatchUpRate(1000, 0.0, 0), 20_000, written_a_second=written_a_second)
    assert took == pytest.approx(20, rel=0.1)


def test_without_a_limit_there_is_no_delay() -> None:
    rate = CatchUpRate(0, 0.0, 0)
    for _ in range(10):
        rate.sent(1 << 30)
        assert rate.delay(0.0, 0) == 0


def test_a_pause_is_not_made_up_for() -> None:
    rate = CatchUpRate(1000, 0.0, 0)
    assert rate.delay(1000.0, 0) == 0
    rate.sent(2000)
    assert rate.delay(1000.0, 0) == pytest.approx(2 - BURST)
    assert rate.delay(1001.0, 0) == pytest.approx(1 - BURST)
    assert rate.delay(1002.0, 0) == 0


def test_what_was_written_during_a_pause_may_be_sent_at_once() -> None:
    rate = CatchUpRate(1000, 0.0, 0)
    assert rate.delay(10.0, 1_000_000) == 0
    rate.sent(1_000_000)
    assert rate.delay(10.0, 1_000_000) == 0
