"""What is known of nodes, topics, channels and clients: of one nsqd, or summed over all of them.

The classes are msgspec structs, because `/stats` of an nsqd is decoded straight into them: 50,000 clients are 50,000
objects and nothing in between. Fields that no nsqd sends are filled in here (`merge.place`); their names on the wire
are such that no answer can set them. Nothing in this module asks anybody, and nothing in it waits.

The same classes serve for one node and for the sum over nodes. A sum has `node` `"*"`, no host name, and its parts in
`nodes`. Counters are those of the daemons: since their start, never reset, and 0 again after a restart. Durations of
latencies are nanoseconds.
"""

from __future__ import annotations

import msgspec

from nsqadmin.addresses import join_host_port

__all__ = [
    "ALL_NODES",
    "ChannelStats",
    "ClientStats",
    "Draining",
    "Latency",
    "Node",
    "NodeTopic",
    "Percentile",
    "StuckPlace",
    "TopicStats",
]

ALL_NODES = "*"
"""As `node`: the sum over all nodes."""


class Percentile(msgspec.Struct, gc=False):
    """One quantile of the time between publish and finish, in nanoseconds."""

    quantile: float
    value: float = 0.0
    """Of one node; 0 in a sum, which has the others."""
    average: float = msgspec.field(default=0.0, name="-average")
    """Over nodes, weighted by their counts."""
    min: float = msgspec.field(default=0.0, name="-min")
    max: float = msgspec.field(default=0.0, name="-max")
    count: int = msgspec.field(default=0, name="-count")


class Latency(msgspec.Struct, gc=False):
    """The time from publish to finish, of a topic or a channel."""

    count: int = 0
    """Messages in the window that was looked at."""
    percentiles: list[Percentile] | None = None
    """None where the nsqd does not measure it."""


class ClientStats(msgspec.Struct, gc=False):
    """One consumer's connection."""

    remote_address: str = ""
    """`ip:port`, or `@` on a unix socket."""
    version: str = ""
    client_id: str = ""
    hostname: str = ""
    user_agent: str = ""
    connect_ts: int = 0
    """Unix seconds."""
    in_flight_count: int = 0
    ready_count: int = 0
    finish_count: int = 0
    requeue_count: int = 0
    message_count: int = 0
    sample_rate: int = 0
    """Per cent of the messages; 0: all of them."""
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

    node: str = msgspec.field(default="", name="-node")
    """The HTTP address of its nsqd."""
    node_topology_region: str = msgspec.field(default="", name="-node-region")
    node_topology_zone: str = msgspec.field(default="", name="-node-zone")


class ChannelStats(msgspec.Struct, gc=False):
    """One channel, of one node or of all."""

    channel_name: str
    depth: int = 0
    """Messages that are ready; neither in flight nor deferred."""
    backend_depth: int = 0
    """The part of `depth` that is on disk only."""
    in_flight_count: int = 0
    deferred_count: int = 0
    message_count: int = 0
    """Messages that came into the channel."""
    requeue_count: int = 0
    timeout_count: int = 0
    zone_local_msg_count: int = 0
    region_local_msg_count: int = 0
    global_msg_count: int = 0
    client_count: int = 0
    """Right even where `clients` is None."""
    clients: list[ClientStats] | None = None
    """None where they were not asked for."""
    paused: bool = False
    e2e_processing_latency: Latency = msgspec.field(default_factory=Latency)
    oldest_unfinished_ms: int | None = None
    """Age of the oldest message that is not finished; None where no nsqd tells. In a sum, the oldest of all."""

    node: str = msgspec.field(default="", name="-node")
    """HTTP address, or `ALL_NODES`."""
    hostname: str = msgspec.field(default="", name="-hostname")
    topic_name: str = msgspec.field(default="", name="-topic")
    nodes: list[ChannelStats] | None = msgspec.field(default=None, name="-nodes")
    """Of a sum: its parts, by host name. None for one node."""

    @property
    def memory_depth(self) -> int:
        """The part of `depth` that is in memory."""
        return self.depth - self.backend_depth

    @property
    def delivery_msg_count(self) -> int:
        """Messages that were delivered to consumers, wherever these are."""
        return self.zone_local_msg_count + self.region_local_msg_count + self.global_msg_count


class TopicStats(msgspec.Struct, gc=False):
    """One topic, of one node or of all."""

    topic_name: str
    channels: list[ChannelStats] | None = None
    """By name."""
    depth: int = 0
    """Messages that no channel has been given yet."""
    backend_depth: int = 0
    message_count: int = 0
    message_bytes: int = 0
    delivery_msg_count: int = 0
    zone_local_msg_count: int = 0
    region_local_msg_count: int = 0
    global_msg_count: int = 0
    paused: bool = False
    e2e_processing_latency: Latency = msgspec.field(default_factory=Latency)
    oldest_unfinished_ms: int | None = None
    """As of a channel."""

    node: str = msgspec.field(default="", name="-node")
    hostname: str = msgspec.field(default="", name="-hostname")
    nodes: list[TopicStats] | None = msgspec.field(default=None, name="-nodes")
    """Of a sum: its parts, by host name. None for one node."""

    @property
    def memory_depth(self) -> int:
        """The part of `depth` that is in memory."""
        return self.depth - self.backend_depth


class NodeTopic(msgspec.Struct, gc=False, frozen=True):
    """One topic of a node, as the registries know it."""

    topic: str
    tombstoned: bool = False


class StuckPlace(msgspec.Struct, gc=False, frozen=True):
    """Messages on a draining nsqd that do not go by themselves."""

    topic: str
    channel: str
    """Empty: they are in the topic itself."""
    messages: int
    reason: str
    """In the nsqd's words: `no channel`, `no consumer`, `paused`, `deferred`."""


class Draining(msgspec.Struct, gc=False, frozen=True):
    """An nsqd takes no more messages, and ends when the last one is finished."""

    since: int = 0
    """Unix seconds; 0 when unknown."""
    messages_left: int | None = None
    """None when unknown; then nothing is known of `stuck` either."""
    stuck: tuple[StuckPlace, ...] = ()
    """A few of them, by topic and channel."""
    more_stuck: int = 0
    """How many places there are besides."""


class Node(msgspec.Struct, gc=False):
    """One nsqd: what it says of itself to the registries, or (without registries) in its `/info`."""

    broadcast_address: str
    http_port: int
    tcp_port: int
    hostname: str = ""
    version: str = ""
    remote_address: str = ""
    """Where the first registry sees it: `ip:port`. Empty without registries."""
    remote_addresses: list[str] | None = None
    """`<HTTP address of the registry>/<remote address>` of each registry that knows it. None without registries."""
    topology_region: str = ""
    topology_zone: str = ""
    topics: list[NodeTopic] = []
    """By name."""
    out_of_date: bool = False
    """Its version is lower than the highest of the cluster; told with registries only."""

    @property
    def http_address(self) -> str:
        """`host:port`, an IPv6 address in brackets. It names the node everywhere."""
        return join_host_port(self.broadcast_address, self.http_port)

    @property
    def tcp_address(self) -> str:
        """`host:port`, where clients connect to."""
        return join_host_port(self.broadcast_address, self.tcp_port)
