"""The access log of the daemons' HTTP APIs."""

from __future__ import annotations

import logging

from nsqkit.http.message import Request
from nsqkit.http.routing import AccessLog
from nsqkit.options import format_duration

__all__ = ["access_log"]

_NS_PER_SECOND = 1_000_000_000


def access_log(logger: logging.Logger) -> AccessLog:
    """Leaves a line a response: `200 GET /ping (10.0.0.7:51234) 120.5µs`, the time from request's end to response."""

    def leave_line(request: Request, status: int, seconds: float) -> None:
        target = request.target.decode("utf-8", "backslashreplace")
        elapsed = format_duration(int(seconds * _NS_PER_SECOND))
        logger.info("%d %s %s (%s) %s", status, request.method, target, request.remote, elapsed)

    return leave_line
