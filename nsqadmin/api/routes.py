"""The routes of the JSON API, /config, /ping and /render, and what is said when the daemons behind do not answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nsqadmin.api.act import Actor
from nsqadmin.api.read import Reader
from nsqadmin.config import MAX_BODY, Config
from nsqadmin.console import Console
from nsqadmin.graphite import Graphite
from nsqadmin.notify import Notifier
from nsqadmin.upstream import UpstreamFailed
from nsqkit.service.http import Request, Response, Router, error, text

__all__ = ["add_api"]

_Handler = Callable[[Request], Awaitable[Response]]

_MOST_BODY = 64 * 1024  # bytes of a request's JSON: two names


def add_api(router: Router, console: Console, notifier: Notifier) -> None:
    """Add all paths but those of pages and files, below the console's base path."""
    base = console.base_path
    reader, actor = Reader(console), Actor(console, notifier)
    config, graphite = Config(console), Graphite(console.options, console.live.upstream)

    def add(method: str, path: str, handler: _Handler) -> None:
        router.add(method, base + path, _answering(handler), body_limit=_MOST_BODY)

    router.add("GET", f"{base}/ping", lambda _: text("OK", nsq=False))
    add("GET", "/api/topics", reader.topics)
    add("POST", "/api/topics", actor.create)
    add("GET", "/api/topics/:topic", reader.topic)
    add("POST", "/api/topics/:topic", actor.change)
    add("DELETE", "/api/topics/:topic", actor.delete_topic)
    add("GET", "/api/topics/:topic/:channel", reader.channel)
    add("POST", "/api/topics/:topic/:channel", actor.change)
    add("DELETE", "/api/topics/:topic/:channel", actor.delete_channel)
    add("GET", "/api/nodes", reader.nodes)
    add("GET", "/api/nodes/:node", reader.node)
    add("DELETE", "/api/nodes/:node", actor.tombstone)
    add("GET", "/api/counter", reader.counter)
    add("GET", "/api/graphite", graphite.rate)
    router.add("GET", f"{base}/config/:opt", config.get)
    router.add("PUT", f"{base}/config/:opt", config.put, body_limit=MAX_BODY, too_big=config.refuse_big)
    if console.options.proxy_graphite:
        router.add("GET", f"{base}/render", graphite.render)


def _answering(handler: _Handler) -> _Handler:
    """With nobody there to ask, the console is a gateway without a way: 502, and the reasons."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except UpstreamFailed as failure:
            return error(502, f"UPSTREAM_ERROR: {failure}")

    return answer
