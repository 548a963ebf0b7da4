"""The benchmark of nsqlookupd runs, and notices a wrong answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from bench import lookupd
from bench.link import LoadError
from bench.server import Broker, Server

SMALL = lookupd.Scale(nsqds=4, topics=20, topics_each=10, requests=5, large_requests=2, singles=5)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    command = f"{sys.executable} -m nsqlookupd --tcp-address=127.0.0.1:0 --http-address=127.0.0.1:0"
    with Server(Broker("nsqlookupd", command, reports_ports=True), tmp_path) as server:
        yield server


def test_all_rows(server: Server) -> None:
    rows = lookupd.measure(server, SMALL)
    assert [row.what.partition(" (")[0] for row in rows] == [
        "start, from exec until it listens",
        "4 connect and IDENTIFY",
        "44 REGISTER, all at once",
        "REGISTER, one at a time",
        "/lookup, 2 producers",
        "/lookup, 4 producers",
        "/nodes",
        "/topics",
        "4 disconnect",
    ]
    assert all(row.rss.endswith(" MB") and row.result for row in rows)


def test_a_producer_too_few(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    of = lookupd.Cluster.topics_of
    monkeypatch.setattr(lookupd.Cluster, "topics_of", lambda self, number: of(self, number if number else 1))
    with pytest.raises(LoadError, match="producers instead of 2"):
        lookupd.measure(server, attrs.evolve(SMALL, requests=20))


def test_a_refused_registration(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    of = lookupd.Cluster.topics_of
    monkeypatch.setattr(lookupd.Cluster, "topics_of", lambda self, number: ["/", *of(self, number)[1:]])
    with pytest.raises(LoadError, match=r"REGISTER was answered|closed a connection"):
        lookupd.measure(server, SMALL)
