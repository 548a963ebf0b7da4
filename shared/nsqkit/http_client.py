"""Requests over HTTP/1.1 to daemons, registries, auth servers and webhooks, bounded in time and in bytes.

    client = HttpClient(HttpOptions(request_timeout=5.0))
    answer = await client.ask("http://127.0.0.1:4161/lookup?topic=orders")
    print(answer.status, answer.body_of_ok())

Rules:

- Everything that can go wrong is an `HttpFailed`. Its text says why, and never where: URLs may contain passwords and
  secrets, so the caller decides what of them is shown.
- `request_timeout` covers all of a request: connecting, redirects, the whole body.
- `max_body` counts bytes as they come. Nothing is decompressed, so that a small answer cannot become a large one.
- A server may close a connection that is kept open while a request is on its way to it. Such a request, one that has no
  byte of an answer on a connection that was used before, is made again at once. It may reach the server twice.
- Proxies of the environment are not used, and cookies are not kept.
- Redirects are followed only if `max_redirects` says so, and then the method and the body stay: 303 alone turns into a
  GET. Browsers turn a POST that meets a 301 into a GET without its body; a message would be lost that way. Credentials
  are not passed on to another server.

No other module imports httpx. This one does so with the first request, in a thread: a daemon that makes none does not
need it, and none waits for it at its start. Runs on trio and on asyncio.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import json
import logging
import math
import os
import re
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlencode

import anyio
import anyio.lowlevel
import anyio.to_thread
import attrs

from nsqkit.certificates import TlsFiles
from nsqkit.decoding import DecodeError, decode_json
from nsqkit.tls import TlsConfigError, client_context
from nsqkit.version import VERSION

if TYPE_CHECKING:
    import httpcore
    import httpx

__all__ = ["ACCEPT", "MAX_BODY", "Answer", "AnswerTooLarge", "Header", "HttpClient", "HttpFailed"]
__all__ += ["HttpOptions", "HttpTimeout", "InvalidUrl", "TlsFactory", "http_url", "https_url"]

ACCEPT: Final = "application/vnd.nsq; version=1.0"
"""The media type of the daemons' API."""
MAX_BODY: Final = 1 << 20
"""Bytes of an answer's body, unless the options say otherwise."""
MAX_URL: Final = 1 << 16
"""Characters; the limit of httpx."""
MAX_QUOTED: Final = 512
"""Bytes of an unwanted answer that its error quotes."""
_HIGHEST_PORT: Final = 65_535
_MAX_PORTS: Final = 10_000
"""Daemons whose port for https is remembered."""
_MAX_REFUSAL: Final = 4_096
"""Bytes of a 403 that is looked into."""
_SLICE_S: Final = 0.004
"""Of the reading of a body, after which other tasks run."""
_NAME: Final = r"(?:[A-Za-z0-9_~-]{1,63}(?:\.|$))+"
_IPV6: Final = r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[A-Za-z0-9._~-]+)?"
_HOST: Final = re.compile(f"{_NAME}|{_IPV6}")

Header = tuple[bytes, bytes]
_OURS: Final = contextvars.ContextVar("nsqkit.http_client", default=False)
"""Whether a request of this module is under way in this task."""


def _is_not_ours(record: logging.LogRecord) -> bool:
    """httpx logs each request at INFO: a poll every few seconds would fill a log, and URLs may have secrets."""
    return not _OURS.get()


class HttpFailed(Exception):
    """A request has no answer, or none of use. The text says why, without the URL."""


class HttpTimeout(HttpFailed):
    """No connection, or no whole answer, in time."""


class AnswerTooLarge(HttpFailed):
    """An answer has more bytes than the options allow."""


class InvalidUrl(HttpFailed):
    """Not a URL of http or https that a request can be made of. Nothing was sent."""


class Budget(Protocol):
    """A limit on the bytes of all answers that are being read at the same time, shared by several clients."""

    def take(self, size: int) -> bool:
        """Reserve so many bytes; False when there are not so many left."""

    def give(self, size: int) -> None:
        """Return reserved bytes."""


TlsFactory = Callable[[], ssl.SSLContext]


def _cached(make: TlsFactory) -> TlsFactory:
    return make if isinstance(make, TlsFiles) else functools.cache(make)


@attrs.frozen(kw_only=True)
class HttpOptions:
    """Limits and habits of an `HttpClient`. Times in seconds."""

    connect_timeout: float = 2.0
    """For one connection, and for its TLS handshake. 0: only `request_timeout` counts."""
    request_timeout: float = 5.0
    """For all of a request. 0: no limit."""
    max_body: int = MAX_BODY
    """Bytes of an answer's body."""
    max_redirects: int = 0
    """Redirects that are followed; one more is an `HttpFailed`. 0: an answer that redirects is returned as it is."""
    leave_host: bool = True
    """Whether redirects to another host, or from https to http, are followed. If not, one is an `HttpFailed`."""
    max_idle: int = 0
    """Connections that are kept open between requests. 0: each request has a connection of its own."""
    idle_timeout: float = 4.0
    """A connection that was idle for longer is not used again: common servers close theirs after 5 s, and a request
    that crosses with that would fail."""
    tls: TlsFactory = attrs.field(default=client_context, converter=_cached)
    """Makes the context for https, in a thread; all clients with these options share it, as loading the authorities
    takes some 20 ms. With `TlsFiles` new connections use the context of the files as they are now."""
    tls_only: bool = False
    """Whether `ask` never sends a request without TLS: at a URL of http it asks for the port of https only, see
    `https_url`, and the request, with its token, is sent there."""
    budget: Budget | None = None
    bearer: Callable[[], str] | None = attrs.field(default=None, repr=False)
    """The token that `ask` shows to daemons. Nobody else gets it: `request` is for all kinds of servers."""


@attrs.frozen
class Answer:
    """A response of any status."""

    status: int
    headers: list[Header]
    """As they came, in their order."""
    body: bytes
    """As it came: not decoded, whatever its Content-Encoding."""

    def body_of_ok(self) -> bytes:
        """The body of a 200. Raises `HttpFailed` for any other status, with the beginning of the body."""
        if self.status != HTTPStatus.OK:
            raise HttpFailed(self.description())
        return self.body

    def description(self) -> str:
        """`got response 404 Not Found "..."`, with the beginning of the body, for errors."""
        phrase = f" {HTTPStatus(self.status).phrase}" if self.status in set(HTTPStatus) else ""
        shown = json.dumps(self.body[:MAX_QUOTED].decode("utf-8", "replace"), ensure_ascii=False)
        return f"got response {self.status}{phrase} {shown}"


class HttpClient:
    """Makes requests; any number of tasks may, in one event loop.

    With `max_idle` it keeps connections open, and `aclose` closes them in the end. Without, there is nothing to close.

    A client looks through all of its connections at every request. For many requests at the same time, several clients
    with a few connections each cost much less: 100 in one client took 2000 us of CPU each, not 400.
    """

    def __init__(self, options: HttpOptions) -> None:
        self.options = options
        self._clients: dict[bool, httpx.AsyncClient] = {}  # by whether it is for https
        self._https_of: dict[tuple[str, int | None], str] = {}  # see `tls_only`
        self._making = anyio.Lock()

    async def ask(
        self, url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, content: bytes = b""
    ) -> Answer:
        """Ask a daemon of NSQ, or a server that is asked like one. Raises `HttpFailed`.

        Sends the headers of the current version of the API, and the token of the options, with `headers` in addition
        or in their place. When the server wants TLS (a 403 with a port, see `https_url`), the request is made again
        over https, within the same time-out.
        """
        bearer = self.options.bearer
        own = {} if bearer is None else {"Authorization": f"Bearer {bearer()}"}
        all_headers = _api_headers({**own, **(headers or {})})
        with self._bounded():
            if self.options.tls_only and not url.lower().startswith("https:"):
                return await self._ask_over_tls(method, url, all_headers, content)
            answer = await self._read(await self._send(method, url, all_headers, content))
            if secure := https_url(url, answer):
                answer = await self._read(await self._send(method, secure, all_headers, content))
        return answer

    async def _ask_over_tls(self, method: str, url: str, headers: Sequence[Header], content: bytes) -> Answer:
        """Ask at the port of https that the daemon names at this one, where nothing else is sent."""
        import httpx

        place = _parsed(url)
        key = place.host, place.port
        if key not in self._https_of:
            ping = place.copy_with(raw_path=b"/ping", username="", password="")
            answer = await self._read(await self._send("GET", str(ping), _api_headers({}), b""))
            secure = https_url(url, answer)
            if not secure:
                raise HttpFailed(
                    "it names no port for https (--tls-required), and without TLS nothing is sent"
                )
            if len(self._https_of) >= _MAX_PORTS:
                self._https_of.clear()
            self._https_of[key] = secure
        known = httpx.URL(self._https_of[key])
        try:
            secure_url = str(place.copy_with(scheme="https", port=known.port))
            return await self._read(await self._send(method, secure_url, headers, content))
        except BaseException:
            self._https_of.pop(key, None)  # perhaps it has another port now
            raise

    async def request(
        self, method: str, url: str, headers: Sequence[Header] = (), content: bytes = b""
    ) -> Answer:
        """Make a request with these headers, and Host, Content-Length, and Authorization for the user in the URL.

        Raises `HttpFailed`.
        """
        with self._bounded():
            return await self._read(await self._send(method, url, headers, content))

    async def status_of(
        self, method: str, url: str, headers: Sequence[Header] = (), content: bytes = b""
    ) -> int:
        """Make a request, as `request` does, and return the status. Raises `HttpFailed`.

        The body is read, so that the connection can be used again, and dropped. One that is malformed, cut off, larger
        than `max_body` or late costs the connection, but is no failure.
        """
        with self._bounded() as scope:
            response = await self._send(method, url, headers, content)
            deadline, scope.deadline = scope.deadline, math.inf
            await self._drop(response, deadline)
        return response.status_code

    async def aclose(self) -> None:
        """Close all connections. No request may be under way."""
        while self._clients:
            await self._clients.popitem()[1].aclose()

    # Inside.

    @contextlib.contextmanager
    def _bounded(self) -> Iterator[anyio.CancelScope]:
        """The time-out for all of a request; and foreign errors as `HttpFailed`."""
        seconds = self.options.request_timeout
        ours = _OURS.set(True)
        try:
            with anyio.fail_after(seconds or None) as scope:
                yield scope
        except HttpFailed:
            raise
        except TimeoutError:
            raise HttpTimeout(f"no answer within {seconds:g} s") from None
        except Exception as error:
            if (failure := self._failure(error)) is None:
                raise
            raise failure from None  # the errors of httpx may quote headers and URLs
        finally:
            _OURS.reset(ours)

    def _failure(self, error: Exception) -> HttpFailed | None:
        import httpx

        if isinstance(error, httpx.ConnectTimeout):
            return HttpTimeout(f"no connection within {self.options.connect_timeout:g} s")
        if isinstance(error, httpx.LocalProtocolError):
            return HttpFailed("a header of the request is malformed")
        if isinstance(error, TlsConfigError):
            return HttpFailed(str(error))
        if isinstance(error, httpx.HTTPError | httpx.InvalidURL | OSError | ValueError):
            return HttpFailed(_reason(error))  # ValueError: a host that TLS cannot verify
        return None

    async def _send(self, method: str, url: str, headers: Sequence[Header], content: bytes) -> httpx.Response:
        """The response, redirects followed. Its body is still to be read or dropped."""
        client = await self._client(https=url[:6].lower() == "https:")
        import httpx  # loaded by now

        place = _parsed(url)
        _check(place)
        request = httpx.Request(method, place, headers=list(headers), content=content)
        redirects = 0
        while True:
            response = await self._response(client, request)
            following = response.next_request
            if following is None or not self.options.max_redirects:
                return response
            await self._drop(response)
            redirects += 1
            if redirects > self.options.max_redirects:
                raise HttpFailed(f"more than {self.options.max_redirects} redirects")
            try:
                _check(following.url)
            except InvalidUrl as error:
                raise HttpFailed(f"bad redirect: {error}") from None  # `InvalidUrl` would blame the caller
            if not self.options.leave_host and (
                following.url.host != place.host or (place.scheme, following.url.scheme) == ("https", "http")
            ):
                raise HttpFailed("a redirect to another host, or to http, is not followed")
            # The method is not the one of `following`, where a POST has become a GET after a 301 or 302, too.
            if response.status_code == HTTPStatus.SEE_OTHER:
                method, content = "GET", b""
            request = httpx.Request(method, following.url, headers=following.headers, content=content)
            client = await self._client(https=following.url.scheme == "https")

    async def _response(self, client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
        """The response to one request, on a new connection if the server has closed the old ones meanwhile."""
        try:
            return await self._sent(client, request)
        except BaseException:
            await _close_strays(client)
            raise

    async def _sent(self, client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
        import httpx

        opening = _Opening()
        request.extensions["trace"] = opening.note
        while True:
            try:
                return await client.send(request, stream=True)
            except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
                if opening.is_begun or not self.options.max_idle:
                    raise  # which ends the loop: each failure removes one of the connections that are kept
            except BaseException:
                await opening.give_up()
                raise

    async def _client(self, *, https: bool) -> httpx.AsyncClient:
        async with self._making:
            if https not in self._clients:
                self._clients[https] = await anyio.to_thread.run_sync(
                    _make_client, self.options, https, abandon_on_cancel=True
                )
            if https:
                _pool_of(self._clients[https])._ssl_context = self.options.tls()
            return self._clients[https]

    async def _read(self, response: httpx.Response) -> Answer:
        body, budget, refusal = bytearray(), self.options.budget, ""
        began = perf_counter()
        try:
            with anyio.CancelScope() as scope:
                async for piece in response.aiter_raw():
                    if perf_counter() > began + _SLICE_S:
                        # One read of the socket can bring 10,000 chunks of a byte, which httpx yields without a pause.
                        await anyio.lowlevel.cancel_shielded_checkpoint()  # shielded: see below
                        began = perf_counter()
                    # Leaving the loop would leave httpx's generators to the garbage collector, for which trio warns;
                    # a cancelled scope ends them from inside.
                    if len(body) + len(piece) > self.options.max_body:
                        refusal = f"response of more than {self.options.max_body} bytes"
                        scope.cancel()
                    elif budget is not None and not budget.take(len(piece)):
                        refusal = "too many responses are being read"
                        scope.cancel()
                    else:
                        body += piece
        finally:
            if budget is not None:
                budget.give(len(body))
            await response.aclose()
        if refusal:
            raise AnswerTooLarge(refusal)
        return Answer(response.status_code, response.headers.raw, bytes(body))

    async def _drop(self, response: httpx.Response, deadline: float = math.inf) -> None:
        """Read the body to its end, so that the connection can be used again; else it is closed."""
        import httpx

        with (
            anyio.CancelScope(deadline=deadline),
            contextlib.suppress(AnswerTooLarge, httpx.TransportError),
        ):
            await self._read(response)


def http_url(
    host: str, port: int, path: str, params: Mapping[str, str] | None = None, *, secure: bool = False
) -> str:
    """The URL of a path on a daemon, `params` as its query. `InvalidUrl` if `host` is more or less than a host.

    `host`: a name or an address; an IPv6 address without brackets. `path` is used as it is. `secure`: of https.
    """
    if not _HOST.fullmatch(host):
        raise InvalidUrl(f"not a host: {host!r}")
    query = f"?{urlencode(params)}" if params else ""
    scheme = "https" if secure else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{path}{query}"


def https_url(url: str, answer: Answer) -> str:
    """Where to ask instead when a daemon with `--tls-required` answers so: the same place over https.

    Such an answer is a 403 whose JSON has an `https_port`. Empty for any other answer, and for a URL of https, where a
    403 is final.
    """
    if answer.status != HTTPStatus.FORBIDDEN or url.lower().startswith("https:"):
        return ""
    if len(answer.body) > _MAX_REFUSAL:
        return ""
    try:
        fields = decode_json(answer.body)
    except DecodeError:
        return ""
    port = fields.get("https_port") if isinstance(fields, dict) else None
    if type(port) is not int or not 0 < port <= _HIGHEST_PORT:  # not isinstance: True is an int, too
        return ""
    import httpx

    return str(httpx.URL(url).copy_with(scheme="https", port=port))


@functools.cache
def _unused_tls() -> ssl.SSLContext:
    """For a client that makes no requests over https. Without one, httpx loads the authorities for each client."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _make_client(options: HttpOptions, https: bool) -> httpx.AsyncClient:
    from http.cookiejar import CookieJar, DefaultCookiePolicy  # with httpx: both are slow to import

    import httpx

    logging.getLogger("httpx").addFilter(_is_not_ours)

    return httpx.AsyncClient(
        verify=options.tls() if https else _unused_tls(),
        trust_env=False,
        timeout=httpx.Timeout(None, connect=options.connect_timeout or None),
        limits=httpx.Limits(
            max_keepalive_connections=options.max_idle, keepalive_expiry=options.idle_timeout
        ),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # which takes none
    )


@attrs.define(eq=False)
class _Opening:
    """The connection that is made for a request, if there is none that can be used again.

    httpcore forgets the socket of a request that is cancelled in the TLS handshake. It would stay open until the
    garbage collector finds it, at a server that hangs one for each request.
    """

    is_begun: bool = False
    _connected: httpcore.AsyncNetworkStream | None = None
    _in_handshake: httpcore.AsyncNetworkStream | None = None

    async def note(self, event: str, info: Mapping[str, Any]) -> None:
        """To be called with the events of httpcore."""
        if event.startswith("connection.connect_"):
            self.is_begun = True
        if event == "connection.connect_tcp.complete":
            self._connected = info["return_value"]
        elif event == "connection.start_tls.started":
            self._in_handshake = self._connected
        elif event == "connection.start_tls.complete":
            self._in_handshake = None

    async def give_up(self) -> None:
        """Close the connection if its handshake is not completed."""
        if self._in_handshake is not None:
            with anyio.CancelScope(shield=True):
                await self._in_handshake.aclose()


async def _close_strays(client: httpx.AsyncClient) -> None:
    """Close connections that no request has, and that wait for none.

    httpcore forgets a connection that is made at the very moment when its request is cancelled: on a machine that is so
    busy that requests run into their time-out, its sockets would stay open for good.
    """
    pool = _pool_of(client)
    taken = [request.connection for request in pool._requests]
    with anyio.CancelScope(shield=True):
        for connection in pool.connections:
            if connection not in taken and not connection.is_idle():
                await connection.aclose()


def _pool_of(client: httpx.AsyncClient) -> httpcore.AsyncConnectionPool:
    import httpcore
    import httpx

    transport = client._transport
    assert isinstance(transport, httpx.AsyncHTTPTransport)
    assert isinstance(transport._pool, httpcore.AsyncConnectionPool)
    return transport._pool


def _parsed(url: str) -> httpx.URL:
    """Raises `InvalidUrl`."""
    import httpx

    try:
        return httpx.URL(url)
    except httpx.InvalidURL:
        raise InvalidUrl("URL too long" if len(url) > MAX_URL else "not a valid URL") from None


def _check(url: httpx.URL) -> None:
    """What httpx does not check. Raises `InvalidUrl`."""
    if url.scheme not in ("http", "https"):
        raise InvalidUrl("not a URL of http or https")
    if not _HOST.fullmatch(url.raw_host.decode()) or not 0 <= (url.port or 0) <= _HIGHEST_PORT:
        raise InvalidUrl("no valid host or port in the URL")


def _api_headers(given: Mapping[str, str]) -> list[Header]:
    headers = {
        "accept": ("Accept", ACCEPT),
        "accept-encoding": ("Accept-Encoding", "identity"),
        "user-agent": ("User-Agent", f"nsqkit/{VERSION}"),
    }
    headers |= {name.lower(): (name, value) for name, value in given.items()}
    return [(name.encode(), value.encode()) for name, value in headers.values()]


def _reason(error: BaseException) -> str:
    """What tells most of an error and its causes (of a group, the first): `connection refused`, what TLS says."""
    cause: BaseException | None = error
    for _ in range(20):
        if isinstance(cause, ssl.SSLError):
            return str(cause)
        if isinstance(cause, OSError) and cause.errno and cause.errno > 0:
            return os.strerror(cause.errno).lower()
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        elif cause is not None:
            cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
