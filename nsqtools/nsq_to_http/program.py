"""The command nsq_to_http: as many workers as concurrent requests, each with one message at a time."""

from __future__ import annotations

import random as _random
from functools import partial

import attrs
import trio

from nsqkit.client import ClientOptions, Consumer, Message
from nsqkit.http_client import HttpFailed
from nsqkit.logging import RateLimitedLogger, get_logger
from nsqkit.options import SECOND, OptionError
from nsqtools.common import handle_signals, read_flags, refuse, run
from nsqtools.hosts import Pool, make_pool
from nsqtools.nsq_to_http.options import (
    EXAMPLE,
    MULTICAST,
    PROGRAM,
    SYNOPSIS,
    ToHttpFlags,
    parse_headers,
    validate,
)
from nsqtools.nsq_to_http.sender import Sender, Unsendable, open_sender
from nsqtools.progress import Figures, Progress
from nsqtools.timings import StatusLines

__all__ = ["Forwarder", "main"]


_log = get_logger(__name__)


def main() -> None:
    """Send until a signal: exit code 0. 1: a flag is invalid."""
    flags = read_flags(ToHttpFlags, program=PROGRAM, synopsis=SYNOPSIS, example=EXAMPLE)
    try:
        options = validate(flags)
    except OptionError as error:
        refuse(error)
    program = Program(flags, options)
    with Progress(PROGRAM, program.figures) as progress:
        run(partial(program.run, progress))


@attrs.define(eq=False)
class Forwarder:
    """Sends each message to its server or servers, and finishes or requeues it."""

    sender: Sender
    hosts: list[str]
    pool: Pool | None
    """None: every message goes to all hosts."""
    status: StatusLines
    sample: float = 1.0
    """The fraction of the messages that are sent."""
    random: _random.Random = attrs.field(factory=_random.Random)
    failures: int = 0
    _requeue_log: RateLimitedLogger = attrs.field(factory=lambda: RateLimitedLogger(_log))

    async def handle(self, message: Message) -> None:
        """Send a message; finish it after a success, else requeue it."""
        if self.sample < 1.0 and self.random.random() >= self.sample:
            message.finish()
            return
        began = trio.current_time()
        try:
            await self._forward(message.body)
        except (HttpFailed, Unsendable) as error:
            self.failures += 1
            self._requeue_log.log(trio.current_time(), "%r is requeued - %s", message, error)
            # Only failures of a server slow down consumption.
            message.requeue(backoff=isinstance(error, HttpFailed))
        else:
            self.status.add_all(trio.current_time() - began)
            message.finish()

    async def _forward(self, body: bytes) -> None:
        if self.pool is not None:
            await self._send_to_one(self.pool, body)
            return
        for host in self.hosts:
            await self._send(host, body)

    async def _send_to_one(self, pool: Pool, body: bytes) -> None:
        host = pool.choose(trio.current_time())
        try:
            seconds = await self._send(host, body)
        except HttpFailed:
            pool.failed(host, trio.current_time())
            raise
        pool.succeeded(host, trio.current_time(), seconds)

    async def _send(self, host: str, body: bytes) -> float:
        began = trio.current_time()
        await self.sender.send(host, body)
        seconds = trio.current_time() - began
        self.status.add(host, seconds)
        return seconds


@attrs.define(eq=False)
class Program:
    """The running program."""

    flags: ToHttpFlags
    options: ClientOptions
    _consumer: Consumer | None = None
    _forwarder: Forwarder | None = None

    async def run(self, progress: Progress) -> None:
        flags = self.flags
        hosts = list(dict.fromkeys(flags.get or flags.post))
        async with (
            open_sender(
                PROGRAM,
                is_get=bool(flags.get),
                headers=parse_headers(flags),
                connect_timeout_s=flags.http_client_connect_timeout / SECOND,
                timeout_s=flags.http_client_request_timeout / SECOND,
            ) as sender,
            trio.open_nursery() as nursery,
        ):
            pool = None if flags.mode == MULTICAST else make_pool(flags.mode, hosts)
            status = StatusLines(hosts, flags.status_every)
            self._forwarder = Forwarder(sender, hosts, pool, status, flags.sample)
            self._consumer = self._make_consumer(self._forwarder)
            abort = nursery.cancel_scope.cancel
            grace = self.options.stop_timeout + self.options.close_timeout
            await nursery.start(partial(handle_signals, self._consumer.stop, abort, grace=grace))
            nursery.start_soon(progress.run)
            await self._consumer.run()
            abort()

    def figures(self) -> Figures:
        """For the progress line."""
        if self._consumer is None or self._forwarder is None:
            return Figures(0, 0)
        stats = self._consumer.stats()
        return Figures(stats.finished, stats.in_flight, self._forwarder.failures)

    def _make_consumer(self, forwarder: Forwarder) -> Consumer:
        flags = self.flags
        return Consumer(
            flags.topic,
            flags.channel,
            nsqd_tcp_addresses=flags.nsqd_tcp_addresses,
            lookupd_http_addresses=flags.lookupd_http_addresses,
            handler=forwarder.handle,
            concurrency=flags.n,
            options=self.options,
        )
