"""Publishing to one of several nsqds, each with a producer of its own.

The pool chooses among the connected ones. If none is connected, it chooses among all, and the publish waits for a
connection, up to `publish_timeout`.
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
    """The producers by address, connected or connecting."""

    producers: dict[str, Producer]
    pool: Pool

    async def publish(self, topic: str, bodies: Sequence[bytes]) -> str:
        """Publish to one of them, all or none; returns its address after the OK.

        `NSQError` if it failed, `ValueError` for an empty body.
        """
        began = trio.current_time()
        address = self.pool.choose(began, self._is_connected)
        producer = self.producers[address]
        try:
            if len(bodies) == 1:
                await producer.publish(topic, bodies[0])
            else:
                await producer.publish_multi(topic, bodies)
        except (BadMessage, BadBody):  # too big, which is not a failure of the nsqd
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
    """Connections to these nsqds, maintained during the `with` block."""
    producers: dict[str, Producer] = {}
    async with contextlib.AsyncExitStack() as stack:
        for address in dict.fromkeys(addresses):
            producer = Producer(nsqd_tcp_addresses=[address], options=options)
            producers[address] = await stack.enter_async_context(producer)
        yield Destinations(producers, pool)
