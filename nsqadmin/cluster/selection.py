"""The snapshot of somebody who is limited to some topics: these, and sums over these.

The figures of a node (depth, rates, consumers, what it uses) stay those of the whole node. What may name other topics
is left out: its copies, the reason why it is unhealthy, which topics its drain waits for.
"""

from __future__ import annotations

import attrs
import msgspec

from nsqadmin.auth import Topics
from nsqadmin.cluster.snapshot import ClusterSnapshot, NodeSnapshot
from nsqadmin.cluster.snapshot_builder import totals_of
from nsqadmin.model import Draining
from nsqkit.yielder import Yielder

__all__ = ["Selections", "select"]

_KEPT = 100
"""Of one snapshot: users often have the same topics."""


@attrs.define(eq=False)
class Selections:
    """What was selected of the last snapshot."""

    _snapshot: ClusterSnapshot | None = attrs.field(default=None, init=False)
    _by_topics: dict[Topics, ClusterSnapshot] = attrs.field(factory=dict, init=False)

    async def of(self, snapshot: ClusterSnapshot, topics: Topics) -> ClusterSnapshot:
        """The selection; the snapshot itself if all topics are in it."""
        if topics.are_all:
            return snapshot
        if snapshot is not self._snapshot or len(self._by_topics) >= _KEPT:
            self._snapshot, self._by_topics = snapshot, {}
        by_topics = self._by_topics
        if topics not in by_topics:
            by_topics[topics] = await select(snapshot, topics)
        return by_topics[topics]


async def select(snapshot: ClusterSnapshot, topics: Topics) -> ClusterSnapshot:
    """The snapshot with these topics only."""
    yielder = Yielder()
    selected = {}
    for name, topic in snapshot.topics.items():
        if topics.include(name):
            selected[name] = topic
        await yielder.maybe_yield()
    nodes = {address: await _select_node(node, topics, yielder) for address, node in snapshot.nodes.items()}
    with_rates = snapshot.totals.in_rate is not None
    totals = await totals_of(selected.values(), nodes.values(), yielder, with_rates=with_rates)
    return msgspec.structs.replace(snapshot, topics=selected, nodes=nodes, totals=totals)


async def _select_node(node: NodeSnapshot, topics: Topics, yielder: Yielder) -> NodeSnapshot:
    held = {}
    for name, stats in node.topics.items():
        if topics.include(name):
            held[name] = stats
        await yielder.maybe_yield()
    listed = [each for each in node.node.topics if topics.include(each.topic)]
    return msgspec.structs.replace(
        node,
        node=msgspec.structs.replace(node.node, topics=listed),
        topics=held,
        health=node.health.partition(" - ")[0],
        draining=None if node.draining is None else _select_stuck(node.draining, topics),
        copies=None,
    )


def _select_stuck(draining: Draining, topics: Topics) -> Draining:
    stuck = tuple(place for place in draining.stuck if topics.include(place.topic))
    others = len(draining.stuck) - len(stuck)
    return msgspec.structs.replace(draining, stuck=stuck, more_stuck=draining.more_stuck + others)
