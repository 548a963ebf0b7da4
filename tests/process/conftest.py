"""A leader and its follower, for the tests of copies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.copies import make_follower, make_leader
from tests.process.daemon import Daemon
from tests.process.ports import free_port


@pytest.fixture
def port() -> int:
    """Of replication."""
    return free_port()


@pytest.fixture
def follower(tmp_path: Path, port: int) -> Iterator[Daemon]:
    """It keeps copies; not started."""
    with make_follower(tmp_path, port) as daemon:
        yield daemon


@pytest.fixture
def leader(tmp_path: Path, port: int) -> Iterator[Daemon]:
    """It has one follower, and an OK takes both; not started."""
    with make_leader(tmp_path, port) as daemon:
        yield daemon
