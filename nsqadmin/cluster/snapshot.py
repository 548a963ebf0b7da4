"""A snapshot: the whole cluster at one time, with what is computed between polls (rates, counts of the last minute).

Snapshots are immutable: a page takes one, may wait for something else, and still shows the cluster of one time. Rates
are messages a second between the last two responses of each node, summed over the nodes that answer; None until there
were two. Messages that left a channel were finished or emptied; nsqds do not distinguish the two. Times are in unix
seconds.
"""

from __future__ import annotations

import msgspec

from nsqadmin.model import ChannelStats, Copies, Draining, Node, TopicStats

__all__ = [
    "ChannelSnapshot",
    "ClusterSnapshot",
    "NodeSnapshot",
    "Problem",
    "TopicSnapshot",
    "Totals",
    "Usage",
]


class Problem(msgspec.Struct, frozen=True, gc=False):
    """A daemon that does not answer, or not as expected."""

    kind: str
    """`nsqd` or `nsqlookupd`."""
    address: str
    """Its HTTP address."""
    error: str
    """The reason, in one line for people."""
    since: float
    answered_at: float | None
    """Time of its last response, which is still shown; None if it has never answered."""


class ChannelSnapshot(msgspec.Struct, frozen=True, gc=False):
    """One channel, over all nodes."""

    name: str
    topic: str
    stats: ChannelStats
    """The sum; `stats.nodes` are its parts. `clients` is None: see `cluster.consumers`."""
    in_rate: float | None
    out_rate: float | None
    requeues_per_minute: int
    """In the last 60 seconds; so are the time-outs."""
    timeouts_per_minute: int
    no_consumer_since: float | None
    """Since when it is known to have no consumer (at the earliest, the start of nsqadmin); None if it has any."""

    @property
    def depth(self) -> int:
        """Messages ready for delivery."""
        return self.stats.depth

    @property
    def in_flight_count(self) -> int:
        """Messages sent to consumers and not finished yet."""
        return self.stats.in_flight_count

    @property
    def oldest_unfinished_ms(self) -> int | None:
        """Age of its oldest unfinished message; None if no nsqd reports it."""
        return self.stats.oldest_unfinished_ms


class TopicSnapshot(msgspec.Struct, frozen=True, gc=False):
    """One topic with its channels, over all nodes."""

    name: str
    stats: TopicStats
    """The sum; `stats.nodes` are its parts. A topic that only the registries know has zeros and no parts."""
    channels: dict[str, ChannelSnapshot]
    """By name, in alphabetical order."""
    in_rate: float | None
    out_rate: float | None
    """Of all its channels together; so are all of the following."""
    in_flight_count: int
    deferred_count: int
    client_count: int
    channel_depth: int
    """Messages ready in its channels; `stats.depth` are those not copied to the channels yet."""
    requeues_per_minute: int
    timeouts_per_minute: int
    oldest_unfinished_ms: int | None

    @property
    def depth(self) -> int:
        """Messages ready in the topic and in its channels."""
        return self.stats.depth + self.channel_depth

    @property
    def idle_channels(self) -> list[ChannelSnapshot]:
        """The channels without a consumer."""
        return [channel for channel in self.channels.values() if channel.no_consumer_since is not None]


class Usage(msgspec.Struct, frozen=True, gc=False):
    """What one nsqd uses. None: unknown; some figures are differences of two answers, others not known to each nsqd."""

    cpu: float | None = None
    """Of one core, since the answer before: 1.0 is all of it."""
    memory_bytes: float | None = None
    """Resident."""
    disk_free_bytes: float | None = None
    """Free space of the file system with its data path."""
    log_bytes: float | None = None
    """Size of the logs of all its topics."""
    loop_lag_s: float | None = None
    """How late its event loop was on average, since the answer before."""
    certificate_expiry: float | None = None
    """When its certificate expires, of several the first one; unix seconds."""
    missing: str = "Its first answer is still to come"
    """Why there are no figures; empty if there are, and those that are missing are known with the next answer."""


class NodeSnapshot(msgspec.Struct, frozen=True, gc=False):
    """One nsqd."""

    node: Node
    """As the registries describe it, or (without registries) as it describes itself."""
    topics: dict[str, TopicStats]
    """By name, in alphabetical order; empty if it has never answered."""
    answered_at: float | None
    """Time of the response with `topics`; None if it has never answered."""
    problem: Problem | None
    """Set while it does not answer; `topics` is from its last response then."""
    depth: int
    """Of its topics and channels together, as is the rest."""
    in_flight_count: int
    client_count: int
    message_count: int
    """Of its topics only."""
    in_rate: float | None
    out_rate: float | None
    health: str
    """As it reports it: `OK` or `NOK - <reason>`; empty if it has never answered."""
    start_time: int
    """Unix seconds; 0 if unknown."""
    draining: Draining | None = None
    """From its last response; None if it was not draining."""
    copies: Copies | None = None
    """From its last response; None if it neither has copies elsewhere nor holds any."""
    usage: Usage = Usage()
    can_drain: bool = False
    """Whether it knows drains: the original does not."""

    @property
    def address(self) -> str:
        """Its HTTP address, which identifies it."""
        return self.node.http_address

    @property
    def is_not_audited(self) -> bool:
        """Whether it cannot write its audit file."""
        return self.health.startswith("OK - audit ")


class Totals(msgspec.Struct, frozen=True, gc=False):
    """Sums over the whole cluster."""

    topics: int = 0
    channels: int = 0
    nodes: int = 0
    clients: int = 0
    depth: int = 0
    """Messages ready in topics and channels."""
    in_flight_count: int = 0
    deferred_count: int = 0
    message_count: int = 0
    in_rate: float | None = None
    out_rate: float | None = None
    requeues_per_minute: int = 0
    timeouts_per_minute: int = 0
    idle_channels: int = 0
    """Channels without a consumer."""
    oldest_unfinished_ms: int | None = None


class ClusterSnapshot(msgspec.Struct, frozen=True, gc=False):
    """The cluster at one time."""

    at: float = 0.0
    """When it was made; 0 before the end of the first poll."""
    topics: dict[str, TopicSnapshot] = {}
    """By name, in alphabetical order."""
    nodes: dict[str, NodeSnapshot] = {}
    """By HTTP address, in the order of the host names."""
    totals: Totals = Totals()
    problems: tuple[Problem, ...] = ()
    """Of registries first, then of nsqds."""
    certificates: dict[str, float] = {}
    """When those of registries expire, by HTTP address; unix seconds."""

    def channel(self, topic: str, name: str) -> ChannelSnapshot | None:
        """One channel; None if there is none of these names."""
        found = self.topics.get(topic)
        return found.channels.get(name) if found is not None else None
