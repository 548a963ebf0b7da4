"""A poller whose rounds the test starts, on trio's mock clock, with daemons that are only a table.

async with polling(**nsqds(ONE)) as stage:
    stage.upstream.nsqd(ONE, topic("t", depth=2))
    snapshot = await stage.round()
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import attrs
import trio

from nsqadmin.cluster.consumers import ConsumerQueries
from nsqadmin.cluster.poller import ClusterPoller
from nsqadmin.cluster.snapshot import ClusterSnapshot
from tests.nsqadmin.fake_upstream import FakeUpstream

__all__ = ["ONE", "OTHER_REGISTRY", "REGISTRY", "START", "TWO", "Stage", "nsqds", "polling", "registries"]

REGISTRY, OTHER_REGISTRY = "lookup1:4161", "lookup2:4161"
ONE, TWO = "a:4151", "b:4151"
START = 1_000_000.0


@attrs.define(eq=False)
class Stage:
    """A poller and its daemons."""

    upstream: FakeUpstream
    poller: ClusterPoller
    consumers: ConsumerQueries
    nursery: trio.Nursery
    wall_s: float | None = None
    """The wall clock; None while it runs along with trio's."""

    async def round(self, after_s: float = 0) -> ClusterSnapshot:
        """Poll once, after a pause."""
        await trio.sleep(after_s)
        await self.poller.round(self.nursery)
        return self.poller.snapshot

    def run(self) -> None:
        """Poll in the background."""
        self.nursery.start_soon(self.poller.run)
        self.nursery.start_soon(self.consumers.run)


@contextlib.asynccontextmanager
async def polling(**options: Any) -> AsyncIterator[Stage]:
    """A poller with these options."""
    upstream = FakeUpstream.make(**options)
    began = trio.current_time()

    def clock() -> float:
        return stage.wall_s if stage.wall_s is not None else START + trio.current_time() - began

    async with trio.open_nursery() as nursery:
        poller = ClusterPoller(upstream.options, upstream, clock=clock)
        stage = Stage(upstream, poller, ConsumerQueries(poller), nursery)
        yield stage
        nursery.cancel_scope.cancel()


def registries(*addresses: str) -> dict[str, list[str]]:
    """The option with registries."""
    return {"lookupd_http_addresses": list(addresses)}


def nsqds(*addresses: str) -> dict[str, list[str]]:
    """The option with nsqds, without registries."""
    return {"nsqd_http_addresses": list(addresses)}
