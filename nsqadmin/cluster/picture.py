"""The picture: the state of the whole cluster, asked for once an interval, however many browsers look.

    picture.snapshot            # the last moment, whole; never waits
    await picture.next()        # the next one
    await picture.channel_clients("orders", "audit")   # who consumes: asked when somebody looks, shared by all who do

Rules:

- A daemon that hangs delays nobody: when most have answered, what is there is shown; the rest keeps its last answer and
  is named in `problems`, with the reason and since when.
- Nothing is asked twice at one time, and nothing is asked more often than once an interval. A round that costs much
  makes the interval longer: at most a tenth of the time goes into rounds.
- Everything is put together in slices: other tasks have their turn after every few milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs
import msgspec
import trio

from nsqadmin.addresses import host_and_port
from nsqadmin.cluster.build import Builder, NodeState
from nsqadmin.cluster.history import History
from nsqadmin.cluster.live import NSQD, NSQLOOKUPD
from nsqadmin.cluster.merge import merge_nodes, node_of_info, nodes_of_producers, place
from nsqadmin.cluster.model import ClientStats, Node, TopicStats
from nsqadmin.cluster.shared import SharedAnswers
from nsqadmin.cluster.source import Source, settle
from nsqadmin.cluster.views import ChannelView, NodeView, Problem, Snapshot, TopicView, Totals
from nsqadmin.options import AdminOptions
from nsqadmin.upstream import Upstream, UpstreamFailed, Warnings, answers, ask_all
from nsqkit.logging import get_logger
from nsqkit.yielder import Yielder

__all__ = ["Picture"]

_log = get_logger("nsqadmin.poll")

NS_PER_SECOND = 1_000_000_000
_SHARE_OF_TIME = 0.1
"""At most so much of it goes into rounds."""
_LEAST_PAUSE_S = 0.2
"""Between two rounds, however often one is wished for."""
_LEAST_PATIENCE_S = 1.0


@attrs.frozen
class _RegistryAnswer:
    nodes: list[Node]
    topics: list[str]


@attrs.frozen
class _NsqdAnswer:
    stats: answers.Stats
    info: answers.Info | None
    """What it says of itself; asked for only where no registry tells it."""


@attrs.define(eq=False)
class _Nsqd:
    """One nsqd that is polled."""

    source: Source[_NsqdAnswer]
    state: NodeState
    taken: int = 0
    """Answers that are in `state`."""


@attrs.define(eq=False)
class Picture:
    """The last snapshot, and what renews it. See `nsqadmin.cluster.views` for what is in it."""

    options: AdminOptions
    upstream: Upstream
    history: History = attrs.field(factory=History)
    clock: Callable[[], float] = time.time
    """Unix seconds."""

    snapshot: Snapshot = attrs.field(factory=Snapshot, init=False)
    """The last moment; an empty one (`at` 0) until the first poll has ended."""
    _registries: dict[str, Source[_RegistryAnswer]] = attrs.field(factory=dict, init=False)
    _nsqds: dict[str, _Nsqd] = attrs.field(factory=dict, init=False)
    """By the HTTP address under which each is asked."""
    _builder: Builder = attrs.field(init=False)
    _clients: SharedAnswers[dict[tuple[str, str], list[ClientStats]]] = attrs.field(init=False)
    _next: trio.Event = attrs.field(factory=trio.Event, init=False)
    _wish: trio.Event = attrs.field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._builder = Builder(self.history)
        self._clients = SharedAnswers(self._interval_s)

    # What it shows.

    @property
    def at(self) -> float:
        """When it was put together, unix seconds; 0: no poll has ended yet."""
        return self.snapshot.at

    @property
    def totals(self) -> Totals:
        """The cluster as one line."""
        return self.snapshot.totals

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Who does not answer, since when, and why."""
        return self.snapshot.problems

    def topics(self) -> list[TopicView]:
        """All topics, by name."""
        return list(self.snapshot.topics.values())

    def topic(self, name: str) -> TopicView | None:
        """One topic; None when there is none of this name."""
        return self.snapshot.topics.get(name)

    def channel(self, topic: str, name: str) -> ChannelView | None:
        """One channel; None when there is none."""
        found = self.topic(topic)
        return None if found is None else found.channels.get(name)

    def nodes(self) -> list[NodeView]:
        """All nsqds, by host name."""
        return list(self.snapshot.nodes.values())

    def node(self, address: str) -> NodeView | None:
        """One nsqd, by its HTTP address."""
        return self.snapshot.nodes.get(address)

    async def next(self) -> Snapshot:
        """Wait for the end of the next poll. Wait with a limit of your own: a poll may take some intervals."""
        await self._next.wait()
        return self.snapshot

    def poll_soon(self) -> None:
        """Poll again at once, because something was just changed."""
        self._wish.set()

    # What is asked when somebody looks.

    async def channel_clients(self, topic: str, channel: str) -> list[ClientStats]:
        """The consumers of a channel on all nodes, asked for now (or at most an interval ago, for all who look).

        Those of nodes that do not answer are missing. Needs `run` to be running.
        """
        found = await self._clients.get(
            ("channel", topic, channel), lambda: self._ask_channel_clients(topic, channel)
        )
        return found.get((topic, channel), [])

    async def node_clients(self, address: str) -> dict[tuple[str, str], list[ClientStats]]:
        """The consumers of one nsqd by (topic, channel), in the same way. Empty when it does not answer."""
        return await self._clients.get(("node", address, ""), lambda: self._ask_node_clients(address))

    async def _ask_channel_clients(
        self, topic: str, channel: str
    ) -> dict[tuple[str, str], list[ClientStats]]:
        view = self.channel(topic, channel)
        having = {part.node for part in view.stats.nodes or ()} if view else set()
        return await self._ask_clients(having, topic, channel)

    async def _ask_node_clients(self, address: str) -> dict[tuple[str, str], list[ClientStats]]:
        return await self._ask_clients({address}, "", "")

    async def _ask_clients(
        self, addresses: set[str], topic: str, channel: str
    ) -> dict[tuple[str, str], list[ClientStats]]:
        async def ask(nsqd: _Nsqd) -> list[TopicStats]:
            address = nsqd.source.address
            stats = await answers.stats(self.upstream, address, topic, channel, clients=True, memory=False)
            return stats.topics or []

        found: dict[tuple[str, str], list[ClientStats]] = {}
        yielder = Yielder()
        asked = [nsqd for nsqd in self._nsqds.values() if nsqd.state.node.http_address in addresses]
        try:
            given = await ask_all(NSQD, asked, ask, Warnings())
        except UpstreamFailed:
            return found
        for nsqd, topics in given:
            for each in topics:
                place(each, nsqd.state.node)
                for of_channel in each.channels or ():
                    name = each.topic_name, of_channel.channel_name
                    found.setdefault(name, []).extend(of_channel.clients or ())
                await yielder.maybe_yield()
        return found

    # What renews it.

    async def run(self) -> None:
        """Poll for ever."""
        async with trio.open_nursery() as nursery, self._clients.running(nursery):
            while True:
                began = trio.current_time()
                self._wish = trio.Event()
                busy_s = await self._round_without_fail(nursery)
                pause = max(self._interval_s, busy_s / _SHARE_OF_TIME) - (trio.current_time() - began)
                await trio.sleep(min(_LEAST_PAUSE_S, max(pause, 0)))
                with trio.move_on_after(max(pause - _LEAST_PAUSE_S, 0)):
                    await self._wish.wait()

    async def _round_without_fail(self, nursery: trio.Nursery) -> float:
        try:
            return await self.round(nursery)
        except Exception:
            # Whatever one answer has in it, the console must go on with the next.
            _log.exception("POLL: the picture was not renewed")
            return 0.0

    async def round(self, nursery: trio.Nursery) -> float:
        """Poll once; what hangs goes on in the nursery. Returns the seconds worked."""
        patience = max(_LEAST_PATIENCE_S, self._interval_s / 2)
        if self.options.with_registries:
            self._match_registries()
            await settle(self._registries.values(), nursery, patience)
        self._match_nsqds()
        await settle([nsqd.source for nsqd in self._nsqds.values()], nursery, patience)
        yielder = Yielder()
        new = await self._take_answers(yielder)
        states = sorted((nsqd.state for nsqd in self._nsqds.values()), key=lambda state: state.node.hostname)
        self.snapshot = await self._builder.build(
            self.clock(), states, new, self._registered_topics(), self._problems(), yielder
        )
        self._next.set()
        self._next = trio.Event()
        return yielder.busy_s

    async def _take_answers(self, yielder: Yielder) -> list[NodeState]:
        """Those whose answer is new."""
        new = []
        for nsqd in self._nsqds.values():
            source, state = nsqd.source, nsqd.state
            state.problem = source.problem
            if nsqd.taken == source.answers or source.answer is None or source.answered_at is None:
                continue
            nsqd.taken = source.answers
            stats = source.answer.stats
            if source.answer.info is not None:
                names = [topic.topic_name for topic in stats.topics or ()]
                state.node = node_of_info(source.answer.info, names)
            await state.take(stats, source.answered_at, source.received_at, yielder)
            new.append(state)
        return new

    # Whom it asks.

    def _match_registries(self) -> None:
        """Follow the options, which can be changed while it runs."""
        wanted = self.options.lookupd_http_addresses
        self._registries = {
            address: self._registries.get(address) or self._new_registry(address) for address in wanted
        }

    def _new_registry(self, address: str) -> Source[_RegistryAnswer]:
        async def ask() -> _RegistryAnswer:
            producers = await answers.nodes(self.upstream, address)
            topics = await answers.topics(self.upstream, address)
            return _RegistryAnswer(nodes_of_producers(address, producers), topics)

        return Source(NSQLOOKUPD, address, ask, self.clock)

    def _match_nsqds(self) -> None:
        if not self.options.with_registries:
            wanted = self.options.nsqd_http_addresses
            self._nsqds = {
                address: self._nsqds.get(address) or self._named_nsqd(address) for address in wanted
            }
            return
        nodes = self._registered_nodes()
        self._nsqds = {address: self._registered_nsqd(address, node) for address, node in nodes.items()}

    def _registered_nodes(self) -> dict[str, Node]:
        """The nsqds to show. One that only silent registries knew stays as long as it answers itself."""
        fresh = [each for each in self._registries.values() if each.problem is None]
        told = [each.answer.nodes for each in self._registries.values() if each.answer is not None]
        listed = {
            node.http_address for each in fresh if each.answer is not None for node in each.answer.nodes
        }
        copies = [[_copy(node) for node in nodes] for nodes in told]
        merged = {node.http_address: node for node in merge_nodes(copies)}
        return {
            address: node
            for address, node in merged.items()
            if address in listed or not fresh or self._answers(address)
        }

    def _answers(self, address: str) -> bool:
        nsqd = self._nsqds.get(address)
        return nsqd is not None and nsqd.source.problem is None

    def _registered_nsqd(self, address: str, node: Node) -> _Nsqd:
        known = self._nsqds.get(address)
        if known is None:
            return self._new_nsqd(address, node, describe=False)
        known.state.node = node
        return known

    def _named_nsqd(self, address: str) -> _Nsqd:
        host, port = host_and_port(address)
        return self._new_nsqd(address, Node(host, port, 0), describe=True)

    def _new_nsqd(self, address: str, node: Node, *, describe: bool) -> _Nsqd:
        async def ask() -> _NsqdAnswer:
            stats = await answers.stats(self.upstream, address, memory=False)
            return _NsqdAnswer(stats, await answers.info(self.upstream, address) if describe else None)

        return _Nsqd(Source(NSQD, address, ask, self.clock), NodeState(node))

    def _registered_topics(self) -> set[str]:
        return {
            name
            for each in self._registries.values()
            if each.answer is not None
            for name in each.answer.topics
        }

    def _problems(self) -> list[Problem]:
        registries = [each.problem for each in self._registries.values()]
        nsqds = [nsqd.state.problem for nsqd in self._nsqds.values()]
        return [problem for problem in (*registries, *nsqds) if problem is not None]

    @property
    def _interval_s(self) -> float:
        return self.options.poll_interval / NS_PER_SECOND


def _copy(node: Node) -> Node:
    """For `merge_nodes`, which writes into what it is given, and a registry's last answer may be merged again."""
    return msgspec.structs.replace(node)
