"""Which handler a request goes to, and what is said where there is none.

A route is a method and a path; a segment `:name` of the path is a parameter and takes any text but the empty
one. Where nothing fits, in this order:

1. the path, repaired, has a route for this method: a redirect there, the query kept. Repairs: a slash too
   many or too few at the end, `//`, `.` and `..`, the letters' case. 301 with a line of HTML for GET and
   HEAD, 307 without a body else.
2. OPTIONS on a path that has routes: 200 and `Allow`.
3. the path has routes for other methods only: 405 and `Allow`. HEAD is not GET, but a method of its own.
4. 404.

A handler is a function of the request. It returns a `Response`, or (an `async def` does) something to await
for one; a plain function that nearly always answers at once, and returns an awaitable when it cannot, costs
no task switch.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from attrs import define, field

from nsqkit.service.http.audit import HttpAudit
from nsqkit.service.http.guard import Guard
from nsqkit.service.http.message import (
    BODY_TOO_BIG,
    HTML,
    JSON,
    AccessLog,
    BatchHandler,
    BodyLimit,
    Exchange,
    Handler,
    Request,
    Response,
    Route,
    StreamHandler,
    error,
)

__all__ = ["AccessLog", "Exchange", "Handler", "Only", "Route", "Router", "StreamHandler"]


@define(slots=True, eq=False)
class _Path:
    """All routes of one path."""

    path: str
    routes: dict[str, Route] = field(factory=dict)
    segments: list[str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.segments = self.path.split("/")

    def match(self, path: str) -> dict[str, str] | None:
        """The parameters when `path` is of this pattern."""
        given = path.split("/")
        if len(given) != len(self.segments):
            return None
        params = {}
        for mine, theirs in zip(self.segments, given, strict=True):
            if mine[:1] == ":" and theirs:
                params[mine[1:]] = theirs
            elif mine != theirs:
                return None
        return params

    def match_any_case(self, path: str) -> str | None:
        """The path in the right letters when only their case was wrong; parameters stay as they are."""
        given = path.split("/")
        if len(given) != len(self.segments):
            return None
        right = []
        for mine, theirs in zip(self.segments, given, strict=True):
            if mine[:1] == ":" and theirs:
                right.append(theirs)
            elif mine.lower() == theirs.lower():
                right.append(mine)
            else:
                return None
        return "/".join(right)

    def allow(self) -> str:
        """The value of `Allow`."""
        return ", ".join(sorted({*self.routes, "OPTIONS"}))


@define(slots=True, eq=False)
class Router:
    """The routes of one API."""

    access_log: AccessLog | None = None
    """Called for every response but those of quiet routes."""
    not_found: Handler = field(default=lambda _: error(404, "NOT_FOUND"))
    """Answers requests for paths that have no routes."""
    guard: Guard | None = None
    """Refuses requests; None: there is nothing to protect."""

    _static: dict[str, _Path] = field(factory=dict, init=False)
    _patterns: list[_Path] = field(factory=list, init=False)
    _direct: dict[bytes, dict[str, tuple[Route, dict[str, str]]]] = field(factory=dict, init=False)
    """The same as `_static`, by the bytes of the request line: the way of nearly every request."""

    def add(
        self,
        method: str,
        path: str,
        handler: Handler,
        *,
        body_limit: BodyLimit = None,
        too_big: Response | Handler = BODY_TOO_BIG,
        batch: BatchHandler | None = None,
        quiet: bool = False,
    ) -> None:
        """Register a handler, what answers several requests at once, if anything does, and what answers a body over the
        limit; a `quiet` one is not in the access log.

        Raises ValueError when the method and path have a handler already, or are unknown to the guard.
        """
        route = Route(
            handler=handler,
            body_limit=body_limit,
            too_big=_always(too_big) if isinstance(too_big, Response) else too_big,
            batch=batch,
            access_log=None if quiet else self.access_log,
        )
        self._add_route(method, path, route)

    def add_stream(self, method: str, path: str, handler: StreamHandler) -> None:
        """Register a handler that writes its response piece by piece. ValueError as for `add`."""
        self._add_route(method, path, Route(handler=_no_handler, stream=handler, access_log=self.access_log))

    def _add_route(self, method: str, path: str, route: Route) -> None:
        entry = self._entry(path)
        if method in entry.routes:
            raise ValueError(f"{method} {path} has a handler already")
        if self.guard is not None:
            route.check = self.guard.check_of(method, path)
            if self.guard.records(method, path):
                if route.stream is not None or route.batch is not None:
                    raise ValueError(f"{method} {path} is recorded, so it must have a handler only")
                route.handler = self.guard.audit.of_a_change(route.handler)
        entry.routes[method] = route
        if path in self._static:
            self._direct.setdefault(path.encode(), {})[method] = route, {}

    def _entry(self, path: str) -> _Path:
        if not path.startswith("/"):
            raise ValueError(f"a path begins with a slash: {path!r}")
        if "/:" not in path:
            return self._static.setdefault(path, _Path(path))
        for entry in self._patterns:
            if entry.path == path:
                return entry
        self._patterns.append(_Path(path))
        return self._patterns[-1]

    def routes(self) -> Iterator[tuple[str, str]]:
        """Method and path of every route, in the order of the paths' registration."""
        for entry in (*self._static.values(), *self._patterns):
            for method in entry.routes:
                yield method, entry.path

    def route(
        self, method: str, raw_path: bytes, path: str, query_string: bytes
    ) -> tuple[Route, dict[str, str]]:
        """The route of a request; one that answers with an error or a redirect where none was registered."""
        direct = self._direct.get(raw_path)
        if direct is not None and method in direct:
            return direct[method]
        found = self._find(path)
        if found is not None and method in found[0].routes:
            return found[0].routes[method], found[1]
        missing = self._missing(method, path, query_string, found[0] if found else None)
        handler = self.not_found if missing is None else _always(missing)
        return Route(handler=handler, access_log=self.access_log), {}

    def _find(self, path: str) -> tuple[_Path, dict[str, str]] | None:
        entry = self._static.get(path)
        if entry is not None:
            return entry, {}
        for pattern in self._patterns:
            params = pattern.match(path)
            if params is not None:
                return pattern, params
        return None

    def _missing(self, method: str, path: str, query_string: bytes, entry: _Path | None) -> Response | None:
        """What is answered without a route; None for a path that nothing is at."""
        right = self._repair(method, path)
        if right is not None:
            return _redirect(method, right, query_string)
        if method == "OPTIONS" and path == "*":
            return Response(200, nsq=False)
        if entry is None:
            return None
        allow = (b"Allow", entry.allow().encode())
        if method == "OPTIONS":
            return Response(200, headers=(allow,), nsq=False)
        return error(405, "METHOD_NOT_ALLOWED", headers=(allow,))

    def _repair(self, method: str, path: str) -> str | None:
        """The path that was meant, when this method has a route there."""
        if method == "CONNECT" or path in ("/", "*"):
            return None
        other = _other_slash(path)
        found = self._find(other)
        if found is not None and method in found[0].routes:
            return other
        clean = _clean(path)
        for candidate in (clean, _other_slash(clean)):
            for entry in (*self._static.values(), *self._patterns):
                right = entry.match_any_case(candidate) if method in entry.routes else None
                if right is not None:
                    return right
        return None


class Only:
    """An application with one handler for every request, without a line in the access log."""

    def __init__(self, handler: Handler) -> None:
        self._route = Route(handler=handler)

    def route(
        self,
        method: str,
        raw_path: bytes,
        path: str,
        query_string: bytes,
    ) -> tuple[Route, dict[str, str]]:
        """The one route."""
        return self._route, {}


def only_over_tls(https_port: int, audit: HttpAudit) -> Only:
    """The application of a plain port where TLS is required: it says where, 0 for nowhere. `audit`: is told."""
    # With the original's spaces, as clients compare the text.
    response = Response(403, b'{"message": "TLS_REQUIRED", "https_port": %d}' % max(https_port, 0), JSON)
    return Only(audit.of_a_look(lambda _request: response))


def _always(response: Response) -> Handler:
    return lambda _request: response


def _no_handler(request: Request) -> Response:
    raise AssertionError(f"{request.path} is answered piece by piece")


def _other_slash(path: str) -> str:
    return path[:-1] if len(path) > 1 and path.endswith("/") else path + "/"


def _clean(path: str) -> str:
    """The path without empty, `.` and `..` segments; a slash at the end stays."""
    segments: list[str] = []
    parts = path.split("/")
    for part in parts:
        if part == "..":
            del segments[-1:]
        elif part not in ("", "."):
            segments.append(part)
    slash = "/" if segments and parts[-1] in ("", ".") else ""
    return "/" + "/".join(segments) + slash


def _redirect(method: str, path: str, query_string: bytes) -> Response:
    location = quote(path, safe="$&+,/:;=@-_.~").encode()
    if query_string:
        location += b"?" + query_string
    headers = ((b"Location", location),)
    if method not in ("GET", "HEAD"):
        return Response(307, headers=headers, nsq=False)
    link = location
    for raw, escaped in (
        (b"&", b"&amp;"),
        (b"<", b"&lt;"),
        (b">", b"&gt;"),
        (b'"', b"&#34;"),
        (b"'", b"&#39;"),
    ):
        link = link.replace(raw, escaped)
    return Response(301, b'<a href="%b">Moved Permanently</a>.\n\n' % link, HTML, headers, nsq=False)
