"""The trail of a daemon, and waiting for its lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from nsqkit.audit import AuditTrail, Means, Who, by_signal
from nsqkit.audit.waiting import AuditError, is_written, start_audit
from tests.nsqkit.audit.reading import lines_in, trail_in
from tests.process.waiting import wait_until
from tests.timing import patience

ANN = Who("ann", Means.TOKEN, "10.0.0.9:1")


def test_a_trail_begins_and_ends_with_a_line(tmp_path: Path) -> None:
    with trail_in(tmp_path) as trail:
        trail.record(by_signal("SIGUSR1"), "drain")
    text = (tmp_path / "audit").read_text()
    whats = [line.partition('"what":"')[2].partition('"')[0] for line in text.splitlines()]
    assert whats == ["start", "drain", "stop"]
    [drain] = lines_in(tmp_path / "audit")
    assert (drain["who"], drain["means"], drain["node"]) == ("SIGUSR1", "signal", "10.0.0.1:4151")
    assert (trail.written_count, trail.lost_count, trail.failing) == (3, 0, "")


async def test_without_a_file_there_is_none() -> None:
    trail = AuditTrail()
    await start_audit(trail, "10.0.0.1:4151")
    assert not trail.enabled
    assert trail.record(ANN, "drain") is None
    trail.refuse(ANN, "drain", "TOKEN_REQUIRED")
    assert await is_written(trail, None)
    assert not trail.refuses_changes
    trail.reopen()
    trail.close()


async def test_a_line_is_on_the_disk_once_it_is_written(tmp_path: Path) -> None:
    with trail_in(tmp_path) as trail:
        for number in range(5):
            ticket = trail.record(ANN, f"{number}")
            assert await is_written(trail, ticket)
            assert lines_in(tmp_path / "audit")[-1]["what"] == str(number)


@pytest.mark.parametrize("required", [True, False])
async def test_only_a_required_trail_refuses_changes(tmp_path: Path, required: bool) -> None:
    with trail_in(tmp_path, required=required) as trail:
        assert await is_written(trail, trail.record(ANN, "a"))
        assert not trail.refuses_changes
        (tmp_path / "audit").unlink()
        (tmp_path / "audit").mkdir()
        with trio.fail_after(patience(10)):
            assert not await is_written(trail, trail.record(ANN, "b"))
        assert trail.failing == "Is a directory"
        assert trail.refuses_changes is required
        (tmp_path / "audit").rmdir()
        wait_until(lambda: not trail.failing, 10, "the file can be written again")
    assert [line["what"] for line in lines_in(tmp_path / "audit")] == ["b"]


async def test_a_required_trail_that_cannot_be_written_is_no_start(tmp_path: Path) -> None:
    trail = AuditTrail(str(tmp_path / "none" / "audit"), True, "nsqd")
    with pytest.raises(AuditError, match="is required, and cannot be written: No such file or directory"):
        await start_audit(trail, "a:1")
    trail.close()


async def test_a_start_does_not_wait_for_a_trail_that_is_not_required(tmp_path: Path) -> None:
    trail = AuditTrail(str(tmp_path / "none" / "audit"), False, "nsqd")
    await start_audit(trail, "a:1")
    trail.close()
    assert trail.failing == "No such file or directory"


async def test_nobody_waits_for_ever(
    tmp_path: Path, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that hangs: nothing is ever settled."""
    with trail_in(tmp_path) as trail:
        monkeypatch.setattr(AuditTrail, "when_settled", lambda *_: None)
        assert not await is_written(trail, 1_000_000)
