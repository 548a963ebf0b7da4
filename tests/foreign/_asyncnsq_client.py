"""The puppet of asyncnsq, an older library on asyncio, unmaintained since 2019.

What still works with it on Python 3.11 and later: publishing (single, multi, deferred), reading from one
nsqd, and reading from all nsqds that one registry, chosen by chance, knows when it subscribes. What does
not, and is not the daemon's doing: a reader of several nsqds by address sends RDY before SUB on all
connections but the first, registries are asked once and never again, and a reader whose connection ended
never connects again.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

import asyncnsq  # type: ignore[import-untyped]
import attrs

from tests.foreign._child import Addresses, Policy, answer_message, main, report_message, touch_for


@attrs.define
class Asyncnsq:
    """One writer and one reader, each made when it is needed first."""

    addresses: Addresses
    _writer: Any = None
    _reader: Any = None
    _task: asyncio.Task[None] | None = None

    async def publish(self, how: str, topic: str, bodies: list[bytes], delay_ms: int) -> None:
        """Send all at once and wait for each answer."""
        if self._writer is None:
            host, port = self.addresses.nsqds[0].split(":")
            self._writer = await asyncnsq.create_writer(host=host, port=int(port))
        if how == "multi":
            answers = [await self._writer.mpub(topic, *bodies)]
        elif how == "deferred":
            answers = await asyncio.gather(*(self._writer.dpub(topic, delay_ms, body) for body in bodies))
        else:
            answers = await asyncio.gather(*(self._writer.pub(topic, body) for body in bodies))
        for answer in answers:
            if answer != b"OK":
                raise RuntimeError(repr(answer))

    async def consume(self, topic: str, channel: str, in_flight: int, policy: Policy) -> None:
        """Start the reader and a task that answers."""
        self._reader = await asyncnsq.create_reader(
            nsqd_tcp_addresses=self.addresses.nsqds,
            lookupd_http_addresses=[tuple(address.split(":")) for address in self.addresses.lookupds],
            max_in_flight=in_flight,
        )
        await self._reader.subscribe(topic, channel)
        self._task = asyncio.create_task(_answer_all(self._reader, policy))


async def _answer_all(reader: Any, policy: Policy) -> None:
    async for message in reader.messages():
        if policy.touch_for_s:
            await touch_for(policy.touch_for_s, message.touch, message.fin)
            report_message(message.message_id, message.attempts, message.body, "touch")
            continue
        action = policy.decide(message.attempts)
        report_message(message.message_id, message.attempts, message.body, action)
        with contextlib.suppress(AssertionError):  # its connection is gone: the message comes again
            await answer_message(message, action)


if __name__ == "__main__":
    asyncio.run(main(Asyncnsq(Addresses.parse(sys.argv[1:]))))
