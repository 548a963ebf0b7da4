"""Consumers: messages of one channel, from every nsqd that has the topic.

How it works. A task for each nsqd connects, subscribes, and connects again when the connection is lost. What
comes in is put in one queue for all of them. Workers take messages out and call the handler; or the user's own
code does, with `async for`. `Flow` decides the RDY of each connection, one timekeeper task serves it and
touches what takes long.

Answers are plain calls that queue a few bytes on the connection that the message came by. The sender of that
connection runs when the worker next waits, so that the FINs of many messages share one send.

Two task groups, one in the other: the connections in the outer one, workers in the inner one. So that on
cancellation handlers end first, and what they leave unanswered still goes back to nsqd, within `close_timeout`.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import random as _random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Final, Unpack

import anyio
import attrs

from nsqkit.client.address import Address
from nsqkit.client.flow import Flow
from nsqkit.client.link import ConsumerContext, ConsumerLink
from nsqkit.client.message import Message
from nsqkit.client.opening import Connector, open_tcp
from nsqkit.client.options import ClientOptions, OptionChanges
from nsqkit.client.reconnect import discovery_for
from nsqkit.client.stats import ConsumerStats
from nsqkit.discovery import Discovery
from nsqkit.logging import RateLimitedLogger
from nsqkit.wire import is_valid_name

__all__ = ["Consumer", "Handler"]

SLICE_S: Final = 0.002
"""How long a worker may go on without giving way to the rest of the program."""

Handler = Callable[[Message], Awaitable[object] | object]
"""Handles one message: a coroutine function, or a plain function that does not block."""

_log = logging.getLogger("nsq.client.consumer")


class Consumer:
    """Consumes a channel.

    With a handler, until `stop` is called or the surrounding task is cancelled:

        async def handle(message):
            print(message.body)

        await Consumer("orders", "billing", nsqd_tcp_addresses=["127.0.0.1:4150"], handler=handle).run()

    A message is finished when its handler returns, and requeued when it raises, unless the handler answered it
    itself. Up to `concurrency` handlers run at a time. A handler is a coroutine function, or a plain function
    that does not block.

    Or without one, as a stream of messages that want to be answered:

        async with Consumer("orders", "billing", nsqd_tcp_addresses=["127.0.0.1:4150"], max_in_flight=10) as
        consumer:
            async for message in consumer:
                print(message.body)
                message.finish()

    Leaving the block stops the consumer; what is unanswered then goes back to nsqd at once.

    `nsqd_tcp_addresses`, `lookupd_http_addresses`: where to consume from; either or both.
    `on_giving_up(message)` is called instead of the handler for a message delivered more than `max_attempts`
    times. If it returns without having answered, the message is finished; if it raises, it is requeued.
    Without it such messages are **requeued with the longest delay and a warning is logged, again and again:
    nothing is discarded silently**.

    `options` are `ClientOptions`; any of them can be given by name as well: `max_in_flight=100`. `connect`
    opens the streams (default: TCP), `random` is for tests.

    Raises `ValueError` for bad names, addresses and values, `TypeError` for unknown ones.
    """

    def __init__(
        self,
        topic: str,
        channel: str,
        *,
        nsqd_tcp_addresses: Iterable[str] = (),
        lookupd_http_addresses: Sequence[str] = (),
        handler: Handler | None = None,
        concurrency: int = 1,
        on_giving_up: Handler | None = None,
        options: ClientOptions | None = None,
        connect: Connector = open_tcp,
        discovery: Discovery | None = None,
        random: _random.Random | None = None,
        **changes: Unpack[OptionChanges],
    ) -> None:
        if not is_valid_name(topic):
            raise ValueError(f"not a topic name: {topic!r}")
        if not is_valid_name(channel):
            raise ValueError(f"not a channel name: {channel!r}")
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        settings = attrs.evolve(options or ClientOptions(), **changes)
        if settings.heartbeat_interval <= 0:
            raise ValueError("a consumer cannot do without heartbeats")
        self._fixed = [Address.parse(text) for text in nsqd_tcp_addresses]
        discovery = discovery or discovery_for(lookupd_http_addresses, settings)
        if not self._fixed and discovery is None:
            raise ValueError("neither an nsqd_tcp_address nor a lookupd_http_address")
        self._handler = handler
        self._concurrency = concurrency
        self._on_giving_up = on_giving_up
        random = random or _random.Random()
        self._context = ConsumerContext(
            topic=topic,
            channel=channel,
            options=settings,
            connect=connect,
            random=random,
            discovery=discovery,
            flow=Flow(settings, random, self._log_pause, self._log_normal),
            on_messages=self._enqueue,
            on_link_end=self._link_ended,
            wake_timer=self._wake_timer,
        )
        self._queue: deque[Message] = deque()
        self._idle: deque[anyio.Event] = deque()
        self._links: dict[Address, ConsumerLink] = {}
        self._giving_up_log = RateLimitedLogger(_log)
        self._leaving = False
        self._running_context: contextlib.AbstractAsyncContextManager[Consumer] | None = None
        self._yield_at = 0.0

    @property
    def topic(self) -> str:
        """The topic that is consumed."""
        return self._context.topic

    @property
    def channel(self) -> str:
        """The channel that is consumed."""
        return self._context.channel

    @property
    def options(self) -> ClientOptions:
        """The settings as they are now; see `change_max_in_flight`."""
        return self._context.options

    # Running.

    async def run(self) -> None:
        """Consume until `stop` is called; for consumers with a handler. Cancelling it stops at once."""
        if self._handler is None:
            raise TypeError("run() needs a handler; without one, use async with and async for")
        async with self:
            await self._drained.wait()

    async def __aenter__(self) -> Consumer:
        if self._running_context is not None:
            raise RuntimeError("a Consumer runs once; make another one")
        self._running_context = self._running()
        return await self._running_context.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._running_context is not None
        return await self._running_context.__aexit__(kind, error, trace)

    def stop(self) -> None:
        """Stop in good order: take no more messages, let the handlers finish those that are here, then end.

        Returns at once; call it from the consumer's own event loop. `run`, or the `async for`, ends when
        nothing is left, at the latest after `stop_timeout`; what is unanswered then goes back to nsqd.
        """
        if self._context.stopping:
            return
        self._context.stopping = True
        if self._running_context is not None:
            self._context.flow.stop()
            for link in list(self._links.values()):
                link.stop()
            self._stop_at = anyio.current_time() + self.options.stop_timeout
            self._wake_timer()
            self._check_drained()

    def change_max_in_flight(self, count: int) -> None:
        """From now on so many messages at a time; 0 pauses. `ValueError` when out of range."""
        self._context.options = self._context.flow.options = attrs.evolve(self.options, max_in_flight=count)
        self._context.flow.change_max_in_flight(count, anyio.current_time())
        self._wake_timer()

    def stats(self) -> ConsumerStats:
        """A snapshot of counters and connections."""
        return ConsumerStats(
            **attrs.asdict(self._context.counters),
            queued=len(self._queue),
            in_flight=sum(link.unanswered for link in self._links.values()),
            backoff_level=self._context.flow.level,
            is_starved=self._context.flow.is_starved,
            connections=tuple(link.stats() for link in self._links.values() if link.connection is not None),
        )

    # As a stream.

    def __aiter__(self) -> Consumer:
        if self._handler is not None:
            raise TypeError("this consumer has a handler; its messages go there")
        if self._running_context is None:
            raise RuntimeError("iterate inside `async with consumer:`")
        return self

    async def __anext__(self) -> Message:
        while True:
            message = await self._next()
            if message is None:
                raise StopAsyncIteration
            if not self._is_too_many(message):
                return message
            await self._give_up(message)

    # Inside: the life of the whole.

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[Consumer]:
        self._timer = anyio.Event()
        self._drained = anyio.Event()
        self._stop_at = math.inf
        trouble: Exception | None = None
        async with anyio.create_task_group() as links:
            self._groups = links
            try:
                async with anyio.create_task_group() as work:
                    work.start_soon(self._keep_time)
                    if self._context.discovery is not None:
                        work.start_soon(self._discover, self._context.discovery)
                    for _ in range(self._concurrency if self._handler else 0):
                        work.start_soon(self._work)
                    for address in self._fixed:
                        self._start_link(address, fixed=True)
                    if self._context.stopping:  # stop() came before the start
                        self._drained.set()
                    try:
                        yield self
                    except Exception as error:  # carried past the task groups, which would wrap it
                        trouble = error
                    else:
                        await self._stop_in_order()
                    work.cancel_scope.cancel()
            finally:
                self._leave()
        if trouble is not None:
            raise trouble

    async def _stop_in_order(self) -> None:
        """The block was left without an error. Handlers may end; nobody will answer what was only iterated over."""
        self.stop()
        if self._handler is not None:
            with anyio.move_on_after(max(0.0, self._stop_at - anyio.current_time())):
                await self._drained.wait()

    def _leave(self) -> None:
        """Everything that is still unanswered goes back, and the connections close. Each has its own bound."""
        self._context.stopping = self._leaving = True
        self._context.flow.stop()
        self._queue.clear()
        for link in list(self._links.values()):
            link.leave()
        self._wake_all()

    def _check_drained(self) -> None:
        """After a stop: everything answered, no worker at work? Then those who wait are told that none will come."""
        at_work = self._handler is not None and len(self._idle) < self._concurrency
        if self._context.stopping and not self._links and not self._queue and not at_work:
            self._drained.set()
            self._wake_all()

    def _wake_all(self) -> None:
        while self._idle:
            self._idle.popleft().set()

    # Inside: connections.

    async def _discover(self, discovery: Discovery) -> None:
        async for nodes in discovery.watch(self.topic):
            self._context.listed = {Address(node.broadcast_address, node.tcp_port) for node in nodes}
            if self._context.stopping:
                return
            for address in self._context.listed:
                self._start_link(address, fixed=False)

    def _start_link(self, address: Address, *, fixed: bool) -> None:
        if address not in self._links and not self._context.stopping:
            link = self._links[address] = ConsumerLink(self._context, address, fixed=fixed)
            self._groups.start_soon(link.keep_connected)

    def _link_ended(self, link: ConsumerLink) -> None:
        if self._links.get(link.nsqd) is link:
            del self._links[link.nsqd]
        self._check_drained()

    # Inside: messages.

    def _enqueue(self, messages: list[Message]) -> None:
        self._context.counters.received += len(messages)
        self._queue.extend(messages)
        for _ in range(min(len(messages), len(self._idle))):
            self._idle.popleft().set()

    async def _next(self) -> Message | None:
        """The next message to be handled; None after a stop, when there will be none."""
        queue = self._queue
        while True:
            if queue:
                message = queue.popleft()
                if message.timed_out or message.answered:
                    continue
                if time.perf_counter() >= self._yield_at:
                    await self._give_way(message)
                    if message.answered:  # meanwhile the consumer was left
                        continue
                return message
            if self._leaving or (self._context.stopping and self._drained.is_set()):
                return None
            arrived = anyio.Event()
            self._idle.append(arrived)
            self._check_drained()
            try:
                await arrived.wait()
            except BaseException:
                self._pass_on(arrived)
                raise

    async def _give_way(self, message: Message) -> None:
        """Let others run: the senders that wait with answers, the rest of the program."""
        try:
            await anyio.lowlevel.checkpoint()
        except BaseException:
            self._queue.appendleft(message)
            if self._idle:
                self._idle.popleft().set()
            raise
        self._yield_at = time.perf_counter() + SLICE_S

    def _pass_on(self, arrived: anyio.Event) -> None:
        """One who waited was cancelled: if a message had been meant for it, somebody else shall look."""
        if not arrived.is_set():
            self._idle.remove(arrived)
        elif self._idle:
            self._idle.popleft().set()

    async def _work(self) -> None:
        """One worker: handles one message after the other."""
        handler, limit = self._handler, self.options.max_attempts or math.inf
        assert handler is not None
        while True:
            message = await self._next()
            if message is None:
                return
            if message.attempts > limit:
                await self._give_up(message)
                continue
            try:
                result = handler(message)
                if result is not None and inspect.isawaitable(result):
                    await result
            except Exception as error:
                _log.warning("%s/%s: %r failed: %r", self.topic, self.channel, message, error, exc_info=error)
                if not message.answered:
                    message.requeue()
            except anyio.get_cancelled_exc_class():
                if anyio.current_effective_deadline() == -math.inf:
                    raise  # it is the consumer that ends: what is unanswered goes back after its CLS
                if not message.answered:  # the handler awaited something that was cancelled
                    message.requeue()
            else:
                if not message.answered:
                    message.finish()

    def _is_too_many(self, message: Message) -> bool:
        return message.attempts > self.options.max_attempts > 0

    async def _give_up(self, message: Message) -> None:
        """The handler is not called any more. Never a silent discard."""
        self._context.counters.given_up += 1
        hook, longest = self._on_giving_up, self.options.max_requeue_delay
        if hook is None:
            self._giving_up_log.log(
                anyio.current_time(),
                "%s/%s: giving up on %r after %d attempts; requeued for %g s (set on_giving_up to decide otherwise)",
                *(self.topic, self.channel, message, message.attempts, longest),
            )
            message.requeue(longest, backoff=False)
            return
        try:
            result = hook(message)
            if result is not None and inspect.isawaitable(result):
                await result
        except Exception as error:
            _log.warning(
                "%s/%s: on_giving_up failed for %r", self.topic, self.channel, message, exc_info=error
            )
            if not message.answered:
                message.requeue(longest, backoff=False)
        else:
            if not message.answered:
                message.finish()

    # Inside: time.

    async def _keep_time(self) -> None:
        while True:
            now = anyio.current_time()
            self._context.flow.tick(now)
            touch_at = min((link.touch_what_is_due(now) for link in self._links.values()), default=math.inf)
            if now >= self._stop_at:
                self._stop_at = math.inf
                _log.warning("%s/%s: not everything answered in time for the stop", self.topic, self.channel)
                self._leave()
                self._drained.set()
                self._check_drained()
            self._timer = anyio.Event()
            wait_s = min(self._context.flow.next_at, touch_at, self._stop_at) - now
            with anyio.move_on_after(wait_s if wait_s < math.inf else None):
                await self._timer.wait()

    def _wake_timer(self) -> None:
        self._timer.set()

    def _log_pause(self, level: int, pause_s: float) -> None:
        self._wake_timer()
        _log.warning("%s/%s: backing off for %.3g s (level %d)", self.topic, self.channel, pause_s, level)

    def _log_normal(self) -> None:
        self._wake_timer()
        _log.info("%s/%s: backoff is over", self.topic, self.channel)
