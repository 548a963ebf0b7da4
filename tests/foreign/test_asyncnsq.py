"""asyncnsq: reader and writer on asyncio, unmaintained, but still in use.

There is no test with two daemons: its reader sends RDY before SUB on the second connection, which is an
error.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.foreign import scenarios

pytestmark = pytest.mark.foreign

COMMAND = [sys.executable, "-W", "ignore", "-m", "tests.foreign._asyncnsq_client"]


def test_publishes_and_consumes(tmp_path: Path) -> None:
    scenarios.publish_and_consume(COMMAND, tmp_path)


def test_touch_keeps_a_message(tmp_path: Path) -> None:
    scenarios.touch_keeps_a_message(COMMAND, tmp_path)


def test_survives_kill(tmp_path: Path) -> None:
    # Its reader never connects again: a new process takes over.
    scenarios.survive_kill(COMMAND, tmp_path, reconnects_within_s=None)
