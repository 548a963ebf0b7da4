"""The puppet of ansq, a library on asyncio with automatic reconnection."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

import ansq
import attrs
from ansq.tcp.exceptions import ConnectionClosedError

from tests.foreign._child import Addresses, Policy, answer_message, main, report_message, touch_for

LOOK_UP_EVERY_MS = 500


@attrs.define
class Ansq:
    """One writer and one reader, each made when it is needed first."""

    addresses: Addresses
    _writer: Any = None
    _reader: Any = None
    _tasks: list[asyncio.Task[None]] = attrs.field(factory=list)

    async def publish(self, how: str, topic: str, bodies: list[bytes], delay_ms: int) -> None:
        """Send all at once and wait for each answer."""
        if self._writer is None and self.addresses.secret:
            self._writer = await self._authorized(self.addresses.nsqds[0])
        elif self._writer is None:
            self._writer = await ansq.create_writer(nsqd_tcp_addresses=self.addresses.nsqds)
        if how == "multi":
            answers = [await self._writer.mpub(topic, *bodies)]
        elif how == "deferred":
            answers = await asyncio.gather(*(self._writer.dpub(topic, body, delay_ms) for body in bodies))
        else:
            answers = await asyncio.gather(*(self._writer.pub(topic, body) for body in bodies))
        for answer in answers:
            if not answer.is_ok:
                raise RuntimeError(repr(answer))

    async def consume(self, topic: str, channel: str, in_flight: int, policy: Policy) -> None:
        """Start the reader and a task that answers; ansq gives each connection RDY 1, we ask for more."""
        if self.addresses.secret:
            for address in self.addresses.nsqds:
                connection = await self._authorized(address)
                await connection.subscribe(topic, channel, in_flight)
                self._answer(connection, policy)
            return
        # What the library sends as message time-out counts, not the daemon's flag. With registries a lost connection
        # makes it throw away unseen what it has of others: that shall not take a minute to come again.
        msg_timeout_ms = 1_000 if policy.touch_for_s else 15_000 if self.addresses.lookupds else 60_000
        features = ansq.ConnectionFeatures(msg_timeout=msg_timeout_ms)
        self._reader = await ansq.create_reader(
            topic,
            channel,
            nsqd_tcp_addresses=self.addresses.nsqds,
            lookupd_http_addresses=self.addresses.lookupds,
            lookupd_poll_interval=LOOK_UP_EVERY_MS,
            connection_options=ansq.ConnectionOptions(features=features),
        )
        self._answer(self._reader, policy)
        for connection in self._reader.connections:
            await connection.rdy(in_flight)

    async def _authorized(self, address: str) -> Any:
        """A connection after AUTH, which ansq's readers and writers do not send."""
        host, port = address.split(":")
        connection = await ansq.open_connection(host, int(port))
        answer = await connection.auth(self.addresses.secret)
        if answer.is_error:
            raise RuntimeError(repr(answer))
        # ansq 0.3 refuses to send more until this is set, and sets it nowhere.
        connection._is_authorized = True
        return connection

    def _answer(self, source: Any, policy: Policy) -> None:
        task = asyncio.create_task(_answer_all(source, policy))
        task.add_done_callback(_tell_trouble)
        self._tasks.append(task)


def _end_at_errors() -> None:
    """Let a stream that has failed count as ended.

    ansq reads until `at_eof`, and ignores what a read raises. A connection that is reset, as by a killed nsqd that had
    not read everything, never is at its end: the library would spin for ever, without a chance for any other task, and
    fill the memory with the growing traceback of the one error.
    """
    at_eof = asyncio.StreamReader.at_eof

    def at_eof_or_failed(reader: asyncio.StreamReader) -> bool:
        return at_eof(reader) or reader.exception() is not None

    asyncio.StreamReader.at_eof = at_eof_or_failed  # type: ignore[method-assign, assignment]


async def _answer_all(reader: Any, policy: Policy) -> None:
    async for message in reader.messages():
        if message.is_timed_out:  # read long ago: ansq raises if asked to answer it, and it comes again
            continue
        if policy.touch_for_s:
            await touch_for(policy.touch_for_s, message.touch, message.fin)
            report_message(message.id, message.attempts, message.body, "touch")
            continue
        action = policy.decide(message.attempts)
        report_message(message.id, message.attempts, message.body, action)
        with contextlib.suppress(ConnectionClosedError):  # the message comes again
            await answer_message(message, action)


def _tell_trouble(task: asyncio.Task[None]) -> None:
    """Raise what ended the task, so that the event loop writes it to standard error."""
    if not task.cancelled():
        task.result()


if __name__ == "__main__":
    _end_at_errors()
    asyncio.run(main(Ansq(Addresses.parse(sys.argv[1:]))))
