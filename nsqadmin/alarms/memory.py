"""What the rules need to know of earlier snapshots: which nsqds there were, and when messages were lost."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from nsqadmin.cluster.snapshot import ChannelSnapshot, ClusterSnapshot, NodeSnapshot

__all__ = ["GoneNode", "Loss", "Memory"]

_MAX_GONE = 1_000
"""Nodes; with addresses that change at each start there would be ever more."""


@attrs.frozen
class GoneNode:
    """An nsqd that the registries no longer list."""

    address: str
    seen_at: float
    """When it was in a snapshot last, unix seconds."""
    unfinished: int
    """Messages that it had then."""
    tcp_address: str
    identity: tuple[str, int]
    """Host name and TCP port, by which it is known again at another address."""


@attrs.define
class Loss:
    """Messages of one channel that were lost to damage on disk."""

    since: float
    """When the count rose first, unix seconds; at the earliest the start of nsqadmin."""
    at: float
    """When it rose last."""
    counts: dict[str, int] = attrs.field(factory=dict)
    """By the HTTP address of the node."""

    @property
    def messages(self) -> int:
        """On all nodes."""
        return sum(self.counts.values())


@attrs.define(eq=False)
class Memory:
    """Must see each snapshot in turn: `note` first, then `note_channel` for each channel."""

    remember_s: float
    """How long a loss, and a node that is gone, is remembered."""
    _nodes: dict[str, NodeSnapshot] = attrs.field(factory=dict, init=False)
    """Of the last snapshot, by address."""
    _gone: dict[str, GoneNode] = attrs.field(factory=dict, init=False)
    _losses: dict[tuple[str, str], Loss] = attrs.field(factory=dict, init=False)
    """By topic and channel."""
    _noted_at: float = attrs.field(default=0.0, init=False)

    @property
    def gone_nodes(self) -> Iterable[GoneNode]:
        """The nodes that disappeared, and did not come back nor were drained before."""
        return self._gone.values()

    def loss(self, topic: str, channel: str) -> Loss | None:
        """The last loss of a channel, if it is remembered."""
        return self._losses.get((topic, channel))

    def note(self, snapshot: ClusterSnapshot) -> None:
        """Take in the nodes, and forget what is too old or no longer exists."""
        before, self._nodes = self._nodes, dict(snapshot.nodes)
        for address in before.keys() - self._nodes.keys():
            if before[address].draining is None:
                self._gone[address] = _gone(before[address], self._noted_at)
        present = {_identity(node) for node in self._nodes.values()}
        self._gone = {
            address: node
            for address, node in self._gone.items()
            if address not in self._nodes
            and node.identity not in present
            and self._is_recent(node.seen_at, snapshot)
        }
        while len(self._gone) > _MAX_GONE:
            del self._gone[next(iter(self._gone))]
        self._losses = {
            names: loss for names, loss in self._losses.items() if snapshot.channel(*names) is not None
        }
        self._noted_at = snapshot.at

    def note_channel(self, channel: ChannelSnapshot) -> None:
        """Take in how many messages it has lost."""
        if not channel.stats.damaged_count:
            return
        at = self._noted_at
        loss = self._losses.setdefault((channel.topic, channel.name), Loss(at, at))
        for part in channel.stats.nodes or ():
            if part.damaged_count > loss.counts.get(part.node, 0):
                if at - loss.at > self.remember_s:
                    loss.since = at
                loss.at = at
            loss.counts[part.node] = part.damaged_count

    def _is_recent(self, then: float, snapshot: ClusterSnapshot) -> bool:
        return snapshot.at - then < self.remember_s


def _gone(node: NodeSnapshot, seen_at: float) -> GoneNode:
    unfinished = node.depth + node.in_flight_count
    return GoneNode(node.address, seen_at, unfinished, node.node.tcp_address, _identity(node))


def _identity(node: NodeSnapshot) -> tuple[str, int]:
    return node.node.hostname or node.node.broadcast_address, node.node.tcp_port
