"""Connections to daemons: some for each of them, so that one that hangs holds up only those who ask it.

Rules:

- Whoever asks a daemon takes one of its `MAX_PER_DAEMON` places first, and then one of `parallel`, which are for all.
  So a daemon that hangs holds up only those who ask it, until thousands of requests wait for others that do the same.
- A daemon has an httpx client, and with it a pool of connections, of its own. A pool looks through all of its
  connections at each request, and for each idle one through all of them again: with one pool for 300 daemons, asked at
  once, a round took 4 s and held up the event loop for 2.6 of them; with 300 pools it takes 0.2 s.
- Questions reuse connections. A client that nobody has used for a minute is closed, and so is the one that was not used
  for longest when there are too many.
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
"""Requests to one daemon at a time; a few are usual, and Graphite is asked for all charts of a page."""
MAX_PARALLEL: Final = 4096
"""Requests at a time; each that waits takes some 30 KB."""
_MAX_KEPT_OPEN: Final = 2
"""Connections of one daemon between questions."""
_KEPT_OPEN_S: Final = 60.0
NS_PER_SECOND = 1_000_000_000

_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Plain HTTP has no use for it, but without one each client makes its own."""


def _most_parallel() -> int:
    """Half of the descriptors at most: others are for kept connections, and for browsers."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_PARALLEL if descriptors == resource.RLIM_INFINITY else min(MAX_PARALLEL, descriptors // 2)


@attrs.define(eq=False)
class _Daemon:
    """What is known of one daemon."""

    client: httpx.AsyncClient
    places: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(MAX_PER_DAEMON))
    users: int = 0
    """Those who have a place, and those who wait for one."""
    left_at: float = 0.0
    """When the last user left, on trio's clock."""


@attrs.define(eq=False)
class Connections:
    """Gives clients to whoever asks. `aclose` it in the end."""

    options: AdminOptions
    parallel: int = attrs.field(factory=_most_parallel)
    """Requests to all daemons at a time."""
    _places: trio.CapacityLimiter = attrs.field(init=False)
    _used: dict[str, _Daemon] = attrs.field(factory=dict, init=False)
    """By scheme and address, those that are asked now."""
    _unused: OrderedDict[str, _Daemon] = attrs.field(factory=OrderedDict, init=False)
    """The others; who was left first is first."""
    _tls: ssl.SSLContext | None = attrs.field(default=None, init=False)
    _making_tls: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    def __attrs_post_init__(self) -> None:
        self._places = trio.CapacityLimiter(self.parallel)

    @contextlib.asynccontextmanager
    async def client(self, url: str, *, keep: bool) -> AsyncIterator[httpx.AsyncClient]:
        """The client for one request to this URL, when there is a place; without `keep`, its connection is new and is
        closed afterwards. Raises `TlsConfigError`, and ValueError for what is no URL."""
        scheme, address, *_ = urlsplit(url)
        tls = await self._tls_context() if scheme == "https" else _NO_TLS
        origin = f"{scheme}://{address}"
        daemon = self._used[origin] = (
            self._used.get(origin) or self._unused.pop(origin, None) or _Daemon(self._make(tls))
        )
        daemon.users += 1
        try:
            async with daemon.places, self._places:
                if keep:
                    yield daemon.client
                else:
                    async with self._make(tls) as client:
                        yield client
        finally:
            daemon.users -= 1
            if not daemon.users:
                daemon.left_at = trio.current_time()
                self._unused[origin] = self._used.pop(origin)
            await self._close_old()

    async def aclose(self) -> None:
        """Close what connections are kept. Nobody may be asking any more."""
        while self._unused:
            await self._close_oldest()

    async def _close_old(self) -> None:
        while self._unused:
            oldest = next(iter(self._unused.values()))
            too_many = len(self._unused) > self.parallel // 4
            if not too_many and trio.current_time() < oldest.left_at + _KEPT_OPEN_S:
                return
            await self._close_oldest()

    async def _close_oldest(self) -> None:
        _, daemon = self._unused.popitem(last=False)
        await daemon.client.aclose()

    async def _tls_context(self) -> ssl.SSLContext:
        async with self._making_tls:
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
                max_keepalive_connections=_MAX_KEPT_OPEN,
                keepalive_expiry=_KEPT_OPEN_S,
            ),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # one user's are not for the next one
        )
        client.headers.clear()  # what is sent is up to whoever asks
        return client


def _tls_context(options: AdminOptions) -> ssl.SSLContext:
    context = client_context(root_ca_file=options.http_client_tls_root_ca_file)
    if options.http_client_tls_insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.http_client_tls_cert:
        context.load_cert_chain(options.http_client_tls_cert, options.http_client_tls_key)
    return context
