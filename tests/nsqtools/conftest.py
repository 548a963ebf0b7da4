"""Real nsqds for the tests of the tools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.daemon import Daemon


@pytest.fixture(scope="module")
def shared_nsqd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One nsqd for the tests of a module that only use it; each has a topic of its own."""
    with Daemon(tmp_path_factory.mktemp("nsqd")) as daemon:
        daemon.start()
        yield daemon


@pytest.fixture
def nsqd(tmp_path: Path) -> Iterator[Daemon]:
    """An nsqd to be hurt."""
    (tmp_path / "nsqd").mkdir()
    with Daemon(tmp_path / "nsqd") as daemon:
        daemon.start()
        yield daemon


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A name that no other test has."""
    name: str = request.node.name
    return "".join(c if c.isalnum() else "_" for c in name)[-60:]
