"""Consumers are queried when a page needs them, once for all browsers."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tests.nsqadmin.cluster.polling import ONE, TWO, nsqds, polling
from tests.nsqadmin.fake_upstream import channel, topic


def stats_with_clients(params: dict[str, str]) -> dict[str, Any]:
    clients = None if params.get("include_clients") == "false" else [{"client_id": "x"}, {"client_id": "y"}]
    return {"topics": [topic("t", channel("c", client_count=2, clients=clients))]}


async def test_browsers_on_the_same_channel_share_one_query(autojump_clock: trio.testing.MockClock) -> None:
    async with polling(**nsqds(ONE, TWO)) as stage:
        for address in (ONE, TWO):
            stage.upstream.nsqd(address)
            stage.upstream.responses[address]["/stats"] = stats_with_clients
        stage.run()
        await stage.poller.next_snapshot()
        before = stage.upstream.requests.copy()
        found: list[list[str]] = []

        async def look() -> None:
            clients = await stage.consumers.of_channel("t", "c")
            found.append([f"{client.node} {client.client_id}" for client in clients])

        async with trio.open_nursery() as browsers:
            for _ in range(5):
                browsers.start_soon(look)
        assert found == [[f"{ONE} x", f"{ONE} y", f"{TWO} x", f"{TWO} y"]] * 5
        assert stage.upstream.requests[f"{ONE}/stats"] == before[f"{ONE}/stats"] + 1
        on_node = await stage.consumers.of_node(TWO)
        assert [client.client_id for client in on_node["t", "c"]] == ["x", "y"]
        assert await stage.consumers.of_channel("t", "none") == []
        assert await stage.consumers.of_node("nowhere:1") == {}


async def test_consumers_are_queried_again_after_an_interval(autojump_clock: trio.testing.MockClock) -> None:
    async with polling(**nsqds(ONE)) as stage:
        stage.upstream.nsqd(ONE)
        stage.upstream.responses[ONE]["/stats"] = stats_with_clients
        stage.run()
        await stage.poller.next_snapshot()
        assert len(await stage.consumers.of_channel("t", "c")) == 2
        del stage.upstream.responses[ONE]
        assert len(await stage.consumers.of_channel("t", "c")) == 2
        await trio.sleep(5.5)
        assert await stage.consumers.of_channel("t", "c") == [], "no daemon answers any more"


async def test_consumers_are_not_queried_before_the_start() -> None:
    async with polling(**nsqds(ONE)) as stage:
        with pytest.raises(RuntimeError, match="before the start"):
            await stage.consumers.of_node(ONE)
