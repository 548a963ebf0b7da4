"""pynsq: Reader and Writer on tornado."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.foreign import scenarios

pytestmark = pytest.mark.foreign

LAYERS = [["tls"], ["snappy"], ["deflate"], ["tls", "snappy"], ["tls", "deflate"]]

COMMAND = [sys.executable, "-W", "ignore", "-m", "tests.foreign._pynsq_client"]


def test_publishes_and_consumes(tmp_path: Path) -> None:
    scenarios.publish_and_consume(COMMAND, tmp_path)


@pytest.mark.parametrize("layers", LAYERS, ids="+".join)
def test_through_layers(tmp_path: Path, layers: list[str]) -> None:
    scenarios.through_layers(COMMAND, tmp_path, layers)


def test_with_a_secret(tmp_path: Path) -> None:
    scenarios.with_a_secret(COMMAND, tmp_path)


def test_with_a_token(tmp_path: Path) -> None:
    scenarios.with_a_token(COMMAND, tmp_path)


def test_on_a_channel_with_dead_letters(tmp_path: Path) -> None:
    scenarios.on_a_channel_with_dead_letters(COMMAND, tmp_path)


def test_on_limited_channels(tmp_path: Path) -> None:
    scenarios.on_limited_channels(COMMAND, tmp_path)


def test_in_a_closed_cluster(tmp_path: Path) -> None:
    scenarios.in_a_closed_cluster(COMMAND, tmp_path)


def test_on_a_channel_that_seeks(tmp_path: Path) -> None:
    scenarios.on_a_channel_that_seeks(COMMAND, tmp_path)


def test_touch_keeps_a_message(tmp_path: Path) -> None:
    scenarios.touch_keeps_a_message(COMMAND, tmp_path)


def test_two_daemons(tmp_path: Path) -> None:
    scenarios.two_daemons(COMMAND, tmp_path)


def test_survives_kill(tmp_path: Path) -> None:
    # pynsq waits a fixed 15 s before it connects again.
    scenarios.survive_kill(COMMAND, tmp_path, reconnects_within_s=26)


def test_goes_through_an_adoption(tmp_path: Path) -> None:
    scenarios.through_an_adoption(COMMAND, tmp_path)
