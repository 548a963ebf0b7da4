"""A real HTTP server for the tests of nsq_to_http, in a thread: it can answer well, badly, late, or not at all.

with Target() as target:
    target.answer = lambda request: text("no", 500)
    ...target.url("/x"), target.bodies...

It remembers what it has answered with a 2xx (`bodies`) and everything that was asked (`requests`). Started again, it
has the same port.
"""

from __future__ import annotations

import inspect
import ssl
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

import attrs
import trio

from nsqkit.service.http import HttpServer, Limits, Request, Response, Route, text
from nsqkit.service.listeners import open_listeners
from tests.process.ports import free_port
from tests.timing import patience

__all__ = ["Target", "late", "never"]

HOST = "127.0.0.1"
LARGEST_BODY = 4 << 20
WITHIN_S = 10.0

Answer = Callable[[Request], Response | Awaitable[Response]]


def late(seconds: float) -> Answer:
    """A yes after this time."""

    async def answer(request: Request) -> Response:
        await trio.sleep(seconds)
        return text("OK")

    return answer


async def never(request: Request) -> Response:
    """The connection stays open, and nothing comes."""
    await trio.sleep_forever()


@attrs.define(eq=False)
class Target:
    """The server; it runs while the block does."""

    answer: Answer = lambda request: text("OK")
    """May be changed while it runs."""
    tls: ssl.SSLContext | None = None
    port: int = attrs.field(factory=free_port)
    requests: list[Request] = attrs.field(factory=list)
    bodies: list[bytes] = attrs.field(factory=list)
    """Of the requests that were answered with a 2xx."""
    _thread: threading.Thread | None = None
    _ready: threading.Event = attrs.field(factory=threading.Event)
    _end: Callable[[], None] = lambda: None

    def __enter__(self) -> Target:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, whatever it is doing."""
        self.stop()

    def url(self, path: str = "/") -> str:
        """Where it is."""
        return f"{'https' if self.tls else 'http'}://{HOST}:{self.port}{path}"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        assert self._thread is None
        self._ready.clear()
        self._thread = threading.Thread(target=trio.run, args=(self._serve,), daemon=True)
        self._thread.start()
        assert self._ready.wait(patience(WITHIN_S)), "it does not listen"

    def stop(self) -> None:
        """End it at once; whoever waits for an answer sees the connection end."""
        if self._thread is not None:
            self._end()
            self._thread.join(patience(WITHIN_S))
            assert not self._thread.is_alive()
            self._thread = None

    async def _serve(self) -> None:
        token = trio.lowlevel.current_trio_token()
        plain = await open_listeners(f"{HOST}:{self.port}")
        listeners: list[Any] = list(plain)
        if self.tls is not None:
            listeners = [trio.SSLListener(each, self.tls, https_compatible=True) for each in plain]
        server = HttpServer(self, Limits())
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run, listeners)
            self._end = lambda: token.run_sync_soon(nursery.cancel_scope.cancel)
            self._ready.set()

    def route(
        self, method: str, raw_path: bytes, path: str, query_string: bytes
    ) -> tuple[Route, dict[str, str]]:
        """Everything comes here: the server's interface of an application."""
        return Route(handler=self._handle, body_limit=LARGEST_BODY), {}

    async def _handle(self, request: Request) -> Response:
        self.requests.append(request)
        answer = self.answer(request)
        response = await answer if inspect.isawaitable(answer) else answer
        assert isinstance(response, Response)
        if 200 <= response.status < 300:
            self.bodies.append(request.body)
        return response
