"""A whole console in this process, and the requests of a browser or a script to it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import attrs
import httpx
import trio

from nsqadmin.console import Console
from nsqadmin.daemon import make_console
from nsqadmin.notify import Notifier
from nsqadmin.options import AdminOptions, validate
from nsqadmin.site import Site
from nsqkit.service.http import HttpServer
from nsqkit.service.listeners import bound_address, open_listeners
from tests.timing import patience

__all__ = ["Browser", "serving"]


@attrs.define(eq=False)
class Browser:
    """Sends requests to a console."""

    console: Console
    address: str
    client: httpx.AsyncClient

    async def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Send one request; a body that is not bytes is sent as JSON. Accepts no compression by default."""
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        return await self.client.request(
            method,
            f"http://{self.address}{path}",
            content=content,
            headers={"Accept-Encoding": "identity", **(headers or {})},
        )

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """GET, with these headers."""
        return await self.ask("GET", path, headers=headers)

    async def json(self, path: str) -> Any:
        """GET what must be a 200, in JSON."""
        response = await self.get(path)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json; charset=utf-8"
        return response.json()


@contextlib.asynccontextmanager
async def serving(
    *, lookupds: Sequence[str] = (), nsqds: Sequence[str] = (), poll: bool = False, **options: Any
) -> AsyncIterator[Browser]:
    """A console for these daemons, which polls them with `poll`. Its time-outs are those of a busy machine."""
    for name in ("http_client_connect_timeout", "http_client_request_timeout"):
        default = getattr(AdminOptions(), name)
        options.setdefault(name, int(default * patience(1)))
    made = AdminOptions(lookupd_http_addresses=list(lookupds), nsqd_http_addresses=list(nsqds), **options)
    validate(made)
    console = make_console(made)
    notifier = Notifier(console.queries.upstream)
    listeners = await open_listeners("127.0.0.1:0")
    address = bound_address(listeners[0]).text
    console.origins.listens_on([bound_address(listeners[0])])
    console.trail.start(address)
    async with (
        trio.open_nursery() as nursery,
        httpx.AsyncClient(trust_env=False, timeout=patience(30)) as client,
    ):
        nursery.start_soon(notifier.run)
        if poll:
            nursery.start_soon(console.poller.run)
            nursery.start_soon(console.consumers.run)
            nursery.start_soon(console.alarms.run)
        await nursery.start(HttpServer(Site(console, notifier)).run, listeners)
        yield Browser(console, address, client)
        await console.queries.upstream.aclose()
        nursery.cancel_scope.cancel()
    console.trail.close()
