"""Requests to other daemons' and servers' HTTP APIs: one at a time, bounded in time and in size.

    fetch = Fetcher(FetchOptions(request_timeout=5))
    status, body = await fetch("http://127.0.0.1:4161/ping")

httpx is imported with the first request, in a thread: a daemon that asks nobody never needs it, and no daemon waits for
it at its start. Redirects are not followed, proxies of the environment are not used: these requests stay in the house.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import attrs
import msgspec
import trio

from nsqkit.options import TlsVersion
from nsqkit.tls import client_context

if TYPE_CHECKING:
    import httpx

__all__ = [
    "ACCEPT",
    "IDENTITY",
    "AnswerTooLarge",
    "FetchOptions",
    "Fetcher",
    "https_hint",
    "https_port",
    "read_answer",
    "reason_of",
]

ACCEPT: Final = "application/vnd.nsq; version=1.0"
IDENTITY: Final = {"Accept-Encoding": "identity"}
"""Undecoded bytes are counted, so that a small compressed answer cannot become a large one."""
MAX_BODY: Final = 1 << 20
_HIGHEST_PORT = 65535


class AnswerTooLarge(Exception):
    """More bytes than the options allow."""


@attrs.frozen(kw_only=True)
class FetchOptions:
    """Times in seconds, of one request; 0: no limit here. Least versions below TLS 1.2 count as TLS 1.2."""

    connect_timeout: float = 2.0
    request_timeout: float = 5.0
    max_body: int = MAX_BODY
    """Bytes of an answer."""
    tls_root_ca_file: str = ""
    """Authorities to trust instead of the system's."""
    tls_min_version: TlsVersion = TlsVersion.TLS1_2


class Fetcher:
    """Fetches. Its clients, one for plain HTTP and one for TLS, are made when they are needed.

    They keep no connection open, so there is nothing to close in the end.
    """

    def __init__(self, options: FetchOptions) -> None:
        self._options = options
        self._making = trio.Lock()
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def __call__(
        self,
        url: str | httpx.URL,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> tuple[int, bytes]:
        """Status and body. Raises `trio.TooSlowError`, `AnswerTooLarge`, `nsqkit.tls.TlsConfigError`, and what httpx
        raises."""
        client = await self._client("https" if str(url).lower().startswith("https:") else "http")
        all_headers = {"Accept": ACCEPT, **IDENTITY, **(headers or {})}
        with trio.fail_after(self._options.request_timeout or float("inf")):
            request = client.stream(method, url, headers=all_headers, content=content)
            return await read_answer(request, self._options.max_body)

    async def load(self) -> None:
        """See that `import httpx` costs nothing from now on."""
        await self._client("http")

    async def _client(self, scheme: str) -> httpx.AsyncClient:
        async with self._making:
            if scheme not in self._clients:
                make = functools.partial(_make_client, self._options, tls=scheme == "https")
                self._clients[scheme] = await trio.to_thread.run_sync(make, abandon_on_cancel=True)
            return self._clients[scheme]


def https_port(body: bytes) -> int:
    """The port that a 403 of a daemon with `--tls-required` sends to; 0 when there is none."""
    try:
        port = msgspec.json.decode(body, type=_Forbidden).https_port
    except (ValueError, RecursionError):
        return 0
    return port if 0 < port <= _HIGHEST_PORT else 0


def https_hint(url: str, status: int, body: bytes) -> str:
    """Where a daemon with `--tls-required` that answers so is to be asked instead: the same place over https.

    Empty when it does not say, and over https, where a 403 is final.
    """
    if status != HTTPStatus.FORBIDDEN or url.lower().startswith("https:") or not (port := https_port(body)):
        return ""
    parts = urlsplit(url)
    user, at, host_port = parts.netloc.rpartition("@")
    bare, colon, last = host_port.rpartition(":")
    host = bare if colon and last.isdigit() else host_port
    return parts._replace(scheme="https", netloc=f"{user}{at}{host}:{port}").geturl()


def reason_of(error: BaseException) -> str:
    """What is said by the first of an error and its causes that says anything: what TLS refuses comes wrapped."""
    cause: BaseException | None = error
    while cause is not None and not str(cause):
        cause = cause.__cause__ or cause.__context__
    return str(cause or type(error).__name__)


@attrs.define
class _Forbidden:
    https_port: int = 0


async def read_answer(request: Any, max_body: int) -> tuple[int, bytes]:
    """Status and body of what httpx's `stream` is about to ask, with `IDENTITY` among its headers. `AnswerTooLarge`."""
    body = bytearray()
    with trio.CancelScope() as scope:
        async with request as response:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > max_body:
                    # Raising here would leave httpx's generators to the garbage collector; this ends them from inside.
                    scope.cancel()
                    body.clear()
    if scope.cancel_called:
        raise AnswerTooLarge(f"an answer of more than {max_body} bytes")
    return response.status_code, bytes(body)


def _make_client(options: FetchOptions, *, tls: bool) -> httpx.AsyncClient:
    import httpx

    verify: Any = False  # plain HTTP needs no context, which costs some 20 ms
    if tls:
        verify = client_context(root_ca_file=options.tls_root_ca_file, min_version=options.tls_min_version)
    return httpx.AsyncClient(
        verify=verify,
        trust_env=False,  # a proxy is for the way out, never for these
        timeout=httpx.Timeout(options.request_timeout or None, connect=options.connect_timeout or None),
        # Requests are seldom, and a connection kept open may have died with its server.
        limits=httpx.Limits(max_keepalive_connections=0),
    )
