"""One request to one daemon, with everything bounded: time, bytes, and (see `connections`) how many are under way.

Rules:

- What goes wrong is an `UpstreamError`, whose text is for people.
- The time limit is for all of a request: waiting for a place among those who ask the same daemon is part of it.
- Only a 200 is an answer. A 403 whose JSON names an `https_port` is asked again over https at that port: so answers an
  nsqd that wants TLS.
- No answer is unpacked here, so that a small one cannot become a large one; no proxy of the environment is used.
- Questions reuse connections; each change goes over a connection of its own, as one that was kept may have died with
  its daemon, and a change must not be sent twice.
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

__all__ = ["MAX_BODY", "Answer", "Upstream", "UpstreamError"]

MAX_BODY = 64 * 1024 * 1024  # bytes; 50,000 clients of one nsqd are some 35 MB
_MAX_SHOWN = 512
"""Bytes of a refusal's body that are told."""
NS_PER_SECOND = 1_000_000_000

Params = Mapping[str, str]

_USER_AGENT: Header = b"User-Agent", f"{CONSOLE}{VERSION}".encode()
_IDENTITY: Header = b"Accept-Encoding", b"identity"


class UpstreamError(Exception):
    """A daemon did not answer, or did not answer 200."""


@attrs.frozen
class Answer:
    """What came back, whatever its status."""

    status: int
    headers: list[Header]
    """As they came, in their order."""
    body: bytes
    """As it came: see its Content-Encoding."""


@attrs.define(eq=False)
class Upstream:
    """Asks daemons. `aclose` it in the end."""

    options: AdminOptions
    max_body: int = MAX_BODY
    budget: ByteBudget = attrs.field(factory=ByteBudget)
    """Bytes of all answers that are being read."""
    _connections: Connections = attrs.field(init=False)
    _turn: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    def __attrs_post_init__(self) -> None:
        self._connections = Connections(self.options)

    async def get(self, address: str, path: str, params: Params | None = None) -> bytes:
        """Ask the daemon at `host:port`. Raises `UpstreamError`."""
        return await self._request("GET", address, path, params or {})

    async def post(self, address: str, path: str, params: Params) -> None:
        """Have the daemon change something; parameters go in the query. Raises `UpstreamError`."""
        await self._request("POST", address, path, params)

    async def send_json(self, url: str, value: Any) -> None:
        """POST JSON to any URL; any status of 200 to 299 will do. Raises `UpstreamError`."""
        headers = [_USER_AGENT, _IDENTITY, (b"Content-Type", b"application/json")]
        answer = await self._send("POST", url, headers, content=msgspec.json.encode(value))
        if not 200 <= answer.status < 300:
            raise UpstreamError(_refusal(answer))

    async def get_url(self, url: str) -> bytes:
        """GET of any URL. Raises `UpstreamError`."""
        return _body_of_ok(await self._send("GET", url, [_USER_AGENT, _IDENTITY]))

    async def forward(self, url: str, headers: Iterable[Header]) -> Answer:
        """GET of any URL with these headers and no other but those that HTTP needs. Raises `UpstreamError`."""
        return await self._send("GET", url, headers)

    async def aclose(self) -> None:
        """Close what connections are kept."""
        await self._connections.aclose()

    async def _request(self, method: str, address: str, path: str, params: Params) -> bytes:
        target = f"{path}?{urlencode(params)}" if params else path
        try:
            host, _ = host_and_port(address)  # it may come from a request, or from whoever registered an nsqd
        except ValueError as error:
            raise UpstreamError(f"{method} {path}: bad address {address!r}: {error}") from error
        headers = [_USER_AGENT, _IDENTITY, (b"Accept", ACCEPT.encode())]
        answer = await self._send(method, f"http://{address}{target}", headers)
        if answer.status == HTTPStatus.FORBIDDEN and (port := https_port(answer.body)):
            secure = join_host_port(host, port)
            answer = await self._send(method, f"https://{secure}{target}", headers)
        return _body_of_ok(answer)

    async def _send(self, method: str, url: str, headers: Iterable[Header], content: bytes = b"") -> Answer:
        """The answer, or `UpstreamError`: the one place where foreign errors come in."""
        async with self._turn:
            pass  # hundreds are asked at once, each with some 0.3 ms of work: others run in between
        limit = self.options.http_client_request_timeout / NS_PER_SECOND
        try:
            with trio.fail_after(limit or float("inf")):
                async with self._connections.client(url, keep=method == "GET") as client:
                    return await self._exchange(
                        client.stream(method, url, headers=list(headers), content=content)
                    )
        except trio.TooSlowError:
            raise UpstreamError(f"{method} {url}: no answer within {limit:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, TlsConfigError, OSError, ValueError) as error:
            raise UpstreamError(f"{method} {url}: {_reason(error)}") from error

    async def _exchange(self, request: AbstractAsyncContextManager[httpx.Response]) -> Answer:
        body = bytearray()
        reason = ""
        with trio.CancelScope() as scope:
            async with request as response:
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
        return Answer(response.status_code, response.headers.raw, bytes(body))


def _body_of_ok(answer: Answer) -> bytes:
    if answer.status != HTTPStatus.OK:
        raise UpstreamError(_refusal(answer))
    return answer.body


def _refusal(answer: Answer) -> str:
    """In the words in which the field's consoles tell it."""
    try:
        phrase = HTTPStatus(answer.status).phrase
    except ValueError:
        phrase = ""
    shown = answer.body[:_MAX_SHOWN].decode("utf-8", "replace")
    quoted = msgspec.json.encode(shown).decode()
    return f"got response {answer.status} {phrase} {quoted}"


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
