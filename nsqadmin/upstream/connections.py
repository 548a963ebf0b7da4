"""Connections to daemons: a pool for each of them, so that a daemon that hangs delays only requests to itself.

Rules:

- A request first takes one of the `MAX_PER_DAEMON` slots of its daemon, and then one of the `parallel` slots for all
  daemons. So a hanging daemon delays only its own requests, until thousands are waiting for others that hang too.
- Each daemon has an `HttpClient`, and with it a connection pool, of its own. A pool scans all of its connections at
  each request, and for each idle one all of them again: with one pool for 300 daemons, queried at once, a round took
  4 s and blocked the event loop for 2.6 of them; with 300 pools it takes 0.2 s.
- Queries reuse connections. A client that has been unused for a minute is closed, and so is the least recently used one
  when there are too many.
"""

from __future__ import annotations

import contextlib
import resource
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import urlsplit

import attrs
import trio

from nsqkit.http_client import HttpClient, HttpOptions

__all__ = ["IDLE_S", "MAX_IDLE", "MAX_PARALLEL", "MAX_PER_DAEMON", "Connections"]

MAX_PER_DAEMON: Final = 32
"""Requests to one daemon at a time. A few are usual; Graphite gets one for each chart of a page."""
MAX_PARALLEL: Final = 4096
"""Requests to all daemons at a time; each takes some 30 KB while it waits."""
MAX_IDLE: Final = 2
"""Idle connections of one daemon."""
IDLE_S: Final = 60.0
"""How long they, and the client of a daemon, are kept."""


def _max_parallel() -> int:
    """At most half of the file descriptors; the others are for idle connections, and for browsers."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_PARALLEL if descriptors == resource.RLIM_INFINITY else min(MAX_PARALLEL, descriptors // 2)


@attrs.define(eq=False)
class _Pool:
    """The connections of one daemon."""

    client: HttpClient
    slots: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(MAX_PER_DAEMON))
    users: int = 0
    """Requests that have a slot or wait for one."""
    unused_since: float = 0.0
    """On trio's clock."""


@attrs.define(eq=False)
class Connections:
    """The pools of all daemons. Must be closed with `aclose`."""

    options: HttpOptions
    parallel: int = attrs.field(factory=_max_parallel)
    """Requests to all daemons at a time."""
    _slots: trio.CapacityLimiter = attrs.field(init=False)
    _used: dict[str, _Pool] = attrs.field(factory=dict, init=False)
    """Pools with users, by scheme and address."""
    _unused: OrderedDict[str, _Pool] = attrs.field(factory=OrderedDict, init=False)
    """The other pools, the least recently used first."""

    def __attrs_post_init__(self) -> None:
        self._slots = trio.CapacityLimiter(self.parallel)

    @contextlib.asynccontextmanager
    async def client(self, url: str, *, keep: bool) -> AsyncIterator[HttpClient]:
        """A client for one request to this URL, once there are slots; without `keep` its connection is new and closed
        afterwards. Raises ValueError for some invalid URLs."""
        scheme, address, *_ = urlsplit(url)
        origin = f"{scheme}://{address}"
        pool = self._used[origin] = (
            self._used.get(origin) or self._unused.pop(origin, None) or _Pool(HttpClient(self.options))
        )
        pool.users += 1
        try:
            async with pool.slots, self._slots:
                yield pool.client if keep else HttpClient(attrs.evolve(self.options, max_idle=0))
        finally:
            pool.users -= 1
            if not pool.users:
                pool.unused_since = trio.current_time()
                self._unused[origin] = self._used.pop(origin)
            await self._close_expired()

    async def aclose(self) -> None:
        """Close all connections. There must be no requests any more."""
        while self._unused:
            await self._close_least_recent()

    async def _close_expired(self) -> None:
        while self._unused:
            oldest = next(iter(self._unused.values()))
            too_many = len(self._unused) > self.parallel // 4
            if not too_many and trio.current_time() < oldest.unused_since + IDLE_S:
                return
            await self._close_least_recent()

    async def _close_least_recent(self) -> None:
        _, pool = self._unused.popitem(last=False)
        await pool.client.aclose()
