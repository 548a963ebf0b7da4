"""Daemons with responses that a test gives, on real sockets; they record their requests.

    async with scripted() as script:
        registry = await script.daemon()
        registry.on("/topics", {"topics": ["orders"]})
        ...
        assert script.calls == [f"GET {registry.address}/topics"]

A response is found by the whole target (path and query), or else by the path alone; otherwise it is a 404 as that of
the original. A dict is sent as JSON with a 200, a `Response` as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import trio

from nsqkit.service.http import HttpServer, Request, Response, Route, error, json_body, text
from nsqkit.service.listeners import bound_address, open_listeners
from tests.process.ports import free_port

__all__ = ["Script", "ScriptedDaemon", "dead_address", "info", "producer", "scripted"]

DONE = text("")
Answer = Callable[[Request], Response] | Response | dict[str, Any]


@attrs.define(eq=False)
class ScriptedDaemon:
    """One daemon."""

    address: str
    script: Script
    answers: dict[str, Answer] = attrs.field(factory=dict)

    @property
    def port(self) -> int:
        """The port alone."""
        return int(self.address.rpartition(":")[2])

    def on(self, target: str, answer: Answer = DONE) -> None:
        """Set the response to a path, or to a path with exactly this query."""
        self.answers[target] = answer

    def route(
        self, method: str, raw_path: bytes, path: str, query_string: bytes
    ) -> tuple[Route, dict[str, str]]:
        """All requests have the same handler."""
        return Route(handler=self._answer, body_limit=1 << 20), {}

    def _answer(self, request: Request) -> Response:
        target = request.target.decode()
        self.script.calls.append(f"{request.method} {self.address}{target}")
        self.script.requests.append(request)
        found = self.answers.get(target) or self.answers.get(request.path) or error(404, "NOT_FOUND")
        if isinstance(found, dict):
            return json_body(found)
        return found if isinstance(found, Response) else found(request)


@attrs.define(eq=False)
class Script:
    """All daemons, and their requests."""

    nursery: trio.Nursery
    calls: list[str] = attrs.field(factory=list)
    """`METHOD host:port/path?query`, in the order of arrival."""
    requests: list[Request] = attrs.field(factory=list)

    async def daemon(self) -> ScriptedDaemon:
        """Start a daemon."""
        listeners = await open_listeners("127.0.0.1:0")
        daemon = ScriptedDaemon(bound_address(listeners[0]).text, self)
        await self.nursery.start(HttpServer(daemon).run, listeners)
        return daemon

    async def nsqd(self, stats: dict[str, Any] | None = None, **described: Any) -> ScriptedDaemon:
        """Start an nsqd, which answers /info, and /stats if given."""
        daemon = await self.daemon()
        daemon.on("/info", info(daemon, **described))
        if stats is not None:
            daemon.on("/stats", stats)
        return daemon

    def changes(self) -> list[str]:
        """The calls that change something."""
        return [call for call in self.calls if not call.startswith("GET ")]


@contextlib.asynccontextmanager
async def scripted() -> AsyncIterator[Script]:
    """Scripted daemons, which end with the block."""
    async with trio.open_nursery() as nursery:
        yield Script(nursery)
        nursery.cancel_scope.cancel()


def dead_address() -> str:
    """An address without a listener."""
    return f"127.0.0.1:{free_port()}"


def info(nsqd: ScriptedDaemon, **described: Any) -> dict[str, Any]:
    """The /info of an nsqd."""
    defaults = {
        "version": "1.3.0",
        "broadcast_address": "127.0.0.1",
        "hostname": "h",
        "tcp_port": nsqd.port - 1,
    }
    return {**defaults, "http_port": nsqd.port, **described}


def producer(nsqd: ScriptedDaemon, **described: Any) -> dict[str, Any]:
    """An nsqd in /nodes and /lookup of a registry."""
    defaults = {"remote_address": "127.0.0.1:5000", "topology_zone": "", "topology_region": ""}
    return {**info(nsqd), **defaults, **described}
