"""All routes of the HTTP API, and the handlers that only read: /ping, /info, /topics, /lookup, /replicas and so on."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection

import attrs
import trio

from nsqkit.certificates import TlsFiles
from nsqkit.logging import get_logger
from nsqkit.options import SECOND, parse_duration
from nsqkit.service.http import (
    Guard,
    HttpError,
    HttpServer,
    Limits,
    Request,
    Response,
    Router,
    error,
    json_body,
    query,
    text,
)
from nsqkit.service.http.access import access_log
from nsqkit.service.http.audit import AuditLines
from nsqkit.service.http.params import any_param
from nsqkit.service.http.profiling import Profiling
from nsqkit.version import VERSION
from nsqlookupd.access import ROUTES
from nsqlookupd.http.admin import Admin
from nsqlookupd.http.forms import debug_json, lookup_form, nodes_json, replicas_json
from nsqlookupd.http.metrics import Metrics
from nsqlookupd.http.watches import VERSION_HEADER, Watches
from nsqlookupd.registry import Registry
from nsqlookupd.traffic import Traffic
from nsqlookupd.witness import Witness

__all__ = ["make_router", "make_server"]

_log = get_logger(__name__)

_MAX_DEBUG_ENTRIES = 200_000
"""Entries of /debug, some 300 bytes each: bounds the memory that one response takes."""
_NO_TOPIC = error(404, "TOPIC_NOT_FOUND")
_TOO_MANY = error(503, "TOO_MANY_REGISTRATIONS")


def make_server(
    registry: Registry,
    clock: Callable[[], float] = trio.current_time,
    *,
    limits: Limits | None = None,
    traffic: Traffic | None = None,
    watches: Watches | None = None,
    witness: Witness | None = None,
    guard: Guard | None = None,
    tls_files: Collection[TlsFiles] = (),
    debug: bool = True,
) -> HttpServer:
    """The server of this registry's API. `clock`: the registry's; `traffic`, `witness`: shared with the connections;
    `guard`: refuses requests; `tls_files`: whose certificates `/metrics` shows; `debug`: with what is below /debug.
    """
    limits = limits or Limits()
    watches = watches or Watches(registry, limits.connections // 2)
    router = make_router(
        registry,
        clock,
        traffic or Traffic(),
        watches,
        witness or Witness(),
        guard or Guard(ROUTES),
        tls_files,
        debug=debug,
    )
    return HttpServer(router, limits)


def make_router(
    registry: Registry,
    clock: Callable[[], float],
    traffic: Traffic,
    watches: Watches,
    witness: Witness,
    guard: Guard,
    tls_files: Collection[TlsFiles] = (),
    *,
    debug: bool = True,
) -> Router:
    """The routes of this registry's API."""
    leave_line = access_log(_log)

    def answered(request: Request, status: int, seconds: float) -> None:
        traffic.requests[status] += 1
        leave_line(request, status, seconds)

    router = Router(answered, guard=guard)
    api = _Api(registry, clock, watches, witness)
    router.add("GET", "/ping", lambda _: text("OK", nsq=False))
    router.add("GET", "/info", lambda _: json_body({"version": VERSION}))
    router.add("GET", "/topics", api.topics)
    router.add("GET", "/channels", api.channels)
    router.add("GET", "/lookup", api.lookup)
    router.add("GET", "/nodes", api.nodes)
    router.add("GET", "/replicas", api.replicas)
    trail = guard.trail
    router.add("GET", "/metrics", Metrics(registry, clock, traffic, witness, trail, tls_files).get)
    router.add("GET", "/audit", AuditLines(trail).get)
    for path, handler in Admin(registry, clock, witness).routes():
        router.add("POST", path, handler)
    if debug:
        router.add("GET", "/debug", api.debug)
        Profiling().add_to(router, index="/debug/pprof")
    return router


class _Api:
    def __init__(
        self, registry: Registry, clock: Callable[[], float], watches: Watches, witness: Witness
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._watches = watches
        self._witness = witness

    def topics(self, request: Request) -> Response:
        query(request)  # a malformed query string is refused here too
        return json_body({"topics": self._registry.topics()})

    def channels(self, request: Request) -> Response:
        topic = any_param(query(request), "topic")
        return json_body({"channels": self._registry.channels(topic)})

    def lookup(self, request: Request) -> Response | Awaitable[Response]:
        params = query(request)
        topic, known = any_param(params, "topic"), params.get("newer_than")
        if known is None or "wait" not in params:
            return self._lookup(topic)
        try:
            wait_s = parse_duration(params["wait"]) / SECOND
        except ValueError:
            raise HttpError(400, "INVALID_ARG_WAIT") from None
        return self._lookup_later(topic, known, wait_s, request.remote)

    async def _lookup_later(self, topic: str, known: str, wait_s: float, remote: str) -> Response:
        await self._watches.wait_for_change(topic, known, wait_s, remote)
        return self._lookup(topic)

    def _lookup(self, topic: str) -> Response:
        found = self._registry.lookup(topic, self._clock())
        response = _NO_TOPIC if found is None else json_body(lookup_form(found))
        # Of the same moment as the answer, so that no change falls between the two.
        version = self._watches.version(topic).encode()
        return attrs.evolve(response, headers=((VERSION_HEADER, version),))

    async def nodes(self, request: Request) -> Response:
        query(request)
        return json_body(await nodes_json(self._registry, self._witness, self._clock()))

    async def replicas(self, request: Request) -> Response:
        """What this registry knows as a witness."""
        query(request)
        self._witness.advance(self._clock())
        return json_body(await replicas_json(self._witness))

    async def debug(self, request: Request) -> Response:
        query(request)
        # Each producer has one entry in addition to its registrations.
        if self._registry.registration_count + len(self._registry.producers()) > _MAX_DEBUG_ENTRIES:
            return _TOO_MANY
        return json_body(await debug_json(self._registry, self._clock(), time.time_ns()))
