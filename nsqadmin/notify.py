"""The webhook: every action is reported to one URL, one report at a time, in the background.

Reports wait in a bounded queue. If it is full because the receiver hangs, new reports are dropped and logged. The
receiver cannot affect the action.
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

from nsqadmin.auth import Identity, Means, identity_of
from nsqadmin.upstream import Upstream, UpstreamError
from nsqkit.logging import get_logger
from nsqkit.redact import redacted
from nsqkit.service.http import Request

__all__ = ["Event", "Notifier"]

_log = get_logger("nsqadmin.notify")

_MAX_WAITING = 1_000


@attrs.frozen
class Event:
    """One action, and what it was done to."""

    action: str
    topic: str = ""
    channel: str = ""
    node: str = ""
    life: str = ""
    """Of the copy, if it was done to one."""
    message: str = ""
    """The id of the message, if it was done to one."""

    @property
    def names(self) -> dict[str, str]:
        """Of what it was done to, as the audit trail calls them."""
        names = {
            "topic": self.topic,
            "channel": self.channel,
            "node": self.node,
            "life": self.life,
            "id": self.message,
        }
        return {key: name for key, name in names.items() if name}

    def __str__(self) -> str:
        return f"{self.action} {' '.join(self.names.values())}"


class Notifier:
    """Sends reports to the URL of the options; without one, it does nothing."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._url = upstream.options.notification_http_endpoint
        self._send, self._receive = trio.open_memory_channel[dict[str, Any]](_MAX_WAITING if self._url else 0)

    def notify(self, request: Request, event: Event) -> None:
        """Report the action that this request caused."""
        if not self._url:
            return
        # Dropped rather than waited for: the user's action is done, and must not hang with the receiver.
        try:
            self._send.send_nowait(report(request, event, time.time()))
        except trio.WouldBlock:
            _log.error("NOTIFY: %s not reported: %d reports are waiting already", event, _MAX_WAITING)

    async def run(self) -> None:
        """Send the reports until cancelled."""
        async for waiting in self._receive:
            try:
                await self._upstream.send_json(self._url, waiting)
            except UpstreamError as error:
                subject = waiting.get("topic") or waiting.get("node")
                _log.error("NOTIFY: %s of %s not reported: %s", waiting["action"], subject, error)


def report(request: Request, event: Event, now: float) -> dict[str, Any]:
    """The JSON of a report. `now`: unix seconds."""
    fields = {
        "action": event.action,
        "topic": event.topic or None,
        "channel": event.channel or None,
        "node": event.node or None,
        "life": event.life or None,
        "message": event.message or None,
        "timestamp": math.floor(now),
        "user": _user(request, identity_of(request)) or None,
        "remote_ip": request.remote,
        "user_agent": _text(request.header(b"user-agent")),
        "url": _url(request),
        "via": socket.gethostname(),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _user(request: Request, identity: Identity) -> str:
    """The name of a user of the console; otherwise that of HTTP basic authentication, which a proxy may forward."""
    if identity.means in (Means.SESSION, Means.BASIC):
        return identity.name
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
    return redacted(f"{'https' if secure else 'http'}://{host}{target}")


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")
