"""A connection as /stats shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from nsqd.broker import Subscription, Topology
from nsqd.protocol_v2.layers import Layers
from nsqd.protocol_v2.session import Session
from nsqkit.service.tls import cipher_suite_name, tls_version_name

__all__ = ["ClientStats", "Timings", "client_stats"]


@attrs.frozen
class Timings:
    """How a consumer works, in seconds; None: nothing to tell."""

    since_finish: float | None
    """Since its last FIN."""
    handling_time: float | None
    """Average time from delivery to FIN, lately."""
    oldest_in_flight: float | None
    """Since the oldest message that it has not answered was delivered."""


@attrs.define(kw_only=True, eq=False)
class ClientStats:
    """One TCP connection."""

    client_id: str
    hostname: str
    remote_address: str
    """`ip:port`; `@` on a unix socket."""
    state: int
    """0 init (also of one that only publishes), 2 connected, 3 subscribed, 4 closing."""
    connect_time: int
    """Unix time, seconds."""
    version: str = "V2"
    subscribed: tuple[str, str] | None = None
    """Names of a topic and of one of its channels."""
    ready_count: int = 0
    in_flight_count: int = 0
    message_count: int = 0
    finish_count: int = 0
    requeue_count: int = 0
    sample_rate: int = 0
    deflate: bool = False
    snappy: bool = False
    user_agent: str = ""
    authed: bool = False
    auth_identity: str = ""
    auth_identity_url: str = ""
    topology_zone: str = ""
    topology_region: str = ""
    pub_counts: Mapping[str, int] = attrs.field(factory=dict)
    """Messages published, by topic."""
    tls: bool = False
    tls_cipher_suite: str = ""
    tls_version: str = ""
    """`TLS1.0` to `TLS1.3`."""
    timings: Timings | None = None
    """None: not requested, or no consumer."""

    def shown_pub_count(self, topic: str) -> tuple[str, int] | None:
        """The one entry of `pub_counts` that is shown: that of the topic asked for, without one just any."""
        if topic:
            return (topic, self.pub_counts[topic]) if topic in self.pub_counts else None
        return next(iter(self.pub_counts.items()), None)


def client_stats(session: Session, timings_at: float | None = None) -> ClientStats:
    """`timings_at`: now, in seconds of the broker's clock, if its timings are requested."""
    identity, subscription = session.identity, session.subscription
    topology = identity.topology or Topology("", "")
    common: dict[str, Any] = {
        "client_id": identity.client_id,
        "hostname": identity.hostname,
        "remote_address": session.remote,
        "state": int(session.state),
        "connect_time": session.connected_at,
        "sample_rate": identity.sample_rate,
        "user_agent": identity.user_agent,
        "topology_zone": topology.zone,
        "topology_region": topology.region,
        "pub_counts": session.answers.pub_counts,
    }
    if session.layers is not None:
        common |= _layers(session.layers)
    if (state := session.authorization.state) is not None:
        common |= {
            "authed": bool(state.authorizations),
            "auth_identity": state.identity,
            "auth_identity_url": state.identity_url,
        }
    if session.channel is None or subscription is None or subscription.disconnected:
        return ClientStats(**common)
    return ClientStats(
        **common,
        subscribed=(session.channel.topic_name, session.channel.name),
        ready_count=subscription.rdy,
        in_flight_count=len(subscription.in_flight),
        message_count=subscription.message_count,
        finish_count=subscription.finish_count,
        requeue_count=subscription.requeue_count,
        timings=None if timings_at is None else _timings(subscription, timings_at),
    )


def _timings(subscription: Subscription, now: float) -> Timings:
    finished_at, delivered_at = subscription.finished_at, subscription.oldest_delivery()
    return Timings(
        since_finish=None if finished_at is None else now - finished_at,
        handling_time=subscription.handling_time,
        oldest_in_flight=None if delivered_at is None else now - delivered_at,
    )


def _layers(layers: Layers) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "deflate": layers.upgrade.deflate_level > 0,
        "snappy": layers.upgrade.snappy,
    }
    if layers.tls is not None:
        fields["tls"] = True
        fields["tls_cipher_suite"] = cipher_suite_name(layers.tls)
        fields["tls_version"] = tls_version_name(layers.tls)
    return fields
