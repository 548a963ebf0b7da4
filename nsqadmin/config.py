"""GET and PUT /config/NAME: the present options, two of which can be changed at run time."""

from __future__ import annotations

import ipaddress

from nsqadmin.addresses import host_and_port
from nsqadmin.console import Console
from nsqkit.logging import set_level
from nsqkit.service.http import HttpError, Request, Response, error
from nsqkit.service.http import config as shared

__all__ = ["MAX_BODY", "ConfigHandlers", "check_network"]

MAX_BODY = 1024 * 1024  # bytes


class ConfigHandlers:
    """The handlers, for one console; they check the client's address first. Who the client is, the gate has checked."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._handlers = shared.Config(
            console.options,
            {"log_level": self._set_log_level, "nsqlookupd_http_addresses": self._set_lookupd_addresses},
        )

    def get(self, request: Request) -> Response:
        """GET: the value of an option."""
        check_network(self._console.options.allow_config_from_cidr, request)
        return self._handlers.get(request)

    def put(self, request: Request) -> Response:
        """PUT: set an option; the response is its new value."""
        check_network(self._console.options.allow_config_from_cidr, request)
        return self._handlers.put(request)

    def refuse_big(self, request: Request) -> Response:
        """Answer a body of more than `MAX_BODY`."""
        check_network(self._console.options.allow_config_from_cidr, request)
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


def check_network(cidr: str, request: Request) -> None:
    """Raise `HttpError` 403 unless the client is in this network (empty: all are), and 400 if its address is unknown.

    For a client of a proxy on this machine the address of the connection says nothing; the addresses in X-Forwarded-For
    must be in the network, too. A client can forge these, but gains nothing: they can only forbid.
    """
    if not cidr:
        return
    network = ipaddress.ip_network(cidr, strict=False)
    try:
        address = ipaddress.ip_address(host_and_port(request.remote)[0])
    except ValueError:
        raise HttpError(400, "INVALID_REMOTE_ADDR") from None
    forwarded = [value for name, value in request.headers if name == b"x-forwarded-for"]
    try:
        others = [
            ipaddress.ip_address(each.decode().strip()) for each in b",".join(forwarded).split(b",") if each
        ]
    except ValueError:
        raise HttpError(403, "FORBIDDEN") from None
    if not all(each in network for each in (address, *others)):
        raise HttpError(403, "FORBIDDEN")
