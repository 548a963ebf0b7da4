"""From the last answers of all daemons to a snapshot.

Everything here works on plain values, in slices. A name costs a few microseconds a round: 10,000 topics with 20,000
channels on three nodes come to about half a second, which is why the picture spaces its rounds by what they cost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import attrs
import trio

from nsqadmin.cluster.flow import Flow, LastMinute, Name, flows_between
from nsqadmin.cluster.history import History
from nsqadmin.cluster.merge import merge_topic, oldest, place
from nsqadmin.cluster.model import ChannelStats, Draining, Node, TopicStats
from nsqadmin.cluster.views import ChannelView, NodeView, Problem, Snapshot, TopicView, Totals
from nsqadmin.upstream.answers import Stats
from nsqkit.yielder import Yielder

__all__ = ["Builder", "NodeState"]


@attrs.define(eq=False)
class NodeState:
    """One nsqd: what it said last, and what moved since it said so before."""

    node: Node
    topics: dict[str, TopicStats] = attrs.field(factory=dict)
    flows: dict[Name, Flow] | None = None
    """None until there were two answers."""
    gap_s: float = 1.0
    """Between those two."""
    answered_at: float | None = None
    received_at: float = 0.0
    """The same moment on trio's clock, which nobody sets back."""
    problem: Problem | None = None
    health: str = ""
    start_time: int = 0
    draining: Draining | None = None

    @property
    def moving(self) -> dict[Name, Flow] | None:
        """What moves there now: nobody knows of one that is silent."""
        return self.flows if self.problem is None else None

    async def take(self, stats: Stats, at: float, received_at: float, yielder: Yielder) -> None:
        """Take an answer that came at this time (unix seconds), and at that of trio's clock."""
        topics = {}
        for topic in sorted(stats.topics or (), key=lambda each: each.topic_name):
            place(topic, self.node)
            topics[topic.topic_name] = topic
            await yielder.maybe_yield()
        if self.answered_at is not None and received_at > self.received_at:
            self.gap_s = received_at - self.received_at
            self.flows = await flows_between(self.topics, topics, self.gap_s, yielder)
        self.topics, self.answered_at, self.received_at = topics, at, received_at
        self.health, self.start_time = stats.health, stats.start_time
        self.draining = stats.draining


@attrs.define(eq=False)
class Builder:
    """Makes snapshots, and remembers from one to the next what they need of the past."""

    history: History
    _last_minute: LastMinute = attrs.field(factory=LastMinute, init=False)
    _idle_since: dict[Name, float] = attrs.field(factory=dict, init=False)
    """Channels without consumers."""

    async def build(
        self,
        now: float,
        nodes: Sequence[NodeState],
        new: Sequence[NodeState],
        registered: Iterable[str],
        problems: Sequence[Problem],
        yielder: Yielder,
    ) -> Snapshot:
        """The snapshot of this time (unix seconds).

        `new` are the nodes whose answer was not in a snapshot yet, `registered` the topics that registries know.
        """
        flows = await _sum_flows(nodes, yielder)
        await self._count_last_minute(new, yielder)
        topics = await self._topics(now, await _by_name(nodes, registered, yielder), flows, yielder)
        seen = {state.node.http_address: await _node_view(state, yielder) for state in nodes}
        totals = await _totals(topics.values(), seen.values(), yielder, known=flows is not None)
        self._note_total(totals, flows or {})
        if flows is None and any(state.problem is None for state in nodes):
            self.history.drop_row()  # the first look at the cluster, or at what came back: a rate takes two
        else:
            await self.history.close_row(now, yielder)
        return Snapshot(now, topics, seen, totals, tuple(problems))

    async def _count_last_minute(self, new: Sequence[NodeState], yielder: Yielder) -> None:
        moved: dict[Name, tuple[int, int]] = {}
        for state in new:
            for name, flow in (state.flows or {}).items():
                if flow.requeues or flow.timeouts:
                    known = moved.get(name, (0, 0))
                    moved[name] = known[0] + flow.requeues, known[1] + flow.timeouts
                await yielder.maybe_yield()
        self._last_minute.add(trio.current_time(), moved)

    async def _topics(
        self,
        now: float,
        parts: Mapping[str, list[TopicStats]],
        flows: Mapping[Name, _Rates] | None,
        yielder: Yielder,
    ) -> dict[str, TopicView]:
        idle_before, self._idle_since = self._idle_since, {}
        views = {}
        for name in sorted(parts):
            stats = merge_topic(name, parts[name])
            channels = {}
            for channel in stats.channels or ():
                key = name, channel.channel_name
                if channel.client_count == 0:
                    self._idle_since[key] = idle_before.get(key, now)
                channels[channel.channel_name] = self._channel_view(key, channel, flows)
                await yielder.maybe_yield()
            views[name] = self._topic_view(name, stats, channels, flows)
            await yielder.maybe_yield()
        self._forget(views)
        return views

    def _channel_view(
        self, key: Name, stats: ChannelStats, flows: Mapping[Name, _Rates] | None
    ) -> ChannelView:
        came, left, requeued, timed_out = _rates(flows, key)
        requeues, timeouts = self._last_minute.sums.get(key, (0, 0))
        self.history.note(*key, (stats.depth, stats.in_flight_count, came, left, requeued, timed_out))
        return ChannelView(
            name=key[1],
            topic=key[0],
            stats=stats,
            in_rate=None if flows is None else came,
            out_rate=None if flows is None else left,
            requeues_per_minute=requeues,
            timeouts_per_minute=timeouts,
            no_consumer_since=self._idle_since.get(key),
        )

    def _topic_view(
        self,
        name: str,
        stats: TopicStats,
        channels: dict[str, ChannelView],
        flows: Mapping[Name, _Rates] | None,
    ) -> TopicView:
        came = _rates(flows, (name, ""))[0]
        left = sum([channel.out_rate or 0.0 for channel in channels.values()])
        in_flight = sum([channel.stats.in_flight_count for channel in channels.values()])
        requeued = sum([_rates(flows, (name, channel))[2] for channel in channels])
        timed_out = sum([_rates(flows, (name, channel))[3] for channel in channels])
        self.history.note(name, "", (stats.depth, in_flight, came, left, requeued, timed_out))
        return TopicView(
            name=name,
            stats=stats,
            channels=channels,
            in_rate=None if flows is None else came,
            out_rate=None if flows is None else left,
            in_flight_count=in_flight,
            deferred_count=sum([channel.stats.deferred_count for channel in channels.values()]),
            client_count=sum([channel.stats.client_count for channel in channels.values()]),
            channel_depth=sum([channel.stats.depth for channel in channels.values()]),
            requeues_per_minute=sum([channel.requeues_per_minute for channel in channels.values()]),
            timeouts_per_minute=sum([channel.timeouts_per_minute for channel in channels.values()]),
            oldest_unfinished_ms=oldest(
                [stats.oldest_unfinished_ms, *(each.oldest_unfinished_ms for each in channels.values())]
            ),
        )

    def _note_total(self, totals: Totals, flows: Mapping[Name, _Rates]) -> None:
        self.history.note_total(
            (
                totals.depth,
                totals.in_flight_count,
                totals.in_rate or 0.0,
                totals.out_rate or 0.0,
                sum([rates[2] for rates in flows.values()]),
                sum([rates[3] for rates in flows.values()]),
            )
        )

    def _forget(self, views: Mapping[str, TopicView]) -> None:
        if self.history.known > 2 * sum([1 + len(view.channels) for view in views.values()]) + 1000:
            existing = {(name, "") for name in views}
            existing.update((name, channel) for name, view in views.items() for channel in view.channels)
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


_Rates = tuple[float, float, float, float]
"""A second: came, left, requeued, timed out."""
_STILL: _Rates = (0.0, 0.0, 0.0, 0.0)


async def _sum_flows(nodes: Sequence[NodeState], yielder: Yielder) -> dict[Name, _Rates] | None:
    """Over all nodes; None when it is known of none."""
    known = [(state.moving, state.gap_s) for state in nodes if state.moving is not None]
    if not known:
        return None
    sums: dict[Name, _Rates] = {}
    for flows, gap_s in known:
        for name, flow in flows.items():
            came, left, requeued, timed_out = sums.get(name, _STILL)
            sums[name] = (
                came + flow.in_rate,
                left + flow.out_rate,
                requeued + flow.requeues / gap_s,
                timed_out + flow.timeouts / gap_s,
            )
            await yielder.maybe_yield()
    return sums


def _rates(flows: Mapping[Name, _Rates] | None, name: Name) -> _Rates:
    return _STILL if flows is None else flows.get(name, _STILL)


async def _node_view(state: NodeState, yielder: Yielder) -> NodeView:
    depth = in_flight = clients = messages = 0
    for topic in state.topics.values():
        depth += topic.depth
        messages += topic.message_count
        for channel in topic.channels or ():
            depth += channel.depth
            in_flight += channel.in_flight_count
            clients += channel.client_count
        await yielder.maybe_yield()
    flows = state.moving
    return NodeView(
        node=state.node,
        topics=state.topics,
        answered_at=state.answered_at,
        problem=state.problem,
        depth=depth,
        in_flight_count=in_flight,
        client_count=clients,
        message_count=messages,
        in_rate=None if flows is None else sum([flow.in_rate for name, flow in flows.items() if not name[1]]),
        out_rate=None if flows is None else sum([flow.out_rate for flow in flows.values()]),
        health=state.health,
        start_time=state.start_time,
        draining=state.draining,
    )


async def _totals(
    topics: Collection[TopicView], nodes: Collection[NodeView], yielder: Yielder, *, known: bool
) -> Totals:
    channels = clients = depth = in_flight = deferred = messages = requeues = timeouts = idle = 0
    came = left = 0.0
    age: int | None = None
    for topic in topics:
        channels += len(topic.channels)
        clients += topic.client_count
        depth += topic.stats.depth + topic.channel_depth
        in_flight += topic.in_flight_count
        deferred += topic.deferred_count
        messages += topic.stats.message_count
        came += topic.in_rate or 0.0
        left += topic.out_rate or 0.0
        requeues += topic.requeues_per_minute
        timeouts += topic.timeouts_per_minute
        idle += len(topic.idle_channels)
        age = oldest((age, topic.oldest_unfinished_ms))
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
        in_rate=came if known else None,
        out_rate=left if known else None,
        requeues_per_minute=requeues,
        timeouts_per_minute=timeouts,
        idle_channels=idle,
        oldest_unfinished_ms=age,
    )
