"""Makes a snapshot from the last responses of all nsqds.

The work is synchronous but for a `Yielder`: it takes a few microseconds for each name, about half a second for 10,000
topics with 20,000 channels on three nodes. The poller therefore spaces its rounds by what they cost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import attrs
import trio

from nsqadmin.cluster.history import History
from nsqadmin.cluster.merge import attribute_to_node, max_age, merge_topic
from nsqadmin.cluster.rates import ChannelKey, LastMinute, Rates, rates_between
from nsqadmin.cluster.snapshot import (
    ChannelSnapshot,
    ClusterSnapshot,
    NodeSnapshot,
    Problem,
    TopicSnapshot,
    Totals,
    Usage,
)
from nsqadmin.model import ChannelStats, Copies, Draining, Node, TopicStats
from nsqadmin.upstream.responses import Stats
from nsqkit.yielder import Yielder

__all__ = ["NodeState", "SnapshotBuilder", "totals_of"]


@attrs.define(eq=False)
class NodeState:
    """One nsqd: its last response, and its rates since the response before."""

    node: Node
    topics: dict[str, TopicStats] = attrs.field(factory=dict)
    rates: dict[ChannelKey, Rates] | None = None
    """None until there were two responses."""
    interval_s: float = 1.0
    """Between those two."""
    answered_at: float | None = None
    """Of the last response, unix seconds."""
    received_at: float = 0.0
    """The same on trio's clock, which is never set back."""
    problem: Problem | None = None
    health: str = ""
    start_time: int = 0
    draining: Draining | None = None
    copies: Copies | None = None
    durability: str = ""
    usage: Usage = attrs.field(factory=Usage)

    @property
    def current_rates(self) -> dict[ChannelKey, Rates] | None:
        """Its rates; None if they are unknown, as those of a node that does not answer are."""
        return self.rates if self.problem is None else None

    async def update(self, stats: Stats, answered_at: float, received_at: float, yielder: Yielder) -> None:
        """Process a response: when it arrived, in unix seconds and on trio's clock."""
        topics = {}
        for topic in sorted(stats.topics or (), key=lambda each: each.topic_name):
            attribute_to_node(topic, self.node)
            topics[topic.topic_name] = topic
            await yielder.maybe_yield()
        # By trio's clock: the wall clock may be set back between two responses.
        if self.answered_at is not None and received_at > self.received_at:
            self.interval_s = received_at - self.received_at
            self.rates = await rates_between(self.topics, topics, self.interval_s, yielder)
        self.topics, self.answered_at, self.received_at = topics, answered_at, received_at
        self.health, self.start_time = stats.health, stats.start_time
        self.draining, self.durability = stats.draining, stats.durability
        self.copies = stats.copies


class _ClusterRates(NamedTuple):
    """Of one topic or channel over all nodes, each per second."""

    entered: float
    left: float
    requeued: float
    timed_out: float


_ClusterRatesByKey = Mapping[ChannelKey, _ClusterRates] | None
"""None while no node has rates."""
_IDLE = _ClusterRates(0.0, 0.0, 0.0, 0.0)


@attrs.define(eq=False)
class SnapshotBuilder:
    """Makes snapshots, and keeps from one to the next what they need of earlier ones."""

    history: History
    _last_minute: LastMinute = attrs.field(factory=LastMinute, init=False)
    _idle_since: dict[ChannelKey, float] = attrs.field(factory=dict, init=False)
    """Channels without consumers."""

    async def build(
        self,
        now: float,
        nodes: Sequence[NodeState],
        updated: Sequence[NodeState],
        registered: Iterable[str],
        problems: Sequence[Problem],
        certificates: Mapping[str, float],
        yielder: Yielder,
    ) -> ClusterSnapshot:
        """The snapshot of this time (unix seconds), with a row of the history.

        `updated` are the nodes whose response is not in an earlier snapshot, `registered` the topics that the
        registries know, `certificates` when those of the registries expire.
        """
        rates = await _sum_rates(nodes, yielder)
        await self._count_last_minute(updated, yielder)
        topics = await self._topics(now, await _by_name(nodes, registered, yielder), rates, yielder)
        by_address = {state.node.http_address: await _node_snapshot(state, yielder) for state in nodes}
        totals = await totals_of(topics.values(), by_address.values(), yielder, with_rates=rates is not None)
        self._add_total(totals, rates or {})
        if rates is None and any(state.problem is None for state in nodes):
            # The first responses, at the start or after an outage of all nodes: there are no rates yet.
            self.history.drop_row()
        else:
            await self.history.close_row(now, yielder)
        return ClusterSnapshot(now, topics, by_address, totals, tuple(problems), dict(certificates))

    async def _count_last_minute(self, updated: Sequence[NodeState], yielder: Yielder) -> None:
        counts: dict[ChannelKey, tuple[int, int]] = {}
        for state in updated:
            for key, rates in (state.rates or {}).items():
                if rates.requeues or rates.timeouts:
                    known = counts.get(key, (0, 0))
                    counts[key] = known[0] + rates.requeues, known[1] + rates.timeouts
                await yielder.maybe_yield()
        self._last_minute.add(trio.current_time(), counts)

    async def _topics(
        self,
        now: float,
        parts: Mapping[str, list[TopicStats]],
        rates: _ClusterRatesByKey,
        yielder: Yielder,
    ) -> dict[str, TopicSnapshot]:
        # Rebuilt with each snapshot, so that deleted channels are forgotten.
        idle_before, self._idle_since = self._idle_since, {}
        topics = {}
        for name in sorted(parts):
            stats = merge_topic(name, parts[name])
            channels = {}
            for channel in stats.channels or ():
                key = name, channel.channel_name
                if channel.client_count == 0:
                    self._idle_since[key] = idle_before.get(key, now)
                channels[channel.channel_name] = self._channel_snapshot(key, channel, rates)
                await yielder.maybe_yield()
            topics[name] = self._topic_snapshot(name, stats, channels, rates)
            await yielder.maybe_yield()
        self._forget_deleted(topics)
        return topics

    def _channel_snapshot(
        self, key: ChannelKey, stats: ChannelStats, rates: _ClusterRatesByKey
    ) -> ChannelSnapshot:
        own = _rates_of(rates, key)
        requeues, timeouts = self._last_minute.sums.get(key, (0, 0))
        self.history.add(*key, (stats.depth, stats.in_flight_count, *own))
        return ChannelSnapshot(
            name=key[1],
            topic=key[0],
            stats=stats,
            in_rate=None if rates is None else own.entered,
            out_rate=None if rates is None else own.left,
            requeues_per_minute=requeues,
            timeouts_per_minute=timeouts,
            no_consumer_since=self._idle_since.get(key),
        )

    def _topic_snapshot(
        self,
        name: str,
        stats: TopicStats,
        channels: dict[str, ChannelSnapshot],
        rates: _ClusterRatesByKey,
    ) -> TopicSnapshot:
        entered = _rates_of(rates, (name, "")).entered
        left = sum([channel.out_rate or 0.0 for channel in channels.values()])
        in_flight = sum([channel.stats.in_flight_count for channel in channels.values()])
        requeued = sum([_rates_of(rates, (name, channel)).requeued for channel in channels])
        timed_out = sum([_rates_of(rates, (name, channel)).timed_out for channel in channels])
        channel_depth = sum([channel.depth for channel in channels.values()])
        depth = stats.depth + channel_depth
        self.history.add(name, "", (depth, in_flight, entered, left, requeued, timed_out))
        return TopicSnapshot(
            name=name,
            stats=stats,
            channels=channels,
            in_rate=None if rates is None else entered,
            out_rate=None if rates is None else left,
            in_flight_count=in_flight,
            deferred_count=sum([channel.stats.deferred_count for channel in channels.values()]),
            client_count=sum([channel.stats.client_count for channel in channels.values()]),
            channel_depth=channel_depth,
            requeues_per_minute=sum([channel.requeues_per_minute for channel in channels.values()]),
            timeouts_per_minute=sum([channel.timeouts_per_minute for channel in channels.values()]),
            oldest_unfinished_ms=max_age(
                [stats.oldest_unfinished_ms, *(each.oldest_unfinished_ms for each in channels.values())]
            ),
        )

    def _add_total(self, totals: Totals, rates: Mapping[ChannelKey, _ClusterRates]) -> None:
        self.history.add_total(
            (
                totals.depth,
                totals.in_flight_count,
                totals.in_rate or 0.0,
                totals.out_rate or 0.0,
                sum([each.requeued for each in rates.values()]),
                sum([each.timed_out for each in rates.values()]),
            )
        )

    def _forget_deleted(self, topics: Mapping[str, TopicSnapshot]) -> None:
        """Once the history knows many more names than exist."""
        if self.history.known > 2 * sum([1 + len(topic.channels) for topic in topics.values()]) + 1000:
            existing = {(name, "") for name in topics}
            existing.update((name, channel) for name, topic in topics.items() for channel in topic.channels)
            self.history.forget_all_but(existing)


async def _by_name(
    nodes: Sequence[NodeState], registered: Iterable[str], yielder: Yielder
) -> dict[str, list[TopicStats]]:
    found: dict[str, list[TopicStats]] = {name: [] for name in registered}
    for state in nodes:
        for name, topic in state.topics.items():
            found.setdefault(name, []).append(topic)
            await yielder.maybe_yield()
    return found


async def _sum_rates(nodes: Sequence[NodeState], yielder: Yielder) -> dict[ChannelKey, _ClusterRates] | None:
    """Over all nodes; None if no node has any."""
    known = [(state.current_rates, state.interval_s) for state in nodes if state.current_rates is not None]
    if not known:
        return None
    sums: dict[ChannelKey, _ClusterRates] = {}
    for of_node, interval_s in known:
        for key, rates in of_node.items():
            entered, left, requeued, timed_out = sums.get(key, _IDLE)
            sums[key] = _ClusterRates(
                entered + rates.in_rate,
                left + rates.out_rate,
                requeued + rates.requeues / interval_s,
                timed_out + rates.timeouts / interval_s,
            )
            await yielder.maybe_yield()
    return sums


def _rates_of(rates: _ClusterRatesByKey, key: ChannelKey) -> _ClusterRates:
    return _IDLE if rates is None else rates.get(key, _IDLE)


async def _node_snapshot(state: NodeState, yielder: Yielder) -> NodeSnapshot:
    depth = in_flight = clients = messages = 0
    for topic in state.topics.values():
        depth += topic.depth
        messages += topic.message_count
        for channel in topic.channels or ():
            depth += channel.depth
            in_flight += channel.in_flight_count
            clients += channel.client_count
        await yielder.maybe_yield()
    rates = state.current_rates
    return NodeSnapshot(
        node=state.node,
        topics=state.topics,
        answered_at=state.answered_at,
        problem=state.problem,
        depth=depth,
        in_flight_count=in_flight,
        client_count=clients,
        message_count=messages,
        in_rate=None if rates is None else sum([each.in_rate for key, each in rates.items() if not key[1]]),
        out_rate=None if rates is None else sum([each.out_rate for each in rates.values()]),
        health=state.health,
        start_time=state.start_time,
        draining=state.draining,
        copies=state.copies,
        can_drain=bool(state.durability),
        usage=state.usage if state.problem is None else Usage(missing="It does not answer"),
    )


async def totals_of(
    topics: Collection[TopicSnapshot], nodes: Collection[NodeSnapshot], yielder: Yielder, *, with_rates: bool
) -> Totals:
    """Sums over these topics, and how many nodes there are. `with_rates`: whether the rates are known."""
    channels = clients = depth = in_flight = deferred = messages = requeues = timeouts = idle = 0
    entered = left = 0.0
    age: int | None = None
    for topic in topics:
        channels += len(topic.channels)
        clients += topic.client_count
        depth += topic.depth
        in_flight += topic.in_flight_count
        deferred += topic.deferred_count
        messages += topic.stats.message_count
        entered += topic.in_rate or 0.0
        left += topic.out_rate or 0.0
        requeues += topic.requeues_per_minute
        timeouts += topic.timeouts_per_minute
        idle += len(topic.idle_channels)
        age = max_age((age, topic.oldest_unfinished_ms))
        await yielder.maybe_yield()
    return Totals(
        topics=len(topics),
        channels=channels,
        nodes=len(nodes),
        clients=clients,
        depth=depth,
        in_flight_count=in_flight,
        deferred_count=deferred,
        message_count=messages,
        in_rate=entered if with_rates else None,
        out_rate=left if with_rates else None,
        requeues_per_minute=requeues,
        timeouts_per_minute=timeouts,
        idle_channels=idle,
        oldest_unfinished_ms=age,
    )
