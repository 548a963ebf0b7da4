"""Who may do what: administrators, who may use /config, and requests that other sites made a browser send.

A console usually stands behind a proxy that signs people in and tells their names in a header; without a list of
administrators everybody is one. The header is believed as it comes: whoever can reach the console past the proxy can
write it.

A browser sends requests that another site's page wants sent, with whatever the proxy takes for a signed-in user.
Browsers say so: `Sec-Fetch-Site`, and the older ones `Origin`. What changes things is refused when one of them says
"another site"; a request without both is no browser's (curl, scripts) and passes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from nsqadmin.addresses import host_and_port
from nsqadmin.options import AdminOptions
from nsqkit.service.http import HttpError, Request

__all__ = ["check_admin", "check_config_client", "check_same_site", "is_admin", "user_of"]

Headers = Iterable[tuple[bytes, bytes]]


def is_admin(options: AdminOptions, headers: Headers) -> bool:
    """Whether a request with these headers (names in lower case) may change things."""
    return not options.admin_users or user_of(options, headers) in options.admin_users


def user_of(options: AdminOptions, headers: Headers) -> str:
    """Who is signed in, as the proxy in front says; empty for nobody."""
    name = options.acl_http_header.lower().encode()
    values = [value for key, value in headers if key == name]
    # Of two of them one is a client's own, and there is no telling which.
    return values[0].decode("utf-8", "replace") if len(values) == 1 else ""


def check_admin(options: AdminOptions, request: Request) -> None:
    """`HttpError` 403 for whoever is no administrator, and for a browser that another site sent here."""
    if not is_admin(options, request.headers):
        raise HttpError(403, "FORBIDDEN")
    check_same_site(request)


def check_same_site(request: Request) -> None:
    """`HttpError` 403 when a browser says that the page of another site sent this."""
    site = request.header(b"sec-fetch-site")
    if site is not None:
        if site not in (b"same-origin", b"none"):
            raise HttpError(403, "FORBIDDEN")
        return
    origin = request.header(b"origin")
    if origin is not None and not _same_host(origin, request.header(b"host") or b""):
        raise HttpError(403, "FORBIDDEN")


def _same_host(origin: bytes, host: bytes) -> bool:
    try:
        return urlsplit(origin.decode("ascii")).netloc.lower() == host.decode("ascii").lower() != ""
    except ValueError:
        return False


def check_config_client(options: AdminOptions, request: Request) -> None:
    """`HttpError` 403 for a client that may not use /config, 400 when there is no telling where it is."""
    if not options.allow_config_from_cidr:
        return
    try:
        address = ipaddress.ip_address(host_and_port(request.remote)[0])
    except ValueError:
        raise HttpError(400, "INVALID_REMOTE_ADDR") from None
    if address not in ipaddress.ip_network(options.allow_config_from_cidr, strict=False):
        raise HttpError(403, "FORBIDDEN")
