"""A connection as /stats shows it."""

from __future__ import annotations

from typing import Any

from nsqd.http.stats import ClientStats
from nsqd.protocol_v2.layers import Layers
from nsqd.protocol_v2.session import Session
from nsqkit.tls import cipher_suite_name, tls_version_name

__all__ = ["client_stats"]


def client_stats(session: Session) -> ClientStats:
    identity, subscription = session.identity, session.subscription
    common: dict[str, Any] = {
        "client_id": identity.client_id,
        "hostname": identity.hostname,
        "remote_address": session.remote,
        "state": int(session.state),
        "connect_time": session.connected_at,
        "sample_rate": identity.sample_rate,
        "user_agent": identity.user_agent,
        "topology_zone": identity.topology_zone,
        "topology_region": identity.topology_region,
        "pub_counts": session.pub_counts,
    }
    if session.layers is not None:
        common |= _layers(session.layers)
    if (state := session.authorization.state) is not None:
        common |= {
            "authed": bool(state.authorizations),
            "auth_identity": state.identity,
            "auth_identity_url": state.identity_url,
        }
    if subscription is None or subscription.gone:
        return ClientStats(**common)
    return ClientStats(
        **common,
        subscribed=(subscription.channel.topic_name, subscription.channel.name),
        ready_count=subscription.rdy,
        in_flight_count=len(subscription.in_flight),
        message_count=subscription.message_count,
        finish_count=subscription.finish_count,
        requeue_count=subscription.requeue_count,
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
