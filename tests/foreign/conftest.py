"""Fixtures for the foreign clients."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.timing import patience

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def nsqjs() -> list[str]:
    """Install nsqjs as locked into `node_modules` here, once, and give the command of its puppet.

    Without node and npm the tests are skipped, with that reason; an installation that fails is an error.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("nsqjs needs node and npm, which are not installed")
    with _locked(HERE):  # several workers, perhaps of several sessions, and one installation
        if not _is_installed():
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(
                command, cwd=HERE, capture_output=True, text=True, timeout=patience(100), check=False
            )
            if done.returncode != 0:
                pytest.fail(f"npm ci failed: {done.stderr.strip()[-500:]}")
    return [node, str(HERE / "nsqjs_client.js")]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_installed() -> bool:
    """Tell whether what is there came from the present lock file: npm leaves a copy of it, not older."""
    copy = HERE / "node_modules" / ".package-lock.json"
    lock = HERE / "package-lock.json"
    return copy.exists() and copy.stat().st_mtime >= lock.stat().st_mtime
