"""Connections to daemons: a pool for each of them, so that a daemon that hangs delays only requests to itself.

Rules:

- A request first takes one of the `MAX_PER_DAEMON` slots of its daemon, and then one of the `parallel` slots for all
  daemons. So a hanging daemon delays only its own requests, until thousands are waiting for others that hang too.
- Each daemon has an httpx client, and with it a connection pool, of its own. A pool scans all of its connections at
  each request, and for each idle one all of them again: with one pool for 300 daemons, queried at once, a round took
  4 s and blocked the event loop for 2.6 of them; with 300 pools it takes 0.2 s.
- Queries reuse connections. A client that has been unused for a minute is closed, and so is the least recently used one
  when there are too many.
"""

from __future__ import annotations

import contextlib
import resource
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final
from urllib.parse import urlsplit

import attrs
import httpx
import trio

from nsqadmin.options import AdminOptions
from nsqkit.tls import client_context

__all__ = ["MAX_PARALLEL", "MAX_PER_DAEMON", "Connections"]

MAX_PER_DAEMON: Final = 32
"""Requests to one daemon at a time. A few are usual; Graphite gets one for each chart of a page."""
MAX_PARALLEL: Final = 4096
"""Requests to all daemons at a time; each takes some 30 KB while it waits."""
_MAX_IDLE: Final = 2
"""Idle connections of one daemon."""
_IDLE_S: Final = 60.0
NS_PER_SECOND = 1_000_000_000

_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For plain HTTP, which does not use it; without one, each client would make its own."""


def _max_parallel() -> int:
    """At most half of the file descriptors; the others are for idle connections, and for browsers."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_PARALLEL if descriptors == resource.RLIM_INFINITY else min(MAX_PARALLEL, descriptors // 2)


@attrs.define(eq=False)
class _Pool:
    """The connections of one daemon."""

    client: httpx.AsyncClient
    slots: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(MAX_PER_DAEMON))
    users: int = 0
    """Requests that have a slot or wait for one."""
    unused_since: float = 0.0
    """On trio's clock."""


@attrs.define(eq=False)
class Connections:
    """The pools of all daemons. Must be closed with `aclose`."""

    options: AdminOptions
    parallel: int = attrs.field(factory=_max_parallel)
    """Requests to all daemons at a time."""
    _slots: trio.CapacityLimiter = attrs.field(init=False)
    _used: dict[str, _Pool] = attrs.field(factory=dict, init=False)
    """Pools with users, by scheme and address."""
    _unused: OrderedDict[str, _Pool] = attrs.field(factory=OrderedDict, init=False)
    """The other pools, the least recently used first."""
    _tls: ssl.SSLContext | None = attrs.field(default=None, init=False)
    _tls_lock: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    def __attrs_post_init__(self) -> None:
        self._slots = trio.CapacityLimiter(self.parallel)

    @contextlib.asynccontextmanager
    async def client(self, url: str, *, keep: bool) -> AsyncIterator[httpx.AsyncClient]:
        """A client for one request to this URL, once there are slots; without `keep` its connection is new and closed
        afterwards. Raises `TlsConfigError`, and ValueError for an invalid URL."""
        scheme, address, *_ = urlsplit(url)
        tls = await self._tls_context() if scheme == "https" else _NO_TLS
        origin = f"{scheme}://{address}"
        pool = self._used[origin] = (
            self._used.get(origin) or self._unused.pop(origin, None) or _Pool(self._make(tls))
        )
        pool.users += 1
        try:
            async with pool.slots, self._slots:
                if keep:
                    yield pool.client
                else:
                    async with self._make(tls) as client:
                        yield client
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
            if not too_many and trio.current_time() < oldest.unused_since + _IDLE_S:
                return
            await self._close_least_recent()

    async def _close_least_recent(self) -> None:
        _, pool = self._unused.popitem(last=False)
        await pool.client.aclose()

    async def _tls_context(self) -> ssl.SSLContext:
        async with self._tls_lock:
            if self._tls is None:
                self._tls = await trio.to_thread.run_sync(_tls_context, self.options)  # some 20 ms
            return self._tls

    def _make(self, tls: ssl.SSLContext) -> httpx.AsyncClient:
        connect = self.options.http_client_connect_timeout / NS_PER_SECOND or None
        client = httpx.AsyncClient(
            verify=tls,
            trust_env=False,
            timeout=httpx.Timeout(None, connect=connect),
            limits=httpx.Limits(
                max_connections=None,
                max_keepalive_connections=_MAX_IDLE,
                keepalive_expiry=_IDLE_S,
            ),
            cookies=CookieJar(
                DefaultCookiePolicy(allowed_domains=())
            ),  # none are kept: users share the clients
        )
        client.headers.clear()  # the caller gives all of them
        return client


def _tls_context(options: AdminOptions) -> ssl.SSLContext:
    context = client_context(root_ca_file=options.http_client_tls_root_ca_file)
    if options.http_client_tls_insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.http_client_tls_cert:
        context.load_cert_chain(options.http_client_tls_cert, options.http_client_tls_key)
    return context
