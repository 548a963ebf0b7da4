"""Lines that come seldom."""

from __future__ import annotations

import logging

import pytest

from nsqkit.logging import RateLimitedLogger


def test_one_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    """The others are counted, and told of with the next one."""
    logger = RateLimitedLogger(logging.getLogger("nsq.test"))
    for now in (0.0, 0.1, 0.9, 1.0, 1.5, 9.0):
        logger.log(now, "at %.1f", now)
    assert [record.getMessage() for record in caplog.records] == [
        "at 0.0",
        "at 1.0 (and 2 more since the last such line)",
        "at 9.0 (and 1 more since the last such line)",
    ]


def test_a_traceback_counts_as_its_line(caplog: pytest.LogCaptureFixture) -> None:
    logger = RateLimitedLogger(logging.getLogger("nsq.test"))
    errors = [ValueError(str(number)) for number in range(3)]
    for error in errors:
        logger.log(0.0, "failed", error=error)
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == errors[:1]
