"""Publishing to one of several nsqds, each with a producer of its own.

The pool chooses among those that are connected. When none is, the one that it chooses is waited for, within its
`publish_timeout`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

import attrs
import trio

from nsqkit.client import BadBody, BadMessage, ClientOptions, NSQError, Producer
from nsqtools.hosts import Pool

__all__ = ["Destinations", "open_destinations"]


@attrs.define(eq=False)
class Destinations:
    """Some connected or connecting nsqds, told apart by their addresses."""

    producers: dict[str, Producer]
    pool: Pool

    async def publish(self, topic: str, bodies: Sequence[bytes]) -> str:
        """Publish to one of them, all or nothing; returns after its OK, with its address.

        Raises `NSQError` when it failed, and `ValueError` for an empty body.
        """
        began = trio.current_time()
        address = self.pool.choose(began, self._is_connected)
        producer = self.producers[address]
        try:
            if len(bodies) == 1:
                await producer.publish(topic, bodies[0])
            else:
                await producer.publish_multi(topic, bodies)
        except (BadMessage, BadBody):  # too big: that says nothing about the nsqd
            raise
        except NSQError:
            self.pool.failed(address, trio.current_time())
            raise
        now = trio.current_time()
        self.pool.succeeded(address, now, now - began)
        return address

    def _is_connected(self, address: str) -> bool:
        return bool(self.producers[address].stats().connected)


@contextlib.asynccontextmanager
async def open_destinations(
    addresses: Sequence[str], pool: Pool, options: ClientOptions
) -> AsyncIterator[Destinations]:
    """Keep connections to these nsqds while the block runs."""
    producers: dict[str, Producer] = {}
    async with contextlib.AsyncExitStack() as stack:
        for address in dict.fromkeys(addresses):
            producer = Producer(nsqd_tcp_addresses=[address], options=options)
            producers[address] = await stack.enter_async_context(producer)
        yield Destinations(producers, pool)
