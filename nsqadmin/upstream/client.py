"""One request to one daemon, with bounds on its time, its bytes, and (see `connections`) the number at a time.

Rules:

- Every failure is an `UpstreamError`, whose text is for people.
- The timeout is for the whole request, including the wait for a slot among the requests to the same daemon.
- Only a 200 is a success. A 403 whose JSON has an `https_port` is sent again over https to that port: an nsqd that
  requires TLS answers that way.
- Responses are not decompressed here, so that a small one cannot become a large one. Proxy settings of the environment
  are ignored.
- Queries reuse connections. Each change uses a new connection: an idle one may have been closed by its daemon, and a
  change must not be sent twice.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

import attrs
import httpx
import msgspec
import trio

from nsqadmin.addresses import host_and_port, join_host_port
from nsqadmin.options import AdminOptions
from nsqadmin.upstream.connections import Connections
from nsqkit.http_client import ACCEPT, https_port
from nsqkit.service.http import ByteBudget
from nsqkit.service.http.access import CONSOLE
from nsqkit.service.http.message import Header
from nsqkit.tls import TlsConfigError
from nsqkit.version import VERSION

__all__ = ["MAX_BODY", "Upstream", "UpstreamError", "UpstreamResponse"]

MAX_BODY = 64 * 1024 * 1024  # bytes; 50,000 clients of one nsqd are some 35 MB
_MAX_SHOWN = 512
"""Bytes of an error response's body in the text of the error."""
NS_PER_SECOND = 1_000_000_000

Params = Mapping[str, str]

_USER_AGENT: Header = b"User-Agent", f"{CONSOLE}{VERSION}".encode()
_IDENTITY: Header = b"Accept-Encoding", b"identity"


class UpstreamError(Exception):
    """A daemon did not answer, or not with a 200."""


@attrs.frozen
class UpstreamResponse:
    """A response of any status."""

    status: int
    headers: list[Header]
    """In the order of arrival."""
    body: bytes
    """Still encoded as its Content-Encoding says."""


@attrs.define(eq=False)
class Upstream:
    """Sends requests to daemons. Must be closed with `aclose`."""

    options: AdminOptions
    max_body: int = MAX_BODY
    budget: ByteBudget = attrs.field(factory=ByteBudget)
    """Bytes of all responses that are being read."""
    _connections: Connections = attrs.field(init=False)
    _turn: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    def __attrs_post_init__(self) -> None:
        self._connections = Connections(self.options)

    async def get(self, address: str, path: str, params: Params | None = None) -> bytes:
        """GET from the daemon at `host:port`. Raises `UpstreamError`."""
        return await self._request("GET", address, path, params or {})

    async def post(self, address: str, path: str, params: Params) -> None:
        """POST to the daemon at `host:port`, with the parameters in the query. Raises `UpstreamError`."""
        await self._request("POST", address, path, params)

    async def send_json(self, url: str, value: Any) -> None:
        """POST JSON to any URL; every status from 200 to 299 is a success. Raises `UpstreamError`."""
        headers = [_USER_AGENT, _IDENTITY, (b"Content-Type", b"application/json")]
        response = await self._send("POST", url, headers, content=msgspec.json.encode(value))
        if not 200 <= response.status < 300:
            raise UpstreamError(_error_text(response))

    async def get_url(self, url: str) -> bytes:
        """GET any URL. Raises `UpstreamError`."""
        return _body_of_ok(await self._send("GET", url, [_USER_AGENT, _IDENTITY]))

    async def forward(self, url: str, headers: Iterable[Header]) -> UpstreamResponse:
        """GET any URL with these headers, plus only those that HTTP requires. Raises `UpstreamError`."""
        return await self._send("GET", url, headers)

    async def aclose(self) -> None:
        """Close idle connections."""
        await self._connections.aclose()

    async def _request(self, method: str, address: str, path: str, params: Params) -> bytes:
        target = f"{path}?{urlencode(params)}" if params else path
        try:
            # The address may come from a request, or from an nsqd's registration.
            host, _ = host_and_port(address)
        except ValueError as error:
            raise UpstreamError(f"{method} {path}: bad address {address!r}: {error}") from error
        headers = [_USER_AGENT, _IDENTITY, (b"Accept", ACCEPT.encode())]
        response = await self._send(method, f"http://{address}{target}", headers)
        if response.status == HTTPStatus.FORBIDDEN and (port := https_port(response.body)):
            secure = join_host_port(host, port)
            response = await self._send(method, f"https://{secure}{target}", headers)
        return _body_of_ok(response)

    async def _send(
        self, method: str, url: str, headers: Iterable[Header], content: bytes = b""
    ) -> UpstreamResponse:
        """Send a request; the only place where exceptions of httpx are translated to `UpstreamError`."""
        # Hundreds of requests may begin at once, each with 0.3 ms of work: the lock makes them take turns, with
        # other tasks in between.
        async with self._turn:
            pass
        timeout_s = self.options.http_client_request_timeout / NS_PER_SECOND
        try:
            with trio.fail_after(timeout_s or float("inf")):
                async with self._connections.client(url, keep=method == "GET") as client:
                    return await self._exchange(
                        client.stream(method, url, headers=list(headers), content=content)
                    )
        except trio.TooSlowError:
            raise UpstreamError(f"{method} {url}: no answer within {timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, TlsConfigError, OSError, ValueError) as error:
            raise UpstreamError(f"{method} {url}: {_reason(error)}") from error

    async def _exchange(self, request: AbstractAsyncContextManager[httpx.Response]) -> UpstreamResponse:
        body = bytearray()
        reason = ""
        with trio.CancelScope() as scope:
            async with request as response:
                try:
                    async for piece in response.aiter_raw():
                        # An exception raised here would leave httpx's generators to the garbage collector; a
                        # cancelled scope ends them from inside.
                        if len(body) + len(piece) > self.max_body:
                            reason = f"response of more than {self.max_body} bytes"
                            scope.cancel()
                        elif not self.budget.take(len(piece)):
                            reason = "too many responses are being read"
                            scope.cancel()
                        else:
                            body += piece
                finally:
                    self.budget.give(len(body))
        if reason:
            raise ValueError(reason)
        return UpstreamResponse(response.status_code, response.headers.raw, bytes(body))


def _body_of_ok(response: UpstreamResponse) -> bytes:
    if response.status != HTTPStatus.OK:
        raise UpstreamError(_error_text(response))
    return response.body


def _error_text(response: UpstreamResponse) -> str:
    """The original's text, which is part of the API."""
    try:
        phrase = HTTPStatus(response.status).phrase
    except ValueError:
        phrase = ""
    shown = response.body[:_MAX_SHOWN].decode("utf-8", "replace")
    quoted = msgspec.json.encode(shown).decode()
    return f"got response {response.status} {phrase} {quoted}"


def _reason(error: BaseException) -> str:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError | ssl.CertificateError):
            return str(cause)
        if isinstance(cause, OSError) and cause.errno and cause.errno > 0:
            return os.strerror(cause.errno).lower()
        if isinstance(cause, httpx.ConnectTimeout):
            return "connect timeout"
    return str(error) or type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes; the first one of a group."""
    for _ in range(20):
        if error is None:
            return
        yield error
        error = (
            error.exceptions[0]
            if isinstance(error, BaseExceptionGroup)
            else error.__cause__ or error.__context__
        )
