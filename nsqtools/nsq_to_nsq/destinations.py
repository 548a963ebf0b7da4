"""Publishing to one of several nsqds, each with a producer of its own.

Rules:

- The pool chooses among those that are connected and have fewer than `BATCHES_EACH` batches of this topic without an
  answer. So a destination that takes a connection and then answers nothing holds up those batches, not the others.
- A batch is made only when a destination can take it (`wait_until_usable`). While none can, messages wait for
  `publish_timeout`; then it is an error.
- What a lost connection leaves without an answer goes to another destination at once, if one is usable; it may be
  published twice.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Final

import attrs
import trio

from nsqkit.client import (
    BadBody,
    BadMessage,
    ClientOptions,
    NotConnected,
    NSQError,
    Producer,
    UncertainPublish,
)
from nsqtools.hosts import Pool

__all__ = ["BATCHES_EACH", "Destinations", "open_destinations"]

BATCHES_EACH: Final = 2
"""So that a destination has work while a response is on its way."""
POLL_S: Final = 0.05
"""Time between two looks for a connection, while no destination is usable."""


@attrs.define(eq=False)
class Destinations:
    """The producers by address, connected or connecting, for the messages of one topic."""

    producers: dict[str, Producer]
    pool: Pool
    _unanswered: Counter[str] = attrs.field(factory=Counter, init=False)
    """Batches, by address."""
    _freed: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)

    def for_topic(self) -> Destinations:
        """The same producers and pool, for another topic."""
        return Destinations(self.producers, self.pool)

    async def wait_until_usable(self) -> None:
        """Return when a publish would be sent at once. `NotConnected` after `publish_timeout`."""
        if self._is_any_usable():
            return
        timeout = next(iter(self.producers.values())).options.publish_timeout
        with trio.move_on_after(timeout):
            while not self._is_any_usable():
                with trio.move_on_after(POLL_S):
                    await self._freed.park()
            return
        if not any(map(self._is_connected, self.producers)):
            raise NotConnected(f"no destination is connected after {timeout:g} s")
        raise NotConnected(f"no connected destination has answered within {timeout:g} s")

    async def publish(self, topic: str, bodies: Sequence[bytes]) -> str:
        """Publish to one of them, all or none; returns its address after the OK.

        `NSQError` if it failed, `ValueError` for an empty body.
        """
        for _ in self.producers:
            began = trio.current_time()
            address = self.pool.choose(began, self._is_usable)
            try:
                await self._publish_to(address, topic, bodies)
            except (BadMessage, BadBody):  # too big, which is not a failure of the nsqd
                raise
            except (NotConnected, UncertainPublish) as error:
                self.pool.failed(address, trio.current_time())
                failure: NSQError = error
                if not self._is_any_usable():
                    break
            except NSQError:
                self.pool.failed(address, trio.current_time())
                raise
            else:
                now = trio.current_time()
                self.pool.succeeded(address, now, now - began)
                return address
        raise failure

    async def _publish_to(self, address: str, topic: str, bodies: Sequence[bytes]) -> None:
        producer = self.producers[address]
        self._unanswered[address] += 1
        try:
            if len(bodies) == 1:
                await producer.publish(topic, bodies[0])
            else:
                await producer.publish_multi(topic, bodies)
        finally:
            self._unanswered[address] -= 1
            self._freed.unpark()

    def _is_any_usable(self) -> bool:
        return any(map(self._is_usable, self.producers))

    def _is_usable(self, address: str) -> bool:
        return self._unanswered[address] < BATCHES_EACH and self._is_connected(address)

    def _is_connected(self, address: str) -> bool:
        return bool(self.producers[address].stats().connected)


@contextlib.asynccontextmanager
async def open_destinations(
    addresses: Sequence[str], pool: Pool, options: ClientOptions
) -> AsyncIterator[Destinations]:
    """Connections to these nsqds, maintained during the `with` block."""
    producers: dict[str, Producer] = {}
    if (
        len(addresses) > 1
    ):  # what a lost connection leaves is for another destination, not for the next connection
        options = attrs.evolve(options, at_least_once=False)
    async with contextlib.AsyncExitStack() as stack:
        for address in dict.fromkeys(addresses):
            producer = Producer(nsqd_tcp_addresses=[address], options=options)
            producers[address] = await stack.enter_async_context(producer)
        yield Destinations(producers, pool)
