"""The audit trail of an HTTP API: the one place where requests that change something, and refused ones, are recorded.

`Guard` (nsqd, nsqlookupd) and the site of nsqadmin put each handler into one of these. A handler that knows more than
the request says calls `note`:

    note(request, before={"paused": topic.paused}, after={"paused": True})

Where the audit trail is required, a change is refused with 503 `AUDIT_UNAVAILABLE` while it cannot be written, and the
response to a change waits for its line. If that cannot be written in time, the response is 503 `DONE_BUT_NOT_AUDITED`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import attrs
import trio

from nsqkit.access import Access
from nsqkit.audit import MAX_LINES, AuditQuery, AuditTrail, Means, Result, Value, Who, normal_time, read_tail
from nsqkit.audit.event import MAX_TEXT
from nsqkit.audit.target import STDERR
from nsqkit.audit.waiting import is_written
from nsqkit.decoding import DecodeError, decode_json
from nsqkit.logging import get_logger
from nsqkit.service.http.message import (
    BadQuery,
    Handler,
    HttpError,
    Request,
    Response,
    error,
    json_body,
    query,
)

__all__ = ["AuditLines", "HttpAudit", "audit_query", "client_of", "note"]

_log = get_logger("http")

_REFUSED: Final = (401, 403, 429)
"""The statuses of refusals; the last one is that of too many tries."""
_NAMES: Final = ("topic", "channel", "id", "seq", "from", "to", "node", "life", "force", "hand_over")
"""The parameters that say what a change is done to, and how. Others may be anything, also secrets."""
_NOT_RECORDED: Final = error(503, "DONE_BUT_NOT_AUDITED")
_NO_FILE: Final = error(404, "NO_AUDIT_FILE")
_UNREADABLE: Final = error(500, "AUDIT_FILE_UNREADABLE")


def note(request: Request, **details: Any) -> None:
    """Have fields of the event say more: `what`, `on`, `before`, `after`, `error`. `on` is added to what is known."""
    if request.notes is not None:
        request.notes.update(details)


def client_of(access: Access, *, verified: bool = True) -> Callable[[Request], Who]:
    """Who has sent a request to a daemon with tokens. `verified`: whether names in client certificates are."""
    certificate = Means.CERTIFICATE if verified else Means.UNVERIFIED_CERTIFICATE

    def who(request: Request) -> Who:
        authorization = request.header(b"authorization")
        token = access.token_in(authorization) if authorization is not None else None
        if token is not None:
            means = Means.EXPIRED_TOKEN if token.is_expired(access.clock()) else Means.TOKEN
            return Who(token.name, means, request.remote)
        if request.common_name:
            return Who(request.common_name, certificate, request.remote)
        return Who(remote=request.remote)

    return who


@attrs.frozen(eq=False)
class HttpAudit:
    """Of one daemon. `who`: has sent a request."""

    trail: AuditTrail
    who: Callable[[Request], Who]

    def of_a_change(self, handler: Handler, *, may_be_refused: bool = True) -> Handler:
        """The handler of a route that changes something, which is recorded. `may_be_refused`: if that is required."""
        if not self.trail.enabled:
            return handler

        async def answer(request: Request) -> Response:
            if may_be_refused and self.trail.refuses_changes:
                self._in_vain(request, Result.FAILED, 503, "AUDIT_UNAVAILABLE")
                raise HttpError(503, "AUDIT_UNAVAILABLE")
            request.notes = {}
            try:
                response = handler(request)
                if not isinstance(response, Response):
                    response = await response
            except HttpError as failure:
                self._record(request, failure.status, failure.code)
                raise
            except BaseException as failure:
                self._record(
                    request, 500, "INTERNAL_ERROR" if isinstance(failure, Exception) else "CANCELLED"
                )
                raise
            ticket = self._record(request, response.status, _code_of(response))
            waits = may_be_refused and self.trail.required and response.status < 400
            if waits and not await is_written(self.trail, ticket):
                return _NOT_RECORDED
            return response

        return answer

    def of_a_look(self, handler: Handler) -> Handler:
        """The handler of a route that changes nothing: its refusals are recorded."""
        if not self.trail.enabled:
            return handler

        def answer(request: Request) -> Response | Awaitable[Response]:
            try:
                response = handler(request)
            except HttpError as failure:
                self._look(request, failure.status, failure.code)
                raise
            if not isinstance(response, Response):
                return wait_for(request, response)
            self._look(request, response.status, "", response)
            return response

        async def wait_for(request: Request, waiting: Awaitable[Response]) -> Response:
            try:
                response = await waiting
            except HttpError as failure:
                self._look(request, failure.status, failure.code)
                raise
            self._look(request, response.status, "", response)
            return response

        return answer

    def refused(self, request: Request, response: Response) -> None:
        """Record that a request was refused with this response."""
        if self.trail.enabled:
            self._in_vain(request, Result.REFUSED, response.status, _code_of(response))

    def _look(self, request: Request, status: int, code: str, response: Response | None = None) -> None:
        if status in _REFUSED:
            self._in_vain(request, Result.REFUSED, status, code if response is None else _code_of(response))

    def _record(self, request: Request, status: int, code: str) -> int | None:
        if 400 <= status < 500:
            self._in_vain(request, Result.REFUSED if status in _REFUSED else Result.FAILED, status, code)
            return None
        details = {"error": code, **self._details(request), "status": status}
        result = Result.FAILED if details["error"] else Result.OK
        return self.trail.record(self.who(request), result=result, **details)

    def _in_vain(self, request: Request, result: Result, status: int, code: str) -> None:
        details = {"error": code, **self._details(request), "status": status}
        self.trail.refuse(self.who(request), result=result, **details)

    def _details(self, request: Request) -> dict[str, Any]:
        notes = request.notes or {}
        on = {**_names_in(request), **notes.get("on", {})}
        return {"what": f"{request.method} {request.path[:MAX_TEXT]}", **notes, "on": on}


def _names_in(request: Request) -> Mapping[str, Value]:
    try:
        params = query(request)
    except BadQuery:
        return {}
    return {name: params[name] for name in _NAMES if name in params}


def _code_of(response: Response) -> str:
    """The code of an error; empty for a success."""
    if response.status < 400:
        return ""
    try:
        decoded = decode_json(response.body[: 10 * MAX_TEXT])
    except DecodeError:
        decoded = None
    message = decoded.get("message") if isinstance(decoded, dict) else None
    return message if isinstance(message, str) and message else f"status {response.status}"


# --- reading


def audit_query(params: Mapping[str, str]) -> AuditQuery:
    """What these parameters ask for. `HttpError` 400 with the name of a bad one."""
    limit = params.get("limit", "100")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 5 and 1 <= int(limit) <= MAX_LINES):
        raise HttpError(400, "INVALID_ARG_LIMIT")
    try:
        since = normal_time(params["since"]) if params.get("since") else ""
    except ValueError:
        raise HttpError(400, "INVALID_ARG_SINCE") from None
    try:
        result = Result(params["result"]) if params.get("result") else None
    except ValueError:
        raise HttpError(400, "INVALID_ARG_RESULT") from None
    texts = {name: params.get(name, "") for name in ("contains", "who", "what", "topic")}
    if name := next((name for name, text in texts.items() if len(text) > MAX_TEXT), None):
        raise HttpError(400, f"INVALID_ARG_{name.upper()}")
    return AuditQuery(limit=int(limit), since=since, result=result, **texts)


@attrs.define(eq=False)
class AuditLines:
    """GET /audit: the last lines of the daemon's own file."""

    trail: AuditTrail
    _threads: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1), init=False)

    async def get(self, request: Request) -> Response:
        asked = audit_query(query(request))
        trail = self.trail
        if trail.file in ("", STDERR):
            return _NO_FILE
        try:
            tail = await trio.to_thread.run_sync(
                read_tail, trail.file, asked, limiter=self._threads, abandon_on_cancel=True
            )
        except FileNotFoundError:  # renamed, and nothing has happened since
            lines, complete = list[dict[str, Any]](), True
        except OSError as failure:
            _log.error("AUDIT: %s cannot be read - %s", trail.file, failure.strerror or failure)
            return _UNREADABLE
        else:
            lines, complete = tail.lines, tail.complete
        return json_body(
            {"failing": trail.failing, "lost": trail.lost_count, "complete": complete, "lines": lines}
        )
