"""The gate: every request of a route passes it, and gets its identity here, or is refused.

- Somebody who is not logged in is sent to the page for it, if the request is for a page; others are answered 401.
- A role that is too low, or another topic: 403, as a page or as JSON.
- A change that a page of another site makes a browser send: 403, see `nsqadmin.origins`.

What is needed is in the table of `nsqadmin.access`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable
from urllib.parse import quote

import attrs

from nsqadmin.access import Need
from nsqadmin.auth.identity import Role
from nsqadmin.auth.logins import LoginFailed, TooManyTries
from nsqadmin.console import Console
from nsqadmin.pages.page_request import query_of
from nsqkit.service.http import Exchange, HttpError, Request, Response, error
from nsqkit.service.http.message import Header, render
from nsqkit.service.http.routing import Handler, StreamHandler

__all__ = ["Gate"]

_SAFE = ("GET", "HEAD")
_NO_STORE = (b"Cache-Control", b"no-store")


@attrs.frozen
class Gate:
    """Of one console. `forbidden`: answers requests for pages whose sender may not see them."""

    console: Console
    forbidden: Handler

    def handler(self, need: Need, handler: Handler, *, is_page: bool = False) -> Handler:
        """The same handler, for requests that pass."""
        if need.role is Role.STRANGER:
            return handler
        refusal_as = self._as_page if is_page else _as_json

        async def answer(request: Request) -> Response:
            response: Response | Awaitable[Response]
            try:
                await self._check(need, request)
            except _Refused as refused:
                response = refusal_as(request, refused)
            else:
                response = handler(request)
            return await response if inspect.isawaitable(response) else response

        return answer

    def stream(self, need: Need, handler: StreamHandler) -> StreamHandler:
        """The same for a response that is sent piece by piece."""

        async def answer(request: Request, exchange: Exchange) -> int:
            try:
                await self._check(need, request)
            except _Refused as refused:
                response = _as_json(request, refused)
                keep_alive = exchange.keep_alive
                await exchange.send(render(response, request.version, keep_alive=keep_alive, head_only=False))
                return response.status
            return await handler(request, exchange)

        return answer

    async def _check(self, need: Need, request: Request) -> None:
        """Set the identity of a request. `_Refused`."""
        try:
            identity = await self.console.authentication.identify(request)
        except LoginFailed:
            raise _Refused(401, "LOGIN_FAILED", _challenge(request)) from None
        except TooManyTries as early:
            wait = b"%d" % math.ceil(early.wait_s)
            raise _Refused(429, "TOO_MANY_TRIES", ((b"Retry-After", wait),)) from None
        if identity.role is Role.STRANGER:
            raise _Refused(401, "LOGIN_REQUIRED", _challenge(request))
        request.identity = identity
        if not need.is_met(identity, request.params, query_of(request)):
            raise _Refused(403, "FORBIDDEN")
        if request.method not in _SAFE:
            self.console.origins.check_same_site(request, identity.token)

    def _as_page(self, request: Request, refused: _Refused) -> Response | Awaitable[Response]:
        if refused.status == 403:
            return self.forbidden(request)
        if refused.status != 401 or request.header(b"authorization") is not None:
            return _as_json(request, refused)
        target = request.target.decode("latin-1")
        location = f"{self.console.url('/login')}?next={quote(target, safe='/')}"
        return Response(303, headers=((b"Location", location.encode()), _NO_STORE), nsq=False)


class _Refused(HttpError):
    def __init__(self, status: int, code: str, headers: tuple[Header, ...] = ()) -> None:
        super().__init__(status, code)
        self.headers = headers


def _as_json(_request: Request, refused: _Refused) -> Response:
    return error(refused.status, refused.code, refused.headers)


def _challenge(request: Request) -> tuple[Header, ...]:
    """Of a 401. A browser would ask for a password itself, in a window that is not the console's."""
    if b"Mozilla/" in (request.header(b"user-agent") or b""):
        return ()
    return ((b"WWW-Authenticate", b'Basic realm="nsqadmin", charset="UTF-8"'),)
