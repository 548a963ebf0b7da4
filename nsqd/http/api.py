"""All routes of the HTTP API, and the handlers of the simple ones: /ping, /info, /drain, /stats, /metrics.

Requests of all routes but /pub and /mpub are written to the access log.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from nsqd.access import ROUTES
from nsqd.http.admin import Admin
from nsqd.http.context import HttpBackend
from nsqd.http.debug import Debug
from nsqd.http.limits import Limits
from nsqd.http.looks import Looks
from nsqd.http.peek import Peeking
from nsqd.http.publish import Publishing
from nsqd.http.redrive import Redriving
from nsqd.http.seek import Seeking
from nsqd.names import TooManyNames
from nsqd.replication.stand_in import CommandRefused, StandIns
from nsqd.stats.as_json import stats_json
from nsqd.stats.as_text import stats_text
from nsqd.stats.collect import StatsQuery, collect, health_of
from nsqd.stats.memory import watch_gc
from nsqd.stats.prometheus import metrics_page
from nsqkit.access import Need
from nsqkit.logging import get_logger
from nsqkit.options import SECOND, TlsRequired
from nsqkit.service.http import (
    ByteBudget,
    ConnectionShare,
    Guard,
    HttpServer,
    Only,
    Request,
    Response,
    Router,
    error,
    json_body,
    only_over_tls,
    query,
    text,
)
from nsqkit.service.http.access import access_log
from nsqkit.service.http.audit import AuditLines, note
from nsqkit.service.http.config import Config, read_addresses, read_log_level
from nsqkit.service.http.routing import Handler
from nsqkit.service.tls import REQUIRE_VERIFY

__all__ = ["make_plain_app", "make_router", "make_servers"]

_log = get_logger(__name__)

_OfACopy = Callable[..., Awaitable[None]]
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_HEALTHY = text("OK", nsq=False)
_DRAINING = text("OK - draining", nsq=False)
_DONE = text("")
_STOPPING = error(409, "STOPPING")


def make_servers(daemon: HttpBackend) -> tuple[HttpServer, HttpServer]:
    """The servers for listeners without and with TLS. To be called once the ports are bound.

    Both have the same routes, and share one budget for request bodies and unsent responses.
    """
    router = make_router(daemon)
    budget = ByteBudget(daemon.options.max_buffered_bytes)
    share = ConnectionShare()
    plain = HttpServer(make_plain_app(daemon, router), budget=budget, share=share, batches=True)
    return plain, HttpServer(router, budget=budget, share=share)


def make_router(daemon: HttpBackend) -> Router:
    """The API of this daemon, for its HTTP and its HTTPS listeners."""
    watch_gc()
    api, options = _Api(daemon), daemon.options
    guard = Guard(
        ROUTES,
        daemon.access,
        options.http_allowed_hosts,
        options.broadcast_address,
        daemon.audit,
        verified=options.tls_client_auth_policy == REQUIRE_VERIFY,
    )
    router = Router(access_log(_log), guard=guard)
    router.add("GET", "/ping", api.ping)
    router.add("GET", "/info", api.info)
    router.add("POST", "/drain", api.drain)
    router.add("POST", "/drain/cancel", api.cancel_drain)
    router.add("GET", "/stats", api.stats)
    router.add("GET", "/metrics", api.metrics)
    router.add("GET", "/replicas", api.replicas)
    router.add("POST", "/replicas/adopt", api.adopt)
    router.add("POST", "/replicas/forget", api.forget)
    router.add("POST", "/replicas/scrub", api.scrub)
    publishing = Publishing(daemon)
    router.add(
        "POST",
        "/pub",
        publishing.pub,
        body_limit=options.max_msg_size,
        too_big=error(413, "MSG_TOO_BIG"),
        batch=publishing.pub_together,
        quiet=True,
    )
    router.add(
        "POST",
        "/mpub",
        publishing.mpub,
        body_limit=options.max_body_size,
        too_big=publishing.mpub_too_big,
        quiet=True,
    )
    looks = Looks()
    seeking = Seeking(daemon, looks)
    for path, handler in Admin(daemon, seeking).routes():
        router.add("POST", path, _within_limits(daemon, path, handler))
    peeking, redriving = Peeking(daemon, looks), Redriving(daemon)
    for method, path, handler in (*peeking.routes(), *seeking.routes(), *redriving.routes()):
        router.add(method, path, handler)
    Limits(daemon).add_to(router)
    config = _config(daemon)
    router.add("GET", "/config/:opt", config.get)
    router.add(
        "PUT",
        "/config/:opt",
        config.put,
        body_limit=options.max_msg_size,
        too_big=error(413, "INVALID_VALUE"),
    )
    router.add("GET", "/audit", AuditLines(daemon.audit).get)
    if options.debug_endpoints == "on":
        Debug().add_to(router)
    return router


def _within_limits(daemon: HttpBackend, path: str, handler: Handler) -> Handler:
    """The handler of an administrative request, which creates no more than may be created."""
    if not path.endswith("/create"):
        return handler

    def checked(request: Request) -> Response | Awaitable[Response]:
        params = query(request)
        topic, channel = params.get("topic", ""), params.get("channel", "")
        try:
            if path.startswith("/channel/"):
                if topic in daemon.broker.topics:  # others are not found
                    daemon.names.allow_channel(topic, channel)
            else:
                daemon.names.allow_topic(topic)
        except TooManyNames as reason:
            return error(503, reason.code)
        return handler(request)

    return checked


def make_plain_app(daemon: HttpBackend, router: Router) -> Router | Only:
    """The app of the listener without TLS: the API, or with `--tls-required` a 403 that names the HTTPS port.

    To be called once the ports are bound.
    """
    if daemon.options.tls_required is not TlsRequired.YES:
        return router
    assert router.guard is not None
    return only_over_tls(daemon.https_port, router.guard.audit)


def _config(daemon: HttpBackend) -> Config:
    return Config(
        daemon.options,
        {
            "log_level": lambda body: daemon.set_log_level(read_log_level(body)),
            "nsqlookupd_tcp_addresses": lambda body: daemon.set_lookupd_addresses(
                read_addresses(body, daemon.options.nsqlookupd_tcp_addresses)
            ),
        },
    )


class _Api:
    def __init__(self, daemon: HttpBackend) -> None:
        self._daemon = daemon

    def ping(self, request: Request) -> Response:
        health = health_of(self._daemon)
        if not self._daemon.access.anonymous.allows(Need.READ):
            health = health.partition(" ")[0]  # everybody may ask, and the reason has names of topics
        if not health.startswith("OK"):
            return text(health, 500, nsq=False)
        if self._daemon.drain.active and self._daemon.access.anonymous.allows(Need.READ):
            return _DRAINING
        # One topic's trouble must not take the daemon out of service for all others: 200.
        return _HEALTHY if health == "OK" else text(health, nsq=False)

    def drain(self, request: Request) -> Response:
        hand_over = _BOOLEANS.get(query(request).get("hand_over", ""), False)
        if hand_over and (reason := self._daemon.hand_over_refusal) is not None:
            return error(409, f"REFUSED: {reason}")
        note(request, before={"draining": self._daemon.drain.active}, after={"draining": True})
        self._daemon.drain.begin(hand_over=hand_over)
        return _DONE

    def cancel_drain(self, request: Request) -> Response:
        note(request, before={"draining": self._daemon.drain.active}, after={"draining": False})
        return _DONE if self._daemon.drain.cancel() else _STOPPING

    def info(self, request: Request) -> Response:
        daemon, options = self._daemon, self._daemon.options
        return json_body(
            {
                "version": daemon.version,
                "broadcast_address": options.broadcast_address,
                "hostname": daemon.hostname,
                "http_port": daemon.http_port,
                "tcp_port": daemon.tcp_port,
                "start_time": daemon.start_time_ns // SECOND,
                "max_heartbeat_interval": options.max_heartbeat_interval,
                "max_output_buffer_size": options.max_output_buffer_size,
                "max_output_buffer_timeout": options.max_output_buffer_timeout,
                "max_deflate_level": options.max_deflate_level,
                "topology_zone": options.topology_zone,
                "topology_region": options.topology_region,
            }
        )

    async def stats(self, request: Request) -> Response:
        params = query(request)
        asked = StatsQuery(
            topic=params.get("topic", ""),
            channel=params.get("channel", ""),
            include_clients=_BOOLEANS.get(params.get("include_clients", ""), True),
            include_timings=_BOOLEANS.get(params.get("include_timings", ""), False),
            include_memory=_BOOLEANS.get(params.get("include_mem", ""), True),
        )
        stats = await collect(self._daemon, asked)
        if params.get("format") == "json":
            return await stats_json(stats, time.time_ns())
        return text(await stats_text(stats, time.time_ns()))

    def replicas(self, request: Request) -> Response:
        """Copies of this nsqd elsewhere, and those of others here."""
        copies = self._daemon.copies_stats
        if copies is None:
            return error(404, "NO_COPIES")
        return json_body(copies.as_json())

    async def adopt(self, request: Request) -> Response:
        """Serve the copy of a life whose leader is gone."""
        return await self._of_a_copy(request, "adoption", StandIns.adopt)

    async def forget(self, request: Request) -> Response:
        """Remove the copy of a life that will not come back."""
        return await self._of_a_copy(request, "removal", StandIns.forget)

    def scrub(self, request: Request) -> Response:
        """Compare all that was written long ago with the followers' copies, now."""
        scrubbing = self._daemon.scrubbing
        if scrubbing is None:
            return error(404, "NO_COPIES")
        if reason := scrubbing.begin_at_once():
            return error(409, f"REFUSED: {reason}")
        return _DONE

    async def _of_a_copy(self, request: Request, what: str, act: _OfACopy) -> Response:
        params = query(request)
        stand_ins = self._daemon.stand_ins
        life = params.get("life", "")
        if stand_ins is None or life not in stand_ins.lives:
            return error(404, "NO_SUCH_COPY")
        note(request, on={"of": stand_ins.name_of(life)})
        try:
            await act(stand_ins, life, force=_BOOLEANS.get(params.get("force", ""), False))
        except CommandRefused as reason:
            return error(409, f"REFUSED: {reason}")
        except OSError as failure:
            _log.error("HTTP: %s of %s failed - %s", what, life, failure)
            return error(500, "INTERNAL_ERROR")
        return _DONE

    async def metrics(self, request: Request) -> Response:
        include_topics = _BOOLEANS.get(query(request).get("include_topics", ""), True)
        return await metrics_page(self._daemon, time.time_ns(), include_topics=include_topics)
