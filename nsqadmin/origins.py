"""Requests that a page of another site makes a browser send: what tells them from those of the console's own pages.

**Host.** With DNS rebinding, a site gives its own name the address of the console: for the browser, the console is then
that site, and it may read and do everything. Only `Host` tells. A name that is not one of the console's is refused

- everywhere, if `--allowed-host` lists the names;
- otherwise where the console listens on a loopback address, if the port is the console's own: the browser is connected
  directly then, and no other machine has a name for that address. A proxy has another port, and passes on whatever name
  it has.

IP addresses, `localhost` and the name of the machine are always its own.

**Cross-site request forgery.** A page of another site can make a browser send requests with the user's credentials for
the proxy. A change must come from a page of the console. In this order:

1. `Sec-Fetch-Site`, which browsers send to https and localhost, decides.
2. A request without `Origin` is not of a browser (curl, scripts) and is accepted.
3. `Origin` names the host in `Host`, or one in `--allowed-host`.
4. The request has the token that is in the console's pages. No other site can read a page, nor send this header without
   being allowed to. A session has a token of its own, which no other user knows. This is for proxies that send another
   `Host`; the X-Forwarded headers prove nothing.
"""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

import attrs

from nsqadmin.addresses import host_and_port
from nsqadmin.options import AdminOptions
from nsqkit.logging import RateLimitedLogger, get_logger
from nsqkit.service.http import HttpError, Request
from nsqkit.service.http.hosts import OwnHosts, name_and_port, name_and_port_of_origin
from nsqkit.service.listeners import BoundAddress

__all__ = ["TOKEN_HEADER", "Origins"]

TOKEN_HEADER: Final = b"x-console-token"


@attrs.define(eq=False)
class Origins:
    """The names of one console, and the checks of requests."""

    options: AdminOptions
    token: str = attrs.field(factory=lambda: secrets.token_urlsafe(24), repr=False)
    """In the pages of those who have no session; another one after each start."""
    _loopback_ports: set[int] = attrs.field(factory=set, init=False)
    _hosts: OwnHosts = attrs.field(init=False)
    _refusals: RateLimitedLogger = attrs.field(
        factory=lambda: RateLimitedLogger(get_logger("nsqadmin.origins")), init=False
    )

    def __attrs_post_init__(self) -> None:
        self._hosts = OwnHosts(self.options.allowed_hosts)

    def listens_on(self, bound: Iterable[BoundAddress]) -> None:
        """Tell the addresses of the listeners."""
        for each in bound:
            if each.port > 0 and ipaddress.ip_address(host_and_port(each.text)[0]).is_loopback:
                self._loopback_ports.add(each.port)

    def check_host(self, request: Request) -> None:
        """Raise `HttpError` 403 for a host that is not this console."""
        host = request.header(b"host")
        if host is None or not (self.options.allowed_hosts or self._loopback_ports):
            return
        name, port = name_and_port(host, 443 if request.secure else 80)
        if self._hosts.has(name, port):
            return
        if self.options.allowed_hosts or port in self._loopback_ports:
            self._refusals.log(
                time.monotonic(),
                "HTTP: refused a request of %s for host %r; if this is a name of the console, add --allowed-host",
                request.remote,
                host[:200],
            )
            raise HttpError(403, "HOST_NOT_ALLOWED")

    def check_same_site(self, request: Request, session_token: str = "", *, in_form: str = "") -> None:
        """Raise `HttpError` 403 unless the request may come from a page of the console, or is not of a browser.

        `session_token`: that of its session, which has another one in its pages. `in_form`: what a form sends, which
        cannot send the header.
        """
        site = request.header(b"sec-fetch-site")
        if site is not None:
            if site not in (b"same-origin", b"none"):
                raise HttpError(403, "FORBIDDEN")
            return
        origin = request.header(b"origin")
        if origin is None or self._is_own_origin(origin, request.header(b"host") or b""):
            return
        shown = request.header(TOKEN_HEADER) or in_form.encode()
        if not secrets.compare_digest(shown, (session_token or self.token).encode()):
            raise HttpError(403, "FORBIDDEN")

    def _is_own_origin(self, origin: bytes, host: bytes) -> bool:
        try:
            url = urlsplit(origin.decode("ascii"))
            if url.netloc.lower() == host.decode("ascii").lower() != "":
                return True
        except ValueError:
            return False
        return self._hosts.is_allowed(*name_and_port_of_origin(origin))
