"""Requests to daemons: whom to ask with which headers, the limits of all of them, and errors for people.

Rules, in addition to those of `nsqkit.http_client`:

- Every failure is an `UpstreamError`, whose text is for people: it has the method and the URL.
- The timeout includes the wait for a slot among the requests to the same daemon (see `connections`).
- Only a 200 is a success, except for a webhook.
- Of the body of an error, only what has the form of NSQ is repeated: a code (`{"message":"TOPIC_NOT_FOUND"}`), or the
  reason of a refusal (`{"message":"REFUSED: its leader a:4150 is connected"}`). Anybody can register an address at a
  registry, and what another server says is not for the users of the console.
- The bytes of all responses together are limited, from their first until they are decoded.
- Requests to daemons show the token of `--access-token-file`; those to Graphite and to webhooks never do.
- Queries reuse connections. Each change uses a new connection: an idle one may have been closed by its daemon, and a
  change must not be sent twice.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

import attrs
import msgspec
import trio

from nsqadmin.addresses import host_and_port
from nsqadmin.options import AdminOptions
from nsqadmin.upstream.connections import IDLE_S, MAX_IDLE, Connections
from nsqkit.access.own_token import OwnToken
from nsqkit.certificates import TlsFiles
from nsqkit.http_client import Answer, Header, HttpClient, HttpFailed, HttpOptions
from nsqkit.options import SECOND
from nsqkit.redact import redacted, shown_url
from nsqkit.service.http import ByteBudget
from nsqkit.service.http.access import CONSOLE
from nsqkit.tls import client_context
from nsqkit.version import VERSION

__all__ = ["MAX_BODY", "Upstream", "UpstreamError", "UpstreamRefused"]

MAX_BODY: Final = 40 * 1024 * 1024  # bytes; 50,000 clients of one nsqd are some 35 MB
MAX_BODIES: Final = 3 * MAX_BODY
"""Bytes of all responses at a time: several daemons that send without end must not keep the others from answering."""
_USER_AGENT: Final = f"{CONSOLE}{VERSION}"
_HEADERS: Final[list[Header]] = [
    (b"User-Agent", _USER_AGENT.encode()),
    (b"Accept-Encoding", b"identity"),
]

_ERROR_OF_NSQ: Final = re.compile(
    rb'\{"message":"(?:[A-Z0-9_]{1,64}(?:: oldest is [0-9TZ:.-]{20,40}|: there is no message)?|'
    rb'REFUSED: (?P<reason>[^"\\\x00-\x1f\x7f]{1,200}))"\}'
)

Params = Mapping[str, str]


class UpstreamError(Exception):
    """A daemon did not answer, or not with a 200."""


class UpstreamRefused(UpstreamError):
    """A daemon understood what it is asked for, and will not do it now (409). `reason`: in its words."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


@attrs.define(eq=False)
class Upstream:
    """Sends requests to daemons. Must be closed with `aclose`."""

    options: AdminOptions
    max_body: int = MAX_BODY
    budget: ByteBudget = attrs.field(factory=lambda: ByteBudget(MAX_BODIES))
    """Bytes of all responses that are being read, or wait to be decoded."""
    decoder: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1), init=False)
    """For the worker thread that decodes large responses. Several would only wait for one another, and need memory."""
    tls: TlsFiles = attrs.field(init=False)
    """For requests over https: to be read again when the files change."""
    _connections: Connections = attrs.field(init=False)
    _turn: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    def __attrs_post_init__(self) -> None:
        self.tls = _tls_files(self.options)
        self._connections = Connections(_http_options(self.options, self.max_body, self.budget, self.tls))

    async def get(self, address: str, path: str, params: Params | None = None) -> bytes:
        """GET from the daemon at `host:port`. Raises `UpstreamError`."""
        return await self._ask("GET", address, path, params or {})

    @contextlib.contextmanager
    def reserved(self, size: int) -> Iterator[None]:
        """Count a response of this size (bytes) while it waits to be decoded. Raises `UpstreamError`."""
        if not self.budget.take(size):
            raise UpstreamError("too many large responses at a time")
        try:
            yield
        finally:
            self.budget.give(size)

    async def post(self, address: str, path: str, params: Params, body: bytes = b"") -> None:
        """POST to the daemon at `host:port`, with the parameters in the query. Raises `UpstreamError`; of it
        `UpstreamRefused`, if the daemon says why it will not do it now.
        """
        await self._ask("POST", address, path, params, body)

    async def send_json(self, url: str, value: Any) -> None:
        """POST JSON to any URL; every status from 200 to 299 is a success. Raises `UpstreamError`."""
        headers = [*_HEADERS, (b"Content-Type", b"application/json")]
        async with self._client("POST", url, shown_url(url)) as client:
            answer = await client.request("POST", url, headers, msgspec.json.encode(value))
        if not 200 <= answer.status < 300:
            raise UpstreamError(_without_foreign_body(answer).description())

    async def get_url(self, url: str) -> bytes:
        """GET any URL. Raises `UpstreamError`."""
        return _body_of_ok(await self.forward(url, _HEADERS))

    async def forward(self, url: str, headers: Iterable[Header]) -> Answer:
        """GET any URL with these headers, plus only those that HTTP requires. Raises `UpstreamError`."""
        async with self._client("GET", url, shown_url(url)) as client:
            return await client.request("GET", url, list(headers))

    async def aclose(self) -> None:
        """Close idle connections."""
        await self._connections.aclose()

    async def _ask(self, method: str, address: str, path: str, params: Params, body: bytes = b"") -> bytes:
        try:
            # The address may come from a request, or from an nsqd's registration.
            host_and_port(address)
        except ValueError as error:
            raise UpstreamError(f"{method} {path}: bad address {address!r}: {error}") from error
        url = f"http://{address}{path}{'?' if params else ''}{urlencode(params)}"
        async with self._client(method, url, redacted(url)) as client:
            headers = {"User-Agent": _USER_AGENT}
            answer = await client.ask(url, method=method, headers=headers, content=body)
        return _body_of_ok(answer)

    @contextlib.asynccontextmanager
    async def _client(self, method: str, url: str, shown: str) -> AsyncIterator[HttpClient]:
        """A client for one request. Its errors, and the end of the time, are an `UpstreamError`.

        `shown`: the URL for the text of the error.
        """
        # Hundreds of requests may begin at once, each with 0.3 ms of work: the lock makes them take turns, with
        # other tasks in between.
        async with self._turn:
            pass
        timeout_s = self.options.http_client_request_timeout / SECOND
        try:
            with trio.fail_after(timeout_s or float("inf")):
                async with self._connections.client(url, keep=method == "GET") as client:
                    yield client
        except trio.TooSlowError:
            raise UpstreamError(f"{method} {shown}: no answer within {timeout_s:g} s") from None
        except (HttpFailed, ValueError) as error:
            raise UpstreamError(f"{method} {shown}: {error}") from error


def _body_of_ok(answer: Answer) -> bytes:
    try:
        return _without_foreign_body(answer).body_of_ok()
    except HttpFailed as error:
        text = str(error)  # the original's, which is part of the API
    refusal = _ERROR_OF_NSQ.fullmatch(answer.body) if answer.status == HTTPStatus.CONFLICT else None
    if refusal is not None and refusal["reason"]:
        raise UpstreamRefused(text, refusal["reason"].decode("utf-8", "replace"))
    raise UpstreamError(text)


def _without_foreign_body(answer: Answer) -> Answer:
    """The response, without a body that is an error, but not one of NSQ."""
    if answer.status == HTTPStatus.OK or _ERROR_OF_NSQ.fullmatch(answer.body):
        return answer
    return attrs.evolve(answer, body=b"")


def _http_options(options: AdminOptions, max_body: int, budget: ByteBudget, tls: TlsFiles) -> HttpOptions:
    return HttpOptions(
        connect_timeout=options.http_client_connect_timeout / SECOND,
        request_timeout=0,  # ours begins with the wait for a slot
        max_body=max_body,
        max_idle=MAX_IDLE,
        idle_timeout=IDLE_S,
        tls=tls,
        tls_only=options.http_client_tls_required,
        budget=budget,
        bearer=OwnToken(options.access_token_file) if options.access_token_file else None,
    )


def _tls_files(options: AdminOptions) -> TlsFiles:
    root_ca_file = options.http_client_tls_root_ca_file
    cert_file, key_file = options.http_client_tls_cert, options.http_client_tls_key
    make = functools.partial(
        client_context,
        root_ca_file=root_ca_file,
        cert_file=cert_file,
        key_file=key_file,
        verify=not options.http_client_tls_insecure_skip_verify,
    )
    return TlsFiles("TLS to daemons", [root_ca_file, cert_file, key_file], make, cert_file=cert_file)
