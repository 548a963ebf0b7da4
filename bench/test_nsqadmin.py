"""The benchmark of nsqadmin runs, and notices a wrong page."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from bench import nsqadmin
from bench.link import LoadError
from bench.server import Server

SMALL = nsqadmin.Scale(topics=(5,), pages=2, polls=0, idle_seconds=0.1, consumers=6, consumer_nodes=(2,))


async def test_the_rows_of_a_cluster(tmp_path: Path) -> None:
    rows = await nsqadmin.paper_clusters(sys.executable, SMALL, tmp_path)
    assert [row.what for row in rows] == [
        "front page, 5 topics",
        "front page, 5 topics, gzip",
        "polling 5 topics, 3 nsqds",
    ]
    assert all(row.rss.endswith(" MB") and row.result for row in rows)


def test_a_page_that_is_none(tmp_path: Path) -> None:
    console = nsqadmin.console(sys.executable, ["127.0.0.1:1"])
    with Server(console, tmp_path) as server, pytest.raises(LoadError, match="404"):
        nsqadmin.get(server.port, "/none", packed=False)


async def test_the_row_of_a_channel_with_many_consumers(tmp_path: Path) -> None:
    [row] = await nsqadmin.crowded_channels(sys.executable, SMALL, tmp_path)
    assert row.what == "6 consumers of one channel on 2 nsqds"
    assert re.fullmatch(r"longest stretch \d+ ms; peak \d+ MB, \d+ MB before", row.result)
