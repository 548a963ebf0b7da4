"""The lines of --status-every."""

from __future__ import annotations

import logging

import pytest

from nsqtools.timings import StatusLines, Timings


def test_a_line_after_so_many() -> None:
    """In the original's form; percentiles are times that were measured."""
    timings = Timings("aggregate", 100)
    lines = [timings.add(number / 1000) for number in range(100, 0, -1)]
    assert lines[:-1] == [None] * 99
    assert lines[-1] == "[aggregate]: finished 100 - 99th: 99.00ms - 95th: 95.00ms - avg: 50.50ms"
    assert [timings.add(0.001) for _ in range(100)][-1] == (
        "[aggregate]: finished 100 - 99th: 1.00ms - 95th: 1.00ms - avg: 1.00ms"
    )


def test_every_single_one() -> None:
    """Possible, if not wise."""
    assert Timings("a", 1).add(0.0107649) == "[a]: finished 1 - 99th: 10.76ms - 95th: 10.76ms - avg: 10.76ms"


def status_lines(caplog: pytest.LogCaptureFixture, hosts: list[str], every: int) -> list[str]:
    """What is logged for three messages, all to the first host."""
    with caplog.at_level(logging.INFO, "nsq"):
        status = StatusLines(hosts, every)
        for _ in range(3):
            status.add(hosts[0], 0.001)
            status.add_all(0.002)
    return [record.getMessage() for record in caplog.records]


def test_one_host_has_no_lines_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """They would say the same."""
    warning, line = status_lines(caplog, ["a"], 3)
    assert warning == "--status-every=3: percentiles of less than 100 say little"
    assert line == "[aggregate]: finished 3 - 99th: 2.00ms - 95th: 2.00ms - avg: 2.00ms"


def test_several_hosts_have(caplog: pytest.LogCaptureFixture) -> None:
    """After so many of their own."""
    _, first, both = status_lines(caplog, ["a", "b"], 3)
    assert first.startswith("[a]: finished 3 - 99th: 1.00ms")
    assert both.startswith("[aggregate]: finished 3 - 99th: 2.00ms")


def test_switched_off(caplog: pytest.LogCaptureFixture) -> None:
    """0: nothing at all."""
    assert status_lines(caplog, ["a", "b"], 0) == []
