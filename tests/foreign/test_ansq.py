"""ansq: reader and writer on asyncio."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.foreign import scenarios

pytestmark = pytest.mark.foreign

COMMAND = [sys.executable, "-W", "ignore", "-m", "tests.foreign._ansq_client"]


def test_publishes_and_consumes(tmp_path: Path) -> None:
    scenarios.publish_and_consume(COMMAND, tmp_path)


def test_in_a_closed_cluster(tmp_path: Path) -> None:
    """By address and without TLS, which it does not have."""
    scenarios.in_a_closed_cluster(COMMAND, tmp_path, tls=False)


def test_touch_keeps_a_message(tmp_path: Path) -> None:
    scenarios.touch_keeps_a_message(COMMAND, tmp_path)


def test_two_daemons(tmp_path: Path) -> None:
    scenarios.two_daemons(COMMAND, tmp_path)


def test_survives_kill(tmp_path: Path) -> None:
    # ansq tries again after 1, 3 and 7 s.
    scenarios.survive_kill(COMMAND, tmp_path, reconnects_within_s=8)
