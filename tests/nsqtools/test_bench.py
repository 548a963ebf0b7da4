"""The benchmark of the tools runs, and notices what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import tools
from bench.tools import Row, ToolFailed

pytestmark = pytest.mark.process


@pytest.mark.parametrize("row", [tools.ROWS[number] for number in (2, 3, 5)], ids=lambda row: row.title)
def test_rows(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gives a rate, and a line of the table."""
    monkeypatch.setattr(tools, "POLL_S", 0.001)
    result = tools.run_row(row, 20_000, tmp_path)
    assert result.measurement.rate > 0
    assert tools._line(row, [result, result]).count("|") == 6


def test_missing_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that finishes what it has not written is found out."""
    monkeypatch.setattr(tools, "_size", lambda path: path.stat().st_size - 1)
    with pytest.raises(ToolFailed, match="1 messages are missing"):
        tools.run_row(tools.ROWS[0], 20_000, tmp_path)


def test_tool_that_ends(tmp_path: Path) -> None:
    """Is not waited for."""
    with pytest.raises(ToolFailed, match=r"ended with code 2, and 1000 messages are left"):
        tools.run_row(Row("wrong", "nsq_to_file", "--nope"), 1000, tmp_path)
