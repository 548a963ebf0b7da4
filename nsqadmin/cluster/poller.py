"""The poller: queries the whole cluster once an interval, however many browsers there are, and makes snapshots of it.

    poller.snapshot                # the last snapshot; never waits
    await poller.next_snapshot()   # the next one

Rules:

- A daemon that hangs delays no snapshot for long: after a timeout, the snapshot is made with its last response, and
  `problems` names the daemon, the reason and since when.
- Each daemon has at most one pending request, and is not queried more often than once an interval. Expensive rounds
  lengthen the interval: they take at most a tenth of the time.
- A snapshot is made in slices of a few milliseconds; other tasks run in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import attrs
import msgspec
import trio

from nsqadmin.addresses import host_and_port
from nsqadmin.cluster.history import History
from nsqadmin.cluster.merge import merge_nodes, node_of_info, nodes_of_producers, tell_apart
from nsqadmin.cluster.polled_daemon import PolledDaemon, poll_all
from nsqadmin.cluster.snapshot import ClusterSnapshot, Problem
from nsqadmin.cluster.snapshot_builder import NodeState, SnapshotBuilder
from nsqadmin.cluster.usage import UsagePoller
from nsqadmin.model import Node
from nsqadmin.options import AdminOptions
from nsqadmin.upstream import NSQD, NSQLOOKUPD, Upstream, responses
from nsqkit.logging import get_logger
from nsqkit.options import SECOND
from nsqkit.yielder import Yielder

__all__ = ["ClusterPoller"]

_log = get_logger("nsqadmin.poll")

_MAX_BUSY_SHARE = 0.1
"""Of the time, for rounds."""
_MIN_PAUSE_S = 0.2
"""Between two rounds, however often `poll_soon` is called."""
_MIN_TIMEOUT_S = 1.0
_QUICK_S = 0.15
"""A round that a page may wait for."""


@attrs.frozen
class _RegistryResponse:
    nodes: list[Node]
    topics: list[str]


@attrs.frozen
class _NsqdResponse:
    stats: responses.Stats
    info: responses.Info | None
    """Requested only without registries."""


@attrs.frozen(eq=False)
class _Registry:
    """One registry that is polled."""

    daemon: PolledDaemon[_RegistryResponse]
    usage: UsagePoller


@attrs.define(eq=False)
class _Nsqd:
    """One nsqd that is polled."""

    daemon: PolledDaemon[_NsqdResponse]
    usage: UsagePoller
    state: NodeState
    processed: int = 0
    """Number of its responses that are in `state`."""
    described: Node | None = None
    """What it calls itself; known only without registries."""


@attrs.define(eq=False)
class ClusterPoller:
    """The last snapshot, and the loop that renews it. See `nsqadmin.cluster.snapshot` for its contents."""

    options: AdminOptions
    upstream: Upstream
    history: History = attrs.field(factory=History)
    clock: Callable[[], float] = time.time
    """Unix seconds."""

    snapshot: ClusterSnapshot = attrs.field(factory=ClusterSnapshot, init=False)
    """The last one; empty (`at` is 0) before the end of the first poll."""
    _registries: dict[str, _Registry] = attrs.field(factory=dict, init=False)
    _nsqds: dict[str, _Nsqd] = attrs.field(factory=dict, init=False)
    """By the HTTP address at which each is polled."""
    _builder: SnapshotBuilder = attrs.field(init=False)
    _renewed: trio.Event = attrs.field(factory=trio.Event, init=False)
    _poll_requested: trio.Event = attrs.field(factory=trio.Event, init=False)
    _polled_at: float = attrs.field(default=0.0, init=False)
    """When the last round ended, on trio's clock."""
    _round_s: float | None = attrs.field(default=None, init=False)
    """How long it took; None while nothing polls."""

    def __attrs_post_init__(self) -> None:
        self._builder = SnapshotBuilder(self.history)

    async def next_snapshot(self) -> ClusterSnapshot:
        """Wait for the end of the next poll. Use a timeout: a poll may take several intervals."""
        await self._renewed.wait()
        return self.snapshot

    async def up_to_date(self) -> None:
        """For somebody who has just opened a page: poll, unless that was done just now, and wait if it is quick.

        What was changed a moment ago by other programs is shown then, and not an interval later.
        """
        if self._round_s is None or trio.current_time() - self._polled_at <= _MIN_PAUSE_S:
            return
        self.poll_soon()
        if self._round_s <= _QUICK_S:
            with trio.move_on_after(2 * _QUICK_S):
                await self.next_snapshot()

    def poll_soon(self) -> None:
        """Poll again without waiting for the interval, because the cluster has been changed."""
        self._poll_requested.set()

    def nsqds(self, nodes: Collection[str]) -> list[tuple[str, Node]]:
        """The nsqds with these HTTP addresses, each with the address at which it is polled."""
        return [
            (nsqd.daemon.address, nsqd.state.node)
            for nsqd in self._nsqds.values()
            if nsqd.state.node.http_address in nodes
        ]

    async def run(self) -> None:
        """Poll until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                began = trio.current_time()
                self._poll_requested = trio.Event()
                busy_s = await self._round_or_log(nursery)
                self._polled_at = trio.current_time()
                self._round_s = self._polled_at - began
                # From start to start, so that a slow daemon does not stretch the interval; an expensive round does.
                pause = max(self._interval_s, busy_s / _MAX_BUSY_SHARE) - (trio.current_time() - began)
                await trio.sleep(min(_MIN_PAUSE_S, max(pause, 0)))
                with trio.move_on_after(max(pause - _MIN_PAUSE_S, 0)):
                    await self._poll_requested.wait()

    async def _round_or_log(self, nursery: trio.Nursery) -> float:
        try:
            return await self.round(nursery)
        except Exception:
            # The console must continue with the next poll, whatever a response contained.
            _log.exception("POLL: failed, the snapshot was not renewed")
            return 0.0

    async def round(self, nursery: trio.Nursery) -> float:
        """Poll once; requests that time out continue in the nursery. Returns the seconds of work."""
        timeout_s = max(_MIN_TIMEOUT_S, self._interval_s / 2)
        # Registries first: their responses decide which nsqds are polled.
        if self.options.with_registries:
            self._update_registries()
            for registry in self._registries.values():
                registry.usage.begin(nursery)
            await poll_all(self._polled_registries, nursery, timeout_s)
        self._update_nsqds()
        for nsqd in self._nsqds.values():
            nsqd.usage.begin(nursery)
        await poll_all([nsqd.daemon for nsqd in self._nsqds.values()], nursery, timeout_s)
        yielder = Yielder()
        updated = await self._process_responses(yielder)
        states = sorted((nsqd.state for nsqd in self._nsqds.values()), key=lambda state: state.node.hostname)
        self.snapshot = await self._builder.build(
            self.clock(),
            states,
            updated,
            self._registered_topics(),
            self._problems(),
            self._certificates(),
            yielder,
        )
        self._renewed.set()
        self._renewed = trio.Event()
        return yielder.busy_s

    async def _process_responses(self, yielder: Yielder) -> list[NodeState]:
        """Update the states of the nsqds; returns those that have a new response."""
        new: list[tuple[NodeState, responses.Stats, float, float]] = []
        for nsqd in self._nsqds.values():
            daemon, state = nsqd.daemon, nsqd.state
            # Even without a new response: a daemon that has just failed keeps its figures, but loses its rates.
            state.problem, state.usage = daemon.problem, nsqd.usage.usage
            if (
                nsqd.processed == daemon.response_count
                or daemon.response is None
                or daemon.answered_at is None
            ):
                continue
            nsqd.processed = daemon.response_count
            stats = daemon.response.stats
            if daemon.response.info is not None:
                names = [topic.topic_name for topic in stats.topics or ()]
                nsqd.described = node_of_info(daemon.response.info, names)
            new.append((state, stats, daemon.answered_at, daemon.received_at))
        self._tell_apart()
        for state, stats, answered_at, received_at in new:
            await state.update(stats, answered_at, received_at, yielder)
        return [state for state, *_ in new]

    def _tell_apart(self) -> None:
        """Set the nodes of nsqds that describe themselves."""
        described = [
            (nsqd, nsqd.daemon.address, nsqd.described)
            for nsqd in self._nsqds.values()
            if nsqd.described is not None
        ]
        nodes = tell_apart([(address, node) for _, address, node in described])
        for (nsqd, *_), node in zip(described, nodes, strict=True):
            nsqd.state.node = node

    # Which daemons are polled.

    def _update_registries(self) -> None:
        """Follow the options, which can change at run time."""
        self._registries = {
            address: self._registries.get(address) or self._new_registry(address)
            for address in self.options.lookupd_http_addresses
        }

    @property
    def _polled_registries(self) -> list[PolledDaemon[_RegistryResponse]]:
        return [registry.daemon for registry in self._registries.values()]

    def _new_registry(self, address: str) -> _Registry:
        async def request() -> _RegistryResponse:
            producers = await responses.nodes(self.upstream, address)
            topics = await responses.topics(self.upstream, address)
            return _RegistryResponse(nodes_of_producers(address, producers), topics)

        daemon = PolledDaemon(NSQLOOKUPD, address, request, self.clock)
        return _Registry(daemon, UsagePoller(self.upstream, address))

    def _update_nsqds(self) -> None:
        if not self.options.with_registries:
            self._nsqds = {
                address: self._nsqds.get(address) or self._configured_nsqd(address)
                for address in self.options.nsqd_http_addresses
            }
            return
        nodes = self._registered_nodes()
        self._nsqds = {address: self._registered_nsqd(address, node) for address, node in nodes.items()}

    def _registered_nodes(self) -> dict[str, Node]:
        """The nsqds to show. One that only failing registries listed stays while it answers itself."""
        listed_now = {
            node.http_address
            for registry in self._polled_registries
            if registry.problem is None and registry.response is not None
            for node in registry.response.nodes
        }
        all_fail = all(registry.problem is not None for registry in self._polled_registries)
        # Copies, because `merge_nodes` changes its input and a registry's last response may be merged again.
        copies = [
            [msgspec.structs.replace(node) for node in registry.response.nodes]
            for registry in self._polled_registries
            if registry.response is not None
        ]
        merged = {node.http_address: node for node in merge_nodes(copies)}
        return {
            address: node
            for address, node in merged.items()
            if address in listed_now or all_fail or self._answers(address)
        }

    def _answers(self, address: str) -> bool:
        nsqd = self._nsqds.get(address)
        return nsqd is not None and nsqd.daemon.problem is None

    def _registered_nsqd(self, address: str, node: Node) -> _Nsqd:
        known = self._nsqds.get(address)
        if known is None:
            return self._new_nsqd(address, node, describe=False)
        known.state.node = node
        return known

    def _configured_nsqd(self, address: str) -> _Nsqd:
        host, port = host_and_port(address)
        return self._new_nsqd(address, Node(host, port, 0), describe=True)

    def _new_nsqd(self, address: str, node: Node, *, describe: bool) -> _Nsqd:
        async def request() -> _NsqdResponse:
            stats = await responses.stats(self.upstream, address, memory=False)
            return _NsqdResponse(stats, await responses.info(self.upstream, address) if describe else None)

        daemon = PolledDaemon(NSQD, address, request, self.clock)
        return _Nsqd(daemon, UsagePoller(self.upstream, address), NodeState(node))

    def _registered_topics(self) -> set[str]:
        return {
            name
            for registry in self._polled_registries
            if registry.response is not None
            for name in registry.response.topics
        }

    def _certificates(self) -> dict[str, float]:
        """When those of the registries expire, by their addresses."""
        return {
            address: expiry
            for address, registry in self._registries.items()
            if (expiry := registry.usage.usage.certificate_expiry) is not None
        }

    def _problems(self) -> list[Problem]:
        registries = [registry.problem for registry in self._polled_registries]
        nsqds = [nsqd.state.problem for nsqd in self._nsqds.values()]
        return [problem for problem in (*registries, *nsqds) if problem is not None]

    @property
    def _interval_s(self) -> float:
        return self.options.poll_interval / SECOND
