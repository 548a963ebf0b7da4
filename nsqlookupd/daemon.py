"""The nsqlookupd daemon: it connects registry and listeners, and orders start and stop.

Start: bind the listeners, then serve; the registry is empty and fills as nsqds register. Stop, on SIGTERM or SIGINT:
finish the HTTP requests in progress, and then close the connections of the nsqds, so that the last look-ups do not say
that there are none. There is no state to save.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable

import msgspec
import trio

from nsqkit.access import Access, ScopeError, TokenFileError
from nsqkit.access.watch import TokenWatch
from nsqkit.audit import AuditTrail, FileChanges
from nsqkit.audit.waiting import AuditError, start_audit
from nsqkit.certificates import TlsFiles, warn_if_readable_by_all
from nsqkit.file_watch import FileWatch
from nsqkit.logging import get_logger
from nsqkit.options import SECOND, TlsRequired
from nsqkit.service.http import Guard, HttpServer, Limits, only_over_tls
from nsqkit.service.listeners import (
    BoundAddress,
    accept_forever,
    bound_address,
    close_listener,
    exposed_addresses,
    open_listeners,
    remote_address,
    with_tls,
)
from nsqkit.service.systemd import keep_informed
from nsqkit.service.tls import REQUIRE, VERIFY_IF_GIVEN, server_files
from nsqkit.tls import TlsConfigError
from nsqkit.version import VERSION
from nsqlookupd.access import ROUTES
from nsqlookupd.connections import MAX_CONNECTIONS, Connections, Tls, tune
from nsqlookupd.http import Watches, make_server
from nsqlookupd.options import LookupdOptions
from nsqlookupd.protocol_v1 import Context
from nsqlookupd.registry import Registry, RegistryLimits
from nsqlookupd.witness import TICK_S, Witness

__all__ = ["Daemon", "StartError"]

log = get_logger("nsqlookupd")

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
RESERVED_DESCRIPTORS = 50  # for listeners, the log and whatever the libraries open
MIN_CONNECTIONS = 16


class StartError(Exception):
    """The daemon cannot start; the text is for the operator."""


class Daemon:
    """One nsqlookupd: `run` serves until a signal, `stop`, or the failure of a listener."""

    def __init__(self, options: LookupdOptions) -> None:
        self.options = options
        self.tcp_port = self.http_port = self.https_port = -1
        """The bound ports; -1 for a unix socket, and before `run`."""
        self.registry = Registry(
            inactive_after=options.inactive_producer_timeout / SECOND,
            tombstone_lifetime=options.tombstone_lifetime / SECOND,
            limits=RegistryLimits(per_producer=options.max_registrations_per_nsqd),
        )
        self.witness = Witness()
        self.access = Access()  # see `_load_access`
        self.audit = AuditTrail(options.audit_file, options.audit_required, "nsqlookupd")
        self.tls: TlsFiles | None = None  # see `_load_certificates`
        self._stopping = trio.Event()

    def stop(self) -> None:
        """Begin an orderly stop, after which `run` returns."""
        self._stopping.set()

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve until a stop. `StartError` if it cannot start, `OSError` if a listener failed."""
        failure: OSError | None = None
        # Signals first: as soon as the log says that it listens, it may be stopped.
        options = self.options
        has_files = options.tokens_file or options.tls_cert or self.audit.enabled
        handled = [*STOP_SIGNALS, *([signal.SIGHUP] if has_files else [])]
        with trio.open_signal_receiver(*handled) as signals:
            async with contextlib.AsyncExitStack() as stack:
                self._load_access()
                self._load_certificates()
                warn_if_readable_by_all(options.tls_key)
                tcp = await _listen(options.tcp_address, stack)
                http = await _listen(options.http_address, stack) if options.http_address else []
                has_https = self.tls is not None and options.https_address
                https = await _listen(options.https_address, stack) if has_https else []
                self.tcp_port = _announce("TCP", tcp).port
                if http:
                    self.http_port = _announce("HTTP", http).port
                if https:
                    self.https_port = _announce("HTTPS", https).port
                if warning := self.access.open_to_all(exposed_addresses([*tcp, *http, *https])):
                    log.warning("ACCESS: %s", warning)
                await self._begin_audit()
                stack.callback(self.audit.close)
                _tune_garbage_collection()
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._watch, signals)
                        await self._serve(tcp, http, https, on_ready)
                        nursery.cancel_scope.cancel()
                except* OSError as errors:
                    failure = _first(errors)
        if failure is not None:
            raise failure
        log.info("NSQLOOKUPD: bye")

    def _load_access(self) -> None:
        try:
            self.access = Access.load(self.options.anonymous, self.options.tokens_file)
        except (ScopeError, TokenFileError) as error:
            raise StartError(f"failed to set up access control - {error}") from error
        self.token_watch = TokenWatch(self.access)

    async def _begin_audit(self) -> None:
        """Once the port is known, which is in its lines. `StartError`."""
        try:
            node = f"{self.options.broadcast_address}:{self.http_port}"
            await start_audit(self.audit, node, version=VERSION)
        except AuditError as error:
            raise StartError(str(error)) from error

    def _load_certificates(self) -> None:
        options = self.options
        if not (options.tls_cert or options.tls_key):
            return
        policy = options.tls_client_auth_policy
        if options.register_by_certificate:
            policy = policy or VERIFY_IF_GIVEN
        try:
            self.tls = server_files(
                options.tls_cert,
                options.tls_key,
                client_auth_policy=policy,
                root_ca_file=options.tls_root_ca_file,
                min_version=options.tls_min_version,
            )
        except TlsConfigError as error:
            raise StartError(f"failed to build TLS config - {error}") from error
        self._tls_watch = FileWatch(self.tls)

    async def _serve(
        self,
        tcp: list[trio.SocketListener],
        http: list[trio.SocketListener],
        https: list[trio.SocketListener],
        on_ready: Callable[[], None],
    ) -> None:
        context = Context(
            registry=self.registry,
            identity=self._identity(),
            witness_identity=self._identity(witness=self.witness.id),
            witness=self.witness,
            access=self.access,
            trail=self.audit,
        )
        limits = Limits()
        watches = Watches(self.registry, limits.connections // 2)
        guard = Guard(
            ROUTES,
            self.access,
            self.options.http_allowed_hosts,
            self.options.broadcast_address,
            self.audit,
            verified=self.options.tls_client_auth_policy != REQUIRE,
        )
        server = make_server(
            self.registry,
            limits=limits,
            traffic=context.traffic,
            watches=watches,
            witness=self.witness,
            guard=guard,
            tls_files=[self.tls] if self.tls is not None else [],
            debug=self.options.debug_endpoints == "on",
        )
        plain_server = server
        if self.options.tls_required is TlsRequired.YES:
            app = only_over_tls(self.https_port, guard.audit)
            plain_server = HttpServer(app, limits, budget=server.budget, share=server.share)
        connections = Connections(
            context, _max_connections(), self._tls_of_tcp(), self.options.max_connections_per_address
        )
        token_changes = FileChanges(
            self.audit, "tokens", self.options.tokens_file, lambda: self.access.tokens.by_name
        )

        def tokens_changed() -> None:
            """Or one has expired."""
            token_changes.look()
            connections.end_revoked(self.access.is_valid)

        self.token_watch.on_change = tokens_changed
        async with trio.open_nursery() as clients:

            def take(stream: trio.SocketStream) -> None:
                tune(stream.socket)
                clients.start_soon(connections.serve, stream, remote_address(stream))

            clients.start_soon(self.token_watch.run)
            if self.tls is not None:
                clients.start_soon(self._tls_watch.run)
            async with trio.open_nursery() as serving:
                secure = with_tls(https, self.tls) if self.tls is not None else []
                if plain_server is server:
                    await serving.start(server.run, [*http, *secure])
                else:
                    await serving.start(plain_server.run, http)
                    await serving.start(server.run, secure)
                for listener in tcp:
                    clients.start_soon(accept_forever, listener, take)
                clients.start_soon(self._tick)
                on_ready()
                serving.start_soon(keep_informed, self._stopping, f"TCP {self.options.tcp_address}")
                await self._stopping.wait()
                watches.stop()
                plain_server.stop()
                server.stop()
            clients.cancel_scope.cancel()

    def _tls_of_tcp(self) -> Tls | None:
        if self.tls is None:
            return None
        return Tls(
            self.tls,
            required=self.options.tls_required is not TlsRequired.NO,
            registers=self.options.register_by_certificate,
        )

    async def _watch(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                self.token_watch.hang_up()
                self.audit.reopen()
                if self.tls is not None:
                    self._tls_watch.hang_up()
                continue
            log.info("%s: stopping", signal.Signals(number).name)
            self.stop()

    async def _tick(self) -> None:
        """Let the witness see that this process runs: see its theory of operation."""
        while True:
            self.witness.advance(trio.current_time())
            await trio.sleep(TICK_S)

    def _identity(self, **more: str) -> bytes:
        """The reply to IDENTIFY, keys sorted."""
        fields = {
            "broadcast_address": self.options.broadcast_address,
            "hostname": socket.gethostname(),
            "http_port": self.http_port,
            "tcp_port": self.tcp_port,
            "version": VERSION,
            **({"https_port": self.https_port} if self.https_port > 0 else {}),  # not in the original
            **more,
        }
        return msgspec.json.encode(fields, order="sorted")


async def _listen(address: str, stack: contextlib.AsyncExitStack) -> list[trio.SocketListener]:
    """Bind an address. `stack` closes the listeners at the end."""
    try:
        listeners = await open_listeners(address)
    except OSError as error:
        raise StartError(f"listen ({address}) failed - {error}") from error
    for listener in listeners:
        stack.push_async_callback(_close, listener)
    return listeners


async def _close(listener: trio.SocketListener) -> None:
    with trio.CancelScope(shield=True):
        await close_listener(listener)


def _announce(name: str, listeners: list[trio.SocketListener]) -> BoundAddress:
    addresses = [bound_address(listener) for listener in listeners]
    for address in addresses:
        log.info("%s: listening on %s", name, address.text)
    return addresses[0]


def _first(errors: BaseExceptionGroup[OSError]) -> OSError:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _max_connections() -> int:
    """The other half of the descriptors is for clients of the HTTP API."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return min(MAX_CONNECTIONS, max(MIN_CONNECTIONS, (descriptors - RESERVED_DESCRIPTORS) // 2))


def _tune_garbage_collection() -> None:
    """Exclude the objects of the start from collections, and collect rarely."""
    gc.collect()
    gc.freeze()
    # A registry of many names is long-lived, and each full collection would traverse it.
    gc.set_threshold(100_000, 50, 50)
