"""The queries for the channels of topics that registries know: over HTTP, before a topic is started.

Rules:

- All registries are queried at the same time, and none delays a query to another. A failure is logged and adds no
  channels.
- A registry gets at most `MAX_CONCURRENT` queries at a time, on as many connections, which are kept open while queries
  wait. Urgent queries (a client waits for the topic) are sent before all others; each kind in the order of its
  requests. A query waits its turn, because a topic that starts without its channels loses messages for them; after
  `QUEUE_TIMEOUT` it is given up, so that every wait ends.
- The time limit of a query begins when it is sent. A registry is *silent* when a query has timed out (or failed, but
  not at once) and no other was answered meanwhile. Until it answers again, a query to it has only `SILENT_TIMEOUT`, the
  time in the queue included. One query every `TRIAL_INTERVAL` has the full limit: the registry may be slow, not dead.

So thousands of topics wait for a dead registry hardly longer than a single one. For a registry that answers they wait
as long as it takes, at most `QUEUE_TIMEOUT` and the limit of a query.

Theory of operation. A `Query` is one topic's; it ends when each registry has answered or was given up. A topic has no
task of its own: 3,000 of them would all become runnable at once. Each registry has two queues and a few workers, each
with a connection, which exist only as long as there are queries for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Final, Protocol

import attrs
import trio

from nsqd.lookup.protocol import HttpAddress
from nsqd.lookup.urgent_first import UrgentFirst
from nsqkit.decoding import DecodeError
from nsqkit.http_client import Answer, HttpClient, HttpFailed, HttpOptions, http_url
from nsqkit.logging import get_logger
from nsqkit.service.typed_json import decode_json_as
from nsqkit.wire.names import is_ephemeral, is_valid_name
from nsqkit.yielder import Yielder

__all__ = ["Client", "KnownChannels", "Query", "registry_url"]

log = get_logger("nsqd")

MAX_CONCURRENT = 32  # queries to one registry; each holds a descriptor
# Seconds:
QUEUE_TIMEOUT: Final = 60.0
SILENT_TIMEOUT: Final = 1.0
TRIAL_INTERVAL: Final = 10.0
DEFAULT_TIMEOUT: Final = 30.0  # where the options set no limit
CLOSE_TIMEOUT: Final = 1.0  # to close a connection


class QueryError(Exception):
    """There is no usable answer from a registry; the text is the reason."""


@attrs.define
class _Channels:
    channels: list[str] | None = None


class Client(Protocol):
    """What makes the requests of one worker. `HttpClient` implements it."""

    async def ask(self, url: str) -> Answer:
        """GET a URL. Raises `HttpFailed`."""

    async def aclose(self) -> None: ...


@attrs.define(eq=False)
class Query:
    """The query for one topic. `on_end` is called with it once, when all registries have answered or were given up."""

    topic: str
    on_end: Callable[[Query], None]
    urgent: bool = False
    channels: set[str] = attrs.field(factory=set)
    """The durable channels that the registries know."""
    waiting_for: int = 0
    """Registries that have not answered."""

    def ended_for_one(self) -> None:
        """One registry has answered, or was given up."""
        self.waiting_for -= 1
        if not self.waiting_for:
            self.on_end(self)


class KnownChannels:
    """The queries of one daemon. `timeout`: seconds for a query to one registry. `make_client`: for one worker."""

    def __init__(self, make_client: Callable[[], Client], timeout: float) -> None:
        self.timeout = timeout
        self._make_client = make_client
        self._queries: dict[HttpAddress, _RegistryQueries] = {}

    @classmethod
    def over_http(cls, options: HttpOptions) -> KnownChannels:
        """With these limits for a request."""
        options = attrs.evolve(options, max_idle=1)
        return cls(
            lambda: HttpClient(options), _query_timeout(options.connect_timeout, options.request_timeout)
        )

    def keep_only(self, registries: Collection[HttpAddress]) -> None:
        """Forget what is known of all other registries. Queries to them that are under way end as usual."""
        for registry in self._queries.keys() - set(registries):
            del self._queries[registry]

    def ask(self, nursery: trio.Nursery, registry: HttpAddress, query: Query) -> None:
        """Query a registry, in tasks of `nursery`. Calls `query.ended_for_one` in the end; never raises."""
        if registry not in self._queries:
            self._queries[registry] = _RegistryQueries(registry, self._make_client, self.timeout)
        self._queries[registry].ask(nursery, query)

    def hurry(self, query: Query) -> None:
        """Make a query urgent."""
        query.urgent = True
        for queries in self._queries.values():
            queries.hurry(query)


class _RegistryQueries:
    """The queries to one registry: those in progress, and those that wait."""

    def __init__(self, registry: HttpAddress, make_client: Callable[[], Client], timeout: float) -> None:
        self._registry = registry
        self._make_client = make_client
        self._timeout = timeout
        self._waiting: UrgentFirst[Query] = UrgentFirst()
        self._requested_at: dict[Query, float] = {}  # of those that wait
        self._workers = 0
        self._silent = False
        self._answered_at = -math.inf
        self._next_trial = -math.inf

    def ask(self, nursery: trio.Nursery, query: Query) -> None:
        if query in self._requested_at:
            query.ended_for_one()  # two registries say that they have the same address
            return
        self._waiting.put(query, urgent=query.urgent)
        self._requested_at[query] = trio.current_time()
        if self._workers < MAX_CONCURRENT:
            self._workers += 1
            nursery.start_soon(self._work)

    def hurry(self, query: Query) -> None:
        self._waiting.hurry(query)

    async def _work(self) -> None:
        """Make queries until none waits. Failures are logged, not raised."""
        client, yielder = self._make_client(), Yielder()
        try:
            while self._waiting:
                query = self._waiting.pop()
                await self._ask_one(client, query, self._requested_at.pop(query))
                await yielder.maybe_yield()
        finally:
            # No checkpoint since there was nothing to do: a query that is requested now starts a worker.
            self._workers -= 1
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT):
                await client.aclose()

    async def _ask_one(self, client: Client, query: Query, requested_at: float) -> None:
        try:
            channels = await self._channels(client, query.topic, requested_at)
        except (HttpFailed, QueryError, DecodeError) as error:
            registry = self._registry
            log.error("LOOKUPD(%s:%d): channels of %s - %s", registry.host, registry.port, query.topic, error)
        else:
            query.channels |= {name for name in channels if is_valid_name(name) and not is_ephemeral(name)}
        query.ended_for_one()

    async def _channels(self, client: Client, topic: str, requested_at: float) -> list[str]:
        answer = None
        deadline = self._deadline(requested_at)
        if deadline > trio.current_time():
            with trio.CancelScope(deadline=deadline):
                answer = await self._answer(client, topic)
        if answer is None:
            raise QueryError("no answer in time")
        if answer.status != 200:
            raise QueryError(f"status {answer.status}")
        return decode_json_as(answer.body, _Channels).channels or []

    def _deadline(self, requested_at: float) -> float:
        """The deadline of a query whose turn has come. It has passed if the query is given up."""
        now = trio.current_time()
        if now >= requested_at + QUEUE_TIMEOUT:
            return now
        short = requested_at + SILENT_TIMEOUT
        if self._silent and (now < self._next_trial or now >= short):
            return short
        self._next_trial = now + TRIAL_INTERVAL
        return now + self._timeout

    async def _answer(self, client: Client, topic: str) -> Answer:
        asked_at = trio.current_time()
        url = registry_url(self._registry, "/channels", {"topic": topic})
        try:
            answer = await client.ask(url)
        except BaseException:
            # A query that fails at once costs no time, and does not predict the next one.
            if self._answered_at <= asked_at < trio.current_time() - SILENT_TIMEOUT:
                self._silent = True
            raise
        self._silent, self._answered_at = False, trio.current_time()
        return answer


def registry_url(registry: HttpAddress, path: str, params: Mapping[str, str] | None = None) -> str:
    """The URL of a path at a registry. `InvalidUrl` if its host is none."""
    return http_url(registry.host, registry.port, path, params, secure=registry.secure)


def _query_timeout(connect_timeout: float, request_timeout: float) -> float:
    """Seconds for a query, from the options for one request. Where these are 0, no limit, it is `DEFAULT_TIMEOUT`."""
    if connect_timeout > 0 and request_timeout > 0:
        return connect_timeout + request_timeout
    return DEFAULT_TIMEOUT
