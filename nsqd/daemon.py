"""The nsqd daemon: it connects data path, broker and listeners, and orders start and stop.

Start: lock the data path, check the options, bind the listeners (connections wait in the kernel's backlog from here
on), recover the topics, serve. Stop, on SIGTERM or SIGINT: accept no more connections, close the clients, finish the
HTTP requests in progress, write and sync everything.
"""

from __future__ import annotations

import functools
import gc
import ipaddress
import os
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from pathlib import Path

import attrs
import trio

from nsqd.auth import Authorizer, AuthQueries
from nsqd.broker import Broker, BrokerOptions, Refused, Subscription, Topology
from nsqd.copies import Copies, NotServed, SecretError
from nsqd.copies.scrubbing import Scrubbing
from nsqd.drain import Drain
from nsqd.http.api import make_servers
from nsqd.log.file_storage import FileStorage
from nsqd.log.lock import DataPathLock
from nsqd.log.store import Store, StoreOptions
from nsqd.log.system_calls import keep_freed_memory
from nsqd.lookup import Registries
from nsqd.lookup.connect import SecureConnector
from nsqd.lookup.known_channels import KnownChannels
from nsqd.lookup.known_nodes import KnownNodes
from nsqd.lookup.peer import PING_INTERVAL, PINGS_TO_ADOPTION, PeerOptions
from nsqd.lookup.protocol import encode_identify
from nsqd.names import NameLimits
from nsqd.options import TOPOLOGY_AWARE, NsqdOptions
from nsqd.protocol_v2.client_stats import ClientStats, client_stats
from nsqd.protocol_v2.connections import Connections
from nsqd.protocol_v2.context import Context
from nsqd.protocol_v2.identify import IdentifyLimits
from nsqd.replication.keep import CopyNote
from nsqd.replication.stand_in import ENDS_WITH_STDIN, StandIns
from nsqd.rounds import Rounds
from nsqd.stats.copies import CopiesStats
from nsqd.stats.loop_lag import EventLoopLag
from nsqd.stats.remaining import remaining
from nsqd.stats.statsd import Statsd
from nsqkit.access import NOTHING, Access, ScopeError, TokenFileError
from nsqkit.access.own_token import OwnToken
from nsqkit.access.watch import TokenWatch
from nsqkit.audit import AuditTrail, FileChanges, by_signal
from nsqkit.audit.waiting import AuditError, start_audit
from nsqkit.certificates import TlsFiles, warn_if_readable_by_all
from nsqkit.file_watch import FileWatch
from nsqkit.http_client import HttpClient, HttpOptions
from nsqkit.logging import LogLevel, get_logger, set_level
from nsqkit.options import MILLISECOND, SECOND, TlsRequired
from nsqkit.service.descriptors import http_share
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
from nsqkit.service.statsd_prefix import expand_prefix
from nsqkit.service.systemd import keep_informed
from nsqkit.service.tls import REQUIRE_VERIFY, server_files
from nsqkit.tls import TlsConfigError, client_context
from nsqkit.version import VERSION, version_line

__all__ = ["Daemon", "StartError", "banner"]

log = get_logger("nsqd")

# Of a low limit the files to append to get a quarter, beyond what every daemon needs: all else has to go on without.
MOST_WRITERS = 256
NEEDED_DESCRIPTORS = 32
RESERVED_DESCRIPTORS = 372  # for the log's files: clients must not use them up
MIN_CONNECTIONS = 16
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
DRAIN_SIGNAL = signal.SIGUSR1


class StartError(Exception):
    """The daemon cannot start; the text is for the operator."""


class Daemon:
    """One nsqd. `Daemon(options)` opens the data path and recovers; `run` serves until a signal or a failed sync."""

    def __init__(self, options: NsqdOptions) -> None:
        self.options = options
        self.version = VERSION
        self.hostname = socket.gethostname()
        self.start_time_ns = time.time_ns()
        self.tcp_port = self.http_port = self.https_port = self.replication_port = -1
        # See `load_certificates`.
        self.tls: TlsFiles | None = None
        self._tls_to_registries: TlsFiles | None = None
        self._tls_to_auth_servers = self._client_tls("TLS to auth servers", options.tls_root_ca_file)
        self.access = Access()  # see `_load_access`
        self.audit = AuditTrail(options.audit_file, options.audit_required, "nsqd")
        self._own_token: OwnToken | None = None
        self.starts_anew = False
        self._failure: OSError | None = None  # of a sync; nothing may be written after that
        self._listener_failure: OSError | None = None
        self._scope = trio.CancelScope()
        self._stopping = trio.Event()
        folder = options.data_path or os.getcwd()
        try:
            self._lock = DataPathLock(folder)
        except OSError as error:
            raise StartError(f"failed to lock data-path: {error.strerror}") from error
        self._storage = FileStorage(folder)
        try:
            self.copies = Copies(options, Path(folder), self._start_anew, self.audit)
        except SecretError as error:
            raise StartError(f"failed to read the replication secret - {error}") from error
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._max_connections = max(MIN_CONNECTIONS, descriptors - RESERVED_DESCRIPTORS - http_share())
        self._max_writers = max(1, min(MOST_WRITERS, (descriptors - NEEDED_DESCRIPTORS) // 4))
        self._sync_writers = descriptors // 2

    # --- start

    def load_certificates(self) -> None:
        """Create the TLS context if the options require one. To be called before `run`. `StartError`."""
        options = self.options
        try:
            if options.tls_cert or options.tls_key:
                self.tls = server_files(
                    options.tls_cert,
                    options.tls_key,
                    client_auth_policy=options.tls_client_auth_policy,
                    root_ca_file=options.tls_root_ca_file,
                    min_version=options.tls_min_version,
                )
        except TlsConfigError as error:
            raise StartError(f"failed to build TLS config - {error}") from error
        try:
            self.copies.load_certificates()
        except TlsConfigError as error:
            raise StartError(f"failed to build TLS config for copies - {error}") from error
        try:
            if options.tls_root_ca_file:  # used for requests later; an invalid one must fail the start
                self._tls_to_auth_servers.load()
            if options.lookupd_tls:
                self._tls_to_registries = self._client_tls(
                    "TLS to nsqlookupds",
                    options.lookupd_tls_root_ca_file or options.tls_root_ca_file,
                    options.lookupd_tls_cert,
                    options.lookupd_tls_key,
                )
                self._tls_to_registries.load()
        except TlsConfigError as error:
            raise StartError(f"failed to build client TLS config - {error}") from error

    def _client_tls(self, name: str, root_ca_file: str, cert_file: str = "", key_file: str = "") -> TlsFiles:
        make = functools.partial(
            client_context,
            root_ca_file=root_ca_file,
            min_version=self.options.tls_min_version,
            cert_file=cert_file,
            key_file=key_file,
        )
        return TlsFiles(name, [root_ca_file, cert_file, key_file], make, cert_file=cert_file)

    @property
    def tls_files(self) -> list[TlsFiles]:
        found = [self.tls, self._tls_to_registries, self._tls_to_auth_servers, *self.copies.tls_files]
        return [each for each in found if each is not None and each.files]

    def _use_new_context(self) -> None:
        """For the connections that ask for TLS from now on."""
        self.context.tls = self.tls.context if self.tls is not None else None

    def _load_access(self) -> None:
        try:
            self.access = Access.load(self.options.anonymous, self.options.tokens_file)
            own_token_file = self.options.access_token_file
            self._own_token = OwnToken(own_token_file) if own_token_file else None
        except (ScopeError, TokenFileError) as error:
            raise StartError(f"failed to set up access control - {error}") from error
        self.token_watch = TokenWatch(self.access)
        self._token_changes = FileChanges(
            self.audit, "tokens", self.options.tokens_file, lambda: self.access.tokens.by_name
        )

    def _tokens_changed(self) -> None:
        """Or one has expired."""
        self._token_changes.look()
        self.connections.end_revoked(self.access.is_valid)

    def _warn_if_open(self, tcp: list[trio.SocketListener], http: list[trio.SocketListener]) -> None:
        """Unless auth servers or certificates keep strangers out."""
        options = self.options
        if options.tls_client_auth_policy == REQUIRE_VERIFY and options.tls_required is TlsRequired.YES:
            return
        listeners = http if options.auth_http_addresses else [*tcp, *http]
        if warning := self.access.open_to_all(exposed_addresses(listeners)):
            log.warning("ACCESS: %s", warning)

    def _warn_of_exposed_secrets(self) -> None:
        options = self.options
        warn_if_readable_by_all(
            options.tls_key,
            options.lookupd_tls_key,
            options.access_token_file,
            options.replication_secret_file,
        )

    def _prepare_storage(self) -> None:
        try:
            self._copied_storage = self.copies.make_storage(self._storage)
        except NotServed as error:
            raise StartError(str(error)) from error

    def _recover(self) -> None:
        options = self.options
        began = time.perf_counter()
        store = Store(
            self._copied_storage,
            StoreOptions(
                node_id=options.node_id,
                max_segment_bytes=options.max_bytes_per_file,
                min_free_space=options.min_free_space,
                max_writers=self._max_writers,
                sync_writers=self._sync_writers,
                has_followers=bool(options.replicate_to),
            ),
            time.time_ns(),
        )
        self.broker = Broker(store, _broker_options(options), trio.current_time(), time.time_ns())
        for note in store.notes:
            log.warning("recovery: %s", note)
        if self.broker.topics:
            log.info(
                "recovered %d topics in %.0f ms after %s stop",
                len(self.broker.topics),
                (time.perf_counter() - began) * 1000,
                "an orderly" if store.clean else "an unclean",
            )
        if store.space.full:
            log.error("disk: %s; publishes are refused until space is freed", store.space.full)
        self.rounds = Rounds(self.broker, self._sync_failed, self.copies.durability(self.broker))
        self.copies.attach(self.rounds)
        authorizer = Authorizer(
            options, HttpClient(_http_options(options, self._tls_to_auth_servers)), self.access
        )
        self.auth_queries = AuthQueries(authorizer, self.rounds)
        self.names = NameLimits(
            self.broker, options.max_topics, options.max_channels, options.max_names_per_connection
        )
        self.context = Context(
            broker=self.broker,
            names=self.names,
            version="" if options.hide_version else VERSION,
            enlist=self.rounds.answering.append,
            refresh_clock=self.rounds.begin,
            ask=self.auth_queries.ask if authorizer.enabled else None,
            # With auth servers everybody has to AUTH, as ever.
            anonymous=NOTHING if options.auth_http_addresses else self.access.anonymous,
            limits=_limits(options),
            max_msg_size=options.max_msg_size,
            max_body_size=options.max_body_size,
            max_rdy_count=options.max_rdy_count,
            max_req_timeout_ms=options.max_req_timeout // MILLISECOND,
            max_deflate_level=options.max_deflate_level,
            max_buffered_bytes=options.max_buffered_bytes,
            topology_region="" if options.hide_version else options.topology_region,
            topology_zone="" if options.hide_version else options.topology_zone,
            tls=self.tls.context if self.tls is not None else None,
            tls_required=options.tls_required is not TlsRequired.NO,
            trail=self.audit,
            verifies_certificates=options.tls_client_auth_policy == REQUIRE_VERIFY,
            snappy=options.snappy,
            deflate=options.deflate,
        )
        self.connections = Connections(
            self.context, self.rounds, self._max_connections, options.max_connections_per_address
        )
        self.token_watch.on_change = self._tokens_changed
        self.drain = Drain(
            self.broker,
            options.drain_timeout / SECOND,
            stop=self._stopping.set,
            answers_wait=lambda: self.rounds.has_unreleased_answers,
            for_good=options.stand_in,
        )
        self.loop_lag = EventLoopLag(lambda: self.broker.sync_count)

    def _discover(self) -> None:
        """Create the connections to the registries, after recovery: each gets all topics when it is connected."""
        options = self.options
        self.registries = Registries(
            self.broker,
            self.rounds,
            self._peer_options(),
            KnownChannels.over_http(self._registry_http_options()),
        )
        self.registries.set_addresses(options.nsqlookupd_tcp_addresses)

    def _peer_options(self) -> PeerOptions:
        options = self.options
        fields: dict[str, str | int] = {
            "broadcast_address": options.broadcast_address,
            "hostname": self.hostname,
            "http_port": options.broadcast_http_port,
            "tcp_port": options.broadcast_tcp_port,
            "topology_region": options.topology_region,
            "topology_zone": options.topology_zone,
            "version": VERSION,
            **self._announced_life(),
        }
        identify, limit = functools.partial(self._identify, fields), options.max_body_size
        fencing = self.copies.leader.fencing if self.copies.leader is not None else None
        peers = PeerOptions(identify, max_reply_size=limit)
        if (tls := self._tls_to_registries) is not None:
            peers = attrs.evolve(peers, make_connect=lambda: SecureConnector(tls), secure=True)
        if fencing is None:
            return peers
        return attrs.evolve(
            peers,
            ping_interval=min(PING_INTERVAL, options.adopt_after / SECOND / PINGS_TO_ADOPTION),
            on_ping=fencing.heard_registry,
        )

    def _registry_http_options(self) -> HttpOptions:
        """With the token, which auth servers do not get."""
        tls = self._tls_to_registries or self._tls_to_auth_servers
        return attrs.evolve(_http_options(self.options, tls), bearer=self._own_token)

    def _identify(self, fields: Mapping[str, str | int]) -> bytes:
        """The command, with the token that is in its file now."""
        token = {} if self._own_token is None else {"token": self._own_token()}
        return encode_identify({**fields, **token})

    def _announced_life(self) -> dict[str, str | int]:
        """For the registries, by which followers adopt copies; nothing for an nsqd that has to do with none."""
        options, life = self.options, self.broker.store.life
        if life is None or not (options.replicate_to or options.replication_address or options.stand_in):
            return {}
        copy = CopyNote.read(self._storage) if options.stand_in else None
        return {
            "life": life.life_id.hex(),
            "incarnation": life.incarnation,
            "replication_address": _reachable(
                options.replication_address, self.replication_port, options.broadcast_address
            ),
            "stands_in_for": copy.life if copy is not None else "",
        }

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve. Returns after an orderly stop; `OSError` if a sync or a listener failed; `StartError`."""
        # Signals first: as soon as the log says that it listens, it may be stopped.
        self._certificate_watches = [FileWatch(each, self._use_new_context) for each in self.tls_files]
        has_files = self.options.tokens_file or self._certificate_watches or self.audit.enabled
        handled = [*STOP_SIGNALS, DRAIN_SIGNAL, *([signal.SIGHUP] if has_files else [])]
        for number in handled:
            # trio restores this handler at the end: a second signal must not interrupt the last write.
            signal.signal(number, signal.SIG_IGN)
        with trio.open_signal_receiver(*handled) as signals, self._scope:
            self._load_access()
            self._warn_of_exposed_secrets()
            tcp = await _listen(self.options.tcp_address)
            http = await _listen(self.options.http_address) if self.options.http_address else []
            https = await self._listen_with_tls()
            self.tcp_port = _announce("TCP", tcp).port
            if http:
                self.http_port = _announce("HTTP", http).port
            if https:
                self.https_port = _announce("HTTPS", https).port
            self._warn_if_open(tcp, [*http, *https])
            self.options.broadcast_tcp_port = self.options.broadcast_tcp_port or max(self.tcp_port, 0)
            self.options.broadcast_http_port = self.options.broadcast_http_port or max(self.http_port, 0)
            self.options.statsd_prefix = expand_prefix(  # in place, so that /config shows the actual prefix
                self.options.statsd_prefix,
                f"{self.options.broadcast_address}:{self.options.broadcast_http_port}",
            )
            await self._begin_audit()
            self._prepare_storage()
            await self.copies.ask_followers()
            self._recover()
            if self.copies.adopted:
                await self.copies.hand_over_before_serving()
                self.starts_anew = True
            else:
                await self._listen_for_leaders()
                self._discover()
                _tune_memory()
                await self._serve(tcp, http, https, signals, on_ready)
        self._stop()
        if failure := self._failure or self._listener_failure:
            raise failure

    async def _begin_audit(self) -> None:
        """Once the ports are known, which are in its lines. `StartError`."""
        options = self.options
        try:
            await start_audit(
                self.audit,
                f"{options.broadcast_address}:{options.broadcast_http_port}",
                version=VERSION,
                data_path=options.data_path,
            )
        except AuditError as error:
            raise StartError(str(error)) from error

    async def _listen_with_tls(self) -> list[trio.SocketListener]:
        options = self.options
        assert self.tls is not None or not (options.tls_cert or options.tls_key), "load_certificates first"
        if self.tls is None or not options.https_address:
            return []
        return await _listen(options.https_address)

    async def _listen_for_leaders(self) -> None:
        if self.options.replication_address:
            listeners = await _listen(self.options.replication_address)
            self.replication_port = _announce("COPIES", listeners).port
            self.copies.listen_on(listeners)

    async def _serve(
        self,
        tcp: list[trio.SocketListener],
        http: list[trio.SocketListener],
        https: list[trio.SocketListener],
        signals: AsyncIterator[int],
        on_ready: Callable[[], None],
    ) -> None:
        plain_server, tls_server = make_servers(self)
        async with trio.open_nursery() as nursery:
            for task in (
                self.rounds.run_jobs,
                self.rounds.run_clock,
                self.connections.run,
                self.auth_queries.run,
                self.drain.run,
                self.registries.run,
                self.loop_lag.run,
                self._run_copies,
                self.token_watch.run,
                *(watch.run for watch in self._certificate_watches),
                *([self._stop_at_the_end_of_input] if os.environ.get(ENDS_WITH_STDIN) else []),
                *([Statsd(self).run] if self.options.statsd_address else []),
            ):
                nursery.start_soon(task)
            nursery.start_soon(self._watch_signals, signals)
            if self.options.stand_in:
                self.drain.begin()
            self.rounds.begin()
            self.rounds.end()
            async with trio.open_nursery() as serving:
                if http:
                    await serving.start(plain_server.run, http)
                if https:
                    assert self.tls is not None
                    await serving.start(tls_server.run, with_tls(https, self.tls))
                async with trio.open_nursery() as accepting:
                    for listener in tcp:
                        accepting.start_soon(self._accept_from, listener)
                    on_ready()
                    nursery.start_soon(keep_informed, self._stopping, f"TCP {self.options.tcp_address}")
                    await self._stopping.wait()
                    accepting.cancel_scope.cancel()
                for listener in tcp:
                    await close_listener(listener)
                self.connections.close_all()
                plain_server.stop()
                tls_server.stop()
            drained = self._has_drained()
            handed_over = await self.copies.stop(hand_over=self.drain.hand_over, drained=drained)
            await self.registries.leaving(for_good=handed_over or drained)
            nursery.cancel_scope.cancel()

    async def _run_copies(self) -> None:
        options = self._registry_http_options()
        nodes = KnownNodes.over_http(lambda: self.registries.http_addresses, options)
        await self.copies.run(self.registries, nodes)

    async def _accept_from(self, listener: trio.SocketListener) -> None:
        try:
            await accept_forever(listener, self._accept)
        except OSError as error:
            log.critical("TCP: listener failed - %s; stopping", error)
            self._listener_failure = error
            self._stopping.set()

    def _accept(self, stream: trio.SocketStream) -> None:
        remote = remote_address(stream)
        if refusal := self.connections.refusal(remote):
            log.warning("TCP: client(%s) refused: %s", remote, refusal)
            stream.socket.close()
            return
        sock = socket.socket(fileno=stream.socket.detach())
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        try:
            self.connections.add(sock, remote)
        except OSError as error:  # of `epoll_ctl`: the limit of watched descriptors
            log.warning("TCP: failed to accept %s - %s", remote, error)
            sock.close()

    # --- stop

    async def _watch_signals(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == DRAIN_SIGNAL:
                before = {"draining": self.drain.active}
                self.audit.record(by_signal("SIGUSR1"), "drain", before=before, after={"draining": True})
                self.drain.begin()
                continue
            if number == signal.SIGHUP:
                self.token_watch.hang_up()
                self.audit.reopen()
                for watch in self._certificate_watches:
                    watch.hang_up()
                continue
            log.info("%s: stopping", signal.Signals(number).name)
            self._stopping.set()

    async def _stop_at_the_end_of_input(self) -> None:
        """A stand-in ends with the nsqd that has started it, and hears from it what others have finished."""
        buffer = bytearray()
        while True:
            await trio.lowlevel.wait_readable(0)
            data = os.read(0, 65536)
            if not data:
                self._stopping.set()
                return
            buffer += data
            while (end := buffer.find(b"\n")) >= 0:
                if self.copies.stand_in is not None:
                    self.copies.stand_in.finished_elsewhere(bytes(buffer[:end]))
                del buffer[: end + 1]

    def _start_anew(self) -> None:
        """Stop at once, without writing anything: nothing in memory is true any more. The program starts again."""
        self.starts_anew = True
        self._scope.cancel()

    def _sync_failed(self, error: OSError) -> None:
        """Stop after a failed sync. Which data it has lost is unknown: recovery finds out what is on the disk."""
        if self._failure is None:
            log.critical("a sync failed - %s; stopping", error)
            self._failure = error
            self._scope.cancel()

    def _has_drained(self) -> bool:
        """Whether nothing remains here that consumers could want. What cannot be read is not nothing."""
        return (
            self.drain.active
            and not self.broker.failing_topics
            and next(remaining(self.broker), None) is None
        )

    def _stop(self) -> None:
        if self._failure is None and not self.starts_anew:
            self.rounds.begin()
            drained = self._has_drained()
            self.broker.close()
            if drained and not self.broker.failing_topics:
                self.copies.retire()
        self.copies.close()
        self.audit.close()
        self._storage.close()
        self._lock.release()
        log.info("NSQ: bye")

    # --- for the HTTP API (`HttpBackend`)

    @property
    def hand_over_refusal(self) -> str | None:
        return self.copies.hand_over_refusal

    @property
    def stand_ins(self) -> StandIns | None:
        return self.copies.follower.stand_ins if self.copies.follower is not None else None

    @property
    def scrubbing(self) -> Scrubbing | None:
        return self.copies.leader.scrubbing if self.copies.leader is not None else None

    @property
    def copies_stats(self) -> CopiesStats | None:
        return self.copies.stats()

    @property
    def connection_count(self) -> int:
        return len(self.connections.sessions)

    def clients(self, timings_at: float | None = None) -> Iterable[ClientStats]:
        return [client_stats(session, timings_at) for session in self.connections.sessions]

    def consumers(self, subscriptions: Collection[Subscription]) -> Mapping[Subscription, ClientStats]:
        return {
            session.subscription: client_stats(session)
            for session in self.connections.sessions
            if session.subscription is not None and session.subscription in subscriptions
        }

    def round(self) -> None:
        self.rounds.begin()

    def end_round(self) -> None:
        self.rounds.end()

    @property
    def ticket(self) -> int:
        return self.rounds.durability.ticket

    @property
    def safe_at_once(self) -> bool:
        return self.rounds.durability.at_once

    @property
    def safe(self) -> int:
        return self.rounds.durability.reached

    async def synced(self, ticket: int) -> None:
        await self.rounds.synced(ticket)

    def publish(self, topic_name: str, bodies: list[bytes], delay_ns: int | None) -> int:
        """Publish and commit; see `HttpBackend.publish`."""
        self.rounds.begin()
        try:
            self.names.allow_topic(topic_name)
            topic = self.broker.topic_to_publish(topic_name)
            commit_number = self.broker.publish(topic, bodies, delay_ns or 0)
            self.broker.commit()
            failed = topic.failed.get(commit_number)
            ticket = self.rounds.durability.ticket
        finally:
            self.rounds.end()
        if failed is not None:
            self.broker.clear_failures()
            raise Refused(failed)
        return ticket

    def set_log_level(self, level: LogLevel) -> None:
        self.options.log_level = level
        set_level(level)

    def set_lookupd_addresses(self, addresses: list[str]) -> None:
        self.options.nsqlookupd_tcp_addresses = addresses
        self.registries.set_addresses(addresses)
        self.copies.set_registries(addresses)


def _broker_options(options: NsqdOptions) -> BrokerOptions:
    measured = bool(options.e2e_processing_latency_percentiles)
    by_locality = TOPOLOGY_AWARE in options.enable_experiment
    return BrokerOptions(
        mem_queue_size=options.mem_queue_size,
        mem_queue_bytes=options.mem_queue_bytes,
        max_msg_timeout=options.max_msg_timeout / SECOND,
        max_req_timeout=options.max_req_timeout / SECOND,
        max_channel_consumers=options.max_channel_consumers,
        sync_on_commit=options.durability == "disk",
        sync_every=options.sync_every,
        sync_timeout=options.sync_timeout / SECOND,
        latency_window=options.e2e_processing_latency_window_time / SECOND if measured else 0.0,
        has_registries=bool(options.nsqlookupd_tcp_addresses),
        topology=Topology(options.topology_region, options.topology_zone) if by_locality else None,
        rules=options.rules,
    )


def _limits(options: NsqdOptions) -> IdentifyLimits:
    return IdentifyLimits(
        max_heartbeat_interval=options.max_heartbeat_interval // MILLISECOND,
        output_buffer_timeout=options.output_buffer_timeout // MILLISECOND,
        min_output_buffer_timeout=options.min_output_buffer_timeout // MILLISECOND,
        max_output_buffer_timeout=options.max_output_buffer_timeout // MILLISECOND,
        max_output_buffer_size=options.max_output_buffer_size,
        msg_timeout=options.msg_timeout // MILLISECOND,
        max_msg_timeout=options.max_msg_timeout // MILLISECOND,
    )


def _reachable(listen_address: str, port: int, broadcast_address: str) -> str:
    """Where others reach a listener, `host:port`; empty without one."""
    if not listen_address:
        return ""
    host = listen_address.rpartition(":")[0].strip("[]")
    try:
        anywhere = not host or ipaddress.ip_address(host).is_unspecified
    except ValueError:  # a name
        anywhere = False
    host = broadcast_address if anywhere else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _http_options(options: NsqdOptions, tls: TlsFiles) -> HttpOptions:
    """For requests to registries or to auth servers."""
    return HttpOptions(
        connect_timeout=options.http_client_connect_timeout / SECOND,
        request_timeout=options.http_client_request_timeout / SECOND,
        tls=tls,
    )


async def _listen(address: str) -> list[trio.SocketListener]:
    try:
        return await open_listeners(address)
    except OSError as error:
        raise StartError(f"listen ({address}) failed - {error}") from error


def _announce(name: str, listeners: list[trio.SocketListener]) -> BoundAddress:
    addresses = [bound_address(listener) for listener in listeners]
    for address in addresses:
        log.info("%s: listening on %s", name, address.text)
    return addresses[0]


def _tune_memory() -> None:
    """Tune the allocator and the garbage collector."""
    keep_freed_memory()
    # All objects of the start stay alive: exclude them from collections.
    gc.collect()
    gc.freeze()
    # The core creates many short-lived tuples, which are never in cycles. Rare collections bring 20 to 48 %.
    gc.set_threshold(100_000, 50, 50)


def banner(options: NsqdOptions) -> None:
    """Log version, node id and data path."""
    log.info("%s", version_line("nsqd"))
    log.info("ID: %d", options.node_id)
    log.info("data path: %s, durability: %s", os.path.abspath(options.data_path or "."), options.durability)
