"""GET and PUT of `/config/NAME`: the options as they are now, and those that can be changed while the daemon runs.

Routes call the name `:opt`. Who may ask is for the daemon to check before.
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
    """The handlers, for the options of one daemon."""

    options: attrs.AttrsInstance
    setters: Mapping[str, Callable[[bytes], object]]
    """By name, what takes a request's body; `ValueError` when that is no value for the option."""

    def get(self, request: Request) -> Response:
        """The value of an option: strings as text, all else as JSON (durations in nanoseconds)."""
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
        """Set an option; the answer is its new value."""
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
    """The level of its word; `ValueError`."""
    return LogLevel.parse(body.decode("ascii"))


def read_addresses(body: bytes) -> list[str]:
    """A JSON list of strings, null for an empty one; `ValueError`, as msgspec's errors are."""
    return msgspec.json.decode(body, type=list[str] | None) or []
