"""10,000 topics, 20,000 channels and 50,000 clients on three nodes: complete, and without blocking the event loop."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import trio

from nsqadmin.cluster.history import Metric
from nsqadmin.daemon import make_console, tune_garbage_collection
from nsqadmin.options import AdminOptions
from tests.nsqadmin.big_cluster import BigCluster
from tests.nsqadmin.serving import serving
from tests.steps import Steps

pytestmark = pytest.mark.heavy

SECOND = 1_000_000_000
LONGEST_STEP = 1 / 15
"""Of the CPU time of a round."""


@pytest.fixture
def tuned_garbage_collection() -> Iterator[None]:
    """As the daemon has it."""
    before = gc.get_threshold()
    tune_garbage_collection()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


@pytest.mark.usefixtures("tuned_garbage_collection")
async def test_a_snapshot_of_a_large_cluster_is_complete_and_made_in_small_steps() -> None:
    big = BigCluster()
    async with big.serving() as addresses, trio.open_nursery() as nursery:
        options = AdminOptions(
            lookupd_http_addresses=addresses.registries,
            poll_interval=60 * SECOND,  # and with it the timeout, for a busy machine
            http_client_request_timeout=60 * SECOND,
        )
        console = make_console(options)
        steps = Steps()
        for _ in range(2):
            big.tick()
            for nsqd in addresses.nsqds:  # computed here, so that only the console's steps are measured
                big.answer(nsqd, "/stats", {"include_clients": "false"})
            with steps.measured():
                await console.poller.round(nursery)
        await console.queries.upstream.aclose()
        nursery.cancel_scope.cancel()
    shown = console.poller.snapshot
    totals = shown.totals
    assert (totals.topics, totals.channels, totals.nodes, totals.clients) == (10_000, 20_000, 3, 50_000)
    assert totals.message_count == 3 * (10_000 * 1_000 + big.busy * 20)
    assert totals.depth == 3 * 2 * big.busy * 2
    assert shown.topics["t00000"].in_rate
    assert shown.topics["t09999"].in_rate == 0
    assert totals.requeues_per_minute == 3 * 2 * big.busy
    assert totals.idle_channels == 3_333
    assert console.history.series(Metric.DEPTH, "t00499").values
    assert console.history.size < 4_000_000
    assert steps.longest_s < steps.total_s * LONGEST_STEP


async def test_the_api_of_a_large_cluster_answers() -> None:
    big = BigCluster(topics=3_000, clients=15_000)
    async with big.serving() as addresses, serving(lookupds=addresses.registries) as browser:
        counter = await browser.json("/api/counter")
        node = await browser.json(f"/api/nodes/{addresses.nsqds[0]}")
        topics = await browser.json("/api/topics")
        clients = (await browser.json("/api/topics/t00042/c0"))["clients"]
    assert len(counter["stats"]) == 3_000 * 2 * 3
    assert (len(node["topics"]), node["total_clients"]) == (3_000, 5_000)
    assert len(topics["topics"]) == 3_000
    assert clients[0]["user_agent"] == "example/1.0"
