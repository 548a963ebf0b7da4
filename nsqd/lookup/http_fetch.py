"""One GET of `/channels` from a registry.

httpx is imported with the first request, in a thread: a daemon without registries never needs it, and no daemon waits
for it at its start.
"""

from __future__ import annotations

import functools
import ssl
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from nsqd.lookup.protocol import HttpAddress
from nsqkit.options import TlsVersion

if TYPE_CHECKING:
    import httpx

__all__ = ["AnswerTooLarge", "HttpFetch", "HttpFetchOptions"]

ACCEPT: Final = "application/vnd.nsq; version=1.0"
MAX_BODY = 1 << 20  # bytes; a channel takes some 70 at the most


class AnswerTooLarge(Exception):
    """More than `MAX_BODY` bytes."""

    def __str__(self) -> str:
        return f"an answer of more than {MAX_BODY} bytes"


@attrs.frozen(kw_only=True)
class HttpFetchOptions:
    """Times in seconds, of one request; 0: no limit here. The root CA file is that of nsqd's other requests too."""

    connect_timeout: float = 2.0
    request_timeout: float = 5.0
    tls_root_ca_file: str = ""
    tls_min_version: TlsVersion = TlsVersion.TLS1_0


class HttpFetch:
    """Fetches. Its clients, one for plain HTTP and one for TLS, are made when they are needed.

    They keep no connection open, so there is nothing to close in the end.
    """

    def __init__(self, options: HttpFetchOptions) -> None:
        self._options = options
        self._making = trio.Lock()
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def __call__(self, scheme: str, registry: HttpAddress, topic: str) -> tuple[int, bytes]:
        """Status and body. `trio.TooSlowError`, `AnswerTooLarge`, and what httpx raises."""
        client = await self._client(scheme)
        with trio.fail_after(self._options.request_timeout or float("inf")):
            return await _get(client, scheme, registry, topic)

    async def _client(self, scheme: str) -> httpx.AsyncClient:
        async with self._making:
            if scheme not in self._clients:
                make = functools.partial(_make_client, self._options, tls=scheme == "https")
                self._clients[scheme] = await trio.to_thread.run_sync(make, abandon_on_cancel=True)
            return self._clients[scheme]


async def _get(
    client: httpx.AsyncClient, scheme: str, registry: HttpAddress, topic: str
) -> tuple[int, bytes]:
    import httpx

    url = httpx.URL(scheme=scheme, host=registry.host, port=registry.port, path="/channels")
    # Undecoded bytes are counted, so that a small compressed answer cannot become a large one.
    headers = {"Accept": ACCEPT, "Accept-Encoding": "identity"}
    body = bytearray()
    with trio.CancelScope() as scope:
        async with client.stream("GET", url, params={"topic": topic}, headers=headers) as response:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BODY:
                    # Raising here would leave httpx's generators to the garbage collector; this ends them from inside.
                    scope.cancel()
                    body.clear()
    if scope.cancel_called:
        raise AnswerTooLarge
    return response.status_code, bytes(body)


def _make_client(options: HttpFetchOptions, *, tls: bool) -> httpx.AsyncClient:
    import httpx

    verify: Any = _tls_context(options) if tls else False  # a context costs some 20 ms, plain HTTP needs none
    return httpx.AsyncClient(
        verify=verify,
        trust_env=False,  # a proxy is for the way out, never for the registries
        timeout=httpx.Timeout(options.request_timeout or None, connect=options.connect_timeout or None),
        # Topics are created seldom, and a connection kept open may have died with its registry.
        limits=httpx.Limits(max_keepalive_connections=0),
    )


def _tls_context(options: HttpFetchOptions) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.tls_root_ca_file or None)
    if options.tls_min_version > TlsVersion.TLS1_2:  # that is Python's own least
        context.minimum_version = ssl.TLSVersion(options.tls_min_version)
    return context
