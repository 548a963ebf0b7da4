"""A leader and its follower, for the tests of copies; a disk that is soon full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.copies import make_follower, make_leader
from tests.process.daemon import Daemon
from tests.process.ports import free_port
from tests.timing import patience


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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 24 MiB in memory; without the right to mount the test is skipped."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience(10), check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode != 0:
        pytest.skip(f"cannot mount a small tmpfs: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(
            ["umount", "--lazy", str(place)], capture_output=True, timeout=patience(10), check=True
        )
