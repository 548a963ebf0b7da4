"""The benchmark of copies runs with and without a follower, compares neighbours, and notices what goes wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import attrs
import pytest

from bench import copies, load
from bench.copies import ALONE, AWAITED, COPIED, ROWS, Row, Scale, Setting
from bench.meter import Measurement
from bench.server import Server, ServerError, free_port, nsqd

SMALL = Scale(runs=1, seconds=0.1, batch_messages=2_000, lone_messages=20)
BY_NAME = {row.name: row for row in ROWS}


@pytest.mark.parametrize("name", ["mpub", "lone"])
def test_all_settings_of_a_row(name: str, tmp_path: Path) -> None:
    said: list[str] = []
    found = copies.run_row(sys.executable, tmp_path, BY_NAME[name], SMALL, said.append)
    assert list(found) == [ALONE, COPIED, AWAITED]
    assert len(said) == 3
    assert "beside_cpu_s" not in found[ALONE][0].extra
    for setting, (measurement,) in found.items():
        assert measurement.messages > 0
        assert (setting is ALONE) is ("beside_cpu_s" not in measurement.extra)
    assert len(copies.lines(BY_NAME[name], found)) == 3
    assert not list(tmp_path.iterdir())


def test_a_load_that_fails_says_why(tmp_path: Path) -> None:
    row = Row("broken", "a topic that has no valid name", "pub --topic=/ --seconds={seconds}")
    with pytest.raises(ServerError, match="E_BAD_TOPIC"):
        copies.run_once(sys.executable, tmp_path, row, COPIED, SMALL)


def test_a_follower_that_does_not_come_into_step_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "IN_STEP_SECONDS", 0.1)
    flags = f"--replicate-to=127.0.0.1:{free_port()}"
    with (
        Server(nsqd(sys.executable), tmp_path, flags=flags) as leader,
        pytest.raises(ServerError, match="not in step after"),
    ):
        copies.wait_until_in_step(leader)


def measured(cpu: float, seconds: float = 1.0, **extra: float) -> Measurement:
    """A thousand messages."""
    return Measurement(1000, seconds, cpu, 0.5, 0, 0.0, extra)


def test_a_run_is_compared_with_the_one_beside_it() -> None:
    """The machine was slower in the second run: it is no cost of copies."""
    found: dict[Setting, list[Measurement]] = {
        ALONE: [measured(0.010), measured(0.020, 2.0), measured(0.010)],
        COPIED: [measured(0.011, beside_cpu_s=0.004)] + [measured(0.022, beside_cpu_s=0.004)] * 2,
    }
    alone, copied = copies.lines(Row("r", "work", ""), found)
    assert alone == "| work | no follower | 1,000/s | 500 to 1,000 | 10.00 us |  | 50% |  |  |"
    assert (
        copied
        == "| work | one follower | 1,000/s | 1,000 to 1,000 | 22.00 us | 4.00 us | 50% | 1.10 | 1.10 to 2.20 |"
    )


def test_a_latency_is_in_milliseconds() -> None:
    found = {ALONE: [measured(0.0, p50_ms=0.125)], COPIED: [measured(0.0, p50_ms=0.25, beside_cpu_s=0.0)]}
    alone, copied = copies.lines(Row("r", "work", "", latency=True), found)
    assert "| 0.125 ms | 0.125 to 0.125 |" in alone
    assert copied.endswith("| 0.00 us | 0.00 us | 50% |  |  |")


def test_every_row_names_a_load_that_exists() -> None:
    for row in ROWS:
        kind, *options = row.load.format(**attrs.asdict(SMALL)).split()
        assert load._parse([kind, "1", *options]).kind == kind
