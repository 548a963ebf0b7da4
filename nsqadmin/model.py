"""The data model: nodes, topics, channels and clients, of one nsqd or summed over all nodes.

The classes are msgspec structs, because `/stats` of an nsqd is decoded straight into them: 50,000 clients are 50,000
objects and no intermediate ones. The types of the fields are what a response is checked against (`Name`, `Count` and so
on); a sum may be larger. Fields whose names on the wire begin with a dash are not of the response: `upstream.decoding`
sets those that are lists, and `cluster.merge.attribute_to_node` the others, whatever a response says there.

The same classes hold one node's figures and the sum over all nodes. A sum has the `node` `"*"`, no host name, and its
parts in `nodes`. Counters are those of the daemons: they count from the daemon's start and begin at 0 after a restart.
Latencies are in nanoseconds.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from nsqadmin.addresses import join_host_port
from nsqkit.wire.names import MAX_NAME_LENGTH, NAME_PATTERN

__all__ = [
    "ALL_NODES",
    "ChannelStats",
    "ClientStats",
    "Copies",
    "Count",
    "Draining",
    "Follower",
    "HeldCopy",
    "Idle",
    "Latency",
    "LimitCounts",
    "Limits",
    "Measured",
    "Name",
    "Node",
    "NodeTopic",
    "Percentile",
    "StuckPlace",
    "Text",
    "TopicStats",
]

ALL_NODES = "*"
"""The `node` of a sum over all nodes."""
MAX_PERCENTILES = 64

Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME_LENGTH, pattern=rf"\A{NAME_PATTERN}\Z")]
"""Of a topic or a channel."""
Text = Annotated[str, msgspec.Meta(max_length=1_024)]
"""What an nsqd says of itself: its host, version, health, place."""
Count = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""A number of 64 bits. May be negative: nsqds of all versions have had counters that went below 0."""
Measured = Annotated[float, msgspec.Meta(ge=0, le=1e18)]
"""A quantile, or nanoseconds (30 years at most): sums and averages of these stay finite."""


class Percentile(msgspec.Struct, gc=False):
    """One quantile of the time between publish and finish, in nanoseconds."""

    quantile: Measured
    value: Measured = 0.0
    """Of one node; 0 in a sum, which has the fields below instead."""
    average: float = msgspec.field(default=0.0, name="-average")
    """Over the nodes, weighted by their counts."""
    min: float = msgspec.field(default=0.0, name="-min")
    max: float = msgspec.field(default=0.0, name="-max")
    count: int = msgspec.field(default=0, name="-count")


class Latency(msgspec.Struct, gc=False):
    """The time from publish to finish, for a topic or a channel."""

    count: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    """Messages in the measured window."""
    percentiles: Annotated[list[Percentile], msgspec.Meta(max_length=MAX_PERCENTILES)] | None = None
    """None if the nsqd does not measure latency."""


class ClientStats(msgspec.Struct, gc=False):
    """One consumer's connection."""

    remote_address: str = ""
    """`ip:port`, or `@` on a unix socket."""
    version: str = ""
    client_id: str = ""
    hostname: str = ""
    user_agent: str = ""
    connect_ts: Count = 0
    """Unix seconds."""
    in_flight_count: Count = 0
    ready_count: Count = 0
    finish_count: Count = 0
    requeue_count: Count = 0
    message_count: Count = 0
    sample_rate: Count = 0
    """Percentage of the messages that it receives; 0 for all of them."""
    deflate: bool = False
    snappy: bool = False
    authed: bool = False
    auth_identity: str = ""
    auth_identity_url: str = ""
    topology_region: str = ""
    topology_zone: str = ""
    tls: bool = False
    tls_cipher_suite: str = ""
    tls_version: str = ""
    tls_negotiated_protocol: str = ""
    tls_negotiated_protocol_is_mutual: bool = False
    since_finish_ms: Measured | msgspec.UnsetType | None = msgspec.UNSET
    """Since its last FIN. None: there was none; UNSET: this nsqd does not report it. The same for the next two."""
    handling_time_ms: Measured | msgspec.UnsetType | None = msgspec.UNSET
    """Average time from delivery to FIN, lately."""
    oldest_in_flight_ms: Measured | msgspec.UnsetType | None = msgspec.UNSET
    """Since the oldest message that it has not answered was delivered."""

    node: str = msgspec.field(default="", name="-node")
    """The HTTP address of its nsqd."""
    delivery_rate: float | None = msgspec.field(default=None, name="-rate")
    """Messages a second that it was sent; None until its nsqd has answered twice."""
    node_topology_region: str = msgspec.field(default="", name="-node-region")
    node_topology_zone: str = msgspec.field(default="", name="-node-zone")


LimitCounts = Annotated[dict[Annotated[str, msgspec.Meta(max_length=32)], Count], msgspec.Meta(max_length=16)]
"""Messages by the name of a limit."""


class Limits(msgspec.Struct, gc=False, frozen=True):
    """What is set for a channel, as its nsqd shows it. None, or empty: not set."""

    max_depth: Count | None = None
    max_bytes: Count | None = None
    max_age: Text = ""
    policy: Text = ""
    """What happens beyond the first two: `reject`, `drop_oldest` or `dead_letter`."""
    idle_ttl: Text = ""
    idle_action: Text = ""


class Idle(msgspec.Struct, gc=False, frozen=True):
    """A channel that is deleted or paused (`action`) when it has no consumer for `ttl_ms`; it has had none so long."""

    idle_ms: Measured = 0.0
    ttl_ms: Measured = 0.0
    action: Text = ""
    alarm: bool = False
    """Whether that is soon."""


class ChannelStats(msgspec.Struct, gc=False):
    """One channel, of one node or of all."""

    channel_name: Name
    depth: Count = 0
    """Messages ready for delivery: neither in flight nor deferred."""
    backend_depth: Count = 0
    """The part of `depth` that is on disk only."""
    in_flight_count: Count = 0
    deferred_count: Count = 0
    message_count: Count = 0
    """Messages that have entered the channel."""
    requeue_count: Count = 0
    timeout_count: Count = 0
    damaged_count: Count = 0
    """Messages lost to damage on disk since the channel was created; the original does not report it."""
    limits: Limits | None = None
    """None if nothing is set. In a sum, those of one node."""
    dropped_by_limits: LimitCounts | None = None
    expired_count: Count = 0
    """Messages older than the limit `max_age`."""
    rejected: LimitCounts | None = None
    """Messages of publishes that were refused because of this channel."""
    idle: Idle | None = None
    """None in a sum."""
    zone_local_msg_count: Count = 0
    region_local_msg_count: Count = 0
    global_msg_count: Count = 0
    client_count: Count = 0
    """Correct even if `clients` is None."""
    clients: list[ClientStats] | None = msgspec.field(default=None, name="-clients")
    """None if they were not requested."""
    paused: bool = False
    e2e_processing_latency: Latency = msgspec.field(default_factory=Latency)
    oldest_unfinished_ms: Count | None = None
    """Age of the oldest unfinished message; None if no nsqd reports it. In a sum, the greatest age."""

    node: str = msgspec.field(default="", name="-node")
    """HTTP address, or `ALL_NODES`."""
    hostname: str = msgspec.field(default="", name="-hostname")
    topic_name: str = msgspec.field(default="", name="-topic")
    nodes: list[ChannelStats] | None = msgspec.field(default=None, name="-nodes")
    """The parts of a sum, ordered by host name; None for one node."""

    @property
    def memory_depth(self) -> int:
        """The part of `depth` that is in memory."""
        return self.depth - self.backend_depth

    @property
    def delivery_msg_count(self) -> int:
        """Messages delivered to consumers, over all localities."""
        return self.zone_local_msg_count + self.region_local_msg_count + self.global_msg_count


class TopicStats(msgspec.Struct, gc=False):
    """One topic, of one node or of all."""

    topic_name: Name
    channels: list[ChannelStats] | None = msgspec.field(default=None, name="-channels")
    """Ordered by name."""
    depth: Count = 0
    """Messages that have not been copied to the channels yet."""
    backend_depth: Count = 0
    message_count: Count = 0
    message_bytes: Count = 0
    delivery_msg_count: Count = 0
    zone_local_msg_count: Count = 0
    region_local_msg_count: Count = 0
    global_msg_count: Count = 0
    paused: bool = False
    e2e_processing_latency: Latency = msgspec.field(default_factory=Latency)
    oldest_unfinished_ms: Count | None = None
    """As for a channel."""

    node: str = msgspec.field(default="", name="-node")
    hostname: str = msgspec.field(default="", name="-hostname")
    nodes: list[TopicStats] | None = msgspec.field(default=None, name="-nodes")
    """The parts of a sum, ordered by host name; None for one node."""

    @property
    def memory_depth(self) -> int:
        """The part of `depth` that is in memory."""
        return self.depth - self.backend_depth


class NodeTopic(msgspec.Struct, gc=False, frozen=True):
    """One topic of a node, as the registries know it."""

    topic: str
    tombstoned: bool = False


class StuckPlace(msgspec.Struct, gc=False, frozen=True):
    """Messages on a draining nsqd that will not be finished without an operator's action."""

    topic: str
    channel: str
    """Empty if they are in the topic itself."""
    messages: int
    reason: str
    """As the nsqd reports it: `no channel`, `no consumer`, `paused`, `deferred`."""


class Draining(msgspec.Struct, gc=False, frozen=True):
    """The state of a drain: the nsqd accepts no more messages, and exits when the last one is finished."""

    since: int = 0
    """Unix seconds; 0 if unknown."""
    messages_left: int | None = None
    """None if unknown; `stuck` is unknown as well then."""
    stuck: tuple[StuckPlace, ...] = ()
    """The first few, ordered by topic and channel."""
    more_stuck: int = 0
    """How many more there are."""


class Follower(msgspec.Struct, gc=False, frozen=True):
    """Another nsqd that keeps a copy of an nsqd's data path."""

    address: str
    """`host:port` at which it keeps copies; not one for clients."""
    in_step: bool
    """Whether it has everything that was acknowledged."""
    state: str
    """For people: `in step`, `catching up`, or why it has no connection."""
    lag: int | None = None
    """Appends that it has not acknowledged; None without a connection."""
    sent_bytes: int = 0
    """Since the start of the nsqd."""
    troubles: tuple[tuple[str, str], ...] = ()
    """The first topics of which nothing is copied, each with the reason, ordered by name."""
    more_troubles: int = 0
    """How many more there are."""
    lag_seconds: float | None = None
    """For how long it has owed an acknowledgement; None without a connection."""


class HeldCopy(msgspec.Struct, gc=False, frozen=True):
    """A copy of another nsqd's data path."""

    life: str
    """Of that data path: 32 hexadecimal digits, by which the copy is named."""
    name: str
    """`host:tcp_port` of the other nsqd, its leader; as it calls itself."""
    complete: bool
    connected: bool
    """Whether its leader is."""
    bytes: int
    adopted: bool
    """Whether it takes nothing more from its leader, and its messages are served by a stand-in."""
    silent_seconds: float | None = None
    """Since its leader was heard; None if that was not since the start of the nsqd that holds it."""
    stand_in_port: int | None = None
    """The TCP port of the process that serves it; None if there is none now."""
    clock_skew_seconds: float | None = None
    """By how much the clock of the node that holds it is ahead of its leader's."""
    undecided: str = ""
    """Why it was not adopted by itself, when that was tried."""


class Copies(msgspec.Struct, gc=False, frozen=True):
    """The copies of an nsqd, and those of others that it holds."""

    wanted: int
    """How many there are to be, its own one included."""
    in_step: int
    """Of those, how many have everything that was acknowledged; its own one does."""
    followers: tuple[Follower, ...] = ()
    """The first few, in the order of its options."""
    more_followers: int = 0
    held: tuple[HeldCopy, ...] = ()
    """The first few."""
    more_held: int = 0
    obstacle: str = ""
    """Why its followers could not adopt by themselves, though they are to; empty if they could, or are not."""
    unmended: tuple[str, ...] = ()
    """The first few of its segments with damage that its followers' copies could not mend: their paths."""
    more_unmended: int = 0

    @property
    def missing(self) -> int:
        """How many are not in step."""
        return max(0, self.wanted - self.in_step)


class Node(msgspec.Struct, gc=False):
    """One nsqd, as it describes itself to the registries or (without registries) in its `/info`."""

    broadcast_address: str
    http_port: int
    tcp_port: int
    hostname: str = ""
    version: str = ""
    remote_address: str = ""
    """`ip:port` as seen by the first registry; empty without registries."""
    remote_addresses: list[str] | None = None
    """`<HTTP address of the registry>/<remote address>` for each registry that lists it; None without registries."""
    topology_region: str = ""
    topology_zone: str = ""
    topics: list[NodeTopic] = []
    """Ordered by name."""
    out_of_date: bool = False
    """Its version is lower than the highest in the cluster; always False without registries."""

    @property
    def http_address(self) -> str:
        """`host:port`, an IPv6 address in brackets. It identifies the node everywhere."""
        return join_host_port(self.broadcast_address, self.http_port)

    @property
    def tcp_address(self) -> str:
        """`host:port` for clients."""
        return join_host_port(self.broadcast_address, self.tcp_port)
