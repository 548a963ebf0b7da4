"""ASGI 3 applications (starlette, say) on the same connections as the plain handlers.

The request's body is read whole, up to a limit, before the application is called. Its response goes out as
the application sends it: with the length it declares, at once when it is one piece, else chunked (to
HTTP/1.0, up to the close). `send` waits while the client is slower and raises ConnectionError (an OSError, as
ASGI 2.4 wants it) when it is gone; `receive` tells `http.disconnect` when the client or the response has
ended. No websockets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import trio
from attrs import define, field

from nsqkit.logging import get_logger
from nsqkit.service.http.message import (
    Request,
    Response,
    connection_line,
    date_line,
    error,
    render,
    status_line,
)
from nsqkit.service.http.routing import AccessLog, Exchange, Route

__all__ = ["AsgiApp"]

_log = get_logger("http")

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_Application = Callable[[Any, _Receive, _Send], Awaitable[None]]

_ASGI = {"version": "3.0", "spec_version": "2.4"}
_CRASHED = error(500, "INTERNAL_ERROR")
# Framing and Date are the server's own.
_OWN_HEADERS = frozenset([b"connection", b"transfer-encoding", b"date", b"keep-alive"])


class AsgiApp:
    """Lets `HttpServer` serve an ASGI application."""

    def __init__(
        self,
        application: _Application,
        *,
        body_limit: int = 1024 * 1024,
        access_log: AccessLog | None = None,
    ) -> None:
        self._application = application
        self._state: dict[str, Any] = {}
        self._shutdown = trio.Event()
        self._stopped = trio.Event()
        self._route = Route(
            handler=_no_handler, body_limit=body_limit, stream=self._respond, access_log=access_log
        )

    def route(
        self,
        method: str,
        raw_path: bytes,
        path: str,
        query_string: bytes,
    ) -> tuple[Route, dict[str, str]]:
        """Everything goes to the application."""
        return self._route, {}

    async def lifespan(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the application's lifespan: started when it has started, ends after `shutdown`.

        An application that raises before it has started has no lifespan, as ASGI says; one that reports a
        failed start is RuntimeError here.
        """
        started = trio.Event()
        failure: list[str] = []
        events = iter(("startup", "shutdown"))

        async def receive() -> _Message:
            event = next(events, None)
            if event is None:
                await trio.sleep_forever()
            if event == "shutdown":
                await self._shutdown.wait()
            return {"type": f"lifespan.{event}"}

        async def send(message: _Message) -> None:
            await trio.lowlevel.checkpoint()
            if message["type"] == "lifespan.startup.failed":
                failure.append(message.get("message", ""))
            if message["type"].startswith("lifespan.startup."):
                started.set()

        async def run() -> None:
            try:
                await self._application(
                    {"type": "lifespan", "asgi": _ASGI, "state": self._state}, receive, send
                )
            except Exception:
                if started.is_set() and not failure:
                    _log.exception("HTTP: the application's lifespan crashed")
            finally:
                started.set()
                self._stopped.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await started.wait()
            if not failure:
                task_status.started()
        if failure:
            raise RuntimeError(f"the application did not start: {failure[0]}")

    async def shutdown(self) -> None:
        """Let the lifespan end, and wait for that."""
        self._shutdown.set()
        await self._stopped.wait()

    async def _respond(self, request: Request, exchange: Exchange) -> int:
        cycle = _Cycle(request, exchange)
        scope = {**_scope(request), "state": dict(self._state)}
        try:
            await self._application(scope, cycle.receive, cycle.send)
        except Exception as exc:
            if cycle.client_gone:
                raise ConnectionError("the client went away") from exc
            # Frameworks raise again what they have answered themselves, for the server to log.
            _log.exception("HTTP: the application crashed in %s %s", request.method, request.path)
        cycle.done.set()
        if not cycle.started:
            _log.error("HTTP: the application gave no answer to %s %s", request.method, request.path)
            await cycle.answer_crash()
        elif not cycle.complete:
            raise ConnectionError("the application left its response unfinished")
        return cycle.status


@define(slots=True, eq=False)
class _Cycle:
    """One request and response in ASGI's terms."""

    request: Request
    exchange: Exchange

    status: int = field(default=0, init=False)
    started: bool = field(default=False, init=False)
    """Something has been sent."""
    complete: bool = field(default=False, init=False)
    client_gone: bool = field(default=False, init=False)
    done: trio.Event = field(factory=trio.Event, init=False)

    _given: bool = field(default=False, init=False)
    _receiving: trio.Lock = field(factory=trio.Lock, init=False)
    _start: _Message | None = field(default=None, init=False)
    _chunked: bool = field(default=False, init=False)
    _left: int | None = field(default=None, init=False)
    """Bytes still to come of a declared length."""

    async def receive(self) -> _Message:
        if not self._given:
            self._given = True
            await trio.lowlevel.checkpoint()
            return {"type": "http.request", "body": self.request.body, "more_body": False}
        async with self._receiving:
            if not (self.client_gone or self.complete):
                await self._wait_end()
        return {"type": "http.disconnect"}

    async def _wait_end(self) -> None:
        async def watch_client() -> None:
            await self.exchange.wait_disconnect()
            self.client_gone = True
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_client)
            await self.done.wait()
            nursery.cancel_scope.cancel()

    async def send(self, message: _Message) -> None:
        kind = message["type"]
        if self.client_gone:
            raise ConnectionError("the client went away")
        if kind == "http.response.start" and self._start is None:
            self._start = message
            self.status = message["status"]
        elif kind == "http.response.body" and self._start is not None and not self.complete:
            await self._send_body(self._start, message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")

    async def _send_body(self, start: _Message, body: bytes, *, more: bool) -> None:
        head = b"" if self.started else self._head(start, body, more=more)
        self.started = True
        self.complete = not more
        if self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left > 0 and not more):
                self.complete = False
                raise RuntimeError("the body has not the length that was declared")
        if self._bodyless():
            body = b""
        elif self._chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        try:
            await self.exchange.send(head + body)
        except ConnectionError:
            self.client_gone = True
            raise
        if self.complete:
            self.done.set()

    def _bodyless(self) -> bool:
        return self.request.method == "HEAD" or self.status in (204, 304)

    def _head(self, start: _Message, body: bytes, *, more: bool) -> bytes:
        """The head, and with it how the end of the body is told."""
        lines = []
        length: int | None = None
        for name, value in start.get("headers", ()):
            lower = name.lower()
            if b"\r" in value or b"\n" in value or b"\r" in name or b"\n" in name:
                raise RuntimeError(f"line break in the header {name!r}")
            if lower == b"content-length":
                length = int(value)
            if lower not in _OWN_HEADERS:
                lines.append(b"%b: %b\r\n" % (name, value))
        if self._bodyless():
            framing = b""
        elif length is not None:
            framing, self._left = b"", length
        elif not more:
            framing = b"Content-Length: %d\r\n" % len(body)
        elif self.request.version == "1.1":
            framing, self._chunked = b"Transfer-Encoding: chunked\r\n", True
        else:
            framing, self.exchange.keep_alive = b"", False
        version = self.request.version
        connection = connection_line(version, keep_alive=self.exchange.keep_alive)
        return b"".join(
            [status_line(self.status, version), *lines, date_line(), framing, connection, b"\r\n"]
        )

    async def answer_crash(self) -> None:
        """The application ended before it said anything."""
        self.status = _CRASHED.status
        head_only = self.request.method == "HEAD"
        version, keep_alive = self.request.version, self.exchange.keep_alive
        await self.exchange.send(render(_CRASHED, version, keep_alive=keep_alive, head_only=head_only))


def _scope(request: Request) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": _ASGI,
        "http_version": request.version,
        "method": request.method,
        "scheme": "https" if request.secure else "http",
        "path": request.path,
        "raw_path": request.target.partition(b"?")[0],
        "query_string": request.query_string,
        "root_path": "",
        "headers": request.headers,
        "client": _client(request.remote),
        "server": None,
    }


def _client(remote: str) -> tuple[str, int] | None:
    host, _, port = remote.rpartition(":")
    return (host.strip("[]"), int(port)) if port.isdigit() else None


def _no_handler(request: Request) -> Response:
    raise AssertionError(f"{request.path} is answered piece by piece")
