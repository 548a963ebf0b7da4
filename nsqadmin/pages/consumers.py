"""One consumer as a row of a table."""

from __future__ import annotations

import time

from attrs import define
from msgspec import UNSET, UnsetType

from nsqadmin.cluster.consumers import UNIX_SOCKET
from nsqadmin.model import ClientStats
from nsqadmin.pages.badges import Badge, client_badges
from nsqadmin.pages.figures import Figure
from nsqadmin.pages.page_request import PageRequest
from nsqadmin.text import duration_text, milliseconds, rate_text

__all__ = ["CONSUMERS_TIMEOUT_SECONDS", "ConsumerRow", "consumer_row"]

CONSUMERS_TIMEOUT_SECONDS = 3.0
"""How long a page waits for its list of consumers; after that it is shown without them."""


@define(frozen=True)
class ConsumerRow:
    """One consumer."""

    client: ClientStats
    node_path: str
    badges: list[Badge]
    identity: str
    identity_url: str
    connected: str
    """For how long; empty if it is unknown."""
    topology: str
    rate: Figure
    handling_time: Figure
    since_finish: Figure
    oldest_in_flight: Figure


def consumer_row(request: PageRequest, client: ClientStats) -> ConsumerRow:
    """The row of a consumer. Its identity is a link only if the URL is one of a web page."""
    # The URL comes from an auth server, and could be one with a script.
    url = client.auth_identity_url
    identity = (client.auth_identity or "authorized") if client.authed else ""
    age = duration_text(max(0.0, time.time() - client.connect_ts)) if client.connect_ts else ""
    return ConsumerRow(
        client=client,
        node_path=request.node_url(client.node),
        badges=client_badges(client),
        identity=identity,
        identity_url=url if url.startswith(("https://", "http://")) else "",
        connected=age,
        topology=_topology(client),
        rate=_rate(client),
        handling_time=_timing(client.handling_time_ms, "It has finished no message yet"),
        since_finish=_timing(client.since_finish_ms, "It has finished no message yet"),
        oldest_in_flight=_timing(client.oldest_in_flight_ms, "It has no message in flight"),
    )


def _rate(client: ClientStats) -> Figure:
    if client.delivery_rate is not None:
        return Figure(rate_text(client.delivery_rate))
    if client.remote_address == UNIX_SOCKET:
        return Figure("", "Consumers on a unix socket cannot be told apart")
    return Figure("", "Known with the next update")


def _timing(value_ms: float | UnsetType | None, nothing: str) -> Figure:
    if value_ms is UNSET:
        return Figure("", "Its nsqd does not report it")
    return Figure("", nothing) if value_ms is None else Figure(milliseconds(max(0.0, value_ms)))


def _topology(client: ClientStats) -> str:
    """Its region and zone, and whether its node is in the same."""
    if not client.topology_region and not client.topology_zone:
        return ""
    location = " / ".join(part for part in (client.topology_region, client.topology_zone) if part)
    same_region = client.topology_region == client.node_topology_region
    if same_region and client.topology_zone and client.topology_zone == client.node_topology_zone:
        return f"{location} (same zone)"
    return f"{location} (same region)" if client.topology_region and same_region else location
