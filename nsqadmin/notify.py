"""The webhook: every action is reported to one URL, one report after the other, in the background.

Reports wait in a queue; when it is full because the receiver hangs, the newest are dropped with a line in the log.
Nothing that the receiver does has an effect on the action.
"""

from __future__ import annotations

import base64
import binascii
import math
import socket
import time
from typing import Any

import attrs
import trio

from nsqadmin.upstream import Upstream, UpstreamError
from nsqkit.logging import get_logger
from nsqkit.service.http import Request

__all__ = ["Event", "Notifier"]

_log = get_logger("nsqadmin.notify")

_MOST_WAITING = 1_000


@attrs.frozen
class Event:
    """What was done to what."""

    action: str
    topic: str
    channel: str = ""
    node: str = ""

    def __str__(self) -> str:
        names = [name for name in (self.topic, self.channel, self.node) if name]
        return f"{self.action} {' '.join(names)}"


class Notifier:
    """Reports to the URL of the options; without one, to nobody."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._url = upstream.options.notification_http_endpoint
        self._send, self._receive = trio.open_memory_channel[dict[str, Any]](
            _MOST_WAITING if self._url else 0
        )

    def notify(self, request: Request, event: Event) -> None:
        """Report that this request did this."""
        if not self._url:
            return
        try:
            self._send.send_nowait(report(request, event, time.time()))
        except trio.WouldBlock:
            _log.error("NOTIFY: %s is not reported: %d reports wait already", event, _MOST_WAITING)

    async def run(self) -> None:
        """Send the reports, for ever."""
        async for waiting in self._receive:
            try:
                await self._upstream.send_json(self._url, waiting)
            except UpstreamError as error:
                _log.error(
                    "NOTIFY: %s of %s was not reported: %s", waiting["action"], waiting["topic"], error
                )


def report(request: Request, event: Event, now: float) -> dict[str, Any]:
    """What is sent. `now`: unix seconds."""
    fields = {
        "action": event.action,
        "topic": event.topic,
        "channel": event.channel or None,
        "node": event.node or None,
        "timestamp": math.floor(now),
        "user": _user(request) or None,
        "remote_ip": request.remote,
        "user_agent": _text(request.header(b"user-agent")),
        "url": _url(request),
        "via": socket.gethostname(),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _user(request: Request) -> str:
    """Of HTTP basic authentication, which a proxy may hand on."""
    scheme, _, value = (request.header(b"authorization") or b"").partition(b" ")
    if scheme.lower() != b"basic":
        return ""
    try:
        name, colon, _ = base64.b64decode(value, validate=True).partition(b":")
    except binascii.Error:
        return ""
    return _text(name) if colon else ""


def _url(request: Request) -> str:
    secure = request.secure or request.header(b"x-scheme") == b"https"
    host, target = _text(request.header(b"host")), _text(request.target)
    return f"{'https' if secure else 'http'}://{host}{target}"


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")
