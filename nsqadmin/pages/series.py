"""The numbers of the charts as JSON: `{"at":[unix seconds],"lines":{"in":[value or null]}}`, oldest first.

Rates are messages a second, those of time-outs and requeues messages a minute.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from nsqadmin.cluster.history import History, Kind, Series
from nsqadmin.pages.spans import ChartSpan, chosen_span
from nsqadmin.pages.visit import query_of
from nsqkit.http import Request, Response

__all__ = ["series_response"]

_LINES = {
    "in": (Kind.IN_RATE, 1.0),
    "out": (Kind.OUT_RATE, 1.0),
    "depth": (Kind.DEPTH, 1.0),
    "in_flight": (Kind.IN_FLIGHT, 1.0),
    "timeouts": (Kind.TIMEOUT_RATE, 60.0),
    "requeues": (Kind.REQUEUE_RATE, 60.0),
}


def series_response(history: History, request: Request) -> Response:
    """GET /series: the history of what the query names (`topic`, `channel`, `span`). The unknown has no points."""
    params = query_of(request)
    span = chosen_span(params)
    topic, channel = params.get("topic", ""), params.get("channel", "")
    kept = {name: history.series(kind, topic, channel, span.source) for name, (kind, _) in _LINES.items()}
    at = _times(kept, span)
    lines = {name: _values(series, at, _LINES[name][1]) for name, series in kept.items()}
    body = msgspec.json.encode({"at": at, "lines": lines})
    return Response(200, body, b"application/json", ((b"Cache-Control", b"no-store"),), nsq=False)


def _times(kept: Mapping[str, Series], span: ChartSpan) -> list[float]:
    times = max((series.times for series in kept.values()), key=len)
    start = times[-1] - span.seconds if times else 0.0
    return [time for time in times if time >= start]


def _values(series: Series, at: list[float], factor: float) -> list[float | None]:
    """The values at these times; None where there is none."""
    known = dict(zip(series.times, series.values, strict=True))
    values = (known.get(time) for time in at)
    return [
        None if value is None or math.isnan(value) else round(value * factor, 3) if value else 0
        for value in values
    ]
