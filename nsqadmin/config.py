"""GET and PUT /config/NAME: the options as they are now, and the two that can be changed while nsqadmin runs."""

from __future__ import annotations

import msgspec

from nsqadmin.access import check_config_client, check_same_site
from nsqadmin.addresses import host_and_port
from nsqadmin.console import Console
from nsqkit.http import HttpError, Request, Response, error, json_body, text
from nsqkit.logging import get_logger, set_level
from nsqkit.options import STRING, LogLevel, option_value

__all__ = ["MAX_BODY", "Config"]

_log = get_logger(__name__)

MAX_BODY = 1024 * 1024  # bytes


class Config:
    """The handlers, for one console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._setters = {
            "log_level": self._set_log_level,
            "nsqlookupd_http_addresses": self._set_lookupd_addresses,
        }

    def get(self, request: Request) -> Response:
        """The value of an option: strings as text, all else as JSON (durations in nanoseconds)."""
        check_config_client(self._console.options, request)
        return self._show(request.params["opt"])

    def put(self, request: Request) -> Response:
        """Set an option; the answer is its new value."""
        check_config_client(self._console.options, request)
        check_same_site(request)
        if not request.body:
            raise HttpError(413, "INVALID_VALUE")
        name = request.params["opt"]
        setter = self._setters.get(name)
        if setter is None:
            raise HttpError(400, "INVALID_OPTION")
        try:
            setter(request.body)
        except ValueError as reason:  # msgspec's errors are ValueErrors too
            raise HttpError(400, "INVALID_VALUE") from reason
        _log.info("HTTP: %s set by %s", name, request.remote)
        return self._show(name)

    def refuse_big(self, request: Request) -> Response:
        """A body of more than `MAX_BODY`."""
        check_config_client(self._console.options, request)
        return error(413, "INVALID_VALUE")

    def _show(self, name: str) -> Response:
        try:
            shown = option_value(self._console.options, name)
        except KeyError:
            raise HttpError(400, "INVALID_OPTION") from None
        return text(shown.value) if shown.kind is STRING else json_body(shown.value)

    def _set_log_level(self, body: bytes) -> None:
        level = LogLevel.parse(body.decode("ascii"))
        self._console.options.log_level = level
        set_level(level)

    def _set_lookupd_addresses(self, body: bytes) -> None:
        addresses = msgspec.json.decode(body, type=list[str] | None) or []
        for address in addresses:
            host_and_port(address)
        self._console.options.lookupd_http_addresses = addresses
        self._console.picture.poll_soon()
