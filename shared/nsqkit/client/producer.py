"""Producers: each publish goes to one of several nsqds, and returns when it is acknowledged.

How it works. A publish becomes a request in one queue. Each connected nsqd has a window of unanswered requests;
`_dispatch` gives the first request in the queue to the connection with the fewest, as long as one has room. Requests of
many tasks that are queued before the sender runs leave in one send. Answers come in order, one for each request.

When a connection ends, its unanswered requests are of two kinds: those that were certainly not accepted go back to the
front of the queue; so do those that may have been accepted, unless `at_least_once` is off. One task watches the
time-outs: all publishes have the same one, so the oldest is always the next to expire.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random as _random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Sequence
from types import TracebackType
from typing import Final, Unpack, cast

import anyio
import attrs

from nsqkit.client.address import Address
from nsqkit.client.arguments import (
    Addresses,
    changed,
    checked_bodies,
    checked_body,
    checked_name,
    nsqd_addresses,
    registry_addresses,
)
from nsqkit.client.codecs import Codec
from nsqkit.client.connection import Connection
from nsqkit.client.errors import (
    ConnectionFailed,
    DeferredPublishFailed,
    MultiPublishFailed,
    NotConnected,
    NSQError,
    PublishFailed,
    UncertainPublish,
)
from nsqkit.client.groups import without_groups
from nsqkit.client.message import Message
from nsqkit.client.opening import Connector, open_tcp
from nsqkit.client.options import ClientOptions, OptionChanges
from nsqkit.client.parking import Parking, parking_here
from nsqkit.client.protocol import OK, Error, Event, Request
from nsqkit.client.reconnect import ConnectionLog, Ending, Reconnector, discovery_for
from nsqkit.discovery import Discovery
from nsqkit.wire import encode

__all__ = ["Producer", "ProducerStats"]

_log = logging.getLogger("nsq.client.producer")

LIVED_S: Final = 1.0
"""A connection that lasted so long, or answered a publish, counts as one that worked."""
LONGEST_PAUSE_S: Final = 1.0
"""Between two attempts to connect while publishes wait."""
MOST_LOSSES: Final = 5
"""A publish that was the oldest unanswered one when so many connections broke has probably caused that: it fails."""
_NO_ROOM = (PublishFailed, MultiPublishFailed, DeferredPublishFailed)
"""Errors of one nsqd, a full disk for example, after which another one may accept the message."""


@attrs.frozen
class ProducerStats:
    """Counters of a producer since its start, and its current state."""

    published: int
    """Acknowledged publishes; a batch counts as one."""
    failed: int
    resent: int
    """Publishes that were sent again after a connection was lost or an nsqd refused them."""
    connects: int
    queued: int
    in_air: int
    """Publishes that were sent and not answered yet."""
    connected: tuple[str, ...]
    """Addresses of the nsqds that are connected."""


@attrs.define(eq=False)
class _Publish(Request):
    """One publish."""

    data: bytes
    deadline: float
    error: NSQError | None = None
    in_air: bool = False
    uncertain: bool = False
    """Whether it was unanswered when a connection broke."""
    refused_by: tuple[Address, ...] = ()
    refusal: NSQError | None = None
    """The error of the last of them."""
    losses: int = 0
    """Connections that broke while this was their oldest unanswered request."""


@attrs.define(eq=False)
class _Waiter:
    """A publisher that waits for room in the queue."""

    woken: anyio.Event = attrs.field(factory=anyio.Event)


class Producer:
    """Publishes messages, each to one of the given nsqds or of those that the registries list.

        async with Producer(nsqd_tcp_addresses=["127.0.0.1:4150"]) as producer:
            await producer.publish("orders", b"one")
            await producer.publish_multi("orders", [b"two", b"three"])
            await producer.publish_deferred("orders", b"four", delay=60)

    **Each publish returns only after nsqd's OK**. Any number of tasks may publish on one producer at the same time,
    which is also the way to a high throughput. While too many publishes are unanswered (`max_publishes_in_air`,
    `max_bytes_in_air`), further ones wait. A publish fails after `publish_timeout`.

    **Fail-over.** A publish that was certainly not accepted goes to another nsqd, or waits for one. A publish that was
    sent and not answered when its connection broke may have been accepted. It is sent again as well, so **a message may
    be published twice, but none whose publish returned is lost**. With `at_least_once=False` such a publish raises
    `UncertainPublish` instead, and the caller decides.

    nsqd closes a connection after most errors, so a refused publish delays others of the same producer for a moment.

    Parameters:

    - `nsqd_tcp_addresses`: nsqds to publish to, `host:port`.
    - `lookupd_http_addresses`: registries to ask for nsqds, `host:port` or a URL. Either list, or both.
    - `codec`: encodes the values of `publish_value`.
    - `options`: the settings; each of them can be given by its name as well, as in `publish_timeout=5`.
    - `connect`: opens the streams; TCP by default.
    - `discovery`: used instead of one that is made of `lookupd_http_addresses`.
    - `random`: the source of jitter, for tests.

    Raises `ValueError` for a bad address or value, `TypeError` for an option that does not exist.

    The three methods that publish raise

    - `ValueError` for a bad topic name or an empty body,
    - `ServerError`s as nsqd answers, among them `BadMessage` (too big), `Unauthorized`, `PublishFailed`,
    - `NotConnected` when no nsqd accepted the publish in time,
    - `UncertainPublish` when one may have accepted it.

    A publish that is cancelled while it waits is not sent; once sent, it may be accepted.
    """

    def __init__(
        self,
        *,
        nsqd_tcp_addresses: Addresses = (),
        lookupd_http_addresses: Addresses = (),
        codec: Codec | None = None,
        options: ClientOptions | None = None,
        connect: Connector = open_tcp,
        discovery: Discovery | None = None,
        random: _random.Random | None = None,
        **changes: Unpack[OptionChanges],
    ) -> None:
        self.options = changed(options, changes)
        self._fixed = nsqd_addresses(nsqd_tcp_addresses)
        self._discovery = discovery or discovery_for(registry_addresses(lookupd_http_addresses), self.options)
        if not self._fixed and self._discovery is None:
            raise ValueError("no nsqd_tcp_addresses and no lookupd_http_addresses")
        self._connect = connect
        self._codec = codec
        self._random = random or _random.Random()
        self._queue: deque[_Publish] = deque()
        self._queued_bytes = 0
        self._waiting: deque[_Waiter] = deque()
        self._open: dict[_Publish, Awaitable[None]] = {}
        """Unfinished publishes, the oldest first, and the place (of `_parking`) where each publisher waits."""
        self._links: dict[Address, _Link] = {}
        self._ready: list[_Link] = []
        self._connections = ConnectionLog("producer: ")
        self._reachable: set[Address] = set()
        self._last_trouble = ""
        self._published = self._failed = self._resent = self._connects = 0
        self._parking: Parking
        self._publish_timeout = self.options.publish_timeout
        self._all_done: anyio.Event | None = None
        self._needed: anyio.Event | None = None
        """Set when a publish begins to wait for a connection."""
        self._context: contextlib.AbstractAsyncContextManager[Producer] | None = None
        self._closed = False

    async def __aenter__(self) -> Producer:
        if self._context is not None:
            raise RuntimeError("a Producer runs only once")
        self._context = self._running()
        return await self._context.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._context is not None
        return await self._context.__aexit__(kind, error, trace)

    async def publish(self, topic: str, body: bytes) -> None:
        """Publish one message. Raises the errors listed above."""
        await self._publish("PUB", encode.pub(checked_name("topic", topic), checked_body(body)))

    async def publish_multi(self, topic: str, bodies: Sequence[bytes]) -> None:
        """Publish a batch with one command, all of it or nothing, to one nsqd. Much faster than single publishes."""
        await self._publish("MPUB", encode.mpub(checked_name("topic", topic), checked_bodies(bodies)))

    async def publish_deferred(self, topic: str, body: bytes, delay: float) -> None:
        """Publish a message that is delivered after `delay` seconds at the earliest. `ValueError`: it is negative."""
        data = encode.dpub(checked_name("topic", topic), math.ceil(delay * 1000), checked_body(body))
        await self._publish("DPUB", data)

    async def publish_value(self, topic: str, value: object, *, delay: float = 0) -> None:
        """Publish a value, encoded by the codec; deferred by `delay` seconds.

        Raises the errors listed above, what the codec raises, and `TypeError` without a codec.
        """
        if self._codec is None:
            raise TypeError("publish_value needs a codec, as in Producer(..., codec=Json())")
        body = self._codec.encode(value)
        if delay:
            await self.publish_deferred(topic, body, delay)
        else:
            await self.publish(topic, body)

    def stats(self) -> ProducerStats:
        """Counters since the start, and the current connections."""
        return ProducerStats(
            published=self._published,
            failed=self._failed,
            resent=self._resent,
            connects=self._connects,
            queued=len(self._queue),
            in_air=sum(link.in_air for link in self._ready),
            connected=tuple(str(link.nsqd) for link in self._ready),
        )

    # One publish.

    async def _publish(self, command: str, data: bytes) -> None:
        if self._context is None or self._closed:
            raise NotConnected("the producer is closed" if self._closed else "use `async with producer:`")
        deadline = self._parking.now() + self._publish_timeout
        if self._waiting or (self._queue and not self._has_room(len(data))):
            await self._wait_for_room(len(data), deadline)
        request = _Publish(command, data, deadline)
        place = self._open[request] = self._parking.new()
        link = None if self._queue else self._choose(request)
        if link is not None:
            link.send(request)
        else:
            self._queue.append(request)
            self._queued_bytes += len(data)
            self._need_connection()
        try:
            await place
        except BaseException:
            self._abandon(request)
            raise
        if request.error is not None:
            raise request.error

    def _need_connection(self) -> None:
        if self._needed is not None:
            self._needed.set()
            self._needed = None

    async def _publish_waits(self) -> None:
        """Return when a publish begins to wait for a connection."""
        if self._needed is None:
            self._needed = anyio.Event()
        await self._needed.wait()

    def _has_room(self, size: int) -> bool:
        queue, options = self._queue, self.options
        return not queue or (
            len(queue) < options.max_publishes_in_air
            and self._queued_bytes + size <= options.max_bytes_in_air
        )

    async def _wait_for_room(self, size: int, deadline: float) -> None:
        """Back-pressure: publishers wait for room in the order of their calls. `NotConnected` when the time is over."""
        waiter = _Waiter()
        self._waiting.append(waiter)
        try:
            with anyio.move_on_after(deadline - anyio.current_time()) as scope:
                while not self._closed and not (self._waiting[0] is waiter and self._has_room(size)):
                    waiter.woken = anyio.Event()
                    await waiter.woken.wait()
        finally:
            self._waiting.remove(waiter)
            self._wake_next()
        if scope.cancelled_caught or self._closed:
            self._failed += 1
            raise NotConnected(f"no room to publish in time: {self._trouble()}")

    def _trouble(self) -> str:
        """Why there is no connection."""
        failures = {} if self._discovery is None else self._discovery.failures
        registries = "; ".join(f"{address}: {reason}" for address, reason in failures.items())
        return self._last_trouble or registries or "not connected yet"

    def _wake_next(self) -> None:
        if self._waiting:
            self._waiting[0].woken.set()

    def _dispatch(self) -> None:
        """Give queued requests, in order, to connections that have room."""
        while self._queue:
            request = self._queue[0]
            link = None
            if request in self._open:
                link = self._choose(request)
                if link is None and not self._is_hopeless(request):
                    break
            self._queue.popleft()
            self._queued_bytes -= len(request.data)
            if link is not None:
                link.send(request)
            else:
                self._fail(request, request.refusal)
        if self._waiting and self._has_room(0):
            self._wake_next()

    def _is_hopeless(self, request: _Publish) -> bool:
        """Whether all connected nsqds have refused it, so that it must not block the queue."""
        return bool(self._ready) and all(link.nsqd in request.refused_by for link in self._ready)

    def _choose(self, request: _Publish) -> _Link | None:
        """The connection with the fewest unanswered requests that has room for this one."""
        if len(self._ready) == 1:
            only = self._ready[0]
            return only if only.can_take(request) else None
        best: _Link | None = None
        for link in self._ready:
            if (best is None or link.in_air < best.in_air) and link.can_take(request):
                best = link
        if best is not None:  # equals take turns
            self._ready.remove(best)
            self._ready.append(best)
        return best

    def _answered(self, requests: list[_Publish]) -> None:
        """Complete requests that were answered; their publishers may have been cancelled."""
        pop, leave = self._open.pop, self._parking.leave
        for request in requests:
            if request.answer != OK:
                self._fail(request, UncertainPublish(f"unexpected answer: {request.answer[:100]!r}"))
            elif (place := pop(request, None)) is not None:
                self._published += 1
                leave(place)
        self._note_all_done()

    def _fail(self, request: _Publish, error: NSQError | None) -> None:
        """Complete a request with an error, unless its publisher was cancelled."""
        place = self._open.pop(request, None)
        if place is not None:
            self._failed += 1
            request.error = error
            self._parking.leave(place)
            self._note_all_done()

    def _note_all_done(self) -> None:
        """For `_wait_for_answers`."""
        if self._all_done is not None and not self._open:
            self._all_done.set()

    def _refused(self, request: _Publish, error: NSQError, nsqd: Address) -> None:
        """An nsqd refused a request. If it has no room, another one may have."""
        request.refused_by = (*request.refused_by, nsqd)
        request.refusal = error
        request.in_air = False
        if isinstance(error, _NO_ROOM) and not self._is_hopeless(request):
            self._send_again([request])
        else:
            self._fail(request, error)

    def _send_again(self, requests: Sequence[_Publish]) -> None:
        """Put requests at the front of the queue, in their order, whatever its limits."""
        requests = [request for request in requests if request in self._open]
        self._resent += len(requests)
        self._queue.extendleft(reversed(requests))
        self._queued_bytes += sum(len(request.data) for request in requests)
        self._dispatch()

    def _abandon(self, request: _Publish) -> None:
        """The publisher was cancelled: the request is not sent if it is still in the queue."""
        self._open.pop(request, None)
        self._note_all_done()
        self._dispatch()

    def _expire(self, request: _Publish, why: str) -> None:
        """Fail a request because its time is over or the producer closes."""
        if request.in_air or request.uncertain:
            error: NSQError = UncertainPublish(f"{request.command}: {why}; it may have been accepted")
        else:
            error = NotConnected(f"{request.command}: {why}: {self._trouble()}")
        self._fail(request, error)
        self._dispatch()

    # Life cycle.

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[Producer]:
        trouble: BaseException | None = None
        self._parking = parking_here()
        with without_groups():
            async with anyio.create_task_group() as group:
                self._group = group
                for address in self._fixed:
                    self._start_link(address, fixed=True)
                if self._discovery is not None:
                    group.start_soon(self._discover, self._discovery)
                group.start_soon(self._keep_time)
                group.start_soon(self._connections.run)
                try:
                    yield self
                except (anyio.get_cancelled_exc_class(), GeneratorExit):
                    raise
                except (
                    BaseException
                ) as error:  # raised below: the task group would wrap it in an ExceptionGroup
                    trouble = error
                else:
                    await self._wait_for_answers()
                finally:
                    self._closed = True
                    for request in list(self._open):
                        self._expire(request, "the producer was closed")
                    self._wake_next()
                    group.cancel_scope.cancel()
        if trouble is not None:
            raise trouble

    async def _wait_for_answers(self) -> None:
        """Wait for the publishes of other tasks; each has its time-out."""
        while self._open:
            self._all_done = anyio.Event()
            await self._all_done.wait()

    async def _keep_time(self) -> None:
        """Fail publishes whose time is over. All have the same time-out, so the oldest is the first to expire."""
        timeout = self.options.publish_timeout
        while True:
            now = anyio.current_time()
            for request in list(self._open):
                if request.deadline > now:
                    break
                self._expire(request, f"no answer within {timeout:g} s")
            oldest = next(iter(self._open), None)
            await anyio.sleep(timeout / 2 if oldest is None else min(timeout / 2, oldest.deadline - now))

    async def _discover(self, discovery: Discovery) -> None:
        async for nodes in discovery.watch():
            self._reachable = {Address(node.broadcast_address, node.tcp_port) for node in nodes}
            for address in self._reachable:
                self._start_link(address, fixed=False)

    def _start_link(self, address: Address, *, fixed: bool) -> None:
        if address not in self._links:
            link = self._links[address] = _Link(self, address, fixed=fixed)
            self._group.start_soon(link.keep_connected)


class _Link:
    """One nsqd of a producer, over all its connections."""

    def __init__(self, producer: Producer, nsqd: Address, *, fixed: bool) -> None:
        self.nsqd = nsqd
        self.in_air = 0
        self._bytes_in_air = 0
        self._producer = producer
        self._fixed = fixed
        self._connection: Connection | None = None
        self._answered = False

    def can_take(self, request: _Publish) -> bool:
        """Whether the window has room for this request, and the nsqd has not refused it before."""
        options = self._producer.options
        return self.nsqd not in request.refused_by and (
            self.in_air == 0
            or (
                self.in_air < options.max_publishes_in_air
                and self._bytes_in_air + len(request.data) <= options.max_bytes_in_air
            )
        )

    def send(self, request: _Publish) -> None:
        assert self._connection is not None
        request.in_air = True
        self.in_air += 1
        self._bytes_in_air += len(request.data)
        self._connection.protocol.ask(request, request.data)
        self._connection.flush()

    async def keep_connected(self) -> None:
        producer = self._producer
        try:
            await Reconnector(
                address=self.nsqd,
                options=producer.options,
                connector=producer._connect,
                make_message=Message,
                random=producer._random,
                serve=self._serve,
                keep_going=lambda: self._fixed or self.nsqd in producer._reachable,
                on_failure=self._on_failure,
                pause=self._pause,
            ).run()
        finally:
            producer._links.pop(self.nsqd, None)

    async def _pause(self, seconds: float) -> None:
        """Wait before the next attempt to connect: at most `LONGEST_PAUSE_S` while publishes wait for an nsqd.

        Towards the time-out of the oldest one the attempts are closer together: an nsqd that is back in time fails
        none.
        """
        producer, began = self._producer, anyio.current_time()
        if not producer._queue:
            with anyio.move_on_after(seconds):
                await producer._publish_waits()
        now = anyio.current_time()
        if producer._queue:
            until_timeout = producer._queue[0].deadline - now
            longest = min(LONGEST_PAUSE_S, max(until_timeout / 4, producer.options.reconnect_delay))
            await anyio.sleep(max(0.0, min(seconds, longest) - (now - began)))

    async def _serve(self, connection: Connection) -> Ending:
        producer = self._producer
        self._connection, self.in_air, self._bytes_in_air = connection, 0, 0
        self._answered, connected_at = False, anyio.current_time()
        producer._connects += 1
        producer._ready.append(self)
        producer._connections.connected(str(self.nsqd))
        producer._dispatch()
        trouble: Exception | None = None
        try:
            await connection.run(self._on_events, in_halves=True)
        except Exception as error:
            trouble = error
            self._on_failure(error)
        finally:
            producer._ready.remove(self)
            producer._connections.lost(str(self.nsqd))
            self._connection = None
            self._recover(connection)
            await connection.abort()
            if producer._discovery is not None:
                producer._discovery.poll_soon()
        return Ending(self._answered or anyio.current_time() - connected_at >= LIVED_S, trouble)

    def _on_failure(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        self._producer._last_trouble = text if isinstance(error, ConnectionFailed) else f"{self.nsqd}: {text}"

    def _on_events(self, events: list[Event]) -> None:
        producer = self._producer
        answered = [event for event in events if event.__class__ is _Publish]
        if answered:
            self._answered = True
            self.in_air -= len(answered)
            self._bytes_in_air -= sum([len(request.data) for request in answered])
            producer._answered(answered)
        if len(answered) != len(events):
            for event in events:
                if isinstance(event, Error) and isinstance(event.request, _Publish):
                    producer._refused(event.request, event.error, self.nsqd)
        if producer._queue or producer._waiting:
            producer._dispatch()

    def _recover(self, connection: Connection) -> None:
        """Send unanswered requests again, or fail those that may have been accepted if they must not be."""
        producer = self._producer
        unknown, not_executed = cast(tuple[list[_Publish], list[_Publish]], connection.protocol.unanswered())
        for request in (*unknown, *not_executed):
            request.in_air = False
        for request in unknown[:1]:
            request.losses += 1
        for request in unknown:
            request.uncertain = True
            if not producer.options.at_least_once or request.losses >= MOST_LOSSES:
                text = f"{request.command}: {producer._last_trouble}; it may have been accepted"
                producer._fail(request, UncertainPublish(text))
        producer._send_again([*unknown, *not_executed])
