"""One topic on its way from a consumer to its destinations.

How it works. One task takes messages from the consumer as they come. Some workers take what has gathered meanwhile,
each a batch, and publish it with one command, all or nothing; while they wait for its OK, more gathers. So a lone
message leaves at once, and a flood in large pieces (measured with 200 in flight: 3.4 us of CPU a message, and 30 with a
worker and a publish for each message). There are two workers for each destination, so that it has work while an answer
is on its way back.

A message is finished after the OK of the batch that it was in. When a destination finds a batch too big, or a message
in it, each is published by itself: one bad message must not hold up others.
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
from nsqtools.nsq_to_nsq.destinations import Destinations
from nsqtools.nsq_to_nsq.json_filter import Filter, NotPassed, Unreadable
from nsqtools.timings import StatusLines

__all__ = ["Relay"]

BATCH_BYTES: Final = 1024 * 1024
"""Of bodies; well below what an nsqd takes at a time (`--max-body-size`, 5 MiB)."""
WORKERS_EACH: Final = 2

_log = get_logger(__name__)


@attrs.frozen
class _Passing:
    """A message, and what of it is published."""

    message: Message
    body: bytes


@attrs.define(eq=False)
class Relay:
    """Publishes what the consumer gets, until `stop` is called or the surrounding task cancelled."""

    consumer: Consumer
    topic: str
    """To publish to."""
    destinations: Destinations
    filter: Filter
    status: StatusLines
    failures: int = 0
    """Messages that were requeued, each time that they were."""
    _arrived: deque[Message] = attrs.field(factory=deque)
    _idle: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    _trouble: RateLimitedLogger = attrs.field(factory=lambda: RateLimitedLogger(_log))
    _drops: RateLimitedLogger = attrs.field(factory=lambda: RateLimitedLogger(_log, logging.ERROR))

    def stop(self) -> None:
        """Bring what is here to its end, and end. Returns at once."""
        self.consumer.stop()

    async def run(self) -> None:
        workers = WORKERS_EACH * len(self.destinations.producers)
        most = max(1, self.consumer.options.max_in_flight // workers)
        async with self.consumer, trio.open_nursery() as nursery:
            for _ in range(workers):
                nursery.start_soon(self._work, most)
            async for message in self.consumer:
                self._arrived.append(message)
                self._idle.unpark()
            nursery.cancel_scope.cancel()  # the stream ends when everything is answered

    async def _work(self, most: int) -> None:
        while True:
            while not self._arrived:
                await self._idle.park()
            passing = [
                passed for message in self._take(most) if (passed := self._look_at(message)) is not None
            ]
            if passing:
                await self._publish(passing)

    def _take(self, most: int) -> list[Message]:
        """The next batch; what nsqd has taken back meanwhile is left out, for it is delivered again."""
        batch: list[Message] = []
        size = 0
        while self._arrived and len(batch) < most and size < BATCH_BYTES:
            message = self._arrived.popleft()
            if not (message.timed_out or message.answered):
                batch.append(message)
                size += len(message.body)
        return batch

    def _look_at(self, message: Message) -> _Passing | None:
        """None: it is answered already."""
        try:
            return _Passing(message, self.filter.apply(message.body))
        except NotPassed as reason:
            if str(reason):
                self._drops.log(trio.current_time(), "%r is dropped - %s", message, reason)
            message.finish()
        except Unreadable as error:
            self._requeue(message, error)
        return None

    async def _publish(self, passing: Sequence[_Passing]) -> None:
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
                if not each.message.answered:  # it was given back in a stop that took too long
                    each.message.finish()

    def _requeue(self, message: Message, error: Exception) -> None:
        self.failures += 1
        self._trouble.log(trio.current_time(), "%r is requeued - %s", message, error)
        if not message.answered:
            message.requeue()
