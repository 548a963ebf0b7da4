"""Walks over the routes of a daemon: what becomes of a request, without any handler being called."""

from __future__ import annotations

from nsqkit.service.http import ByteBudget, Limits, Response, Router
from nsqkit.service.http.parser import RequestParser
from tests.nsqkit.access.credentials import CHANNEL, MAY, SCOPES, STRANGERS, TOPIC, Credentials

QUERY = f"topic={TOPIC}&channel={CHANNEL}"


def refusal_of(router: Router, method: str, path: str, headers: str = "") -> Response | None:
    """What answers the request instead of its handler; None: its handler would be called."""
    target = f"{path.replace(':opt', 'id')}?{QUERY}"
    head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:4151\r\n{headers}Content-Length: 0\r\n\r\n"
    parser = RequestParser(router, Limits(), ByteBudget(), "10.0.0.7:5000")
    assert parser.feed(head.encode()) == b""
    (request,) = parser.ready
    direct, _ = router.route(method, request.path.encode(), request.path, b"")
    if request.route is direct:
        return None
    response = request.route.handler(request)
    assert isinstance(response, Response)
    return response


def assert_needs(router: Router, method: str, path: str, credentials: Credentials, need: object) -> None:
    """The request is refused to everybody who must not make it, and to nobody else."""
    may = next(who for each, who in MAY.items() if each is need)
    for who in credentials.secrets:
        headers = {credentials.header(who), credentials.basic_header(who)} if who != "nobody" else {""}
        for header in headers:
            refusal = refusal_of(router, method, path, header)
            expected = None if who in may else 401 if who in STRANGERS else 403
            got = None if refusal is None else refusal.status
            assert got == expected, f"{who}: {method} {path}"
    assert may <= credentials.secrets.keys()
    assert SCOPES.keys() <= credentials.secrets.keys()
