"""GET and PUT /config/NAME: the present options, two of which can be changed at run time."""

from __future__ import annotations

from nsqadmin.access import check_config_client
from nsqadmin.addresses import host_and_port
from nsqadmin.console import Console
from nsqkit.logging import set_level
from nsqkit.service.http import Request, Response, error
from nsqkit.service.http import config as shared

__all__ = ["MAX_BODY", "ConfigHandlers"]

MAX_BODY = 1024 * 1024  # bytes


class ConfigHandlers:
    """The handlers, for one console; they check the client's address first."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._handlers = shared.Config(
            console.options,
            {"log_level": self._set_log_level, "nsqlookupd_http_addresses": self._set_lookupd_addresses},
        )

    def get(self, request: Request) -> Response:
        """GET: the value of an option."""
        check_config_client(self._console.options, request)
        return self._handlers.get(request)

    def put(self, request: Request) -> Response:
        """PUT: set an option; the response is its new value."""
        check_config_client(self._console.options, request)
        self._console.origins.check_same_site(request)
        return self._handlers.put(request)

    def refuse_big(self, request: Request) -> Response:
        """Answer a body of more than `MAX_BODY`."""
        check_config_client(self._console.options, request)
        return error(413, "INVALID_VALUE")

    def _set_log_level(self, body: bytes) -> None:
        level = shared.read_log_level(body)
        self._console.options.log_level = level
        set_level(level)

    def _set_lookupd_addresses(self, body: bytes) -> None:
        addresses = shared.read_addresses(body, self._console.options.lookupd_http_addresses)
        for address in addresses:
            host_and_port(address)
        self._console.options.lookupd_http_addresses = addresses
        self._console.poller.poll_soon()
