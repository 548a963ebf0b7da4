"""All paths of the console, below its base path: the pages, the files, the API.

`_add_routes` is the only list of them; what each one needs is in `nsqadmin.access`. Responses are compressed for
clients that accept that.

**An object is never another one.** Browsers, proxies and client libraries resolve `.` and `..`, drop empty segments and
follow redirects, so a request for a channel whose name is empty could reach the topic. A request that is not a GET, and
whose path is not in its normal form, is therefore a 404 and never redirected. Links and requests of the console write
the names `.` and `..` differently: see `nsqadmin.paths.segment`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs

from nsqadmin.access import Need, need_of
from nsqadmin.api import ActionHandlers, BodyDownload, ReadHandlers
from nsqadmin.auth import Role
from nsqadmin.compression import compressed_route
from nsqadmin.config import MAX_BODY, ConfigHandlers
from nsqadmin.console import Console
from nsqadmin.gate import Gate
from nsqadmin.graphite import GraphiteHandlers
from nsqadmin.notify import Notifier
from nsqadmin.pages.alarms import alarms_page
from nsqadmin.pages.audit import audit_page
from nsqadmin.pages.channels import channel_page
from nsqadmin.pages.charts import series_response
from nsqadmin.pages.counter import CounterPage
from nsqadmin.pages.login import MAX_FORM, LoginPage
from nsqadmin.pages.lookup import LookupPage
from nsqadmin.pages.messages import messages_page
from nsqadmin.pages.missing import forbidden_page, missing_page
from nsqadmin.pages.nodes import node_page, nodes_page
from nsqadmin.pages.page_request import View
from nsqadmin.pages.render import Renderer
from nsqadmin.pages.stream import EVENT_STREAM, LiveStream
from nsqadmin.pages.topics import FrontPage, topic_page
from nsqadmin.paths import name_of_segment
from nsqadmin.static_files import StaticFiles
from nsqadmin.upstream import UpstreamFailed
from nsqkit.service.http import Exchange, HttpError, Request, Response, Route, Router, error, text
from nsqkit.service.http.message import render
from nsqkit.service.http.routing import AccessLog, Handler

__all__ = ["Site"]

_ApiHandler = Callable[[Request], Awaitable[Response]]

_SAFE = ("GET", "HEAD")
_MAX_API_BODY = 64 * 1024  # bytes; the JSON of a few names, or of a message that somebody has typed


class Site:
    """The application for `HttpServer`."""

    def __init__(self, console: Console, notifier: Notifier, access_log: AccessLog | None = None) -> None:
        self._access_log = access_log
        self._console = console
        renderer = Renderer(console)
        gate = Gate(console, renderer.handler(forbidden_page))
        missing = gate.handler(Need(Role.VIEWER), renderer.handler(missing_page), is_page=True)
        self._router = Router(access_log, _not_found_for(console, missing))
        _add_routes(self._router, gate, renderer, console, notifier)

    def route(
        self, method: str, raw_path: bytes, path: str, query_string: bytes
    ) -> tuple[Route, dict[str, str]]:
        """The route of a request, and the parameters of its path."""
        route, params = self._route(method, raw_path, path, query_string)
        return compressed_route(_checked(route, self._check)), params

    def _check(self, request: Request) -> None:
        """Raise `HttpError` for a request of another host."""
        try:
            self._console.origins.check_host(request)
        except HttpError as refused:
            self._console.audit.refused(request, error(refused.status, refused.code))
            raise

    def _route(
        self, method: str, raw_path: bytes, path: str, query_string: bytes
    ) -> tuple[Route, dict[str, str]]:
        if method not in _SAFE and not _is_normal(path):
            return Route(handler=_not_found, access_log=self._access_log), {}
        route, params = self._router.route(method, raw_path, path, query_string)
        return route, {key: name_of_segment(value) for key, value in params.items()}


def _add_routes(router: Router, gate: Gate, renderer: Renderer, console: Console, notifier: Notifier) -> None:
    options = console.options
    read, act = ReadHandlers(console), ActionHandlers(console, notifier)
    config, graphite = ConfigHandlers(console), GraphiteHandlers(options, console.queries.upstream)
    files = StaticFiles.of_options(options)
    front, login = renderer.handler(FrontPage()), LoginPage(console, renderer)

    audit = console.audit

    def add(method: str, path: str, handler: Handler, *, is_page: bool = False, **limits: Any) -> None:
        need = need_of(method, path)
        passed = gate.handler(need, handler, is_page=is_page)
        if "too_big" in limits:
            limits["too_big"] = gate.handler(need, limits["too_big"])
        if method in _SAFE:
            passed = audit.of_a_look(passed)
        else:  # a login changes nothing that a missing line could hide
            passed = audit.of_a_change(passed, may_be_refused=need.role is not Role.STRANGER)
        router.add(method, console.url(path), passed, **limits)
        if method == "GET":
            router.add("HEAD", console.url(path), passed, **limits)

    def page(path: str, view: View) -> None:
        add("GET", path, renderer.handler(view), is_page=True)

    def api(method: str, path: str, handler: _ApiHandler) -> None:
        add(method, path, _with_bad_gateway(handler), body_limit=_MAX_API_BODY)

    add("GET", "/", front, is_page=True)
    if console.base_path:
        # Not redirected: proxies that serve a folder (nginx: `location /nsq/`) redirect the other way.
        for method in ("GET", "HEAD"):
            router.add(
                method, console.base_path + "/", gate.handler(need_of(method, "/"), front, is_page=True)
            )
    add("GET", "/topics", front, is_page=True)
    page("/topics/:topic", topic_page)
    page("/topics/:topic/:channel", channel_page)
    page("/messages/:topic/:channel", messages_page)
    page("/nodes", nodes_page)
    page("/nodes/:node", node_page)
    page("/lookup", LookupPage())
    page("/alarms", alarms_page)
    page("/audit", audit_page)
    page("/counter", CounterPage())
    add("GET", "/series", lambda request: series_response(console.history, request))
    live = need_of("GET", "/live")
    router.add_stream("GET", console.url("/live"), gate.stream(live, LiveStream(console)))
    no_events = Response(200, content_type=EVENT_STREAM, nsq=False)
    router.add("HEAD", console.url("/live"), gate.handler(live, lambda _: no_events))

    add("GET", "/login", login.get)
    add("POST", "/login", login.post, body_limit=MAX_FORM)
    add("POST", "/logout", login.log_out, body_limit=MAX_FORM)
    add("GET", "/static/:asset", files.get, quiet=True)
    add("GET", "/fonts/:asset", files.get, quiet=True)

    api("GET", "/api/topics", read.topics)
    api("POST", "/api/topics", act.create)
    api("GET", "/api/topics/:topic", read.topic)
    api("POST", "/api/topics/:topic", act.change)
    api("DELETE", "/api/topics/:topic", act.delete_topic)
    api("GET", "/api/topics/:topic/:channel", read.channel)
    api("POST", "/api/topics/:topic/:channel", act.change)
    api("DELETE", "/api/topics/:topic/:channel", act.delete_channel)
    api("POST", "/api/messages/:topic", act.publish)
    api("POST", "/api/messages/:topic/:channel", act.change_message)
    api("GET", "/api/messages/:topic/:channel/:id", BodyDownload(console).get)
    api("GET", "/api/nodes", read.nodes)
    api("GET", "/api/alarms", read.alarms)
    api("GET", "/api/audit", read.audit)
    api("GET", "/api/nodes/:node", read.node)
    api("POST", "/api/nodes/:node", act.change_node)
    api("DELETE", "/api/nodes/:node", act.tombstone)
    api("GET", "/api/counter", read.counter)
    api("GET", "/api/graphite", graphite.rate)

    add("GET", "/ping", lambda _: text("OK", nsq=False))
    add("GET", "/config/:opt", config.get)
    add("PUT", "/config/:opt", config.put, body_limit=MAX_BODY, too_big=config.refuse_big)
    if options.proxy_graphite and options.graphite_url:
        add("GET", "/render", graphite.render)


def _checked(route: Route, check: Callable[[Request], None]) -> Route:
    """The same route, after a check that raises `HttpError`."""

    def answer(request: Request) -> Response | Awaitable[Response]:
        check(request)
        return route.handler(request)

    async def answer_piecewise(request: Request, exchange: Exchange) -> int:
        assert route.stream is not None
        try:
            check(request)
        except HttpError as refused:
            response = error(refused.status, refused.code)
            await exchange.send(
                render(response, request.version, keep_alive=exchange.keep_alive, head_only=False)
            )
            return response.status
        return await route.stream(request, exchange)

    return attrs.evolve(route, handler=answer, stream=answer_piecewise if route.stream else None)


def _is_normal(path: str) -> bool:
    """Whether no client or proxy would send another path instead: no empty segment, no `.` and no `..`."""
    return path in ("/", "*") or not {"", ".", ".."}.intersection(path.split("/")[1:])


def _not_found(_request: Request) -> Response:
    return error(404, "NOT_FOUND")


def _not_found_for(console: Console, page: Handler) -> Handler:
    """A page for browsers, which ask for HTML; the error of the API for all others."""
    api = console.url("/api/")

    def answer(request: Request) -> Response | Awaitable[Response]:
        wants_page = b"text/html" in (request.header(b"accept") or b"") and not request.path.startswith(api)
        return page(request) if request.method in _SAFE and wants_page else _not_found(request)

    return answer


def _with_bad_gateway(handler: _ApiHandler) -> _ApiHandler:
    """The same handler, which answers 502 with the reasons when no daemon answers."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except UpstreamFailed as failure:
            return error(502, f"UPSTREAM_ERROR: {failure}")

    return answer
