"""The transfer of one topic from a consumer to its destinations.

One task receives messages from the consumer. Workers take the messages that have arrived meanwhile as a batch, and
publish it with one command, all or none; while they wait for the OK, more messages arrive. So a single message is sent
at once, and many are sent in large batches (measured with 200 in flight: 3.4 us of CPU per message, and 30 us with a
worker and a publish for each message). There is a worker for each batch that the destinations take at a time.

A message is finished after the OK for its batch. If a destination refuses a batch, or a message in it, as too big, each
message is published separately, so that one does not hold up the others.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from nsqkit.client import BadBody, BadMessage, Consumer, Message, NSQError
from nsqkit.logging import RateLimitedLogger, get_logger
from nsqtools.nsq_to_nsq.destinations import BATCHES_EACH, Destinations
from nsqtools.nsq_to_nsq.json_filter import Dropped, Filter, Undecidable
from nsqtools.timings import StatusLines

__all__ = ["Relay"]

BATCH_BYTES: Final = 1024 * 1024
"""Bodies of one batch, in bytes; well below nsqd's `--max-body-size` of 5 MiB."""

_log = get_logger(__name__)


@attrs.frozen
class _Outgoing:
    """A message, and the body to publish."""

    message: Message
    body: bytes


@attrs.define(eq=False)
class Relay:
    """Publishes all messages of the consumer, until `stop` or cancellation."""

    consumer: Consumer
    topic: str
    """The topic to publish to."""
    destinations: Destinations
    filter: Filter
    status: StatusLines
    failures: int = 0
    """Requeues of messages."""
    _arrived: deque[Message] = attrs.field(factory=deque)
    _idle: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    _requeue_log: RateLimitedLogger = attrs.field(factory=lambda: RateLimitedLogger(_log))
    _drop_log: RateLimitedLogger = attrs.field(factory=lambda: RateLimitedLogger(_log, logging.ERROR))

    def stop(self) -> None:
        """Publish the messages received so far, and end. Returns at once."""
        self.consumer.stop()

    async def run(self) -> None:
        workers = BATCHES_EACH * len(self.destinations.producers)
        limit = max(1, self.consumer.options.max_in_flight // workers)
        async with self.consumer, trio.open_nursery() as nursery:
            for _ in range(workers):
                nursery.start_soon(self._work, limit)
            async for message in self.consumer:
                self._arrived.append(message)
                self._idle.unpark()
            nursery.cancel_scope.cancel()  # the stream has ended, so every message is finished or requeued

    async def _work(self, limit: int) -> None:
        while True:
            while not self._arrived:
                await self._idle.park()
            try:
                await self.destinations.wait_until_usable()
            except NSQError as error:
                for message in self._take(limit):
                    self._requeue(message, error)
                continue
            passing = [
                passed
                for message in self._take(limit)
                if (passed := self._filter_message(message)) is not None
            ]
            if passing:
                await self._publish(passing)

    def _take(self, limit: int) -> list[Message]:
        """The next batch, without messages that have timed out in nsqd: those are delivered again."""
        batch: list[Message] = []
        size = 0
        while self._arrived and len(batch) < limit and size < BATCH_BYTES:
            message = self._arrived.popleft()
            if not (message.timed_out or message.answered):
                batch.append(message)
                size += len(message.body)
        return batch

    def _filter_message(self, message: Message) -> _Outgoing | None:
        """Apply the filter; None if the message was finished or requeued by that."""
        try:
            return _Outgoing(message, self.filter.apply(message.body))
        except Dropped as reason:
            if str(reason):
                self._drop_log.log(trio.current_time(), "%r is dropped - %s", message, reason)
            message.finish()
        except Undecidable as error:
            self._requeue(message, error)
        return None

    async def _publish(self, passing: Sequence[_Outgoing]) -> None:
        began = trio.current_time()
        try:
            address = await self.destinations.publish(self.topic, [each.body for each in passing])
        except (BadMessage, BadBody) as error:
            if len(passing) == 1:
                self._requeue(passing[0].message, error)
            else:
                for each in passing:
                    await self._publish([each])
        except NSQError as error:
            for each in passing:
                self._requeue(each.message, error)
        else:
            seconds = trio.current_time() - began
            for each in passing:
                self.status.add(address, seconds)
                self.status.add_all(seconds)
                if not each.message.answered:  # it may have been requeued by a stop that timed out
                    each.message.finish()

    def _requeue(self, message: Message, error: Exception) -> None:
        self.failures += 1
        self._requeue_log.log(trio.current_time(), "%r is requeued - %s", message, error)
        if not message.answered:
            message.requeue()
