"""A trail that writes into a file of a test, and what is in the file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nsqkit.audit import AuditTrail
from tests.process.waiting import wait_until

__all__ = ["lines_in", "trail_in", "wait_for_lines"]


def lines_in(path: Path) -> list[dict[str, Any]]:
    """All lines, which must be whole ones; without those of a start and a stop."""
    text = path.read_bytes().decode() if path.exists() else ""
    assert not text or text.endswith("\n")
    lines = [json.loads(line) for line in text.splitlines()]
    return [line for line in lines if line["what"] not in ("start", "stop")]


def wait_for_lines(path: Path, count: int) -> list[dict[str, Any]]:
    """The same, when there are so many."""
    wait_until(lambda: len(lines_in(path)) >= count, 10, f"{count} lines in {path}")
    return lines_in(path)


@contextlib.contextmanager
def trail_in(folder: Path, *, required: bool = False) -> Iterator[AuditTrail]:
    """A trail that runs, with the file `audit`. At the end everything is in the file."""
    trail = AuditTrail(str(folder / "audit"), required, "nsqd")
    trail.start("10.0.0.1:4151")
    try:
        yield trail
    finally:
        trail.close()
