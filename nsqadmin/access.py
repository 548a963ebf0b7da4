"""Access control: administrators, and clients of /config. Requests that other sites forge: see `origins`.

A console usually runs behind a proxy that authenticates users and passes their names in a header. Without a list of
administrators, every user is one. The header is trusted: clients that can reach the console directly can forge it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from nsqadmin.addresses import host_and_port
from nsqadmin.options import AdminOptions
from nsqkit.service.http import HttpError, Request

__all__ = ["check_admin", "check_config_client", "is_admin", "user_of"]

Headers = Iterable[tuple[bytes, bytes]]


def is_admin(options: AdminOptions, headers: Headers) -> bool:
    """Whether a request with these headers (names in lower case) may change the cluster."""
    return not options.admin_users or user_of(options, headers) in options.admin_users


def user_of(options: AdminOptions, headers: Headers) -> str:
    """The name of the user, as the proxy sent it; empty if there is none."""
    name = options.acl_http_header.lower().encode()
    values = [value for key, value in headers if key == name]
    # If there are two, one was sent by the client, and it is not known which.
    return values[0].decode("utf-8", "replace") if len(values) == 1 else ""


def check_admin(options: AdminOptions, request: Request) -> None:
    """Raise `HttpError` 403 unless the user is an administrator."""
    if not is_admin(options, request.headers):
        raise HttpError(403, "FORBIDDEN")


def check_config_client(options: AdminOptions, request: Request) -> None:
    """Raise `HttpError` 403 unless the client may use /config, and 400 if its address is unknown.

    Both the network and the list of administrators must allow it: /config shows secrets, and changes whom the console
    believes. For a client of a proxy on this machine the address of the connection says nothing; the addresses in
    X-Forwarded-For must be in the network, too. A client can forge these, but gains nothing: they can only forbid.
    """
    if options.allow_config_from_cidr:
        _check_network(options.allow_config_from_cidr, request)
    if not is_admin(options, request.headers):
        raise HttpError(403, "FORBIDDEN")


def _check_network(cidr: str, request: Request) -> None:
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
