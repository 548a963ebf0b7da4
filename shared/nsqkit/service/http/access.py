"""The access log of the HTTP APIs.

One line for each response, at level INFO; at DEBUG for those to a console, which asks all daemons every few seconds.
"""

from __future__ import annotations

import logging
from typing import Final

from nsqkit.options import SECOND, format_duration
from nsqkit.service.http.message import AccessLog, Request

__all__ = ["CONSOLE", "access_log"]

CONSOLE: Final = "nsqadmin/"
"""Beginning of the User-Agent of consoles."""

_BAD_REQUEST = 400


def access_log(logger: logging.Logger) -> AccessLog:
    """Logs `200 GET /ping (10.0.0.7:51234) 120.5µs`, with the time from the end of the request to the response."""

    def leave_line(request: Request, status: int, seconds: float) -> None:
        target = request.target.decode("utf-8", "backslashreplace")
        elapsed = format_duration(int(seconds * SECOND))
        level = logging.DEBUG if status < _BAD_REQUEST and _is_look_of_console(request) else logging.INFO
        logger.log(level, "%d %s %s (%s) %s", status, request.method, target, request.remote, elapsed)

    return leave_line


def _is_look_of_console(request: Request) -> bool:
    agent = request.header(b"user-agent") or b""
    return request.method == "GET" and agent.startswith(CONSOLE.encode())
