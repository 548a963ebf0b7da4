"""One nsqd of a consumer: its connections, one after the other, and the unanswered messages of the current one.

`ConsumerContext` holds what all links of a consumer share: options, flow, counters, and the calls by which a link
reports to its consumer. A link is a `flow.Link`, which is given its RDY, and a `message.Answerer`, which takes the
answers to its messages.
"""

from __future__ import annotations

import logging
import math
import random as _random
from collections.abc import Callable
from typing import Final

import anyio
import attrs

from nsqkit.client.address import Address
from nsqkit.client.connection import Connection
from nsqkit.client.errors import NSQError, ProtocolViolation
from nsqkit.client.flow import Flow
from nsqkit.client.message import Message, Requeue
from nsqkit.client.opening import Connector
from nsqkit.client.options import ClientOptions
from nsqkit.client.protocol import Error, Event, Phase, Request
from nsqkit.client.reconnect import ConnectionLog, Ending, Reconnector
from nsqkit.client.stats import ConnectionStats, Counters
from nsqkit.discovery import Discovery
from nsqkit.logging import RateLimitedLogger
from nsqkit.wire import encode

__all__ = ["ConsumerContext", "ConsumerLink"]

LEAST_TRANSIT_S: Final = 0.25
"""For how long after a lower RDY messages may still come; longer where SUB was answered late."""

_log = logging.getLogger("nsq.client.consumer")
_GIVEN_BACK: Final = Requeue(0, backoff=False)
SPARE_MESSAGES: Final = 1000
"""Unanswered messages above four times the RDY that are taken: a few come again while their time-out is measured
differently here. More would fill the memory."""


@attrs.define(eq=False, kw_only=True)
class ConsumerContext:
    """The state that the links of one consumer share, and the calls by which they report to it."""

    topic: str
    channel: str
    options: ClientOptions
    connect: Connector
    random: _random.Random
    discovery: Discovery | None
    flow: Flow
    on_messages: Callable[[list[Message]], None]
    """Called with new messages, in the order of their arrival."""
    on_link_end: Callable[[ConsumerLink], None]
    """Called when a link will not connect again."""
    wake_timer: Callable[[], None]
    """Have the consumer call `touch_due` of all links again."""
    connections: ConnectionLog
    counters: Counters = attrs.field(factory=Counters)
    listed: set[Address] = attrs.field(factory=set)
    """The nsqds in the latest answer of the registries."""
    stopping: bool = False
    """Set when the consumer stops: links do not connect again, and the end of a connection is not logged."""
    timeout_log: RateLimitedLogger = attrs.field(factory=lambda: RateLimitedLogger(_log))
    """For messages that were not answered in time."""
    refusal_log: RateLimitedLogger = attrs.field(factory=lambda: RateLimitedLogger(_log, logging.INFO))
    """For answers that nsqd refused."""


class ConsumerLink:
    """One nsqd of a consumer, over all its connections. A `flow.Link` and an `Answerer`."""

    def __init__(self, context: ConsumerContext, nsqd: Address, *, fixed: bool) -> None:
        self.nsqd = nsqd
        self.address = str(nsqd)
        self.connection: Connection | None = None
        """None while it is not connected and subscribed."""
        self.rdy = 0
        self.rdy_since = 0.0
        self.last_message_at = 0.0
        self.transit_s = LEAST_TRANSIT_S
        self._context = context
        self._fixed = fixed
        self._in_flight: dict[bytes, Message] = {}
        """By message id, ordered by `_held_until` except for messages touched near their `max_msg_timeout`."""
        self._messages = 0
        self._repeated = 0
        """Messages that came while they were unanswered, in the last half of their time-out."""
        self._highest_rdy = 0
        self._connected_at = 0.0
        self._subscribed = False
        self._scope = anyio.CancelScope(shield=True)
        self._leaving = False

    # As a flow.Link.

    @property
    def max_rdy(self) -> int:
        return 0 if self.connection is None else self.connection.features.max_rdy_count

    @property
    def unanswered(self) -> int:
        return len(self._in_flight)

    def send_rdy(self, count: int) -> None:
        self._highest_rdy = max(self._highest_rdy, count)
        self._send(encode.rdy(count))

    # As an Answerer.

    def finish(self, message: Message) -> None:
        context = self._context
        if self.connection is None or message._delivered_at < self._connected_at or self._leaving:
            context.counters.lost_answers += 1
            return
        if context.flow.level:
            context.flow.succeeded(anyio.current_time())
        context.counters.finished += 1
        self._answer(message, b"FIN %b\n" % message.id)

    def requeue(self, message: Message, delay_s: float | None, *, backoff: bool) -> None:
        context = self._context
        if self._in_flight.get(message.id) is not message or self._leaving:
            context.counters.lost_answers += 1
            return
        now = anyio.current_time()
        if backoff:
            context.flow.failed(now)
        else:
            context.flow.neutral(now)
        if delay_s is None:
            delay_s = context.options.requeue_delay(message.attempts)
        context.counters.requeued += 1
        self._answer(message, encode.req(message.id, math.ceil(delay_s * 1000)))

    def touch(self, message: Message) -> None:
        if self._in_flight.get(message.id) is message and self.connection is not None:
            self._hold(message, anyio.current_time())
            self._send(encode.touch(message.id))

    # Life cycle.

    async def keep_connected(self) -> None:
        """Connect and consume until the consumer stops. Shielded from cancellation: `stop` or `leave` end it."""
        context = self._context
        try:
            with self._scope:
                await Reconnector(
                    address=self.nsqd,
                    options=context.options,
                    connector=context.connect,
                    make_message=Message,
                    random=context.random,
                    serve=self._serve,
                    keep_going=self._is_wanted,
                    on_failure=self._on_failure,
                    prefix=f"{context.topic}/{context.channel}: ",
                ).run()
        finally:
            context.on_link_end(self)

    def stop(self) -> None:
        """Receive no more messages; the connection ends when all unanswered ones are answered."""
        if self.connection is None:
            self._scope.cancel()
            return
        self.connection.protocol.cls()
        self.connection.flush()

    def leave(self) -> None:
        """Requeue all unanswered messages now, and end within `close_timeout`."""
        if self.connection is None:
            self._scope.cancel()
            return
        connection = self.connection
        connection.protocol.cls()
        self._leaving = True
        self._give_back(list(self._in_flight.values()))
        self._end_if_done()
        connection.flush()
        self._scope.deadline = anyio.current_time() + self._context.options.close_timeout

    def touch_due(self, now: float) -> float:
        """Touch messages past half of their time-out, drop those that nsqd has taken back. When to call it again."""
        if self.connection is None or self._leaving:
            return math.inf
        self._repeated = 0
        touches, half = self._context.options.auto_touch, self.connection.features.msg_timeout / 2
        look_at = now + half
        for message in list(self._in_flight.values()):
            can_touch = touches and message._held_until < self._longest_hold(message)
            due = message._held_until - half if can_touch else message._held_until
            if due > now:
                look_at = min(look_at, due)
                if can_touch or not touches:  # the order of the dict: later ones are due later
                    break
            elif message._held_until <= now:
                self._expire(message, now)
            else:
                self.touch(message)
        return look_at

    def stats(self) -> ConnectionStats:
        connection = self.connection
        version = "" if connection is None else connection.features.version
        return ConnectionStats(self.address, self.rdy, self.unanswered, self._messages, version)

    # Connections.

    def _is_wanted(self) -> bool:
        """Whether to connect again. An nsqd from a registry is given up once no registry lists it."""
        return not self._context.stopping and (self._fixed or self.nsqd in self._context.listed)

    def _on_failure(self, error: Exception) -> None:
        self._context.counters.failed_connects += 1

    async def _serve(self, connection: Connection) -> Ending:
        """Serve one connection to its end. It worked if nsqd answered SUB."""
        try:
            return await self._consume(connection)
        finally:
            if connection.protocol.phase is Phase.CLOSE_WAIT:
                await connection.close()
            else:
                await connection.abort()
            if self._context.discovery is not None:
                self._context.discovery.poll_soon()

    async def _consume(self, connection: Connection) -> Ending:
        context = self._context
        connection.protocol.sub(context.topic, context.channel)
        self.connection, self._messages, self._subscribed = connection, 0, False
        self._repeated = self._highest_rdy = 0
        self._connected_at = anyio.current_time()
        context.counters.connects += 1
        context.flow.add(self, self._connected_at)
        context.wake_timer()
        trouble: NSQError | None = None
        try:
            await connection.run(self._on_events)
        except NSQError as error:
            trouble = error
        finally:
            self.connection = None
            context.connections.lost(self.address)
            context.flow.remove(self, anyio.current_time())
            context.wake_timer()
            self._drop_all()
        return Ending(self._subscribed, trouble)

    def _on_events(self, events: list[Event]) -> None:
        messages = [event for event in events if event.__class__ is Message]
        if messages:
            self._take(messages)
        if len(messages) != len(events):
            for event in events:
                if isinstance(event, Error):
                    self._on_error(event)
                elif isinstance(event, Request) and event.command == "SUB":
                    self._subscribed = True
                    self._context.connections.connected(self.address)
                    self.transit_s = max(self.transit_s, 2 * (anyio.current_time() - self._connected_at))
            self._end_if_done()

    def _on_error(self, event: Error) -> None:
        if not event.error.fatal:
            context, now = self._context, anyio.current_time()
            context.counters.failed_answers += 1
            context.refusal_log.log(
                now, "%s/%s: %s: %s", context.topic, context.channel, self.nsqd, event.error
            )

    def _take(self, messages: list[Message]) -> None:
        assert self.connection is not None
        now = anyio.current_time()
        held_until = now + self.connection.features.msg_timeout
        in_flight = self._in_flight
        before = len(in_flight)
        for message in messages:
            message._source = self
            message._delivered_at = now
            message._held_until = held_until
            in_flight[message.id] = message
        self._repeated += before + len(messages) - len(in_flight)
        if max(self._repeated, len(in_flight)) > 4 * self._highest_rdy + SPARE_MESSAGES:
            raise ProtocolViolation(f"many more messages than RDY {self._highest_rdy} allows")
        self.last_message_at = now
        self._messages += len(messages)
        if self._context.flow.holding:
            self._context.flow.arrived(self, len(messages), now)
            self._context.wake_timer()
        if self._leaving:
            self._give_back(messages)
        else:
            self._context.on_messages(messages)

    def _hold(self, message: Message, now: float) -> None:
        """Account for a TOUCH: a new time-out begins, but `max_msg_timeout` after the delivery is the end."""
        assert self.connection is not None
        message._held_until = min(now + self.connection.features.msg_timeout, self._longest_hold(message))
        self._in_flight[message.id] = self._in_flight.pop(message.id)

    def _longest_hold(self, message: Message) -> float:
        assert self.connection is not None
        return message._delivered_at + self.connection.features.max_msg_timeout

    def _expire(self, message: Message, now: float) -> None:
        del self._in_flight[message.id]
        message.timed_out = True
        self._context.counters.timed_out += 1
        self._context.timeout_log.log(
            now,
            "%s/%s: %r took too long: nsqd delivers it again",
            self._context.topic,
            self._context.channel,
            message,
        )
        self._left_flight()
        self._end_if_done()

    def _answer(self, message: Message, command: bytes) -> None:
        in_flight = self._in_flight
        if in_flight.get(message.id) is message:
            del in_flight[message.id]
        connection = self.connection
        assert connection is not None
        connection.protocol.send(command)
        connection.flush()
        if self._context.flow.holding:  # asked here as well: a call for each FIN costs
            self._left_flight()
        if not in_flight:
            self._end_if_done()

    def _left_flight(self) -> None:
        """Others may wait for the room of a message that was answered or timed out."""
        if self._context.flow.holding:
            self._context.flow.answered(anyio.current_time())
            self._context.wake_timer()

    def _give_back(self, messages: list[Message]) -> None:
        """Requeue with delay 0, without backoff."""
        assert self.connection is not None
        for message in messages:
            message.answered = True
            message.answer = _GIVEN_BACK
            self._in_flight.pop(message.id, None)
            self.connection.protocol.send(encode.req(message.id, 0))
            self._context.counters.requeued += 1

    def _end_if_done(self) -> None:
        """After CLS was answered: close the connection when all messages are answered."""
        connection = self.connection
        if connection is not None and connection.protocol.phase is Phase.CLOSE_WAIT and not self._in_flight:
            connection.finish()

    def _send(self, command: bytes) -> None:
        if self.connection is not None:
            self.connection.protocol.send(command)
            self.connection.flush()

    def _drop_all(self) -> None:
        """The connection is lost: its messages can no longer be answered, and queued ones are not handled."""
        for message in self._in_flight.values():
            message.timed_out = True
        self._in_flight.clear()
