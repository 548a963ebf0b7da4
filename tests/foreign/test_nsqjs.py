"""nsqjs: reader and writer on Node.js."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.foreign import scenarios

pytestmark = pytest.mark.foreign

LAYERS = [["tls"], ["snappy"], ["deflate"], ["tls", "snappy"], ["tls", "deflate"]]


def test_publishes_and_consumes(nsqjs: list[str], tmp_path: Path) -> None:
    scenarios.publish_and_consume(nsqjs, tmp_path)


@pytest.mark.parametrize("layers", LAYERS, ids="+".join)
def test_through_layers(nsqjs: list[str], tmp_path: Path, layers: list[str]) -> None:
    scenarios.through_layers(nsqjs, tmp_path, layers)


def test_with_a_secret(nsqjs: list[str], tmp_path: Path) -> None:
    scenarios.with_a_secret(nsqjs, tmp_path)


def test_with_a_token(nsqjs: list[str], tmp_path: Path) -> None:
    scenarios.with_a_token(nsqjs, tmp_path)


def test_in_a_closed_cluster(nsqjs: list[str], tmp_path: Path) -> None:
    scenarios.in_a_closed_cluster(nsqjs, tmp_path)


def test_touch_keeps_a_message(nsqjs: list[str], tmp_path: Path) -> None:
    scenarios.touch_keeps_a_message(nsqjs, tmp_path)


def test_two_daemons(nsqjs: list[str], tmp_path: Path) -> None:
    scenarios.two_daemons(nsqjs, tmp_path)


def test_survives_kill(nsqjs: list[str], tmp_path: Path) -> None:
    scenarios.survive_kill(nsqjs, tmp_path, reconnects_within_s=5)


def test_goes_through_an_adoption(nsqjs: list[str], tmp_path: Path) -> None:
    scenarios.through_an_adoption(nsqjs, tmp_path)
