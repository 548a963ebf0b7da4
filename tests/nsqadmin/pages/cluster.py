"""A cluster for the pages, on paper only: snapshots, and a fake poller, history and queries that return them.

console = fake_console(snapshot(topic("orders", channels=[channel("orders", "audit", depth=7)])))
page = await fetch(console, "/topics/orders")
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import attrs
import trio

from nsqadmin.alarms.alarm import Alarm
from nsqadmin.cluster.history import Metric, Resolution, Series
from nsqadmin.cluster.snapshot import (
    ChannelSnapshot,
    ClusterSnapshot,
    NodeSnapshot,
    Problem,
    TopicSnapshot,
    Totals,
)
from nsqadmin.console import Console
from nsqadmin.model import (
    ALL_NODES,
    ChannelStats,
    ClientStats,
    Copies,
    Draining,
    HeldCopy,
    Node,
    NodeTopic,
    TopicStats,
)
from nsqadmin.options import AdminOptions
from nsqadmin.upstream import UpstreamFailed, Warnings

__all__ = [
    "LIFE",
    "NODE",
    "NOW",
    "FakeHistory",
    "FakePoller",
    "FakeQueries",
    "channel",
    "client",
    "fake_console",
    "held_copy",
    "node",
    "problem",
    "snapshot",
    "topic",
]

NOW = 1_790_000_000.0
NODE = "10.0.0.1:4151"
LIFE = "0123456789abcdef0123456789abcdef"


def client(hostname: str = "worker-1", **values: Any) -> ClientStats:
    """A consumer."""
    defaults = {
        "remote_address": "10.1.0.7:50312",
        "client_id": hostname,
        "user_agent": "nsq-trio/1.4.0",
        "connect_ts": int(NOW) - 90,
        "ready_count": 200,
        "node": NODE,
    }
    return ClientStats(hostname=hostname, **{**defaults, **values})


def channel(
    topic: str,
    name: str,
    *,
    nodes: Sequence[str] = (NODE,),
    no_consumer_since: float | None = None,
    in_rate: float | None = 0.0,
    out_rate: float | None = 0.0,
    requeues_per_minute: int = 0,
    timeouts_per_minute: int = 0,
    **stats: Any,
) -> ChannelSnapshot:
    """A channel; each node, and for simplicity the sum too, has these statistics."""
    parts = [
        ChannelStats(name, topic_name=topic, node=each, hostname=f"host-{each.partition(':')[0]}", **stats)
        for each in nodes
    ]
    total = ChannelStats(name, topic_name=topic, node=ALL_NODES, nodes=parts, **stats)
    return ChannelSnapshot(
        name=name,
        topic=topic,
        stats=total,
        in_rate=in_rate,
        out_rate=out_rate,
        requeues_per_minute=requeues_per_minute,
        timeouts_per_minute=timeouts_per_minute,
        no_consumer_since=no_consumer_since,
    )


def topic(
    name: str,
    channels: Iterable[ChannelSnapshot] = (),
    *,
    nodes: Sequence[str] = (NODE,),
    in_rate: float | None = 0.0,
    out_rate: float | None = 0.0,
    **stats: Any,
) -> TopicSnapshot:
    """A topic with its channels."""
    held = {each.name: each for each in channels}
    parts = [
        TopicStats(
            name,
            node=each,
            hostname=f"host-{each.partition(':')[0]}",
            channels=[
                part for held_one in held.values() for part in held_one.stats.nodes or () if part.node == each
            ],
            **stats,
        )
        for each in nodes
    ]
    total = TopicStats(name, node=ALL_NODES, nodes=parts, **stats)
    return TopicSnapshot(
        name=name,
        stats=total,
        channels=held,
        in_rate=in_rate,
        out_rate=out_rate,
        in_flight_count=sum(each.stats.in_flight_count for each in held.values()),
        deferred_count=sum(each.stats.deferred_count for each in held.values()),
        client_count=sum(each.stats.client_count for each in held.values()),
        channel_depth=sum(each.stats.depth for each in held.values()),
        requeues_per_minute=sum(each.requeues_per_minute for each in held.values()),
        timeouts_per_minute=sum(each.timeouts_per_minute for each in held.values()),
        oldest_unfinished_ms=None,
    )


def held_copy(name: str = "10.0.0.1:4150", **values: Any) -> HeldCopy:
    """A copy of a node that is gone."""
    defaults: dict[str, Any] = {"complete": True, "connected": False, "bytes": 4096, "adopted": False}
    return HeldCopy(LIFE, name, **{**defaults, **values})


def problem(address: str = NODE, *, kind: str = "nsqd", error: str = "no answer within 5 s") -> Problem:
    """A daemon that has not answered for a minute."""
    return Problem(kind=kind, address=address, error=error, since=NOW - 60, answered_at=NOW - 65)


def node(
    address: str = NODE,
    topics: Iterable[TopicSnapshot] = (),
    *,
    trouble: Problem | None = None,
    tombstoned: Iterable[str] = (),
    health: str = "OK",
    draining: Draining | None = None,
    copies: Copies | None = None,
    can_drain: bool = False,
    **values: Any,
) -> NodeSnapshot:
    """A node with its part of these topics."""
    host, _, port = address.rpartition(":")
    held = {
        part.topic_name: part for each in topics for part in each.stats.nodes or () if part.node == address
    }
    defaults: dict[str, Any] = {
        "hostname": f"host-{host}",
        "version": "1.4.0",
        "remote_addresses": ["10.9.0.1:4161/10.0.0.1:40312", "10.9.0.2:4161/10.0.0.1:40313"],
        "topics": [NodeTopic(name, tombstoned=name in set(tombstoned)) for name in held],
    }
    return NodeSnapshot(
        node=Node(
            broadcast_address=host, http_port=int(port), tcp_port=int(port) - 1, **{**defaults, **values}
        ),
        topics=held,
        answered_at=NOW,
        problem=trouble,
        depth=sum(part.depth + sum(each.depth for each in part.channels or ()) for part in held.values()),
        in_flight_count=0,
        client_count=0,
        message_count=sum(part.message_count for part in held.values()),
        in_rate=0.0,
        out_rate=0.0,
        health=health,
        start_time=int(NOW) - 3_700,
        draining=draining,
        copies=copies,
        can_drain=can_drain,
    )


def snapshot(
    *topics: TopicSnapshot,
    nodes: Iterable[NodeSnapshot] | None = None,
    problems: Iterable[Problem] = (),
    at: float = NOW,
) -> ClusterSnapshot:
    """A snapshot; without `nodes`, everything is on one node."""
    by_name = {each.name: each for each in sorted(topics, key=lambda each: each.name)}
    present = [node(NODE, by_name.values())] if nodes is None and by_name else list(nodes or ())
    channels = [each for held in by_name.values() for each in held.channels.values()]
    totals = Totals(
        topics=len(by_name),
        channels=len(channels),
        nodes=len(present),
        clients=sum(each.client_count for each in by_name.values()),
        depth=sum(each.stats.depth + each.channel_depth for each in by_name.values()),
        message_count=sum(each.stats.message_count for each in by_name.values()),
        in_rate=sum(each.in_rate or 0.0 for each in by_name.values()),
        out_rate=sum(each.out_rate or 0.0 for each in by_name.values()),
        idle_channels=sum(each.no_consumer_since is not None for each in channels),
    )
    return ClusterSnapshot(
        at=at,
        topics=by_name,
        nodes={each.address: each for each in present},
        totals=totals,
        problems=tuple(problems),
    )


@attrs.define
class FakePoller:
    """Has one snapshot, and the next when the test says so."""

    snapshot: ClusterSnapshot
    renewed: trio.Event = attrs.field(factory=trio.Event)

    def show(self, snapshot: ClusterSnapshot) -> None:
        """End a poll."""
        self.snapshot = snapshot
        self.renewed.set()
        self.renewed = trio.Event()

    async def next_snapshot(self) -> ClusterSnapshot:
        await self.renewed.wait()
        return self.snapshot

    async def up_to_date(self) -> None:
        """It always is."""


@attrs.define
class FakeConsumers:
    """The same consumers for each channel."""

    snapshot: ClusterSnapshot
    clients: list[ClientStats]
    hangs: bool = False
    """The nsqds never answer."""

    async def of_channel(self, topic: str, channel: str) -> list[ClientStats]:
        await self._wait()
        return self.clients

    async def of_node(self, address: str) -> dict[tuple[str, str], list[ClientStats]]:
        await self._wait()
        node = self.snapshot.nodes.get(address)
        found: dict[tuple[str, str], list[ClientStats]] = {}
        for held in node.topics.values() if node else ():
            for each in held.channels or ():
                found[held.topic_name, each.channel_name] = self.clients
        return found

    async def _wait(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.hangs:
            await trio.sleep_forever()


@attrs.define
class FakeHistory:
    """The same values for everything."""

    values: Sequence[float] = ()
    step: float = 5.0
    queried: list[tuple[Metric, str, str, Resolution]] = attrs.field(factory=list)

    def series(
        self, metric: Metric, topic: str = "", channel: str = "", resolution: Resolution = Resolution.POLL
    ) -> Series:
        self.queried.append((metric, topic, channel, resolution))
        times = array("d", (NOW - self.step * n for n in range(len(self.values) - 1, -1, -1)))
        return Series(times, array("d", self.values))

    def sparklines(self, metric: Metric, topics: list[str], points: int = 60) -> dict[str, array[float]]:
        return {name: array("d", self.values[-points:]) for name in topics}


@attrs.define
class FakeQueries:
    """The registries."""

    inactive: Mapping[str, list[str]] = attrs.field(factory=dict)
    fails: bool = False
    hangs: bool = False
    queried: int = 0
    upstream: Any = None

    async def inactive_topics(self, warnings: Warnings) -> dict[str, list[str]]:
        self.queried += 1
        await trio.lowlevel.checkpoint()
        if self.hangs:
            await trio.sleep_forever()
        if self.fails:
            raise UpstreamFailed("nsqlookupd", ["10.9.0.1:4161: connection refused"])
        return dict(self.inactive)


@attrs.define
class FakeWatch:
    """Alarms that do not change."""

    alarms: tuple[Alarm, ...]


def fake_console(
    shown: ClusterSnapshot,
    *,
    clients: Iterable[ClientStats] = (),
    hangs: bool = False,
    history: FakeHistory | None = None,
    queries: FakeQueries | None = None,
    alarms: Iterable[Alarm] = (),
    **options: Any,
) -> Console:
    """A console with this snapshot."""
    if "nsqd_http_addresses" not in options:
        options.setdefault("lookupd_http_addresses", ["10.9.0.1:4161", "10.9.0.2:4161"])
    return Console(
        options=AdminOptions(**options),
        poller=cast(Any, FakePoller(shown)),
        consumers=cast(Any, FakeConsumers(shown, list(clients), hangs)),
        history=cast(Any, history or FakeHistory()),
        queries=cast(Any, queries or FakeQueries()),
        actions=cast(Any, None),
        alarms=cast(Any, FakeWatch(tuple(alarms))),
    )
