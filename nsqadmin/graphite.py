"""Graphite behind the console: a rate for the pages, and /render handed on."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

import msgspec

from nsqadmin.addresses import host_and_port
from nsqadmin.options import AdminOptions
from nsqadmin.upstream import Upstream, UpstreamError
from nsqkit.http import HttpError, Request, Response, json_body, query
from nsqkit.logging import get_logger

__all__ = ["Graphite"]

_log = get_logger(__name__)

NS_PER_SECOND = 1_000_000_000


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
        headers = {"X-Forwarded-For": _forwarded_for(request)}
        if host := request.header(b"host"):
            headers["Host"] = host.decode("latin-1")
        if url.username is not None:
            pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        query_string = request.query_string.decode("latin-1")
        target = f"/render?{query_string}" if query_string else "/render"
        place = url.netloc.rpartition("@")[2]
        try:
            status, kind, body = await self._upstream.forward(f"{url.scheme}://{place}{target}", headers)
        except UpstreamError as reason:
            _log.error("GRAPHITE: %s", reason)
            return Response(502, nsq=False)
        return Response(status, body, kind or None, nsq=False)


def _first_value(body: bytes) -> float:
    """The first data point of the first series."""
    series: Any = msgspec.json.decode(body)
    return float(series[0]["datapoints"][0][0])


def _forwarded_for(request: Request) -> str:
    try:
        client = host_and_port(request.remote)[0]
    except ValueError:
        client = request.remote
    before = request.header(b"x-forwarded-for")
    return f"{before.decode('latin-1')}, {client}" if before else client
