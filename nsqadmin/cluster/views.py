"""What the picture shows: the whole cluster at one moment, with what is computed from poll to poll.

All of it is plain values that nobody changes after they were made: a page takes a `Snapshot`, waits for whatever it
likes, and still shows one moment. Rates are messages a second between the last two answers of each node, summed over
the nodes that answer; `None` until there were two. What left a channel was finished, or emptied out of it: nsqds do not
tell the two apart. Times are unix seconds.
"""

from __future__ import annotations

import msgspec

from nsqadmin.cluster.model import ChannelStats, Draining, Node, TopicStats

__all__ = ["ChannelView", "NodeView", "Problem", "Snapshot", "TopicView", "Totals"]


class Problem(msgspec.Struct, frozen=True, gc=False):
    """A daemon that did not answer, or not as it should."""

    kind: str
    """`nsqd` or `nsqlookupd`."""
    address: str
    """Its HTTP address."""
    error: str
    """Why: one line, for people."""
    since: float
    """When this began."""
    answered_at: float | None
    """Its last answer, which is what is shown of it; None: it has never answered, and nothing of it is shown."""


class ChannelView(msgspec.Struct, frozen=True, gc=False):
    """One channel over all nodes."""

    name: str
    topic: str
    stats: ChannelStats
    """The sum; `stats.nodes` are its parts. `clients` is None: see `Picture.channel_clients`."""
    in_rate: float | None
    out_rate: float | None
    requeues_per_minute: int
    """In the last 60 seconds; so are the time-outs."""
    timeouts_per_minute: int
    no_consumer_since: float | None
    """Since when it is known to have no consumer: at the earliest, the start of this nsqadmin. None: it has some."""

    @property
    def oldest_unfinished_ms(self) -> int | None:
        """Age of its oldest unfinished message; None where no nsqd tells."""
        return self.stats.oldest_unfinished_ms


class TopicView(msgspec.Struct, frozen=True, gc=False):
    """One topic over all nodes, with its channels."""

    name: str
    stats: TopicStats
    """The sum; `stats.nodes` are its parts. Zeros and no parts for a topic that only the registries know."""
    channels: dict[str, ChannelView]
    """By name, in the order of the names."""
    in_rate: float | None
    out_rate: float | None
    """Of all its channels together; so are all the following."""
    in_flight_count: int
    deferred_count: int
    client_count: int
    channel_depth: int
    """What is ready in its channels; `stats.depth` is what no channel has been given yet."""
    requeues_per_minute: int
    timeouts_per_minute: int
    oldest_unfinished_ms: int | None

    @property
    def idle_channels(self) -> list[ChannelView]:
        """Those without a consumer."""
        return [channel for channel in self.channels.values() if channel.no_consumer_since is not None]


class NodeView(msgspec.Struct, frozen=True, gc=False):
    """One nsqd."""

    node: Node
    """As the registries know it, or (without registries) as it says itself."""
    topics: dict[str, TopicStats]
    """What it has, by name in the order of the names; empty when it has never answered."""
    answered_at: float | None
    """When `topics` was true; None: never."""
    problem: Problem | None
    """Set while it does not answer: then `topics` is its last answer."""
    depth: int
    """Of its topics and channels together, as is the rest."""
    in_flight_count: int
    client_count: int
    message_count: int
    """Of its topics."""
    in_rate: float | None
    out_rate: float | None
    health: str
    """`OK` or `NOK - <reason>`, in its own words; empty when it has never answered."""
    start_time: int
    """Unix seconds; 0 when unknown."""
    draining: Draining | None = None
    """What it said last of that; None: it did not drain."""

    @property
    def address(self) -> str:
        """Its HTTP address, which names it."""
        return self.node.http_address


class Totals(msgspec.Struct, frozen=True, gc=False):
    """The cluster as one line."""

    topics: int = 0
    channels: int = 0
    nodes: int = 0
    clients: int = 0
    depth: int = 0
    """Ready in topics and channels."""
    in_flight_count: int = 0
    deferred_count: int = 0
    message_count: int = 0
    in_rate: float | None = None
    out_rate: float | None = None
    requeues_per_minute: int = 0
    timeouts_per_minute: int = 0
    idle_channels: int = 0
    """Without a consumer."""
    oldest_unfinished_ms: int | None = None


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """The cluster at one moment."""

    at: float = 0.0
    """When it was put together; 0: no poll has ended yet."""
    topics: dict[str, TopicView] = {}
    """By name, in the order of the names; so are the nodes by address in the order of their host names."""
    nodes: dict[str, NodeView] = {}
    totals: Totals = Totals()
    problems: tuple[Problem, ...] = ()
    """Of registries first, then of nsqds."""
