"""What all sessions of a daemon share: the broker, the limits, and who has to be looked at when a round ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from nsqd.broker import Broker, Topic
from nsqd.protocol_v2.identify import DEFAULT_DEFLATE_LEVEL, Identity, Limits

if TYPE_CHECKING:
    from nsqd.protocol_v2.session import Session

__all__ = ["Context"]


@attrs.define(kw_only=True, eq=False)
class Context:
    """Sizes in bytes. `buffered`: bytes that wait in unfinished commands and for slow sockets, of all connections."""

    broker: Broker
    version: str
    limits: Limits = attrs.field(factory=Limits)
    max_msg_size: int = 1 << 20
    max_body_size: int = 5 << 20
    max_rdy_count: int = 2500
    max_req_timeout_ms: int = 3_600_000
    max_deflate_level: int = 6
    max_buffered_bytes: int = 256 << 20
    topology_region: str = ""
    topology_zone: str = ""
    tls_required: bool = False
    buffered: int = 0
    sessions: dict[Session, None] = attrs.field(factory=dict)
    answering: list[Session] = attrs.field(factory=list)
    topics: dict[bytes, Topic] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.topics = self.broker.topics_by_wire_name

    def topic(self, name: bytes) -> Topic:
        """The topic of a valid name, made when it is not there. `Refused` when the disk says no."""
        return self.topics.get(name) or self.broker.topic(name.decode("ascii"))

    @property
    def crowded(self) -> bool:
        """Whether so much is buffered that nobody gets more than a little."""
        return self.buffered > self.max_buffered_bytes

    def negotiate(self, identity: Identity) -> dict[str, Any]:
        """What the daemon and a client agree on: the answer to IDENTIFY, in its order of keys."""
        return {
            "max_rdy_count": self.max_rdy_count,
            "version": self.version,
            "max_msg_timeout": self.limits.max_msg_timeout,
            "msg_timeout": identity.msg_timeout,
            "tls_v1": False,
            "deflate": False,
            "deflate_level": min(DEFAULT_DEFLATE_LEVEL, self.max_deflate_level),
            "max_deflate_level": self.max_deflate_level,
            "snappy": False,
            "sample_rate": identity.sample_rate,
            "auth_required": False,
            "output_buffer_size": identity.output_buffer_size,
            "output_buffer_timeout": identity.output_buffer_timeout,
            "topology_region": self.topology_region,
            "topology_zone": self.topology_zone,
        }
