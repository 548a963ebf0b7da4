"""Requests over HTTP/1.1 to daemons, registries, auth servers and webhooks, bounded in time and in bytes.

    client = HttpClient(HttpOptions(request_timeout=5.0))
    answer = await client.ask("http://127.0.0.1:4161/lookup?topic=orders")
    print(answer.status, answer.body_of_ok())

Rules:

- Everything that can go wrong is an `HttpFailed`. Its text says why, and never where: URLs may contain passwords and
  secrets, so the caller decides what of them is shown.
- `request_timeout` covers all of a request: connecting, redirects, the whole body.
- `max_body` counts bytes as they come. Nothing is decompressed, so that a small answer cannot become a large one.
- Proxies of the environment are not used, and cookies are not kept.
- Redirects are followed only if `max_redirects` says so, and then the method and the body stay: 303 alone turns into a
  GET. Browsers turn a POST that meets a 301 into a GET without its body; a message would be lost that way. Credentials
  are not passed on to another server.

This is the only module that knows the HTTP library below it, httpcore. It is imported with the first request, in a
thread: a daemon that makes none does not need it, and none waits for it at its start. Runs on trio and on asyncio.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import re
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote, unquote, urlencode, urljoin, urlsplit

import anyio
import anyio.to_thread
import attrs

from nsqkit.tls import TlsConfigError, client_context
from nsqkit.version import VERSION

if TYPE_CHECKING:
    import httpcore

__all__ = [
    "ACCEPT",
    "MAX_BODY",
    "Answer",
    "AnswerTooLarge",
    "Header",
    "HttpClient",
    "HttpFailed",
    "HttpOptions",
    "HttpTimeout",
    "InvalidUrl",
    "http_url",
    "https_port",
    "https_url",
]

ACCEPT: Final = "application/vnd.nsq; version=1.0"
"""The media type of the daemons' API."""
MAX_BODY: Final = 1 << 20
"""Bytes of an answer's body, unless the options say otherwise."""
MAX_URL: Final = 1 << 16
"""Characters."""
MAX_QUOTED: Final = 512
"""Bytes of an unwanted answer that its error quotes."""
_HIGHEST_PORT: Final = 65_535
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_HOST: Final = re.compile(r"[A-Za-z0-9._:%~-]+")
"""A name, an IPv4 or an IPv6 address, the latter without its brackets."""
_UNQUOTED: Final = "!#$%&'()*+,/:;=?@[\\]^`{|}~"
"""Punctuation that stays as it is in a path and a query, `%` of what is encoded already included."""

Header = tuple[bytes, bytes]


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
    max_idle: int = 0
    """Connections that are kept open between requests. 0: each request has a connection of its own."""
    idle_timeout: float = 4.0
    """A connection that was idle for longer is not used again: common servers close theirs after 5 s, and a request
    that crosses with that would fail."""
    tls: Callable[[], ssl.SSLContext] = client_context
    """Makes the context for https; called once, in a thread."""
    budget: Budget | None = None


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
        shown = json.dumps(self.body[:MAX_QUOTED].decode("utf-8", "replace"), ensure_ascii=False)
        return f"got response {_status_text(self.status)} {shown}"


class HttpClient:
    """Makes requests; any number of tasks may, in one event loop.

    With `max_idle` it keeps connections open, and `aclose` closes them in the end. Without, there is nothing to close.

    A client looks through all of its connections at every request. For many requests at the same time, several clients
    with a few connections each cost much less: 100 in one client took 2000 us of CPU each, not 400.
    """

    def __init__(self, options: HttpOptions) -> None:
        self.options = options
        self._pools: dict[str, httpcore.AsyncConnectionPool] = {}
        self._making = anyio.Lock()

    async def ask(
        self, url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, content: bytes = b""
    ) -> Answer:
        """Ask a daemon of NSQ, or a server that is asked like one. Raises `HttpFailed`.

        Sends the headers of the current version of the API, with `headers` in addition or in their place. When the
        server wants TLS (a 403 with a port, see `https_url`), the request is made again over https, within the same
        time-out.
        """
        all_headers = _api_headers(headers or {})
        with self._bounded() as scope:
            answer = await self._exchange(scope, method, url, all_headers, content)
            if secure := https_url(url, answer):
                answer = await self._exchange(scope, method, secure, all_headers, content)
        return answer

    async def request(
        self, method: str, url: str, headers: Sequence[Header] = (), content: bytes = b""
    ) -> Answer:
        """Make a request with these headers, and Host, Content-Length, and Authorization for the user in the URL.

        Raises `HttpFailed`.
        """
        with self._bounded() as scope:
            return await self._exchange(scope, method, url, headers, content)

    async def status_of(
        self, method: str, url: str, headers: Sequence[Header] = (), content: bytes = b""
    ) -> int:
        """Make a request, as `request` does, and return the status. Raises `HttpFailed`.

        The body is read, so that the connection can be used again, and dropped. One that is malformed, cut off, larger
        than `max_body` or late costs the connection, but is no failure.
        """
        with self._bounded() as scope:
            answer = await self._exchange(scope, method, url, headers, content, drop_body=True)
        return answer.status

    async def aclose(self) -> None:
        """Close all connections. No request may be under way."""
        while self._pools:
            await self._pools.popitem()[1].aclose()

    # Inside.

    @contextlib.contextmanager
    def _bounded(self) -> Iterator[anyio.CancelScope]:
        seconds = self.options.request_timeout
        try:
            with anyio.fail_after(seconds or None) as scope:
                yield scope
        except TimeoutError:
            raise HttpTimeout(f"no answer within {seconds:g} s") from None

    async def _exchange(
        self,
        scope: anyio.CancelScope,
        method: str,
        url: str,
        headers: Sequence[Header],
        content: bytes,
        *,
        drop_body: bool = False,
    ) -> Answer:
        """One request, and those that redirects make of it, in a scope whose deadline is for all of them."""
        place = _parse_url(url)
        redirects = 0
        while True:
            pool = await self._pool(place.scheme)
            request = pool.stream(
                method,
                place.for_httpcore(),
                headers=place.headers(headers),
                content=None if method == "GET" and not content else content,
                extensions={"timeout": {"connect": self.options.connect_timeout or None}},
            )
            with self._translated():
                async with request as response:
                    status = response.status
                    location = _location(status, response.headers) if self.options.max_redirects else None
                    if location is None and not drop_body:
                        return Answer(status, response.headers, await self._read(response))
                    deadline = scope.deadline
                    if location is None:
                        scope.deadline = math.inf
                    await self._drop(response, deadline)
            if location is None:
                return Answer(status, response.headers, b"")
            redirects += 1
            if redirects > self.options.max_redirects:
                raise HttpFailed(f"more than {self.options.max_redirects} redirects")
            url = urljoin(url, location)
            before, place = place, _parse_redirect(url)
            if not place.may_have_credentials_of(before):
                headers = [header for header in headers if header[0].lower() not in _FOR_ONE_SERVER]
            if status == HTTPStatus.SEE_OTHER:
                method, content = "GET", b""

    async def _pool(self, scheme: str) -> httpcore.AsyncConnectionPool:
        async with self._making:
            if scheme not in self._pools:
                self._pools[scheme] = await anyio.to_thread.run_sync(
                    self._make_pool, scheme, abandon_on_cancel=True
                )
            return self._pools[scheme]

    def _make_pool(self, scheme: str) -> httpcore.AsyncConnectionPool:
        import httpcore  # takes some 20 ms, as the authorities do that a context loads

        options = self.options
        try:
            context = options.tls() if scheme == "https" else None
        except TlsConfigError as error:
            raise HttpFailed(str(error)) from error
        except OSError as error:
            raise HttpFailed(_reason(error)) from error
        return httpcore.AsyncConnectionPool(
            context,
            max_connections=None,
            max_keepalive_connections=options.max_idle,
            keepalive_expiry=options.idle_timeout,
        )

    async def _read(self, response: httpcore.Response) -> bytes:
        body, budget, refusal = bytearray(), self.options.budget, ""
        try:
            with anyio.CancelScope() as scope:
                async for piece in response.aiter_stream():
                    # Leaving the loop would leave httpcore's generators to the garbage collector, for which trio
                    # warns; a cancelled scope ends them from inside.
                    if scope.cancel_called:
                        continue
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
        if refusal:
            raise AnswerTooLarge(refusal)
        return bytes(body)

    async def _drop(self, response: httpcore.Response, deadline: float) -> None:
        """Read the body to its end; where that is not possible, the connection will be closed."""
        import httpcore

        size = 0
        with (
            anyio.CancelScope(deadline=deadline) as scope,
            contextlib.suppress(httpcore.NetworkError, httpcore.ProtocolError),
        ):
            async for piece in response.aiter_stream():
                size += len(piece)
                if size > self.options.max_body:
                    scope.cancel()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Foreign errors as `HttpFailed`."""
        import httpcore

        try:
            yield
        except httpcore.ConnectTimeout:
            raise HttpTimeout(f"no connection within {self.options.connect_timeout:g} s") from None
        except httpcore.LocalProtocolError:
            raise HttpFailed("a header of the request is malformed") from None  # its text quotes the header
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError, ValueError) as error:
            # ValueError: a host that TLS cannot verify
            raise HttpFailed(_reason(error)) from error


def http_url(host: str, port: int, path: str, params: Mapping[str, str] | None = None) -> str:
    """The URL of a path on a daemon, `params` as its query. `InvalidUrl` if `host` is more or less than a host.

    `host`: a name or an address; an IPv6 address without brackets. `path` is used as it is.
    """
    if not _HOST.fullmatch(host):
        raise InvalidUrl(f"not a host: {host!r}")
    query = f"?{urlencode(params)}" if params else ""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{path}{query}"


def https_port(body: bytes) -> int:
    """The `https_port` in the body of a 403; 0 if there is none."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return 0
    port = fields.get("https_port") if isinstance(fields, dict) else None
    # Not isinstance: True is an int, too.
    return port if type(port) is int and 0 < port <= _HIGHEST_PORT else 0


def https_url(url: str, answer: Answer) -> str:
    """Where to ask instead when a daemon with `--tls-required` answers so: the same place over https.

    Such an answer is a 403 whose JSON has an `https_port`. Empty for any other answer, and for a URL of https, where a
    403 is final.
    """
    if answer.status != HTTPStatus.FORBIDDEN or url.lower().startswith("https:"):
        return ""
    if not (port := https_port(answer.body)):
        return ""
    parts = urlsplit(url)
    user, at, host_port = parts.netloc.rpartition("@")
    bare, colon, last = host_port.rpartition(":")
    host = bare if colon and last.isdigit() else host_port
    return parts._replace(scheme="https", netloc=f"{user}{at}{host}:{port}").geturl()


# --- URLs and headers


_FOR_ONE_SERVER: Final = (b"authorization", b"host")


@attrs.frozen
class _Place:
    """A URL, taken apart."""

    scheme: str
    host: str
    port: int
    target: bytes
    """Path and query, percent-encoded."""
    authorization: bytes
    """For the user in the URL; empty without one."""

    def for_httpcore(self) -> httpcore.URL:
        import httpcore

        return httpcore.URL(scheme=self.scheme, host=self.host, port=self.port, target=self.target)

    def headers(self, headers: Sequence[Header]) -> list[Header]:
        """Those of a request with these: Host unless it is given, and the URL's user instead of another one."""
        if self.authorization:
            others = [header for header in headers if header[0].lower() != b"authorization"]
            headers = [*others, (b"Authorization", self.authorization)]
        if any(name.lower() == b"host" for name, _ in headers):
            return list(headers)
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.port != _DEFAULT_PORTS[self.scheme]:
            host = f"{host}:{self.port}"
        return [(b"Host", host.encode()), *headers]

    def may_have_credentials_of(self, other: _Place) -> bool:
        """Whether it is the same server, or the same one over https, by the default ports."""
        mine, others = (self.scheme, self.port), (other.scheme, other.port)
        return self.host == other.host and (
            mine == others or (others, mine) == (("http", 80), ("https", 443))
        )


def _parse_url(url: str) -> _Place:
    if len(url) > MAX_URL:
        raise InvalidUrl(f"URL too long: more than {MAX_URL} characters")
    try:
        parts = urlsplit(url)
        scheme, port = parts.scheme, parts.port
        host = (parts.hostname or "").encode("idna").decode()
    except ValueError:
        raise InvalidUrl("not a valid URL") from None  # its text quotes the URL
    if scheme not in _DEFAULT_PORTS:
        raise InvalidUrl("not a URL of http or https")
    if not _HOST.fullmatch(host):
        raise InvalidUrl("no valid host in the URL")
    target = quote(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", safe=_UNQUOTED)
    authorization = b""
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = b"Basic " + base64.b64encode(user.encode())
    if port is None:
        port = _DEFAULT_PORTS[scheme]
    return _Place(scheme, host, port, target.encode(), authorization)


def _parse_redirect(url: str) -> _Place:
    try:
        return _parse_url(url)
    except InvalidUrl as error:
        raise HttpFailed(f"bad redirect: {error}") from None  # `InvalidUrl` would blame the caller


def _location(status: int, headers: Sequence[Header]) -> str | None:
    """Where a response redirects to; None if it does not."""
    if status not in _REDIRECTS:
        return None
    found = (value for name, value in headers if name.lower() == b"location")
    return next(found, b"").decode("utf-8", "replace") or None


def _api_headers(given: Mapping[str, str]) -> list[Header]:
    headers = {
        "accept": ("Accept", ACCEPT),
        "accept-encoding": ("Accept-Encoding", "identity"),
        "user-agent": ("User-Agent", f"nsqkit/{VERSION}"),
    }
    headers |= {name.lower(): (name, value) for name, value in given.items()}
    return [(name.encode(), value.encode()) for name, value in headers.values()]


# --- texts


def _status_text(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _reason(error: BaseException) -> str:
    """What tells most of an error and its causes: `connection refused`, what TLS says."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError):
            return str(cause)
        if isinstance(cause, OSError) and cause.errno and cause.errno > 0:
            return os.strerror(cause.errno).lower()
    return str(error) or type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it; of a group, the first."""
    for _ in range(20):
        if error is None:
            return
        yield error
        group = error if isinstance(error, BaseExceptionGroup) else None
        error = group.exceptions[0] if group else error.__cause__ or error.__context__
