"""The routes of the pages, as one ASGI application.

It gets paths without the base path. What is no page gets the answers that all HTTP of the daemons gives: 404 and 405 as
JSON.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from nsqadmin.console import Console
from nsqadmin.pages.channels import channel_page
from nsqadmin.pages.counter import CounterPage
from nsqadmin.pages.lookup import LookupPage
from nsqadmin.pages.nodes import node_page, nodes_page
from nsqadmin.pages.render import Renderer
from nsqadmin.pages.series import series_json
from nsqadmin.pages.stream import LiveStream
from nsqadmin.pages.topics import FrontPage, topic_page
from nsqadmin.pages.visit import View, Visit

__all__ = ["pages"]

_REMEMBERED = ("span", "t")
_NSQ = {"X-Nsq-Content-Type": "nsq; version=1.0"}


def pages(console: Console) -> ASGIApp:
    """Make the application for one console."""
    renderer = Renderer(console)
    front = FrontPage()

    async def series(request: Request) -> Response:
        body = series_json(console.history, request.query_params)
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})

    def page(path: str, view: View) -> Route:
        async def endpoint(request: Request) -> Response:
            visit = Visit(
                console=console,
                path=request.scope["path"],
                names=request.path_params,
                params=_with_remembered(request),
                is_admin=console.is_admin(request.headers.raw),
                snapshot=console.picture.snapshot,
            )
            return renderer.response(visit, await view(visit))

        return Route(path, endpoint, methods=["GET"])

    routes = [
        page("/", front),
        page("/topics", front),
        page("/topics/{topic}", topic_page),
        page("/topics/{topic}/{channel}", channel_page),
        page("/nodes", nodes_page),
        page("/nodes/{node}", node_page),
        page("/lookup", LookupPage()),
        page("/counter", CounterPage()),
        Route("/series", series, methods=["GET"]),
        Route("/live", LiveStream(console)),
    ]
    return _Pages(routes)


def _with_remembered(request: Request) -> dict[str, str]:
    """The query, and what the browser remembers of how far back charts look."""
    params = dict(request.query_params)
    for name in _REMEMBERED:
        value = request.cookies.get(f"console_{name}", "")
        if name not in params and value:
            params[name] = value
    return params


class _Pages:
    """The pages, and what is said where there is none."""

    def __init__(self, routes: list[Route]) -> None:
        self._routes = routes
        self._router = Router(routes, redirect_slashes=False, default=self._miss)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET":
            await self._router(scope, receive, send)
        elif scope["type"] == "http":
            await self._other_method(scope)(scope, receive, send)

    async def _miss(self, scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse({"message": "NOT_FOUND"}, 404, _NSQ)(scope, receive, send)

    def _other_method(self, scope: Scope) -> Response:
        if not self._is_page(scope["path"]):
            return JSONResponse({"message": "NOT_FOUND"}, 404, _NSQ)
        allow = {"Allow": "GET, OPTIONS"}
        if scope["method"] == "OPTIONS":
            return Response(headers=allow)
        return JSONResponse({"message": "METHOD_NOT_ALLOWED"}, 405, {**_NSQ, **allow})

    def _is_page(self, path: str) -> bool:
        return any(route.path_regex.match(path) for route in self._routes)
