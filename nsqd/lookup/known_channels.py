"""The query for the channels of a topic that registries know: over HTTP, when a topic is created.

Rules:

- All registries are queried at the same time, and none delays a query to another. A failure is logged and adds no
  channels.
- A registry gets at most `MAX_CONCURRENT` queries at a time. The others wait, because a topic that starts without its
  channels loses messages for them; after `QUEUE_TIMEOUT` they give up, so that every wait ends.
- The time limit of a query begins when it is sent. A registry is *silent* when a query has timed out (or failed, but
  not at once) and no other was answered meanwhile. Until it answers again, a query to it has only `SILENT_TIMEOUT`, the
  time in the queue included. One query every `TRIAL_INTERVAL` has the full limit: the registry may be slow, not dead.

So thousands of topics created at once wait for a dead registry hardly longer than a single one. For a registry that
answers they wait as long as it takes, at most `QUEUE_TIMEOUT` and the limit of a query.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import attrs
import msgspec
import trio

from nsqd.lookup.protocol import HttpAddress
from nsqkit.http_client import Answer, HttpFailed, http_url
from nsqkit.logging import get_logger
from nsqkit.wire.names import is_ephemeral, is_valid_name

__all__ = ["Ask", "KnownChannels", "query_timeout"]

log = get_logger("nsqd")

MAX_CONCURRENT = 64  # queries to one registry; each holds a descriptor
# Seconds:
QUEUE_TIMEOUT: Final = 60.0
SILENT_TIMEOUT: Final = 1.0
TRIAL_INTERVAL: Final = 10.0
DEFAULT_TIMEOUT: Final = 30.0  # where the options set no limit

Ask = Callable[[str], Awaitable[Answer]]
"""GET of a URL, as `HttpClient.ask` does it. Raises `HttpFailed`."""


class QueryError(Exception):
    """There is no usable answer from a registry; the text is the reason."""


@attrs.define
class _Channels:
    channels: list[str] | None = None


def query_timeout(connect_timeout: float, request_timeout: float) -> float:
    """Seconds for a query, from the options for one request. Where these are 0, no limit, it is `DEFAULT_TIMEOUT`."""
    if connect_timeout > 0 and request_timeout > 0:
        return connect_timeout + request_timeout
    return DEFAULT_TIMEOUT


class KnownChannels:
    """The queries of one daemon. `timeout`: seconds for a query to one registry."""

    def __init__(self, ask: Ask, timeout: float) -> None:
        self._ask = ask
        self._timeout = timeout
        self._queries: dict[HttpAddress, _RegistryQueries] = {}

    async def ask(self, registries: Sequence[HttpAddress], topic: str) -> set[str]:
        """The durable channels of a topic that the registries know, once each has answered or failed."""
        self._queries = {
            registry: self._queries.get(registry) or _RegistryQueries(registry, self._ask, self._timeout)
            for registry in registries
        }
        found: set[str] = set()
        async with trio.open_nursery() as nursery:
            for registry in registries:
                nursery.start_soon(self._queries[registry].ask, topic, found)
        return found


class _RegistryQueries:
    """The queries to one registry: those in progress, and those that wait."""

    def __init__(self, registry: HttpAddress, ask: Ask, timeout: float) -> None:
        self._registry = registry
        self._ask = ask
        self._timeout = timeout
        self._turns = trio.CapacityLimiter(MAX_CONCURRENT)
        self._silent = False
        self._answered_at = -math.inf
        self._next_trial = -math.inf

    async def ask(self, topic: str, found: set[str]) -> None:
        """Add the channels that the registry knows to `found`. Failures are logged, not raised."""
        try:
            channels = await self._channels(topic)
        except (HttpFailed, QueryError, msgspec.MsgspecError, RecursionError) as error:
            registry = self._registry
            log.error("LOOKUPD(%s:%d): channels of %s - %s", registry.host, registry.port, topic, error)
        else:
            found |= {name for name in channels if is_valid_name(name) and not is_ephemeral(name)}

    async def _channels(self, topic: str) -> list[str]:
        answer = await self._when_admitted(topic)
        if answer.status != 200:
            raise QueryError(f"status {answer.status}")
        return msgspec.json.decode(answer.body, type=_Channels).channels or []

    async def _when_admitted(self, topic: str) -> Answer:
        requested_at = trio.current_time()
        with trio.move_on_after(SILENT_TIMEOUT if self._silent else QUEUE_TIMEOUT) as scope:
            async with self._turns:
                scope.deadline = self._deadline(requested_at)
                return await self._answer(topic)
        raise QueryError("no answer in time")

    def _deadline(self, requested_at: float) -> float:
        """The deadline of a query that is sent now."""
        now = trio.current_time()
        if self._silent and now < self._next_trial:
            return requested_at + SILENT_TIMEOUT
        self._next_trial = now + TRIAL_INTERVAL
        return now + self._timeout

    async def _answer(self, topic: str) -> Answer:
        asked_at = trio.current_time()
        try:
            answer = await self._ask(
                http_url(self._registry.host, self._registry.port, "/channels", {"topic": topic})
            )
        except BaseException:
            # A query that fails at once costs no time, and does not predict the next one.
            if self._answered_at <= asked_at < trio.current_time() - SILENT_TIMEOUT:
                self._silent = True
            raise
        self._silent, self._answered_at = False, trio.current_time()
        return answer
