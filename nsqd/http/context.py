"""The interface of the daemon to the HTTP API.

Rules:

- A handler changes the broker only inside a round (`round_of`, or `HttpBackend.publish`, which is a round itself), and
  there is no `await` in a round.
- A response that confirms a change is sent when the change is durable at the configured level: at once at level `os`,
  after a sync at level `disk` (`when_synced`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Collection, Iterator, Mapping
from typing import Protocol

from nsqd.broker import Broker, Channel, NotFound, Refused, Subscription, Topic
from nsqd.copies.scrubbing import Scrubbing
from nsqd.drain import Drain
from nsqd.names import NameLimits
from nsqd.protocol_v2.client_stats import ClientStats
from nsqd.replication.stand_in import StandIns
from nsqd.stats.source import StatsSource
from nsqkit.access import Access
from nsqkit.logging import LogLevel, get_logger
from nsqkit.service.http import HttpError, Response

__all__ = ["HttpBackend", "existing_channel", "existing_topic", "round_of", "when_synced"]

_log = get_logger(__name__)


class HttpBackend(StatsSource, Protocol):
    """The daemon, as the HTTP API uses it. Ports are the bound ones; -1 for a unix socket."""

    @property
    def access(self) -> Access:
        """Who may do what."""

    @property
    def names(self) -> NameLimits:
        """How many topics and channels may be created."""

    @property
    def tcp_port(self) -> int: ...
    @property
    def http_port(self) -> int: ...
    @property
    def https_port(self) -> int: ...
    @property
    def hostname(self) -> str: ...
    @property
    def drain(self) -> Drain: ...
    @property
    def hand_over_refusal(self) -> str | None:
        """Why no follower can take over what is here."""

    @property
    def stand_ins(self) -> StandIns | None:
        """None without copies of others."""

    def consumers(self, subscriptions: Collection[Subscription]) -> Mapping[Subscription, ClientStats]:
        """The clients of these subscriptions, as far as they are connected."""

    @property
    def scrubbing(self) -> Scrubbing | None:
        """None without followers."""

    def round(self) -> None:
        """Begin a round: set the broker's clock."""

    def end_round(self) -> None:
        """End the round: commit, pump, and flush all outboxes."""

    async def synced(self, ticket: int) -> None:
        """Return when everything up to the ticket is safe. `Refused` if it will not be."""

    @property
    def ticket(self) -> int:
        """Of everything committed so far."""

    @property
    def safe_at_once(self) -> bool:
        """Whether everything is safe as soon as it is committed."""

    @property
    def safe(self) -> int:
        """The ticket up to which everything is safe: written, synced, or copied, as it is configured."""

    def publish(self, topic_name: str, bodies: list[bytes], delay_ns: int | None) -> int:
        """Publish to a topic, created if it does not exist, in a round of its own: all or none. Nothing is validated.

        Returns the sync ticket for `synced` (0: no need to wait). `Refused` if the messages could not be written,
        `TooManyNames` if the topic cannot be created.
        """

    def set_log_level(self, level: LogLevel) -> None:
        """Set the log level, and `options.log_level`."""

    def set_lookupd_addresses(self, addresses: list[str]) -> None:
        """Set the registries, and `options.nsqlookupd_tcp_addresses`. Existing connections to them are kept."""


@contextlib.contextmanager
def round_of(daemon: HttpBackend) -> Iterator[Broker]:
    """A round; it is ended also when its body raises."""
    daemon.round()
    try:
        yield daemon.broker
    finally:
        daemon.end_round()


def existing_topic(broker: Broker, name: str) -> Topic:
    """The topic with this name; `HttpError` 404 without one."""
    try:
        return broker.existing(name)
    except NotFound:
        raise HttpError(404, "TOPIC_NOT_FOUND") from None


def existing_channel(topic: Topic, name: str) -> Channel:
    """The channel with this name; `HttpError` 404 without one."""
    try:
        return topic.existing(name)
    except NotFound:
        raise HttpError(404, "CHANNEL_NOT_FOUND") from None


def when_synced(
    daemon: HttpBackend, ticket: int, response: Response, refused: Response
) -> Response | Awaitable[Response]:
    """The response, at once or when everything up to the ticket is safe; `refused` if it will not be."""
    if ticket <= daemon.safe:
        return response
    return _after_sync(daemon, ticket, response, refused)


async def _after_sync(daemon: HttpBackend, ticket: int, response: Response, refused: Response) -> Response:
    try:
        await daemon.synced(ticket)
    except Refused as reason:
        _log.error("HTTP: not safe - %s", reason)
        return refused
    return response
