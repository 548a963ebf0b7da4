"""GET and PUT of `/config/NAME`: reading options, and changing those that can change while the daemon runs.

In the routes the name is the parameter `:opt`. The daemon checks permissions before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
import msgspec

from nsqkit.logging import get_logger
from nsqkit.options import FLOATS, STRING, LogLevel, option_value
from nsqkit.service.gojson import float_text
from nsqkit.service.http.message import HttpError, Request, Response, json_body, text

__all__ = ["Config", "read_addresses", "read_log_level"]

_log = get_logger(__name__)


@attrs.frozen
class Config:
    """The handlers for the options of one daemon."""

    options: attrs.AttrsInstance
    setters: Mapping[str, Callable[[bytes], object]]
    """Option -> function that sets it to the body of a request, and raises `ValueError` for a bad value."""

    def get(self, request: Request) -> Response:
        """The value of an option: strings as text, everything else as JSON (durations in nanoseconds)."""
        try:
            shown = option_value(self.options, request.params["opt"])
        except KeyError:
            raise HttpError(400, "INVALID_OPTION") from None
        if shown.kind is STRING:
            return text(shown.value)
        if shown.kind is FLOATS:
            return json_body([msgspec.Raw(float_text(number)) for number in shown.value])
        return json_body(shown.value)

    def put(self, request: Request) -> Response:
        """Set an option. The response has its new value."""
        if not request.body:
            raise HttpError(413, "INVALID_VALUE")
        name = request.params["opt"]
        if name not in self.setters:
            raise HttpError(400, "INVALID_OPTION")
        try:
            self.setters[name](request.body)
        except ValueError as reason:
            raise HttpError(400, "INVALID_VALUE") from reason
        _log.info("HTTP: %s set by %s", name, request.remote)
        return self.get(request)


def read_log_level(body: bytes) -> LogLevel:
    """The level for a word. `ValueError`."""
    return LogLevel.parse(body.decode("ascii"))


def read_addresses(body: bytes) -> list[str]:
    """A JSON list of strings; null is an empty one. `ValueError`, as the errors of msgspec are."""
    return msgspec.json.decode(body, type=list[str] | None) or []
