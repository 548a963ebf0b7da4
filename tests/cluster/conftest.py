"""A cluster that runs, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.foreign.conftest import nsqjs

__all__ = ["cluster", "nsqjs"]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three nsqds and two registries, which all know one another."""
    with Cluster(tmp_path) as cluster:
        cluster.start()
        cluster.wait_known(cluster.nsqds, within_s=2.0)
        yield cluster
