"""A leader and its follower, for the tests of copies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.daemon import HOST, Daemon
from tests.process.ports import free_port


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def follower(tmp_path: Path, port: int) -> Iterator[Daemon]:
    folder = tmp_path / "follower"
    folder.mkdir()
    ports = f"{free_port()}-{free_port()}"
    with Daemon(folder, (f"--replication-address={HOST}:{port}", f"--stand-in-ports={ports}")) as daemon:
        yield daemon


@pytest.fixture
def leader(tmp_path: Path, port: int) -> Iterator[Daemon]:
    folder = tmp_path / "leader"
    folder.mkdir()
    with Daemon(
        folder, (f"--replicate-to={HOST}:{port}", "--ack-copies=2", "--replica-timeout=1s")
    ) as daemon:
        yield daemon
