"""What the HTTP API needs to know of the daemon round it, and nothing more.

Rules:

- A handler changes the broker only inside a round (`round_of`, or `Daemon.publish`, which is one by itself), and
  there is no `await` in a round.
- An answer that says something was done leaves when it is durable at the configured level: at once at level `os`,
  after a sync at level `disk` (`when_synced`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Iterator
from typing import Protocol

from nsqd.broker import Broker, Refused
from nsqd.drain import Drain
from nsqd.stats.source import StatsSource
from nsqkit.logging import LogLevel, get_logger
from nsqkit.service.http import Response

__all__ = ["Daemon", "round_of", "when_synced"]

_log = get_logger(__name__)


class Daemon(StatsSource, Protocol):
    """The daemon as the HTTP API sees it. Ports are those really bound; -1 for a unix socket."""

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

    def round(self) -> None:
        """A round begins: the broker's clock is set. Cheap."""

    def end_round(self) -> None:
        """The round ends: commit, pump, and a flush of what is to be sent."""

    async def synced(self, ticket: int) -> None:
        """Return when `broker.synced` has reached the ticket. `Refused` when the sync failed."""

    def publish(self, topic_name: str, bodies: list[bytes], delay_ns: int | None) -> int:
        """Publish to a topic, made when it is not there, in a round of its own, all or nothing; nothing is validated.

        Returns the sync ticket for `synced` (0: nobody waits). `Refused` when the messages could not be written.
        """

    def set_log_level(self, level: LogLevel) -> None:
        """From now on; `options.log_level` shows it."""

    def set_lookupd_addresses(self, addresses: list[str]) -> None:
        """Connect to the new registries, leave the others; `options.nsqlookupd_tcp_addresses` shows it."""


@contextlib.contextmanager
def round_of(daemon: Daemon) -> Iterator[Broker]:
    """A round; it ends in order whatever is raised in it."""
    daemon.round()
    try:
        yield daemon.broker
    finally:
        daemon.end_round()


def when_synced(
    daemon: Daemon, ticket: int, response: Response, refused: Response
) -> Response | Awaitable[Response]:
    """The response, now or when the sync ticket is reached; `refused` when the disk failed."""
    if ticket <= daemon.broker.synced:
        return response
    return _after_sync(daemon, ticket, response, refused)


async def _after_sync(daemon: Daemon, ticket: int, response: Response, refused: Response) -> Response:
    try:
        await daemon.synced(ticket)
    except Refused as reason:
        _log.error("HTTP: failed to sync - %s", reason)
        return refused
    return response
