"""Producers: messages to any of a few nsqds, each publish answered before it returns.

How it works. A publish becomes a request in one queue. Each connected nsqd has a window of requests that it
was sent and has not answered; `_dispatch` gives the first request of the queue to the connection with the
fewest, for as long as one has room. Requests of many tasks that were queued before the sender got its turn
leave in one send. Answers come in order, one for each.

When a connection ends, what it had not answered is parted in two: what was certainly not accepted goes back to
the front of the queue, and what nobody can know about does so, too, unless `at_least_once` is off. One task
watches the time-outs: all publishes have the same, so the oldest is always the next one due.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import random as _random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from types import TracebackType
from typing import Final, Unpack, cast

import anyio
import attrs

from nsqkit.client.address import Address
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
from nsqkit.client.message import Message
from nsqkit.client.opening import Connector, open_tcp
from nsqkit.client.options import ClientOptions, OptionChanges
from nsqkit.client.parking import Parking, parking_here
from nsqkit.client.protocol import OK, Error, Event, Request
from nsqkit.client.reconnect import discovery_for, stay_connected
from nsqkit.discovery import Discovery
from nsqkit.wire import encode, is_valid_name

__all__ = ["Producer", "ProducerStats"]

_log = logging.getLogger("nsq.client.producer")

LIVED_S: Final = 1.0
"""A connection that lived so long, or answered something, was a good one: the next try comes soon."""
MOST_LOSSES: Final = 5
"""A publish at which so many connections broke, one after the other, is more likely their cause than their victim."""
_NO_ROOM = (PublishFailed, MultiPublishFailed, DeferredPublishFailed)
"""What one nsqd could not take (its disk is full, say), another one may."""


@attrs.frozen
class ProducerStats:
    """What a producer has done since it started."""

    published: int
    """Answered with OK; a batch counts as one."""
    failed: int
    resent: int
    """Sent to another connection after the first one was lost or refused."""
    connects: int
    queued: int
    in_air: int
    """Sent and not answered."""
    connected: tuple[str, ...]
    """The nsqds that can be published to now."""


@attrs.define(eq=False)
class _Publish(Request):
    """One publish, from its call to its end."""

    data: bytes
    deadline: float
    error: NSQError | None = None
    in_air: bool = False
    uncertain: bool = False
    """Whether it was in the air when a connection broke."""
    refused_by: tuple[Address, ...] = ()
    refusal: NSQError | None = None
    """What the last of them said."""
    losses: int = 0
    """Connections that broke while this was the first that they had not answered."""


@attrs.define(eq=False)
class _Waiter:
    """One who waits for room in the queue."""

    woken: anyio.Event = attrs.field(factory=anyio.Event)


class Producer:
    """Publishes to one of the given nsqds, or of all nsqds that the registries know.

        async with Producer(nsqd_tcp_addresses=["127.0.0.1:4150"]) as producer:
            await producer.publish("orders", b"one")
            await producer.publish_multi("orders", [b"two", b"three"])
            await producer.publish_deferred("orders", b"four", delay=60)

    **Each publish returns only after nsqd's OK**, so what returned is as safe as nsqd keeps it. Any number of
    tasks may publish at the same time on one producer; that is also how to be fast. While there is too much in
    the air (`max_publishes_in_air`, `max_bytes_in_air`), a publish waits. It fails after `publish_timeout`.

    **Fail-over.** Publishes that were certainly not accepted go to another nsqd by themselves, or wait for
    one. One that was sent and not answered when its connection broke may have been accepted: it is sent again,
    too, so that **a message may be published twice, but none that returned is lost**. With
    `at_least_once=False` it raises `UncertainPublish` instead, and you decide.

    Raised by the three: `ValueError` for a bad topic name or an empty body; `BadTopic`, `BadMessage` (too
    big), `Unauthorized` and the other `ServerError`s as nsqd says them; `NotConnected` when no nsqd took it in
    time; `UncertainPublish` when one may have. A publish that is cancelled is not sent if it is still waiting;
    otherwise it may be accepted.

    nsqd closes a connection on which it refused something, so one bad publish disturbs the others of its
    producer for a moment.

    `options` are `ClientOptions`; any of them can be given by name as well. `connect` opens the streams
    (default: TCP).
    """

    def __init__(
        self,
        *,
        nsqd_tcp_addresses: Iterable[str] = (),
        lookupd_http_addresses: Sequence[str] = (),
        options: ClientOptions | None = None,
        connect: Connector = open_tcp,
        discovery: Discovery | None = None,
        random: _random.Random | None = None,
        **changes: Unpack[OptionChanges],
    ) -> None:
        self.options = attrs.evolve(options or ClientOptions(), **changes)
        self._fixed = [Address.parse(text) for text in nsqd_tcp_addresses]
        self._discovery = discovery or discovery_for(lookupd_http_addresses, self.options)
        if not self._fixed and self._discovery is None:
            raise ValueError("neither an nsqd_tcp_address nor a lookupd_http_address")
        self._connect = connect
        self._random = random or _random.Random()
        self._queue: deque[_Publish] = deque()
        self._queued_bytes = 0
        self._waiting: deque[_Waiter] = deque()  # those who wait for room in the queue
        self._open: dict[_Publish, Awaitable[None]] = {}
        """All that are not done, the oldest first, and the place (of `_parking`) where each one's publisher waits."""
        self._links: dict[Address, _Link] = {}
        self._ready: list[_Link] = []
        self._reachable: set[Address] = set()
        self._last_trouble = "not connected yet"
        self._published = self._failed = self._resent = self._connects = 0
        self._parking: Parking
        self._publish_timeout = self.options.publish_timeout
        self._all_done: anyio.Event | None = None
        self._context: contextlib.AbstractAsyncContextManager[Producer] | None = None
        self._closed = False

    async def __aenter__(self) -> Producer:
        if self._context is not None:
            raise RuntimeError("a Producer runs once; make another one")
        self._context = self._running()
        return await self._context.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._context is not None
        return await self._context.__aexit__(kind, error, trace)

    async def publish(self, topic: str, body: bytes) -> None:
        """Publish one message; the errors are listed above."""
        await self._publish("PUB", encode.pub(_checked(topic), body))

    async def publish_multi(self, topic: str, bodies: Sequence[bytes]) -> None:
        """Publish a batch as one command: all of it or nothing, on one nsqd. Many times as fast as one by one."""
        await self._publish("MPUB", encode.mpub(_checked(topic), bodies))

    async def publish_deferred(self, topic: str, body: bytes, delay: float) -> None:
        """Publish a message that is delivered after so many seconds, not before. `ValueError` if negative."""
        await self._publish("DPUB", encode.dpub(_checked(topic), math.ceil(delay * 1000), body))

    def stats(self) -> ProducerStats:
        """A snapshot of counters and connections."""
        return ProducerStats(
            published=self._published,
            failed=self._failed,
            resent=self._resent,
            connects=self._connects,
            queued=len(self._queue),
            in_air=sum(link.in_air for link in self._ready),
            connected=tuple(str(link.nsqd) for link in self._ready),
        )

    # Inside: one publish.

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
        try:
            await place
        except BaseException:
            self._abandon(request)
            raise
        if request.error is not None:
            raise request.error

    def _has_room(self, size: int) -> bool:
        queue, options = self._queue, self.options
        return not queue or (
            len(queue) < options.max_publishes_in_air
            and self._queued_bytes + size <= options.max_bytes_in_air
        )

    async def _wait_for_room(self, size: int, deadline: float) -> None:
        """Back-pressure: first come, first served."""
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
            raise NotConnected(f"no room to publish in time: {self._last_trouble}")

    def _wake_next(self) -> None:
        if self._waiting:
            self._waiting[0].woken.set()

    def _dispatch(self) -> None:
        """Give what is queued to those who have room, in order."""
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
        """Whether all who are there have refused it: it must not hold up those behind it."""
        return bool(self._ready) and all(link.nsqd in request.refused_by for link in self._ready)

    def _choose(self, request: _Publish) -> _Link | None:
        """The connection with the fewest requests in the air that has room for this one."""
        if len(self._ready) == 1:
            only = self._ready[0]
            return only if only.can_take(request) else None
        best: _Link | None = None
        for link in self._ready:
            if (best is None or link.in_air < best.in_air) and link.can_take(request):
                best = link
        if best is not None:  # take turns among equals
            self._ready.remove(best)
            self._ready.append(best)
        return best

    def _answered(self, requests: list[_Publish]) -> None:
        """A publisher is told if it still waits."""
        pop, leave = self._open.pop, self._parking.leave
        for request in requests:
            if request.answer != OK:
                self._fail(request, UncertainPublish(f"a strange answer: {request.answer[:100]!r}"))
            elif (place := pop(request, None)) is not None:
                self._published += 1
                leave(place)
        self._note_all_done()

    def _fail(self, request: _Publish, error: NSQError | None) -> None:
        """It failed; nothing happens if its publisher gave it up."""
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
        """One nsqd said no. If it had no room, another one may have."""
        request.refused_by = (*request.refused_by, nsqd)
        request.refusal = error
        request.in_air = False
        if isinstance(error, _NO_ROOM) and not self._is_hopeless(request):
            self._send_again([request])
        else:
            self._fail(request, error)

    def _send_again(self, requests: Sequence[_Publish]) -> None:
        """To the front of the queue, in their order; room in it or not."""
        requests = [request for request in requests if request in self._open]
        self._resent += len(requests)
        self._queue.extendleft(reversed(requests))
        self._queued_bytes += sum(len(request.data) for request in requests)
        self._dispatch()

    def _abandon(self, request: _Publish) -> None:
        """Its publisher was cancelled: it is not sent any more if it waits in the queue."""
        self._open.pop(request, None)
        self._note_all_done()
        self._dispatch()

    def _expire(self, request: _Publish, why: str) -> None:
        """Nobody answers for it any more."""
        if request.in_air or request.uncertain:
            error: NSQError = UncertainPublish(f"{request.command}: {why}; it may have been accepted")
        else:
            error = NotConnected(f"{request.command}: {why}: {self._last_trouble}")
        self._fail(request, error)
        self._dispatch()

    # Inside: the life of the whole.

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[Producer]:
        trouble: Exception | None = None
        self._parking = parking_here()
        async with anyio.create_task_group() as group:
            self._group = group
            for address in self._fixed:
                self._start_link(address, fixed=True)
            if self._discovery is not None:
                group.start_soon(self._discover, self._discovery)
            group.start_soon(self._keep_time)
            try:
                yield self
            except Exception as error:  # carried past the task group, which would wrap it
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
        """Of other tasks that still publish; each has its time-out."""
        while self._open:
            self._all_done = anyio.Event()
            await self._all_done.wait()

    async def _keep_time(self) -> None:
        """Every publish has the same time-out: the oldest is the first to be due."""
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
        """Whether its window has room, and it has not refused this one before."""
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
            await stay_connected(
                self.nsqd,
                producer.options,
                connector=producer._connect,
                make_message=Message,
                random=producer._random,
                serve=self._serve,
                goes_on=lambda: self._fixed or self.nsqd in producer._reachable,
                on_failure=self._note,
            )
        finally:
            producer._links.pop(self.nsqd, None)

    async def _serve(self, connection: Connection) -> bool:
        producer = self._producer
        self._connection, self.in_air, self._bytes_in_air = connection, 0, 0
        self._answered, connected_at = False, anyio.current_time()
        producer._connects += 1
        producer._ready.append(self)
        producer._dispatch()
        try:
            await connection.run(self._on_events, in_halves=True)
        except NSQError as error:
            self._note(error)
            _log.warning("%s", producer._last_trouble)
        finally:
            producer._ready.remove(self)
            self._connection = None
            self._recover(connection)
            await connection.abort()
            if producer._discovery is not None:
                producer._discovery.poll_soon()
        return self._answered or anyio.current_time() - connected_at >= LIVED_S

    def _note(self, error: NSQError) -> None:
        text = str(error)
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
        """Send again what was not answered, or say that nobody knows."""
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


@functools.lru_cache(maxsize=1024)
def _checked(topic: str) -> str:
    if not is_valid_name(topic):
        raise ValueError(f"not a topic name: {topic!r}")
    return topic
