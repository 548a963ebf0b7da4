"""Consumers: messages of one channel, from every nsqd that has the topic.

How it works. One task for each nsqd connects, subscribes, and connects again when the connection is lost
(`link.py`). Messages of all nsqds go into one queue. Workers take them out and call the handler, or the user's code
does, with `async for`. `Flow` decides the RDY of each connection; a timer task drives it and touches messages that
take long.

Answers are plain calls that queue a few bytes on the connection that the message came by. The sender of that
connection runs when the worker next waits, so that the FINs of many messages share one send.

There are two nested task groups, the connections in the outer one, the workers in the inner one. So handlers end first
on cancellation, and the messages that they leave unanswered still go back to nsqd, within `close_timeout`.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import random as _random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Final, Unpack

import anyio
import attrs

from nsqkit.client.address import Address
from nsqkit.client.arguments import Addresses, changed, checked_name, nsqd_addresses, registry_addresses
from nsqkit.client.codecs import Codec
from nsqkit.client.flow import Flow
from nsqkit.client.groups import without_groups
from nsqkit.client.link import ConsumerContext, ConsumerLink
from nsqkit.client.message import Message
from nsqkit.client.opening import Connector, open_tcp
from nsqkit.client.options import ClientOptions, OptionChanges
from nsqkit.client.parking import parking_here
from nsqkit.client.reconnect import ConnectionLog, discovery_for
from nsqkit.client.signals import stopped_by_signals
from nsqkit.client.stats import ConsumerStats
from nsqkit.discovery import Discovery
from nsqkit.logging import RateLimitedLogger

__all__ = ["Consumer", "Handler"]

SLICE_S: Final = 0.002
"""How long workers take messages out of the queue before other tasks get their turn."""

Handler = Callable[[Message], Awaitable[object] | object]
"""Handles one message: a coroutine function, or a plain function that does not block."""

_log = logging.getLogger("nsq.client.consumer")


class Consumer:
    """Receives the messages of one channel of a topic from all nsqds that have it.

    With a handler, until `stop` is called or the surrounding task is cancelled:

        async def handle(message):
            print(message.body)

        await Consumer("orders", "billing", nsqd_tcp_addresses=["127.0.0.1:4150"], handler=handle).run()

    A message is finished when its handler returns and requeued when it raises, unless the handler has answered it
    itself.

    Without a handler, as a stream of messages that the caller answers:

        async with Consumer("orders", "billing", nsqd_tcp_addresses=["127.0.0.1:4150"]) as consumer:
            async for message in consumer:
                print(message.body)
                message.finish()

    Leaving the block stops the consumer; unanswered messages go back to nsqd at once.

    Parameters:

    - `topic`, `channel`: names of up to 64 characters `.a-zA-Z0-9_-`, and perhaps `#ephemeral`.
    - `nsqd_tcp_addresses`: nsqds to consume from, `host:port`.
    - `lookupd_http_addresses`: registries to ask for nsqds, `host:port` or a URL. Either list, or both.
    - `handler`: a coroutine function, or a plain function that does not block, with one argument, the `Message`.
    - `concurrency`: how many handlers run at a time.
    - `on_giving_up`: called instead of the handler for a message that was delivered more than `max_attempts` times.
      If it returns without having answered, the message is finished; if it raises, the message is requeued. Without
      it, such a message is requeued with the longest delay, and a warning is logged, each time that it comes: nothing
      is discarded silently.
    - `codec`: decodes bodies; handlers find the result in `message.value`. A message that cannot be decoded has failed.
    - `options`: the settings; each of them can be given by its name as well, as in `max_in_flight=100`.
    - `connect`: opens the streams; TCP by default.
    - `discovery`: used instead of one that is made of `lookupd_http_addresses`.
    - `random`: the source of jitter, for tests.

    Raises `ValueError` for a bad name, address or value, `TypeError` for an option that does not exist. Errors of
    connections are not raised: they are logged, and the consumer connects again.
    """

    def __init__(
        self,
        topic: str,
        channel: str,
        *,
        nsqd_tcp_addresses: Addresses = (),
        lookupd_http_addresses: Addresses = (),
        handler: Handler | None = None,
        concurrency: int = 1,
        on_giving_up: Handler | None = None,
        codec: Codec | None = None,
        options: ClientOptions | None = None,
        connect: Connector = open_tcp,
        discovery: Discovery | None = None,
        random: _random.Random | None = None,
        **changes: Unpack[OptionChanges],
    ) -> None:
        checked_name("topic", topic)
        checked_name("channel", channel)
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        for name, hook in (("handler", handler), ("on_giving_up", on_giving_up)):
            if hook is not None and not callable(hook):
                raise TypeError(f"{name} is a function, not {hook!r}: write {name}=f, not {name}=f(...)")
        settings = changed(options, changes)
        if settings.heartbeat_interval <= 0:
            raise ValueError("a consumer needs heartbeats: heartbeat_interval must be positive")
        self._fixed = nsqd_addresses(nsqd_tcp_addresses)
        discovery = discovery or discovery_for(registry_addresses(lookupd_http_addresses), settings)
        if not self._fixed and discovery is None:
            raise ValueError("no nsqd_tcp_addresses and no lookupd_http_addresses")
        self._handler = handler
        self._concurrency = concurrency
        self._on_giving_up = on_giving_up
        self._codec = codec
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
            connections=ConnectionLog(f"{topic}/{channel}: "),
        )
        self._queue: deque[Message] = deque()
        self._idle: deque[anyio.Event] = deque()
        self._links: dict[Address, ConsumerLink] = {}
        self._giving_up_log = RateLimitedLogger(_log)
        self._failure_log = RateLimitedLogger(_log)
        self._undecodable_log = RateLimitedLogger(_log)
        self._leaving = False
        self._running_context: contextlib.AbstractAsyncContextManager[Consumer] | None = None
        self._yield_at = 0.0

    @property
    def topic(self) -> str:
        """The name of the topic."""
        return self._context.topic

    @property
    def channel(self) -> str:
        """The name of the channel."""
        return self._context.channel

    @property
    def options(self) -> ClientOptions:
        """The current settings; `change_max_in_flight` changes one of them."""
        return self._context.options

    # Running.

    async def run(self, *, stop_on_signals: bool = True) -> None:
        """Consume until `stop` is called. Cancelled, it stops at once and gives unanswered messages back.

        `stop_on_signals`: SIGINT (Ctrl-C) and SIGTERM stop the consumer in order, and a second one at once; `run` then
        returns. Only in the main thread, and only if nothing else in the program handles or ignores the signal.

        Raises `TypeError` without a handler, `RuntimeError` when it is called a second time.
        """
        if self._handler is None:
            raise TypeError("run() needs a handler; without one use `async with consumer` and `async for`")
        if not stop_on_signals:
            await self._run()
            return
        with (
            anyio.CancelScope() as scope,
            stopped_by_signals(f"{self.topic}/{self.channel}", self.stop, lambda: scope.cancel()),
        ):
            await self._run()

    async def _run(self) -> None:
        async with self:
            await self._drained.wait()

    async def __aenter__(self) -> Consumer:
        if self._running_context is not None:
            raise RuntimeError("a Consumer runs only once")
        self._running_context = self._running()
        return await self._running_context.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._running_context is not None
        return await self._running_context.__aexit__(kind, error, trace)

    def stop(self) -> None:
        """Begin an orderly stop: receive no more messages, and let the handlers finish those that are here.

        Returns at once; to be called in the consumer's event loop, by a task or a callback of
        `loop.add_signal_handler`. `run`, or the `async for`, ends when no message is left, at the latest after
        `stop_timeout` seconds; messages that are still unanswered then go back to nsqd.
        """
        if self._context.stopping:
            return
        self._context.stopping = True
        if self._running_context is not None:
            self._context.flow.stop()
            for link in list(self._links.values()):
                link.stop()
            self._stop_at = self._now() + self.options.stop_timeout
            self._wake_timer()
            self._check_drained()

    def change_max_in_flight(self, count: int) -> None:
        """Allow so many unanswered messages from now on, over all connections; 0 pauses the consumer.

        To be called while it runs. `ValueError` for a count out of range.
        """
        self._context.options = self._context.flow.options = attrs.evolve(self.options, max_in_flight=count)
        self._context.flow.change_max_in_flight(count, anyio.current_time())
        self._wake_timer()

    def stats(self) -> ConsumerStats:
        """Counters since the start, and the current connections."""
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
            raise TypeError("this consumer has a handler, which gets the messages")
        if self._running_context is None:
            raise RuntimeError("iterate inside `async with consumer:`")
        return self

    async def __anext__(self) -> Message:
        while True:
            message = await self._next()
            if message is None:
                raise StopAsyncIteration
            if self._is_too_many(message):
                await self._give_up(message)
            elif self._codec is None or self._decode(message, self._codec):
                return message

    # Life cycle.

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[Consumer]:
        self._timer = anyio.Event()
        self._drained = anyio.Event()
        self._now = parking_here().now
        self._stop_at = math.inf
        trouble: BaseException | None = None
        with without_groups():
            async with anyio.create_task_group() as links:
                self._groups = links
                try:
                    async with anyio.create_task_group() as work:
                        work.start_soon(self._keep_time)
                        work.start_soon(self._context.connections.run)
                        if self._context.discovery is not None:
                            work.start_soon(self._discover, self._context.discovery)
                        for _ in range(self._concurrency if self._handler else 0):
                            work.start_soon(self._work)
                        for address in self._fixed:
                            self._start_link(address, fixed=True)
                        if self._context.stopping:  # stop() was called before the start
                            self._drained.set()
                        try:
                            yield self
                        except (anyio.get_cancelled_exc_class(), GeneratorExit):
                            raise
                        except BaseException as error:
                            # Raised below: the task groups would wrap it in an ExceptionGroup.
                            trouble = error
                        else:
                            await self._stop_in_order()
                        work.cancel_scope.cancel()
                finally:
                    self._leave()
        if trouble is not None:
            raise trouble

    async def _stop_in_order(self) -> None:
        """The block was left without an error: let handlers finish. Without handlers there is nothing to wait for."""
        self.stop()
        if self._handler is not None:
            with anyio.move_on_after(max(0.0, self._stop_at - anyio.current_time())):
                await self._drained.wait()

    def _leave(self) -> None:
        """Give all unanswered messages back and close the connections, each within `close_timeout`."""
        self._context.stopping = self._leaving = True
        self._context.flow.stop()
        self._queue.clear()
        for link in list(self._links.values()):
            link.leave()
        self._wake_all()

    def _check_drained(self) -> None:
        """After `stop`: when every message is answered and no handler runs, wake everyone who waits for a message."""
        at_work = self._handler is not None and len(self._idle) < self._concurrency
        if self._context.stopping and not self._links and not self._queue and not at_work:
            self._drained.set()
            self._wake_all()

    def _wake_all(self) -> None:
        while self._idle:
            self._idle.popleft().set()

    # Connections.

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

    # Messages.

    def _enqueue(self, messages: list[Message]) -> None:
        self._context.counters.received += len(messages)
        self._queue.extend(messages)
        for _ in range(min(len(messages), len(self._idle))):
            self._idle.popleft().set()

    async def _next(self) -> Message | None:
        """The next message to be handled; None when the consumer has stopped."""
        queue = self._queue
        while True:
            if queue:
                message = queue.popleft()
                if message.timed_out or message.answered:
                    continue
                if time.perf_counter() >= self._yield_at:
                    await self._give_way(message)
                    if message.answered:  # the consumer was left meanwhile
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
        """Let other tasks run: the senders with their answers, the rest of the program."""
        try:
            await anyio.lowlevel.checkpoint()
        except BaseException:
            self._queue.appendleft(message)
            if self._idle:
                self._idle.popleft().set()
            raise
        self._yield_at = time.perf_counter() + SLICE_S

    def _pass_on(self, arrived: anyio.Event) -> None:
        """A waiter was cancelled: if it had been woken for a message, wake another one."""
        if not arrived.is_set():
            self._idle.remove(arrived)
        elif self._idle:
            self._idle.popleft().set()

    async def _work(self) -> None:
        """One worker: calls the handler for one message after the other."""
        handler, limit = self._handler, self.options.max_attempts or math.inf
        assert handler is not None
        while True:
            message = await self._next()
            if message is None:
                return
            if message.attempts > limit:
                await self._give_up(message)
                continue
            if self._codec is not None and not self._decode(message, self._codec):
                continue
            try:
                result = handler(message)
                if result is not None and inspect.isawaitable(result):
                    await result
            except Exception as error:
                self._failure_log.log(
                    anyio.current_time(),
                    "%s/%s: %r failed: %r",
                    *(self.topic, self.channel, message, error),
                    error=error,
                )
                if not message.answered:
                    message.requeue()
            except anyio.get_cancelled_exc_class():
                if anyio.current_effective_deadline() == -math.inf:
                    raise  # the consumer ends: unanswered messages go back after the CLS
                if not message.answered:  # something that the handler awaited was cancelled
                    message.requeue()
            else:
                if not message.answered:
                    message.finish()

    def _decode(self, message: Message, codec: Codec) -> bool:
        """Decode the body into `message.value`. False: it cannot be decoded, and counts as a failure."""
        try:
            message.value = codec.decode(message.body)
        except Exception as error:
            self._undecodable_log.log(
                anyio.current_time(),
                "%s/%s: %r cannot be decoded: %.500r",
                *(self.topic, self.channel, message, error),
            )
            message.requeue()
            return False
        return True

    def _is_too_many(self, message: Message) -> bool:
        return message.attempts > self.options.max_attempts > 0

    async def _give_up(self, message: Message) -> None:
        """Call `on_giving_up` instead of the handler; without it requeue, and log a warning."""
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
            self._failure_log.log(
                anyio.current_time(),
                "%s/%s: on_giving_up failed for %r",
                *(self.topic, self.channel, message),
                error=error,
            )
            if not message.answered:
                message.requeue(longest, backoff=False)
        else:
            if not message.answered:
                message.finish()

    # Time.

    async def _keep_time(self) -> None:
        while True:
            now = anyio.current_time()
            self._context.flow.tick(now)
            touch_at = min((link.touch_due(now) for link in self._links.values()), default=math.inf)
            if now >= self._stop_at:
                self._stop_at = math.inf
                _log.warning(
                    "%s/%s: stopped after stop_timeout (%g s) with unanswered messages, which are requeued: %d",
                    *(self.topic, self.channel, self.options.stop_timeout, self.stats().in_flight),
                )
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
        _log.info("%s/%s: backoff ended", self.topic, self.channel)
