"""Parsing requests: llhttp (through httptools), with additional limits and checks. No socket, no clock.

`feed` takes received bytes, parses one slice of them and returns the rest. Complete requests are collected in `ready`.
Input that llhttp refuses (unknown methods, bare line feeds, Content-Length beside Transfer-Encoding, two lengths,
obsolete folding, spaces before the colon) sets `fault`: the bytes to answer with, after all requests in `ready`, before
the connection is closed. In a body there is a request already, which is answered instead with 500, also when the input
ends there.

Added checks: size of the head and number of headers; exactly one well-formed Host; versions 1.0 and 1.1 only (2.0 and
others are 505); no transfer coding but chunked (501), and none in 1.0; the limit on the body, which the route decides
when the head is complete; the budget of the daemon for bodies that arrive in pieces. Upgrades are ignored, as RFC 9110
allows.

llhttp is lenient in two places where the original is not: it skips line breaks before a request line, and it accepts
several blanks in one. It does not say where a request line begins, either. So all input that is not clearly one request
with a well-formed request line (pipelined requests, heads that come in pieces) is given to it line by line, and request
lines are checked before.

The slice limits how many requests one `feed` can produce: 1 KiB of pipelined heads are some 50 requests. llhttp cannot
be paused through httptools, so the input is cut instead.
"""

from __future__ import annotations

import enum
import re
from typing import Protocol

import httptools
from attrs import define, field

from nsqkit.service.http.limits import ByteBudget, Limits
from nsqkit.service.http.message import (
    BAD_REQUEST,
    NOT_IMPLEMENTED,
    VERSION_NOT_SUPPORTED,
    Handler,
    Header,
    Request,
    Response,
    Route,
    decode_path,
    error,
    render,
)

__all__ = ["Phase", "RequestParser", "Routes"]

_HEAD_SLICE = 1024
_CHUNKED_SLICE = 16 * 1024

# RFC 3986: a registered name, an IPv4 address or an IP literal in brackets, and perhaps a port. Which hosts are allowed
# is not the parser's business: see `guard`.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Za-z:._~%-]+\])(?::[0-9]*)?")
_ABSOLUTE = re.compile(rb"(?i:https?)://[^/?]*")

_REQUEST_LINE = re.compile(rb"[^ ]+ [^ ]+ HTTP/([0-9])\.[0-9]\r\n")
_UNSUPPORTED_VERSION = re.compile(rb"(?m)^[^ ]+ [^ ]+ HTTP/[2-9]")
_BLANK = 0x20
_END_OF_HEAD = b"\r\n\r\n"
_BEGUN_METHOD = re.compile(rb"[A-Z-]* ?\Z")

_TOO_LARGE = render(error(431, "HEADERS_TOO_BIG"), "1.1", keep_alive=False, head_only=False)
_EXPECTATION_FAILED = render(error(417, "EXPECTATION_FAILED"), "1.1", keep_alive=False, head_only=False)
_NO_ROOM = error(503, "SERVICE_UNAVAILABLE")
_BROKEN_OFF = error(500, "INTERNAL_ERROR")


def _no_room(request: Request) -> Response:
    return _NO_ROOM


def _broken_off(request: Request) -> Response:
    return _BROKEN_OFF


class Routes(Protocol):
    """The application as the parser sees it: it gives the route of a request when its head is complete."""

    def route(
        self, method: str, raw_path: bytes, path: str, query_string: bytes
    ) -> tuple[Route, dict[str, str]]:
        """The route, one that answers 404 if there is none, and the parameters in the path."""


class Phase(enum.Enum):
    """The position in a request after the bytes fed so far."""

    IDLE = "between requests"
    HEAD = "in a head"
    BODY = "in a body"
    DEAD = "after a fault: nothing more is read"


class _Stop(Exception):
    """Leaves llhttp in the middle of its input; the parser cannot be used after it."""


def _is_one_request(piece: bytes) -> bool:
    """Whether a piece begins with a well-formed request line, and contains no other. Most do: a fast test."""
    end = piece.find(b" HTTP/1.")
    return (
        end > 0
        and piece.find(b"  ", 0, end + 1) < 0
        and piece[0] > _BLANK
        and piece.find(b" HTTP/", end + 1) < 0
        and not _has_superfluous_line_breaks(piece)
    )


def _has_superfluous_line_breaks(piece: bytes) -> bool:
    """Whether more than the end of a head is at the end."""
    return piece[-1:] in (b"\n", b"\r") and len(piece) - len(piece.rstrip(b"\r\n")) > len(_END_OF_HEAD)


@define(slots=True, eq=False)
class RequestParser:
    """The requests of one connection."""

    routes: Routes
    limits: Limits
    budget: ByteBudget
    remote: str
    secure: bool = False
    common_name: str = ""
    """In the client's certificate."""

    ready: list[Request] = field(factory=list, init=False)
    """Complete requests, in order. The caller returns their `charged` bytes to the budget."""
    fault: bytes | None = field(default=None, init=False)
    wants_continue: bool = field(default=False, init=False)
    """The client waits for `100 Continue` before it sends the body."""

    _llhttp: httptools.HttpRequestParser = field(init=False)
    unfinished: bool = field(default=False, init=False)
    """Whether the input so far ends inside a request."""

    _dead: bool = field(default=False, init=False)
    _body_skipped: bool = field(default=False, init=False)
    """llhttp takes an upgrade for the end of HTTP and does not parse the body."""
    _replaying: bool = field(default=False, init=False)

    _line: bytes = field(default=b"", init=False)
    """The beginning of a request line that is not complete, with the line breaks before it."""
    _past_line: bool = field(default=False, init=False)
    """Whether the request line of the current request is complete. Known only if the input so far ends in a head."""
    after_body: bool = field(default=False, init=False)
    """Whether the last request was a POST, or had a body. Line breaks after it are skipped, as Go does it after a POST:
    old clients send them."""

    _target: bytes = field(default=b"", init=False)
    _headers: list[Header] = field(factory=list, init=False)
    _head_bytes: int = field(default=0, init=False)
    """Bytes fed since the beginning of the head, or since the last piece of the body."""
    _host: bytes | None = field(default=None, init=False)
    _good_host: bytes | None = field(default=None, init=False)
    _length: int = field(default=0, init=False)
    _chunked: bool = field(default=False, init=False)
    _expect: bytes | None = field(default=None, init=False)

    _request: Request | None = field(default=None, init=False)
    _body: bytes | bytearray = field(default=b"", init=False)
    _received: int = field(default=0, init=False)
    _body_limit: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._llhttp = httptools.HttpRequestParser(self)

    @property
    def phase(self) -> Phase:
        """The current phase."""
        if self._dead:
            return Phase.DEAD
        if not self.unfinished:
            return Phase.IDLE
        return Phase.HEAD if self._request is None else Phase.BODY

    @property
    def body_size(self) -> int:
        """Bytes of the current body: the announced length, or those received if that is more."""
        return max(self._length, self._received)

    @property
    def body_remaining(self) -> int:
        """Announced bytes of the current body that have not arrived."""
        return self._length - self._received if self._request is not None else 0

    def feed(self, data: bytes) -> bytes:
        """Parse a slice of `data`; returns the rest, to be fed when the requests in `ready` are answered."""
        if self._dead:
            return b""
        size = self._slice_bytes() if len(data) > _HEAD_SLICE else _HEAD_SLICE
        piece, rest = (data, b"") if len(data) <= size else (data[:size], data[size:])
        received = self._received
        try:
            if not self.unfinished and _is_one_request(piece):
                self._line = b""  # there may be line breaks that came before
                self._llhttp.feed_data(piece)
                if self.unfinished:
                    self._keep_begun_line(piece)
            else:
                self._feed_unusual(piece)
        except httptools.HttpParserUpgrade as upgrade:
            rest = piece[upgrade.args[0] :] + rest
            if self._body_skipped:
                self._replay_head()
        except httptools.HttpParserError:
            self.break_off()
            self._die(
                VERSION_NOT_SUPPORTED if _UNSUPPORTED_VERSION.search(self._line or piece) else BAD_REQUEST
            )
        if self.unfinished and not self._dead:
            self._check_unfinished(piece, progress=self._received > received)
        return b"" if self._dead else rest

    def _feed_unusual(self, piece: bytes) -> None:
        """Give llhttp a piece that begins inside a request, or has none or several, or a malformed request line."""
        if self._length - self._received >= len(piece) and self._request is not None:
            self._llhttp.feed_data(piece)  # of a body, and nothing else
        else:
            self._feed_lines(piece)

    def _feed_lines(self, piece: bytes) -> None:
        """Give a piece to llhttp line by line (a body that has a length at once), and check request lines."""
        at = 0
        while at < len(piece):
            end = at + self._length - self._received if self._length and self._request is not None else 0
            if end <= at:
                end = piece.find(b"\n", at) + 1 or len(piece)
            part = piece[at:end]
            if not self._past_line and self._request is None:
                self._continue_request_line(part)
            if self._dead:
                return
            try:
                self._llhttp.feed_data(part)
            except httptools.HttpParserUpgrade as upgrade:
                raise httptools.HttpParserUpgrade(at + upgrade.args[0]) from None
            at = end

    def _continue_request_line(self, part: bytes) -> None:
        """Add to the request line, and check it, its end when it is complete."""
        self._line += part
        line = self._line.lstrip(b"\r\n")
        if (len(line) < len(self._line) and not self.after_body) or line[:1] == b" ":
            self._die(BAD_REQUEST)
        elif line[-1:] == b"\n":
            self._line, self._past_line = b"", True
            match = _REQUEST_LINE.fullmatch(line)
            if match is None:
                self._die(BAD_REQUEST)
            elif match[1] > b"1":
                self._die(VERSION_NOT_SUPPORTED)

    def _keep_begun_line(self, piece: bytes) -> None:
        """After a piece that ends inside a request: keep its end if that is the beginning of a request line.

        A request may precede it, so its own bytes tell where it begins.
        """
        if self._request is not None or self._headers:
            self._past_line = True
            return
        if self._target:
            begun = self._llhttp.get_method() + b" " + self._target
            at = piece.rfind(begun)
            after = piece[at + len(begun) :]
        else:
            at = _BEGUN_METHOD.search(piece).start()  # type: ignore[union-attr]  # which always matches
            after = b""
        # Not found, or only in an earlier request: llhttp has skipped blanks.
        if (
            at < 0
            or _END_OF_HEAD in after
            or (not self.after_body and _has_superfluous_line_breaks(piece[:at]))
        ):
            self._die(BAD_REQUEST)
        self._past_line = b"\n" in after
        if not self._past_line:
            self._line = piece[at:]

    def break_off(self) -> None:
        """No more input: a request whose body is incomplete is added to `ready`, to be refused."""
        if self._request is not None and not self._dead:
            self._refuse(self._request, _broken_off)

    def close(self) -> None:
        """Drop an incomplete request and return its bytes; break the reference cycle with llhttp."""
        self._dead = True
        if self._request is not None:
            self.budget.give(self._request.charged)
            self._request = None
        self._llhttp = None  # type: ignore[assignment]

    def _replay_head(self) -> None:
        """Continue with a new llhttp that gets the framing of the body but no upgrade."""
        framing = b"Transfer-Encoding: chunked" if self._chunked else b"Content-Length: %d" % self._length
        self._body_skipped = False
        self._replaying = True
        self._llhttp = httptools.HttpRequestParser(self)
        self._llhttp.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)

    def _slice_bytes(self) -> int:
        if self._request is None:
            return _HEAD_SLICE
        return _CHUNKED_SLICE if self._chunked else max(self.body_remaining, 1)

    def _check_unfinished(self, piece: bytes, *, progress: bool) -> None:
        """After a piece that ends inside a request: check the limits on its size and on bytes without progress."""
        self._head_bytes = len(piece) if progress else self._head_bytes + len(piece)
        if self._head_bytes > self.limits.head_bytes and not progress:
            self._die(_TOO_LARGE)
        elif self._request is not None:
            self._charge(self._request)
        elif piece[-1:] == b"\n" and self._target and self._llhttp.get_http_version() == "0.0":
            # A request line without a version (HTTP/0.9), after which llhttp would wait for headers. Detected on the
            # first line of a connection only, which is enough for clients of another protocol.
            self._die(BAD_REQUEST)

    def _charge(self, request: Request) -> None:
        held = len(self._body)
        if held > request.charged:
            if self.budget.take(held - request.charged):
                request.charged = held
            else:
                self._refuse(request, _no_room)

    def _die(self, fault: bytes) -> None:
        """Parse no more. `fault` is the response, unless a request was refused, which has its own."""
        if not self._dead:
            self._dead = True
            self.fault = fault

    def _refuse(self, request: Request, refusal: Handler) -> None:
        """Have the request answered without its body, by `refusal`, or by its handler if the route uses no body. The
        rest of the body is not parsed."""
        if request.route.body_limit is not None:
            request.refusal = refusal
        request.body = b""
        request.keep_alive = False
        self.budget.give(request.charged)
        request.charged = 0
        self._body, self._request = b"", None
        self._dead = True
        self.wants_continue = False
        self.ready.append(request)

    # Called by llhttp.

    def on_message_begin(self) -> None:
        self.unfinished = True

    def on_url(self, url: bytes) -> None:
        if not self._replaying:
            self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._request is not None:
            return  # a trailer, or the head of a replay
        name = name.lower()
        value = value.rstrip(b" \t")
        self._headers.append((name, value))
        if name in _FRAMING:
            self._framing_header(name, value)

    def _framing_header(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            if self._host is not None:
                self._stop(BAD_REQUEST)
            self._host = value
        elif name == b"content-length":
            self._length = int(value)  # llhttp accepts only digits, and only one length
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked" or self._chunked:
                self._stop(NOT_IMPLEMENTED)
            self._chunked = True
        else:
            self._expect = value

    def on_headers_complete(self) -> None:
        if self._replaying:
            self._replaying = False
            return
        llhttp = self._llhttp
        version = llhttp.get_http_version()
        self._check_head(version)
        raw_path, _, query_string = self._target.partition(b"?")
        if raw_path[:1] != b"/":
            raw_path, query_string = self._unusual_target(raw_path, query_string)
        path = decode_path(raw_path)
        if path is None:
            self._stop(BAD_REQUEST)
        assert path is not None
        method = llhttp.get_method().decode()
        route, params = self.routes.route(method, raw_path, path, query_string)
        request = self._request = Request(
            method,
            self._target,
            path,
            query_string,
            self._headers,
            version,
            self.remote,
            self.secure,
            llhttp.should_keep_alive(),
            params,
            route,
        )
        if self.common_name:
            request.common_name = self.common_name
        if route.check is not None and (refusal := route.check(request)) is not None:
            route = request.route = route.refused(refusal)
        if self._length or self._chunked:
            self._expect_body(request, route)

    def _check_head(self, version: str) -> None:
        if version != "1.1" and (version != "1.0" or self._chunked):
            self._stop(VERSION_NOT_SUPPORTED if version[0] == "2" else BAD_REQUEST)
        host = self._host
        if host is None:
            if version == "1.1":
                self._stop(BAD_REQUEST)
        elif host != self._good_host:
            if _HOST.fullmatch(host) is None:
                self._stop(BAD_REQUEST)
            self._good_host = host
        if len(self._headers) > self.limits.header_count or self._head_size() > self.limits.head_bytes:
            self._stop(_TOO_LARGE)

    def _head_size(self) -> int:
        # A head that fits into a slice is within the limit, unless the limit is smaller than a slice.
        if self._head_bytes == 0 and self.limits.head_bytes >= _HEAD_SLICE:
            return 0
        return len(self._target) + sum(len(name) + len(value) + 4 for name, value in self._headers)

    def _unusual_target(self, raw_path: bytes, query_string: bytes) -> tuple[bytes, bytes]:
        """Path and query of a target that is not a path: `*` (OPTIONS), or an absolute URL, as for proxies."""
        if raw_path == b"*":
            return raw_path, query_string
        absolute = _ABSOLUTE.match(self._target)
        if absolute is None:
            self._stop(BAD_REQUEST)
        assert absolute is not None
        raw_path, _, query_string = self._target[absolute.end() :].partition(b"?")
        return raw_path or b"/", query_string

    def _expect_body(self, request: Request, route: Route) -> None:
        limit = route.body_limit
        self._body_limit = (
            self.limits.drain_bytes if limit is None else limit if isinstance(limit, int) else limit()
        )
        if self._length > self._body_limit:
            self._decline_body(request)
        expect = self._expect
        if expect is not None and request.version == "1.1":
            if expect.lower() != b"100-continue":
                self._stop(_EXPECTATION_FAILED)
            if limit is None:
                self._decline_body(request)
            self.wants_continue = True
        self._body_skipped = self._llhttp.should_upgrade()

    def _decline_body(self, request: Request) -> None:
        """Refuse a body that is too long, or that the client announces for a route without one."""
        self._refuse(request, request.route.too_big)
        raise _Stop

    def on_body(self, data: bytes) -> None:
        request = self._request
        assert request is not None
        self.wants_continue = False
        self._received += len(data)
        if self._received > self._body_limit:
            self._decline_body(request)
        if request.route.body_limit is None:
            return
        if not self._body:
            self._body = data
        else:
            # Not a list of pieces: chunks of two bytes would take 25 times the memory that is counted for them.
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += data

    def on_message_complete(self) -> None:
        if self._body_skipped:
            return
        request = self._request
        assert request is not None
        body = self._body
        request.body = body if isinstance(body, bytes) else bytes(body)
        self.ready.append(request)
        self.after_body = request.method == "POST" or self._received > 0
        self._request = None
        self._body = b""
        self._target = b""
        self._headers = []
        self._head_bytes = 0
        self._host = self._expect = None
        self._length = self._received = 0
        self._chunked = self.unfinished = self.wants_continue = self._past_line = False

    def _stop(self, fault: bytes) -> None:
        self._die(fault)
        raise _Stop


_FRAMING = frozenset([b"host", b"content-length", b"transfer-encoding", b"expect"])
