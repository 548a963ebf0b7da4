"""The nsqadmin process: the console, its server, the poller, and the order of start and stop.

Start: bind the listener, start to poll, serve; the first snapshot follows a moment later. Stop, on SIGTERM or SIGINT:
close the listener, end the streams of the pages, finish pending requests. There is no state to save.
"""

from __future__ import annotations

import gc
import signal
import socket
from collections.abc import AsyncIterator, Callable

import trio

from nsqadmin.actions import Actions
from nsqadmin.alarms.watch import AlarmWatch
from nsqadmin.alarms.webhook import AlarmWebhook
from nsqadmin.audit import NSQADMIN
from nsqadmin.auth.authentication import Authentication
from nsqadmin.auth.users import UserFileError
from nsqadmin.cluster.consumers import ConsumerQueries
from nsqadmin.cluster.history import History
from nsqadmin.cluster.poller import ClusterPoller
from nsqadmin.cluster.queries import ClusterQueries
from nsqadmin.console import Console
from nsqadmin.notify import Notifier
from nsqadmin.options import AdminOptions
from nsqadmin.site import Site
from nsqadmin.upstream import Upstream
from nsqkit.audit import AuditTrail, FileChanges
from nsqkit.audit.waiting import AuditError, start_audit
from nsqkit.certificates import TlsFiles, warn_if_readable_by_all
from nsqkit.file_watch import FileWatch
from nsqkit.logging import get_logger
from nsqkit.options import SECOND
from nsqkit.service.descriptors import http_share
from nsqkit.service.http import HttpServer, Limits
from nsqkit.service.http.access import access_log
from nsqkit.service.listeners import bound_address, close_listener, open_listeners, with_tls
from nsqkit.service.systemd import keep_informed
from nsqkit.service.tls import server_files
from nsqkit.tls import TlsConfigError

__all__ = ["Daemon", "StartError", "make_console", "tune_garbage_collection"]

log = get_logger("nsqadmin")

SHARE_OF_DESCRIPTORS = 3 / 4  # for browsers and streams; the others are for requests to daemons
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StartError(Exception):
    """The daemon cannot start; the text is for the operator."""


class Daemon:
    """One nsqadmin. `run` serves until a signal, `stop`, or the failure of a listener."""

    def __init__(self, options: AdminOptions) -> None:
        self.options = options
        self.http_port = -1
        """The port that is bound; -1 for a unix socket, and before `run`."""
        try:
            self.console = make_console(options)
        except UserFileError as error:
            raise StartError(f"--users-file: {error}") from error
        if (users := self.console.authentication.users) is not None:
            changes = FileChanges(
                self.console.trail, "users", options.users_file, lambda: users.users.by_name
            )
            self.console.authentication.on_users_change = changes.look
        self._upstream = self.console.queries.upstream
        self._notifier = Notifier(self._upstream)
        self._tls: TlsFiles | None = None  # see `_load_certificate`
        self._certificates: list[FileWatch] = []

    def stop(self) -> None:
        """Begin to stop; `run` returns soon afterwards."""
        self.console.stopping.set()

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve. Raises `StartError` if it cannot start, and `OSError` if a listener fails."""
        failure: OSError | None = None
        # Signals first: a supervisor may stop it as soon as it has logged that it listens.
        trail = self.console.trail
        self._load_certificate()
        options = self.options
        has_files = self._certificates or options.users_file or trail.enabled
        handled = [*STOP_SIGNALS, *([signal.SIGHUP] if has_files else [])]
        warn_if_readable_by_all(options.tls_key, options.http_client_tls_key, options.access_token_file)
        with trio.open_signal_receiver(*handled) as signals:
            listeners = await self._listen()
            try:
                await self._begin_audit()
                tune_garbage_collection()
                await self._serve(listeners, signals, on_ready)
            except* OSError as errors:
                failure = _first(errors)
            finally:
                with trio.CancelScope(shield=True):
                    for listener in listeners:
                        await close_listener(listener)
                    await self._upstream.aclose()
                trail.close()
        if failure is not None:
            raise failure
        log.info("HTTP: bye")

    async def _serve(
        self,
        listeners: list[trio.SocketListener],
        signals: AsyncIterator[int],
        on_ready: Callable[[], None],
    ) -> None:
        site = Site(self.console, self._notifier, access_log(log))
        server = HttpServer(site, Limits(connections=http_share(SHARE_OF_DESCRIPTORS)))
        stopping = self.console.stopping
        async with trio.open_nursery() as background:
            background.start_soon(self._watch, signals)
            for watch in self._certificates:
                background.start_soon(watch.run)
            background.start_soon(self.console.poller.run)
            background.start_soon(self.console.consumers.run)
            background.start_soon(self.console.alarms.run)
            for url in self.options.alarm_webhooks:
                webhook = AlarmWebhook(url, self.console.alarms, self._upstream, self.console.base_path)
                background.start_soon(webhook.run)
            background.start_soon(self._notifier.run)
            background.start_soon(self.console.authentication.run)
            # Two nurseries: requests that are being finished still need the tasks in the background.
            async with trio.open_nursery() as serving:
                await serving.start(
                    server.run, listeners if self._tls is None else with_tls(listeners, self._tls)
                )
                on_ready()
                serving.start_soon(keep_informed, stopping, f"HTTP {self.options.http_address}")
                await stopping.wait()
                server.stop()
            background.cancel_scope.cancel()

    async def _begin_audit(self) -> None:
        """Once the port is known, which is in its lines. `StartError`."""
        trail = self.console.trail
        try:
            await start_audit(trail, f"{socket.gethostname()}:{self.http_port}", version=self.console.version)
        except AuditError as error:
            raise StartError(str(error)) from error

    def _load_certificate(self) -> None:
        options = self.options
        if options.tls_cert or options.tls_key:
            try:
                self._tls = server_files(options.tls_cert, options.tls_key)
            except TlsConfigError as error:
                raise StartError(f"failed to build TLS config - {error}") from error
        found = (self._tls, self._upstream.tls)
        self._certificates = [FileWatch(each) for each in found if each is not None and each.files]

    async def _listen(self) -> list[trio.SocketListener]:
        address = self.options.http_address
        try:
            listeners = await open_listeners(address)
        except OSError as error:
            raise StartError(f"listen ({address}) failed - {error}") from error
        bound = [bound_address(listener) for listener in listeners]
        for each in bound:
            log.info("%s: listening on %s", "HTTP" if self._tls is None else "HTTPS", each.text)
        self.http_port = bound[0].port
        self.console.origins.listens_on(bound)
        return listeners

    async def _watch(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                self.console.trail.reopen()
                for watch in self._certificates:
                    watch.hang_up()
                self.console.authentication.hang_up()
                continue
            log.info("%s: stopping", signal.Signals(number).name)
            self.stop()


def make_console(options: AdminOptions) -> Console:
    """The console for these options, which are valid. Sends no requests yet. `UserFileError`."""
    upstream = Upstream(options)
    history = History(options.poll_interval / SECOND, options.history_bytes)
    queries = ClusterQueries(options, upstream)
    poller = ClusterPoller(options, upstream, history)
    return Console(
        options=options,
        poller=poller,
        consumers=ConsumerQueries(poller),
        history=history,
        queries=queries,
        actions=Actions(queries),
        alarms=AlarmWatch(poller),
        trail=AuditTrail(options.audit_file, options.audit_required, NSQADMIN),
        authentication=Authentication.of_options(options),
    )


def _first(errors: BaseExceptionGroup[OSError]) -> OSError:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def tune_garbage_collection() -> None:
    """Keep the pauses of the garbage collector short, and spare it objects that live as long as the process.

    With 10,000 topics a poll makes some 150,000 lists and dicts, all without cycles. A small threshold of the first
    generation keeps each collection short (5 ms; with 100,000 objects it took 30), and the older generations are
    collected rarely.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 100, 50)
