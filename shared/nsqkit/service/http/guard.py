"""Which requests are refused before their handlers are called, and before their bodies are read.

Each daemon has one table of what its routes need (`nsqkit.access.Need`); a route that is not in it cannot be added.

**Browsers.** A page of another site can make a browser send requests to whatever the browser's machine reaches. So,
whatever the client may do otherwise, a request that changes something is refused if

1. `Sec-Fetch-Site` says that another site, or another host of the site, has made it;
2. `Origin` names another host than `Host` does, or a host that is not the daemon's own. By DNS rebinding, a page gets
   both headers to be the name of its own site, for which its name server gives the daemon's address.

Clients of NSQ send neither header. Reading is not refused for these, as a page cannot see the answers to requests that
go to another site; against DNS rebinding there is the list of allowed hosts, for all requests.

**Audit.** Each refusal is recorded, and each request of a route that changes something, but for publishing: the table
says which these are, so there can be no route that is not recorded.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from nsqkit.access import Access, Need, Refusal
from nsqkit.audit import AuditTrail
from nsqkit.logging import RateLimitedLogger, get_logger
from nsqkit.service.http.audit import HttpAudit, client_of
from nsqkit.service.http.hosts import OwnHosts, name_and_port, name_and_port_of_origin
from nsqkit.service.http.message import Check, HttpError, Request, Response, error, query

__all__ = ["Guard"]

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OF_BROWSERS: Final = frozenset({b"origin", b"sec-fetch-site"})
_LOOKED_AT: Final = _OF_BROWSERS | {b"host", b"authorization"}
_CHALLENGE: Final = (
    (b"WWW-Authenticate", b'Bearer realm="nsq"'),
    (b"WWW-Authenticate", b'Basic realm="nsq"'),
)

_FOREIGN: Final = error(403, "CROSS_SITE")
_WRONG_HOST: Final = error(403, "HOST_NOT_ALLOWED")
_AMBIGUOUS: Final = error(400, "INVALID_REQUEST")
_NO_TOKEN: Final = {refusal: error(401, refusal.name, _CHALLENGE) for refusal in Refusal}
_OUT_OF_SCOPE: Final = {
    need: error(403, f"SCOPE_REQUIRED_{'READ' if need is Need.FIND else need.name.partition('_')[0]}")
    for need in Need
}


def _each_alone(texts: Iterable[str]) -> list[str]:
    names = [name.strip() for text in texts for name in text.split(",")]
    return [name for name in names if name]


@attrs.define(eq=False)
class Guard:
    """The checks of one daemon's requests."""

    needs: Mapping[tuple[str, str], Need]
    """By method and path."""
    access: Access = attrs.field(factory=Access)
    allowed_hosts: Sequence[str] = attrs.field(default=(), converter=_each_alone)
    """If there are any, requests for other hosts are refused. A text may have several, with commas between them."""
    name: str = ""
    """Under which clients reach the daemon in any case."""
    trail: AuditTrail = attrs.field(factory=AuditTrail)
    verified: bool = True
    """Whether the names in client certificates are verified, for the audit trail."""
    audit: HttpAudit = attrs.field(init=False)
    _hosts: OwnHosts = attrs.field(init=False)
    _refusals: RateLimitedLogger = attrs.field(
        factory=lambda: RateLimitedLogger(get_logger("nsqkit.access")), init=False
    )

    def __attrs_post_init__(self) -> None:
        self._hosts = OwnHosts(self.allowed_hosts, self.name)
        self.audit = HttpAudit(self.trail, client_of(self.access, verified=self.verified))

    def records(self, method: str, path: str) -> bool:
        """Whether requests of a route are recorded. `ValueError` for an unknown route."""
        return self._need_of(method, path) is not Need.PUBLISH and method not in _READING

    def _need_of(self, method: str, path: str) -> Need:
        need = self.needs.get((method, path))
        if need is None:
            raise ValueError(f"{method} {path} is not in the table of what requests need")
        return need

    def check_of(self, method: str, path: str) -> Check | None:
        """The check of a route's requests; None, if none of them is ever refused. `ValueError` for an unknown route."""
        need = self._need_of(method, path)
        changes = method not in _READING
        open_to_all = self.access.anonymous.allow_all(need)
        if open_to_all and not self.allowed_hosts:
            return self._check_origin if changes else None

        def check(request: Request) -> Response | None:
            headers = {name: value for name, value in request.headers if name in _LOOKED_AT}
            if self.allowed_hosts and not self._is_allowed_host(headers.get(b"host", b"")):
                return self._refuse(request, _WRONG_HOST, "its host is not in --http-allowed-hosts")
            if changes and self._is_foreign(headers):
                return self._refuse_foreign(request)
            if sum(name == b"authorization" for name, _ in request.headers) > 1:
                return self._refuse(request, _AMBIGUOUS, "it has more than one Authorization")
            return None if open_to_all else self._without_scope(request, need, headers.get(b"authorization"))

        return check

    def _check_origin(self, request: Request) -> Response | None:
        """All that is left to check of a change that everybody may make. Nearly no client is a browser."""
        for name, _ in request.headers:
            if name in _OF_BROWSERS:
                return self._refuse_foreign(request) if self._is_foreign(dict(request.headers)) else None
        return None

    def _is_allowed_host(self, host: bytes) -> bool:
        return not host or self._hosts.has(*name_and_port(host, 80))

    def _is_foreign(self, headers: Mapping[bytes, bytes]) -> bool:
        site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
        if site is not None and site not in (b"same-origin", b"none"):
            return True
        if origin is None:
            return False
        name, port = name_and_port_of_origin(origin)
        if self._hosts.is_allowed(name, port):
            return False
        origin_host = origin.partition(b"://")[2].lower()
        return origin_host != headers.get(b"host", b"").lower() or not self._hosts.is_own(name)

    def _without_scope(self, request: Request, need: Need, authorization: bytes | None) -> Response | None:
        try:
            params = query(request)
        except HttpError as malformed:
            return error(malformed.status, malformed.code)
        denial = self.access.denial(need, params.get("topic", ""), params.get("channel", ""), authorization)
        if denial is None:
            return None
        if denial.token is None:
            return self._refuse(request, _NO_TOKEN[denial.why], denial.why.name.lower().replace("_", " "))
        return self._refuse(request, _OUT_OF_SCOPE[need], f"a scope is missing in token {denial.token.name}")

    def _refuse_foreign(self, request: Request) -> Response:
        return self._refuse(request, _FOREIGN, "a page of another site has made a browser send it")

    def _refuse(self, request: Request, response: Response, why: str) -> Response:
        self._refusals.log(
            time.monotonic(),
            "ACCESS: refused %s %s of %s: %s",
            request.method,
            request.path[:200],
            request.remote,
            why,
        )
        self.audit.refused(request, response)
        return response
