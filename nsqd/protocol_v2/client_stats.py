"""A connection as /stats shows it."""

from __future__ import annotations

from nsqd.http.stats import ClientStats
from nsqd.protocol_v2.session import Session

__all__ = ["client_stats"]


def client_stats(session: Session) -> ClientStats:
    identity, subscription = session.identity, session.subscription
    common = {
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
    if subscription is None or subscription.gone:
        return ClientStats(**common)  # type: ignore[arg-type]
    return ClientStats(
        **common,  # type: ignore[arg-type]
        subscribed=(subscription.channel.topic_name, subscription.channel.name),
        ready_count=subscription.rdy,
        in_flight_count=len(subscription.in_flight),
        message_count=subscription.message_count,
        finish_count=subscription.finish_count,
        requeue_count=subscription.requeue_count,
    )
