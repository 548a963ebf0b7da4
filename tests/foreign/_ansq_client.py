"""The puppet of ansq, a library on asyncio with automatic reconnection."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import ansq
import attrs

from tests.foreign._child import TOUCH_EVERY_S, Policy, main, report_message


@attrs.define
class Ansq:
    """One writer and one reader, each made when it is needed first."""

    addresses: list[str]
    _writer: Any = None
    _reader: Any = None
    _task: asyncio.Task[None] | None = None

    async def publish(self, how: str, topic: str, bodies: list[bytes], delay_ms: int) -> None:
        """Send all at once and wait for each answer."""
        if self._writer is None:
            self._writer = await ansq.create_writer(nsqd_tcp_addresses=self.addresses)
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
        # What the library sends as message time-out counts, not the daemon's flag.
        features = ansq.ConnectionFeatures(msg_timeout=1_000 if policy.touch_for_s else 60_000)
        self._reader = await ansq.create_reader(
            topic,
            channel,
            nsqd_tcp_addresses=self.addresses,
            connection_options=ansq.ConnectionOptions(features=features),
        )
        self._task = asyncio.create_task(_answer_all(self._reader, policy))
        for connection in self._reader.connections:
            await connection.rdy(in_flight)


async def _answer_all(reader: Any, policy: Policy) -> None:
    async for message in reader.messages():
        if policy.touch_for_s:
            await _touch_for(message, policy.touch_for_s)
            continue
        action = policy.decide(message.attempts)
        report_message(message.id, message.attempts, message.body, action)
        if action == "requeue":
            await message.req(0)
        elif action != "hold":
            if action == "touch":
                await message.touch()
            await message.fin()


async def _touch_for(message: Any, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        await asyncio.sleep(TOUCH_EVERY_S)
        await message.touch()
    await message.fin()
    report_message(message.id, message.attempts, message.body, "touch")


if __name__ == "__main__":
    asyncio.run(main(Ansq(sys.argv[1:])))
