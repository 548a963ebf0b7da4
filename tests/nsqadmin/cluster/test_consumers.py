"""Consumers are queried when a page needs them, once for all browsers."""

from __future__ import annotations

from collections.abc import Mapping
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


async def test_rates_come_from_two_queries(autojump_clock: trio.testing.MockClock) -> None:
    async with polling(**nsqds(ONE)) as stage:
        stage.upstream.nsqd(ONE)
        counts = {"old": 100, "restarted": 100}

        def stats(params: Mapping[str, str]) -> dict[str, Any]:
            clients = [
                {"client_id": name, "remote_address": f"h:{name}", "message_count": count}
                for name, count in counts.items()
            ]
            clients += [{"client_id": "socket", "remote_address": "@", "message_count": counts["old"]}]
            return {"topics": [topic("t", channel("c", client_count=len(clients), clients=clients))]}

        async def rates() -> dict[str, float | None]:
            clients = await stage.consumers.of_channel("t", "c")
            return {client.client_id: client.delivery_rate for client in clients}

        stage.upstream.responses[ONE]["/stats"] = stats
        stage.run()
        await stage.poller.next_snapshot()
        assert await rates() == {"old": None, "restarted": None, "socket": None}
        await trio.sleep(10)
        counts.update(old=150, restarted=7, new=3)
        assert await rates() == {"old": 5.0, "restarted": None, "new": None, "socket": None}
        requested = [params for params in stage.upstream.params if "include_timings" in params]
        assert len(requested) == 2
        await trio.sleep(61)
        counts["old"] = 1_000
        assert (await rates())["old"] is None, "nobody has looked for a minute"


async def test_consumers_are_not_queried_before_the_start() -> None:
    async with polling(**nsqds(ONE)) as stage:
        with pytest.raises(RuntimeError, match="before the start"):
            await stage.consumers.of_node(ONE)
