"""One request to one daemon, with everything bounded: time, bytes, and how many are under way.

Rules:

- What goes wrong is an `UpstreamError`, whose text is for people.
- Only a 200 is an answer. A 403 whose JSON names an `https_port` is asked again over https at that port: so answers an
  nsqd that wants TLS.
- Answers are not compressed, so that a small one cannot become a large one; no proxy of the environment is used.
- Questions reuse connections; each change goes over a connection of its own, as one that was kept may have died with
  its daemon, and a change must not be sent twice.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

import attrs
import httpx
import msgspec
import trio

from nsqadmin.addresses import host_and_port, join_host_port
from nsqadmin.options import AdminOptions
from nsqkit.http import ByteBudget
from nsqkit.http.access import CONSOLE
from nsqkit.http.fetch import ACCEPT, https_port
from nsqkit.tls import TlsConfigError, client_context
from nsqkit.version import VERSION

__all__ = ["MAX_BODY", "Upstream", "UpstreamError"]

MAX_BODY = 64 * 1024 * 1024  # bytes; 50,000 clients of one nsqd are some 35 MB
MAX_PARALLEL = 64
_MAX_SHOWN = 512
"""Bytes of a refusal's body that are told."""
_KEPT_OPEN_S = 60.0
NS_PER_SECOND = 1_000_000_000

Params = Mapping[str, str]


class UpstreamError(Exception):
    """A daemon did not answer, or did not answer 200."""


@attrs.define(eq=False)
class Upstream:
    """Asks daemons. `aclose` it in the end."""

    options: AdminOptions
    max_body: int = MAX_BODY
    budget: ByteBudget = attrs.field(factory=ByteBudget)
    """Bytes of all answers that are being read."""
    _slots: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(MAX_PARALLEL), init=False)
    _making: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _clients: dict[tuple[str, bool], httpx.AsyncClient] = attrs.field(factory=dict, init=False)
    """By scheme, and whether connections are kept."""

    async def get(self, address: str, path: str, params: Params | None = None) -> bytes:
        """Ask the daemon at `host:port`. Raises `UpstreamError`."""
        return await self._request("GET", address, path, params or {})

    async def post(self, address: str, path: str, params: Params) -> None:
        """Have the daemon change something; parameters go in the query. Raises `UpstreamError`."""
        await self._request("POST", address, path, params)

    async def send_json(self, url: str, value: Any) -> None:
        """POST JSON to any URL; any status of 200 to 299 will do. Raises `UpstreamError`."""
        status, _, body = await self._send(
            "POST", url, {"Content-Type": "application/json"}, content=msgspec.json.encode(value)
        )
        if not 200 <= status < 300:
            raise UpstreamError(_refusal(status, body))

    async def get_url(self, url: str) -> bytes:
        """GET of any URL. Raises `UpstreamError`."""
        status, _, body = await self._send("GET", url, {})
        if status != HTTPStatus.OK:
            raise UpstreamError(_refusal(status, body))
        return body

    async def forward(self, url: str, headers: Mapping[str, str]) -> tuple[int, bytes, bytes]:
        """GET of any URL: status, content type and body, whatever they are. Raises `UpstreamError`."""
        return await self._send("GET", url, headers)

    async def aclose(self) -> None:
        """Close what connections are kept."""
        clients = list(self._clients.values())
        self._clients.clear()
        for client in clients:
            await client.aclose()

    async def _request(self, method: str, address: str, path: str, params: Params) -> bytes:
        target = f"{path}?{urlencode(params)}" if params else path
        try:
            host, _ = host_and_port(address)  # it may come from a request, or from whoever registered an nsqd
        except ValueError as error:
            raise UpstreamError(f"{method} {path}: bad address {address!r}: {error}") from error
        headers = {"Accept": ACCEPT, "User-Agent": f"{CONSOLE}{VERSION}"}
        status, _, body = await self._send(method, f"http://{address}{target}", headers)
        if status == HTTPStatus.FORBIDDEN and (port := https_port(body)):
            secure = join_host_port(host, port)
            status, _, body = await self._send(method, f"https://{secure}{target}", headers)
        if status != HTTPStatus.OK:
            raise UpstreamError(_refusal(status, body))
        return body

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes = b""
    ) -> tuple[int, bytes, bytes]:
        """Status, content type and body, or `UpstreamError`: the one place where foreign errors come in."""
        limit = self.options.http_client_request_timeout / NS_PER_SECOND
        try:
            client = await self._client(url.partition(":")[0], keep=method == "GET")
            async with self._slots:
                with trio.fail_after(limit or float("inf")):
                    return await self._exchange(client, method, url, headers, content)
        except trio.TooSlowError:
            raise UpstreamError(f"{method} {url}: no answer within {limit:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, TlsConfigError, OSError, ValueError) as error:
            raise UpstreamError(f"{method} {url}: {_reason(error)}") from error

    async def _exchange(
        self, client: httpx.AsyncClient, method: str, url: str, headers: Mapping[str, str], content: bytes
    ) -> tuple[int, bytes, bytes]:
        body = bytearray()
        reason = ""
        with trio.CancelScope() as scope:
            headers = {**headers, "Accept-Encoding": "identity"}
            async with client.stream(method, url, headers=headers, content=content) as response:
                try:
                    async for piece in response.aiter_raw():
                        # Raising here would leave httpx's generators to the garbage collector; a cancelled scope
                        # ends them from inside.
                        if len(body) + len(piece) > self.max_body:
                            reason = f"an answer of more than {self.max_body} bytes"
                            scope.cancel()
                        elif not self.budget.take(len(piece)):
                            reason = "too many answers are being read"
                            scope.cancel()
                        else:
                            body += piece
                finally:
                    self.budget.give(len(body))
        if reason:
            raise ValueError(reason)
        kind = response.headers.get("content-type", "").encode("latin-1", "replace")
        return response.status_code, kind, bytes(body)

    async def _client(self, scheme: str, *, keep: bool) -> httpx.AsyncClient:
        key = scheme, keep
        if key not in self._clients:
            async with self._making:
                if key not in self._clients:
                    self._clients[key] = await self._make_client(scheme, keep=keep)
        return self._clients[key]

    async def _make_client(self, scheme: str, *, keep: bool) -> httpx.AsyncClient:
        verify: ssl.SSLContext | bool = False  # plain HTTP has no use for certificates
        if scheme == "https":
            verify = await trio.to_thread.run_sync(_tls_context, self.options)  # some 20 ms
        connect = self.options.http_client_connect_timeout / NS_PER_SECOND or None
        return httpx.AsyncClient(
            verify=verify,
            trust_env=False,
            timeout=httpx.Timeout(None, connect=connect),
            limits=httpx.Limits(
                max_connections=None,
                max_keepalive_connections=MAX_PARALLEL if keep else 0,
                keepalive_expiry=_KEPT_OPEN_S,
            ),
        )


def _tls_context(options: AdminOptions) -> ssl.SSLContext:
    context = client_context(root_ca_file=options.http_client_tls_root_ca_file)
    if options.http_client_tls_insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.http_client_tls_cert:
        context.load_cert_chain(options.http_client_tls_cert, options.http_client_tls_key)
    return context


def _refusal(status: int, body: bytes) -> str:
    """In the words in which the field's consoles tell it."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    shown = body[:_MAX_SHOWN].decode("utf-8", "replace")
    quoted = msgspec.json.encode(shown).decode()
    return f"got response {status} {phrase} {quoted}"


def _reason(error: BaseException) -> str:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError | ssl.CertificateError):
            return str(cause)
        if isinstance(cause, OSError) and cause.errno and cause.errno > 0:
            return os.strerror(cause.errno).lower()
        if isinstance(cause, httpx.ConnectTimeout):
            return "cannot connect: no answer in time"
    return str(error) or type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what lies below it; of a group, the first."""
    for _ in range(20):
        if error is None:
            return
        yield error
        error = (
            error.exceptions[0]
            if isinstance(error, BaseExceptionGroup)
            else error.__cause__ or error.__context__
        )
