"""GET and PUT /config/NAME: the options as they are now, and the two that can be changed while nsqd runs."""

from __future__ import annotations

import msgspec

from nsqd.http.context import Daemon
from nsqd.http.gojson import go_float
from nsqkit.http import HttpError, Request, Response, json_body, text
from nsqkit.logging import get_logger
from nsqkit.options import FLOATS, STRING, LogLevel, option_value

__all__ = ["Config"]

_log = get_logger(__name__)


class Config:
    """The handlers, for one daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._setters = {
            "log_level": self._set_log_level,
            "nsqlookupd_tcp_addresses": self._set_lookupd_addresses,
        }

    def get(self, request: Request) -> Response:
        """The value of an option: strings as text, all else as JSON (durations in nanoseconds)."""
        return self._show(request.params["name"])

    def put(self, request: Request) -> Response:
        """Set an option; the answer is its new value."""
        if not request.body:
            raise HttpError(413, "INVALID_VALUE")
        name = request.params["name"]
        setter = self._setters.get(name)
        if setter is None:
            raise HttpError(400, "INVALID_OPTION")
        try:
            setter(request.body)
        except ValueError as reason:  # msgspec's errors are ValueErrors too
            raise HttpError(400, "INVALID_VALUE") from reason
        _log.info("HTTP: %s set by %s", name, request.remote)
        return self._show(name)

    def _show(self, name: str) -> Response:
        try:
            shown = option_value(self._daemon.options, name)
        except KeyError:
            raise HttpError(400, "INVALID_OPTION") from None
        if shown.kind is STRING:
            return text(shown.value)
        if shown.kind is FLOATS:
            return json_body([go_float(number) for number in shown.value])
        return json_body(shown.value)

    def _set_log_level(self, body: bytes) -> None:
        self._daemon.set_log_level(LogLevel.parse(body.decode("ascii")))

    def _set_lookupd_addresses(self, body: bytes) -> None:
        addresses = msgspec.json.decode(body, type=list[str] | None)
        self._daemon.set_lookupd_addresses(addresses or [])
