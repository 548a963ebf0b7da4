"""Everything that the console serves, in its place: API, files, and pages, all below the base path.

One router knows every path, so that a wrong letter, a slash too many, and a wrong method are answered alike everywhere;
what is a page's goes on to the application of the pages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from nsqadmin.api import add_api
from nsqadmin.compression import AsgiApplication, Receive, Send, compressed_app, compressed_route
from nsqadmin.console import Console
from nsqadmin.notify import Notifier
from nsqadmin.static_files import StaticFiles
from nsqkit.service.http import AsgiApp, Request, Response, Route, Router
from nsqkit.service.http.routing import AccessLog

__all__ = ["Site"]

PAGES = (
    "/",
    "/topics",
    "/topics/:topic",
    "/topics/:topic/:channel",
    "/nodes",
    "/nodes/:node",
    "/counter",
    "/lookup",
    "/series",
    "/live",
)
"""What the pages answer: themselves, the numbers of their charts, and the stream of events that renews them."""


class Site:
    """What `HttpServer` serves."""

    def __init__(
        self,
        console: Console,
        notifier: Notifier,
        pages: AsgiApplication,
        access_log: AccessLog | None = None,
    ) -> None:
        self._base = console.base_path
        self._router = Router(access_log)
        add_api(self._router, console, notifier)
        _add_files(self._router, self._base, console.options.dev_static_dir)
        for path in PAGES:
            self._router.add("GET", self._base + path if path != "/" else self._base or "/", _page)
        self._pages = AsgiApp(_without_base(compressed_app(pages), self._base), access_log=access_log)

    def route(
        self, method: str, raw_path: bytes, path: str, query_string: bytes
    ) -> tuple[Route, dict[str, str]]:
        """The route of a request, and the parameters of its path."""
        route, params = self._router.route(method, raw_path, path, query_string)
        if route.handler is _page:
            return self._pages.route(method, raw_path, path, query_string)
        return compressed_route(route), params


def _add_files(router: Router, base: str, dev_folder: str) -> None:
    files = StaticFiles(Path(dev_folder), keep=False) if dev_folder else StaticFiles()
    for folder in ("static", "fonts"):
        router.add("GET", f"{base}/{folder}/:asset", files.get, quiet=True)


def _without_base(application: AsgiApplication, base: str) -> AsgiApplication:
    """The application, told of paths as if there were no base."""
    if not base:
        return application

    async def run(scope: Any, receive: Receive, send: Send) -> None:
        inner = scope
        if scope["type"] == "http":
            raw: bytes = scope["raw_path"]
            path = scope["path"][len(base) :] or "/"
            inner = {**scope, "path": path, "raw_path": raw[len(quote(base)) :] or b"/"}
        await application(inner, receive, send)

    return run


def _page(request: Request) -> Response:
    """Stands for the pages in the router."""
    raise AssertionError(f"{request.path} is a page's")
