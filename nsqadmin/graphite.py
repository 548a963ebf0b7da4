"""Graphite: a rate for the API, and /render as a reverse proxy.

The proxy forwards all headers in both directions, except the hop-by-hop ones and those that each side sets itself. It
leaves bodies as they are, compressed or not.

Graphite's responses have the console's own origin. A script in an HTML document of Graphite could therefore act on the
cluster with the rights of the user; the policy `sandbox` prevents that. Images and JSON are not affected.
"""

from __future__ import annotations

import base64
from typing import Any, Final
from urllib.parse import unquote, urlencode, urlsplit

from nsqadmin.addresses import host_and_port
from nsqadmin.auth import Means, identity_of
from nsqadmin.options import AdminOptions
from nsqadmin.upstream import Upstream, UpstreamError
from nsqkit.decoding import decode_json
from nsqkit.logging import get_logger
from nsqkit.options import SECOND
from nsqkit.service.http import HttpError, Request, Response, json_body, query
from nsqkit.service.http.message import Header

__all__ = ["GraphiteHandlers"]

_log = get_logger(__name__)


_HOP_BY_HOP: Final = frozenset(
    [b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"]
)
"""And those that begin with `Proxy-`, and those that Connection names."""
_SET_BY_EACH_SIDE: Final = frozenset([b"content-length", b"date", b"expect"])
_SECURITY: Final[tuple[Header, ...]] = (
    (b"Content-Security-Policy", b"sandbox"),
    (b"X-Content-Type-Options", b"nosniff"),
)
"""Before those of Graphite: all policies apply, but only the first of the other."""


class GraphiteHandlers:
    """The handlers of `/api/graphite` and `/render`."""

    def __init__(self, options: AdminOptions, upstream: Upstream) -> None:
        self._options = options
        self._upstream = upstream

    async def rate(self, request: Request) -> Response:
        """GET /api/graphite?metric=rate&target=T: messages a second in the last complete interval of statsd."""
        params = query(request)
        if params.get("metric") != "rate":
            raise HttpError(400, "INVALID_ARG_METRIC")
        if "target" not in params:
            raise HttpError(400, "INVALID_ARG_TARGET")
        # The interval before the last one: statsd may not have flushed the last one yet.
        interval = self._options.statsd_interval // SECOND
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
            _log.error("GRAPHITE: cannot get the rate of %s: %s", params["target"], reason)
            raise HttpError(500, "INTERNAL_ERROR") from reason
        return json_body({"rate": "N/A" if value < 0 else f"{value / interval:.2f}"})

    async def render(self, request: Request) -> Response:
        """GET /render: Graphite's response to the same path and query."""
        url = urlsplit(self._options.graphite_url)
        headers = _end_to_end(request.headers)
        if identity_of(request).means in (Means.SESSION, Means.BASIC):
            # Whoever has these is this user.
            headers = [each for each in headers if each[0] not in (b"cookie", b"authorization")]
        _replace(headers, (b"X-Forwarded-For", _forwarded_for(request)))
        if url.username is not None:
            pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
            _replace(headers, (b"Authorization", b"Basic " + base64.b64encode(pair.encode())))
        query_string = request.query_string.decode("latin-1")
        target = f"/render?{query_string}" if query_string else "/render"
        host = url.netloc.rpartition("@")[2]
        try:
            response = await self._upstream.forward(f"{url.scheme}://{host}{target}", headers)
        except UpstreamError as reason:
            _log.error("GRAPHITE: request failed: %s", reason)
            return Response(502, nsq=False)
        headers = [*_SECURITY, *_end_to_end(response.headers)]
        return Response(response.status, response.body, headers=tuple(headers), nsq=False)


def _first_value(body: bytes) -> float:
    """The first data point of the first series."""
    series: Any = decode_json(body)
    return float(series[0]["datapoints"][0][0])


def _end_to_end(headers: list[Header]) -> list[Header]:
    """The headers without those that are for the next hop only."""
    connection = b",".join(value for name, value in headers if name.lower() == b"connection")
    named = {name.strip() for name in connection.lower().split(b",")}
    excluded = _HOP_BY_HOP | _SET_BY_EACH_SIDE | named
    return [
        (name, value)
        for name, value in headers
        if name.lower() not in excluded and not name.lower().startswith(b"proxy-")
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
