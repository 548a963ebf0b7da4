"""Pushes to a statsd daemon: counters and gauges over UDP.

Rules:

- A push every `--statsd-interval`, the first one interval after the start. Counters are increments since the last push;
  a new counter, and one of a topic that was deleted and created again, counts from 0.
- Lines are packed into datagrams of at most `--statsd-udp-packet-size` bytes; only a single line that is longer gets a
  longer one. The datagrams of one push are spread over the interval less a second (over half of it if it is shorter
  than two seconds), so that the receiver's socket buffer need not hold them all at once.
- Nothing waits for the network. The address is resolved for each push, so a receiver that moves is found again. If that
  fails or takes too long, the error is logged, and the next push carries the increments.
- A datagram that the socket does not accept at once is dropped, as the network might drop it.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any

import attrs
import trio

from nsqd.stats.collect import (
    SLICE_SECONDS,
    ChannelStats,
    Latency,
    Stats,
    StatsQuery,
    TopicStats,
    collect,
)
from nsqd.stats.memory import MemoryStats
from nsqd.stats.source import StatsSource
from nsqkit.logging import get_logger
from nsqkit.options import SECOND
from nsqkit.service.statsd_prefix import expand_prefix
from nsqkit.wire.names import is_ephemeral
from nsqkit.yielder import Yielder

__all__ = ["Resolver", "Statsd", "datagrams"]

_log = get_logger("statsd")

LOOKUP_SECONDS = 5.0  # limit of resolving the address
SHORTEST_INTERVAL = 0.1  # seconds; collecting more often could take most of the CPU
MARGIN_SECONDS = 1.0  # at the end of an interval, in which nothing is sent

_SocketAddress = tuple[int, Any]
"""Address family and address."""
Resolve = Callable[[str, str], Awaitable[Sequence[tuple[int, int, int, str, Any]]]]
"""From host and port to the result of `socket.getaddrinfo`, which is not empty."""


def datagrams(lines: list[bytes], size: int) -> list[bytes]:
    """The lines in as few datagrams of at most `size` bytes as their order allows."""
    packed: list[bytes] = []
    waiting: list[bytes] = []
    used = 0
    for line in lines:
        if waiting and used + len(line) > size:
            packed.append(b"".join(waiting))
            waiting, used = [], 0
        waiting.append(line)
        used += len(line)
    if waiting:
        packed.append(b"".join(waiting))
    return packed


class Statsd:
    """The pushes of one daemon. To be created once the ports are bound and the broadcast port is known."""

    def __init__(self, daemon: StatsSource, resolve: Resolve | None = None) -> None:
        self._daemon = daemon
        self._resolve = resolve or Resolver()
        options = daemon.options
        self._interval = max(options.statsd_interval / SECOND, SHORTEST_INTERVAL)
        self._packet_size = options.statsd_udp_packet_size
        node = f"{options.broadcast_address}:{options.broadcast_http_port}"
        prefix = expand_prefix(options.statsd_prefix, node)
        self._lines = _Lines(prefix)

    async def run(self) -> None:
        """Until it is cancelled. Never raises for what goes wrong outside."""
        next_at = trio.current_time()
        while True:
            next_at = max(next_at + self._interval, trio.current_time())
            await trio.sleep_until(next_at)
            try:
                await self._push()
            except OSError as error:
                _log.error("STATSD: failed to send to %s - %s", self._daemon.options.statsd_address, error)

    async def _push(self) -> None:
        address = await self._resolve_address()
        if address is None:
            return
        query = StatsQuery(
            include_clients=False,
            include_memory=self._daemon.options.statsd_mem_stats,
            include_ages=False,
        )
        stats = await collect(self._daemon, query)
        lines = await self._lines.of(stats, exclude_ephemeral=self._daemon.options.statsd_exclude_ephemeral)
        await self._send(address, datagrams(lines, self._packet_size))

    async def _resolve_address(self) -> _SocketAddress | None:
        text = self._daemon.options.statsd_address
        host, colon, port = text.rpartition(":")
        if not colon or not port:
            self._log_lookup_error(text, "address must be host:port")
            return None
        try:
            with trio.fail_after(min(LOOKUP_SECONDS, self._interval)):
                found = await self._resolve(host.strip("[]"), port)
        except (OSError, UnicodeError) as error:  # UnicodeError: not a valid host name
            self._log_lookup_error(text, str(error))
            return None
        except trio.TooSlowError:
            self._log_lookup_error(text, "no answer from the resolver in time")
            return None
        return found[0][0], found[0][4]

    def _log_lookup_error(self, text: str, reason: str) -> None:
        _log.error("STATSD: failed to look up %s - %s; tried again with the next push", text, reason)

    async def _send(self, address: _SocketAddress, packed: list[bytes]) -> None:
        family, target = address
        interval = self._interval
        spread = interval - MARGIN_SECONDS if interval >= 2 * MARGIN_SECONDS else interval / 2
        began = trio.current_time()
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            for at, datagram in enumerate(packed):
                await trio.sleep_until(began + spread * at / len(packed))
                try:
                    sock.sendto(datagram, target)
                except BlockingIOError:
                    continue


@attrs.define
class Resolver:
    """Resolves addresses in a thread. There is only one: a query that hangs keeps the next one waiting."""

    _thread: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))

    async def __call__(self, host: str, port: str) -> Sequence[tuple[int, int, int, str, Any]]:
        ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_DGRAM)
        return await trio.to_thread.run_sync(ask, limiter=self._thread, abandon_on_cancel=True)


@attrs.define
class _Lines:
    """The lines of a push, and the counters at the last one."""

    prefix: str
    _last: dict[str, int] = attrs.field(factory=dict)
    _now: dict[str, int] = attrs.field(factory=dict)

    async def of(self, stats: Stats, *, exclude_ephemeral: bool) -> list[bytes]:
        """The lines for topics and their channels by name, then memory. Other tasks run between slices of the work."""
        lines: list[bytes] = []
        yielder = Yielder(SLICE_SECONDS)
        self._now = {}
        for topic in stats.topics or ():
            if exclude_ephemeral and is_ephemeral(topic.name):
                continue
            lines += self._topic(topic)
            for channel in topic.channels:
                if not (exclude_ephemeral and is_ephemeral(channel.name)):
                    lines += self._channel(topic.name, channel)
                    await yielder.maybe_yield()
            await yielder.maybe_yield()
        if stats.memory is not None:
            lines += self._memory(stats.memory)
        self._last = self._now
        return lines

    def _topic(self, topic: TopicStats) -> Iterator[bytes]:
        name = f"topic.{topic.name}"
        yield self._count(f"{name}.message_count", topic.message_count)
        yield self._count(f"{name}.message_bytes", topic.message_bytes)
        yield self._gauge(f"{name}.depth", topic.depth)
        yield self._gauge(f"{name}.backend_depth", topic.backend_depth)
        yield from self._latency(name, topic.latency)

    def _channel(self, topic_name: str, channel: ChannelStats) -> Iterator[bytes]:
        name = f"topic.{topic_name}.channel.{channel.name}"
        yield self._count(f"{name}.message_count", channel.message_count)
        yield self._gauge(f"{name}.depth", channel.depth)
        yield self._gauge(f"{name}.backend_depth", channel.backend_depth)
        yield self._gauge(f"{name}.in_flight_count", channel.in_flight_count)
        yield self._gauge(f"{name}.deferred_count", channel.deferred_count)
        yield self._count(f"{name}.requeue_count", channel.requeue_count)
        yield self._count(f"{name}.timeout_count", channel.timeout_count)
        yield self._gauge(f"{name}.clients", channel.client_count)
        yield from self._latency(name, channel.latency)

    def _latency(self, name: str, latency: Latency) -> Iterator[bytes]:
        for quantile, ns in latency.percentiles or ():
            yield self._gauge(f"{name}.e2e_processing_latency_{quantile * 100:.0f}", int(ns))

    def _memory(self, memory: MemoryStats) -> Iterator[bytes]:
        for name, value in attrs.asdict(memory).items():
            if name == "gc_total_runs":
                yield self._count("mem.gc_runs", value)
            else:
                yield self._gauge(f"mem.{name}", value)

    def _gauge(self, name: str, value: int) -> bytes:
        return f"{self.prefix}{name}:{value}|g\n".encode()

    def _count(self, name: str, value: int) -> bytes:
        before = self._last.get(name, 0)
        self._now[name] = value
        added = value - before if value >= before else value  # less than before: the topic was created again
        return f"{self.prefix}{name}:{added}|c\n".encode()
