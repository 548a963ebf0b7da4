"""A cluster that runs, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.foreign.conftest import nsqjs
from tests.process.closed import Closed

__all__ = ["OPEN_AND_CLOSED", "cluster", "nsqjs"]


@pytest.fixture(params=["open", pytest.param("closed", marks=pytest.mark.soak)])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """Three nsqds and two registries, which all know one another.

    Each test runs with a cluster that is open, and with --soak also with one that is closed: TLS on every connection,
    and nothing for those without a token. Central ones run with both in any case (`OPEN_AND_CLOSED`).
    """
    closed = Closed.in_folder(tmp_path) if request.param == "closed" else None
    with Cluster(tmp_path, closed=closed) as cluster:
        cluster.start()
        cluster.wait_known(cluster.nsqds, within_s=2.0)
        yield cluster


OPEN_AND_CLOSED = pytest.mark.parametrize("cluster", ["open", "closed"], indirect=True)
