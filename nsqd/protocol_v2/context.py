"""What all sessions of a daemon share: the broker, the limits, and what they ask of the daemon around them."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, Final

import attrs

from nsqd.auth import AuthClient
from nsqd.broker import Broker, Topic
from nsqd.names import NameLimits
from nsqd.protocol_v2.answers import Answers
from nsqd.protocol_v2.buffers import Buffers
from nsqd.protocol_v2.identify import DEFAULT_DEFLATE_LEVEL, IdentifyLimits, Identity
from nsqd.protocol_v2.layers import Upgrade
from nsqkit.access import EVERYTHING, NOTHING, Need, Scopes
from nsqkit.audit import AuditTrail
from nsqkit.wire import ProtocolError

__all__ = ["Context"]

STRANGERS_PART: Final = 8  # of the memory for all connections, in addition to it


@attrs.define(kw_only=True, eq=False)
class Context:
    """Sizes in bytes."""

    broker: Broker
    version: str
    enlist: Callable[[Answers], None]
    """Has the answers of a session released at the end of the round."""
    refresh_clock: Callable[[], None]
    """Sets the broker's clock, which does not move within a round: for delays, which must not begin before the command
    that asked for them."""
    ask: Callable[[AuthClient], None] | None = None
    """Finds out what a session may do that has sent AUTH; None where there are neither tokens nor auth servers."""
    names: NameLimits = attrs.field()
    """How many topics and channels may be created."""
    anonymous: Scopes = attrs.field()
    """What clients may do without AUTH."""
    auth_required: bool = attrs.field(init=False)
    """Whether there is a publish or a SUB that needs AUTH: commands are checked."""
    all_must_auth: bool = attrs.field(init=False)
    """Whether all of them do."""
    limits: IdentifyLimits = attrs.field(factory=IdentifyLimits)
    max_msg_size: int = 1 << 20
    max_body_size: int = 5 << 20
    max_rdy_count: int = 2500
    max_req_timeout_ms: int = 3_600_000
    max_deflate_level: int = 6
    max_buffered_bytes: int = 256 << 20
    topology_region: str = ""
    topology_zone: str = ""
    tls: ssl.SSLContext | None = None
    tls_required: bool = False
    trail: AuditTrail = attrs.field(factory=AuditTrail)
    """Is told what clients were not allowed to do."""
    verifies_certificates: bool = True
    snappy: bool = True
    deflate: bool = True
    topics: dict[bytes, Topic] = attrs.field(init=False)
    buffers: Buffers = attrs.field(init=False)
    """What connections hold of `max_buffered_bytes`."""
    buffers_of_strangers: Buffers = attrs.field(init=False)
    """What those hold that have yet to authenticate: a limit of their own, so that they take nothing from others."""

    @names.default
    def _without_limits(self) -> NameLimits:
        return NameLimits(self.broker)

    @anonymous.default
    def _all_or_nothing(self) -> Scopes:
        return EVERYTHING if self.ask is None else NOTHING

    def __attrs_post_init__(self) -> None:
        self.restrict(self.anonymous)
        self.topics = self.broker.topics_by_wire_name
        self.buffers = Buffers(self.max_buffered_bytes, self._now)
        self.buffers_of_strangers = Buffers(self.max_buffered_bytes // STRANGERS_PART, self._now)

    def restrict(self, anonymous: Scopes) -> None:
        """Set what clients that connect from now on may do without AUTH."""
        self.anonymous = anonymous
        self.auth_required = not (anonymous.allow_all(Need.PUBLISH) and anonymous.allow_all(Need.CONSUME))
        self.all_must_auth = not any(
            scope.word in ("publish", "consume", "admin") for scope in anonymous.scopes
        )

    def _now(self) -> float:
        return self.broker.now

    @property
    def buffered(self) -> int:
        """Bytes that wait in unfinished commands and for slow sockets, of all connections."""
        return self.buffers.used + self.buffers_of_strangers.used

    @property
    def memory_is_short(self) -> bool:
        """Whether so much is buffered that every connection gets only a little more."""
        return self.buffers.used > self.max_buffered_bytes // 2

    def upgrade_for(self, identity: Identity) -> Upgrade:
        """What a client asked for, as far as it is offered. `ProtocolError` for both compressions at once."""
        if not identity.feature_negotiation:
            return Upgrade()
        snappy, deflate = self.snappy and identity.snappy, self.deflate and identity.deflate
        if snappy and deflate:
            raise ProtocolError("E_IDENTIFY_FAILED", "cannot enable both deflate and snappy compression")
        level = self._deflate_level(identity) if deflate else 0  # 0: no deflate
        return Upgrade(tls=self.tls is not None and identity.tls_v1, snappy=snappy, deflate_level=level)

    def _deflate_level(self, identity: Identity) -> int:
        # As in the original the answer names a level to clients that did not ask for deflate, too.
        asked = identity.deflate_level if identity.deflate and self.deflate else 0
        return min(asked if asked > 0 else DEFAULT_DEFLATE_LEVEL, self.max_deflate_level)

    def negotiated(self, identity: Identity, upgrade: Upgrade) -> dict[str, Any]:
        """What the daemon and a client agree on: the answer to IDENTIFY, in its order of keys."""
        return {
            "max_rdy_count": self.max_rdy_count,
            "version": self.version,
            "max_msg_timeout": self.limits.max_msg_timeout,
            "msg_timeout": identity.msg_timeout,
            "tls_v1": upgrade.tls,
            "deflate": upgrade.deflate_level > 0,
            "deflate_level": self._deflate_level(identity),
            "max_deflate_level": self.max_deflate_level,
            "snappy": upgrade.snappy,
            "sample_rate": identity.sample_rate,
            "auth_required": self.auth_required,
            "output_buffer_size": identity.output_buffer_size,
            "output_buffer_timeout": identity.output_buffer_timeout,
            "topology_region": self.topology_region,
            "topology_zone": self.topology_zone,
        }
