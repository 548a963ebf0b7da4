"""One nsqd of a consumer: its connections, one after the other, and what is unanswered on the present one.

A part of `consumer.py`, which it uses freely: the consumer has what is common to all nsqds (the queue, the
flow, the counters), a link what belongs to one. A link is a `flow.Link`, which is given its RDY, and an
`Answerer`, which takes the answers of its messages.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import anyio

from nsqkit.client.address import Address
from nsqkit.client.connection import Connection
from nsqkit.client.errors import NSQError, ServerError
from nsqkit.client.message import Message
from nsqkit.client.protocol import Error, Event, Phase, Request
from nsqkit.client.reconnect import stay_connected
from nsqkit.client.stats import ConnectionStats
from nsqkit.wire import encode

if TYPE_CHECKING:
    from nsqkit.client.consumer import Consumer

__all__ = ["ConsumerLink"]

_log = logging.getLogger("nsq.client.consumer")


class ConsumerLink:
    """One nsqd of a consumer, over all its connections; a `flow.Link` and an `Answerer`."""

    def __init__(self, consumer: Consumer, nsqd: Address, *, fixed: bool) -> None:
        self.nsqd = nsqd
        self.address = str(nsqd)
        self.connection: Connection | None = None
        """None: not connected and subscribed."""
        self.rdy = 0
        self.rdy_since = 0.0
        self.last_message_at = 0.0
        self._consumer = consumer
        self._fixed = fixed
        self._in_flight: dict[bytes, Message] = {}
        """In the order of `_held_until`, but for what was touched near the end of its longest time."""
        self._messages = 0
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
        self._send(encode.rdy(count))

    # As an Answerer.

    def finish(self, message: Message) -> None:
        consumer = self._consumer
        if self.connection is None or message._delivered_at < self._connected_at or self._leaving:
            consumer._counters.lost_answers += 1
            return
        if consumer._flow.level:
            consumer._flow.succeeded(anyio.current_time())
        consumer._counters.finished += 1
        self._answer(message, b"FIN %b\n" % message.id)

    def requeue(self, message: Message, delay_s: float | None, *, backoff: bool) -> None:
        consumer = self._consumer
        if self._in_flight.get(message.id) is not message or self._leaving:
            consumer._counters.lost_answers += 1
            return
        now = anyio.current_time()
        if backoff:
            consumer._flow.failed(now)
        else:
            consumer._flow.neutral(now)
        if delay_s is None:
            delay_s = consumer.options.requeue_delay(message.attempts)
        consumer._counters.requeued += 1
        self._answer(message, encode.req(message.id, math.ceil(delay_s * 1000)))

    def touch(self, message: Message) -> None:
        if self._in_flight.get(message.id) is message and self.connection is not None:
            self._hold(message, anyio.current_time())
            self._send(encode.touch(message.id))

    # Its life.

    async def keep_connected(self) -> None:
        """Connect, consume, and again, until the consumer stops. Shielded: its end is `stop` or `leave`."""
        consumer = self._consumer
        try:
            with self._scope:
                await stay_connected(
                    self.nsqd,
                    consumer.options,
                    connector=consumer._connect,
                    make_message=Message,
                    random=consumer._random,
                    serve=self._serve,
                    goes_on=self._is_wanted,
                    on_failure=self._note,
                )
        finally:
            consumer._link_ended(self)

    def stop(self) -> None:
        """No more messages; the connection ends when those that are here are answered."""
        if self.connection is None:
            self._scope.cancel()
            return
        self.connection.protocol.cls()
        self.connection.flush()

    def leave(self) -> None:
        """Give everything back now, and end within `close_timeout`."""
        if self.connection is None:
            self._scope.cancel()
            return
        connection = self.connection
        connection.protocol.cls()
        self._leaving = True
        self._give_back(list(self._in_flight.values()))
        self._end_if_done()
        connection.flush()
        self._scope.deadline = anyio.current_time() + self._consumer.options.close_timeout

    def touch_what_is_due(self, now: float) -> float:
        """Touch what is past half of its time, let go what nsqd has taken back; say when to look again."""
        if self.connection is None or self._leaving:
            return math.inf
        touches, half = self._consumer.options.auto_touch, self.connection.features.msg_timeout / 2
        look_at = now + half
        for message in list(self._in_flight.values()):
            can_touch = touches and message._held_until < self._longest_hold(message)
            due = message._held_until - half if can_touch else message._held_until
            if due > now:
                look_at = min(look_at, due)
                if can_touch or not touches:  # all behind it are due later
                    break
            elif message._held_until <= now:
                self._let_go(message, now)
            else:
                self.touch(message)
        return look_at

    def stats(self) -> ConnectionStats:
        connection = self.connection
        version = "" if connection is None else connection.features.version
        return ConnectionStats(self.address, self.rdy, self.unanswered, self._messages, version)

    # Inside.

    def _is_wanted(self) -> bool:
        """A registry's nsqd that is lost is tried again only while they list it; they are asked again soon."""
        return not self._consumer._stopping and (self._fixed or self.nsqd in self._consumer._reachable)

    def _note(self, error: NSQError) -> None:
        self._consumer._counters.failed_connects += 1

    async def _serve(self, connection: Connection) -> bool:
        """One connection from its beginning to its end; whether it ever worked."""
        try:
            return await self._consume(connection)
        finally:
            if connection.protocol.phase is Phase.CLOSE_WAIT:
                await connection.close()
            else:
                await connection.abort()
            if self._consumer._discovery is not None:
                self._consumer._discovery.poll_soon()

    async def _consume(self, connection: Connection) -> bool:
        consumer = self._consumer
        connection.protocol.sub(consumer.topic, consumer.channel)
        self.connection, self._messages, self._subscribed = connection, 0, False
        self._connected_at = anyio.current_time()
        consumer._counters.connects += 1
        consumer._flow.add(self, self._connected_at)
        consumer._timer.set()
        try:
            await connection.run(self._on_events)
        except NSQError as error:
            if not consumer._stopping:
                _log.warning("%s/%s: %s", consumer.topic, consumer.channel, _with_address(error, self.nsqd))
        finally:
            self.connection = None
            consumer._flow.remove(self, anyio.current_time())
            self._forget_all()
        return self._subscribed

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
            self._end_if_done()

    def _on_error(self, event: Error) -> None:
        if not event.error.fatal:
            consumer, now = self._consumer, anyio.current_time()
            consumer._counters.failed_answers += 1
            consumer._refusals.tell(
                now, "%s/%s: %s: %s", consumer.topic, consumer.channel, self.nsqd, event.error
            )

    def _take(self, messages: list[Message]) -> None:
        assert self.connection is not None
        now = anyio.current_time()
        held_until = now + self.connection.features.msg_timeout
        in_flight = self._in_flight
        for message in messages:
            message._source = self
            message._delivered_at = now
            message._held_until = held_until
            in_flight[message.id] = message
        self.last_message_at = now
        self._messages += len(messages)
        if self._leaving:
            self._give_back(messages)
        else:
            self._consumer._arrived(messages)

    def _hold(self, message: Message, now: float) -> None:
        """A TOUCH is sent: nsqd waits anew, but no longer than its longest time since the delivery."""
        assert self.connection is not None
        message._held_until = min(now + self.connection.features.msg_timeout, self._longest_hold(message))
        self._in_flight[message.id] = self._in_flight.pop(message.id)

    def _longest_hold(self, message: Message) -> float:
        assert self.connection is not None
        return message._delivered_at + self.connection.features.max_msg_timeout

    def _let_go(self, message: Message, now: float) -> None:
        del self._in_flight[message.id]
        message.timed_out = True
        self._consumer._counters.timed_out += 1
        self._consumer._too_late.tell(
            now, "%s/%s: %r took too long", self._consumer.topic, self._consumer.channel, message
        )
        self._end_if_done()

    def _answer(self, message: Message, command: bytes) -> None:
        in_flight = self._in_flight
        if in_flight.get(message.id) is message:
            del in_flight[message.id]
        connection = self.connection
        assert connection is not None
        connection.protocol.send(command)
        connection.flush()
        if not in_flight:
            self._end_if_done()

    def _give_back(self, messages: list[Message]) -> None:
        """Requeue at once, without a word to anybody."""
        assert self.connection is not None
        for message in messages:
            message.answered = True
            self._in_flight.pop(message.id, None)
            self.connection.protocol.send(encode.req(message.id, 0))
            self._consumer._counters.requeued += 1

    def _end_if_done(self) -> None:
        """After a stop: when nsqd has said that no more will come and nothing is unanswered, it is over."""
        connection = self.connection
        if connection is not None and connection.protocol.phase is Phase.CLOSE_WAIT and not self._in_flight:
            connection.finish()

    def _send(self, command: bytes) -> None:
        if self.connection is not None:
            self.connection.protocol.send(command)
            self.connection.flush()

    def _forget_all(self) -> None:
        """The connection is gone: nothing that came by it can be answered, and what waits shall not be handled."""
        for message in self._in_flight.values():
            message.timed_out = True
        self._in_flight.clear()


def _with_address(error: NSQError, nsqd: Address) -> str:
    return f"{nsqd}: {error}" if isinstance(error, ServerError) else str(error)
