"""Graphite behind the console: a rate for the pages, and /render handed on.

/render is a plain reverse proxy. All headers go on in both directions, but for those that are about one connection
only, and those that each side's HTTP writes anew for what it really sends. Bodies come back as they are, packed or not.

What Graphite sends shows under the console's own address. A document of it therefore runs no script (a sandbox, in the
words of CSP), which could act on the cluster in the name of whoever looks; images and JSON are not concerned.
"""

from __future__ import annotations

import base64
from typing import Any, Final
from urllib.parse import unquote, urlencode, urlsplit

import msgspec

from nsqadmin.addresses import host_and_port
from nsqadmin.options import AdminOptions
from nsqadmin.upstream import Upstream, UpstreamError
from nsqkit.logging import get_logger
from nsqkit.service.http import HttpError, Request, Response, json_body, query
from nsqkit.service.http.message import Header

__all__ = ["Graphite"]

_log = get_logger(__name__)

NS_PER_SECOND = 1_000_000_000

_OF_ONE_CONNECTION: Final = frozenset(
    [b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"]
)
"""And what begins with `Proxy-`, and what Connection names."""
_WRITTEN_ANEW: Final = frozenset([b"content-length", b"date", b"expect"])
_SECURITY: Final[tuple[Header, ...]] = (
    (b"Content-Security-Policy", b"sandbox"),
    (b"X-Content-Type-Options", b"nosniff"),
)
"""Before Graphite's: of policies all are in force, of the other the first."""


class Graphite:
    """The handlers."""

    def __init__(self, options: AdminOptions, upstream: Upstream) -> None:
        self._options = options
        self._upstream = upstream

    async def rate(self, request: Request) -> Response:
        """GET /api/graphite?metric=rate&target=T: messages a second in the last whole interval of statsd."""
        params = query(request)
        if params.get("metric") != "rate":
            raise HttpError(400, "INVALID_ARG_METRIC")
        if "target" not in params:
            raise HttpError(400, "INVALID_ARG_TARGET")
        interval = self._options.statsd_interval // NS_PER_SECOND
        window = {
            "format": "json",
            "from": f"-{2 * interval}sec",
            "target": params["target"],
            "until": f"-{interval}sec",
        }
        try:
            body = await self._upstream.get_url(f"{self._options.graphite_url}/render?{urlencode(window)}")
            value = _first_value(body)
        except (UpstreamError, LookupError, TypeError, ValueError) as reason:
            _log.error("GRAPHITE: no rate of %s: %s", params["target"], reason)
            raise HttpError(500, "INTERNAL_ERROR") from reason
        return json_body({"rate": "N/A" if value < 0 else f"{value / interval:.2f}"})

    async def render(self, request: Request) -> Response:
        """GET /render: answered by Graphite, with the path and the query as they came."""
        url = urlsplit(self._options.graphite_url)
        headers = _handed_on(request.headers)
        _replace(headers, (b"X-Forwarded-For", _forwarded_for(request)))
        if url.username is not None:
            pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
            _replace(headers, (b"Authorization", b"Basic " + base64.b64encode(pair.encode())))
        query_string = request.query_string.decode("latin-1")
        target = f"/render?{query_string}" if query_string else "/render"
        place = url.netloc.rpartition("@")[2]
        try:
            answer = await self._upstream.forward(f"{url.scheme}://{place}{target}", headers)
        except UpstreamError as reason:
            _log.error("GRAPHITE: %s", reason)
            return Response(502, nsq=False)
        told = (*_SECURITY, *_handed_on(answer.headers))
        return Response(answer.status, answer.body, headers=told, nsq=False)


def _first_value(body: bytes) -> float:
    """The first data point of the first series."""
    series: Any = msgspec.json.decode(body)
    return float(series[0]["datapoints"][0][0])


def _handed_on(headers: list[Header]) -> list[Header]:
    """Those that are for more than the next hop."""
    connection = b",".join(value for name, value in headers if name.lower() == b"connection")
    named = {name.strip() for name in connection.lower().split(b",")}
    left_out = _OF_ONE_CONNECTION | _WRITTEN_ANEW | named
    return [
        (name, value)
        for name, value in headers
        if name.lower() not in left_out and not name.lower().startswith(b"proxy-")
    ]


def _replace(headers: list[Header], header: Header) -> None:
    headers[:] = [each for each in headers if each[0].lower() != header[0].lower()] + [header]


def _forwarded_for(request: Request) -> bytes:
    try:
        client = host_and_port(request.remote)[0]
    except ValueError:
        client = request.remote
    before = [value for name, value in request.headers if name == b"x-forwarded-for"]
    return b", ".join([*before, client.encode()])
