"""A broker for tests of programs that use NSQ.

    async with nsqkit.testing.broker() as address:
        async with Producer(nsqd_tcp_addresses=[address]) as producer:
            await producer.publish("orders", b"one")

The broker is nsqd's own core, in a thread of this process, with its storage in memory. It is part of the distribution
`nsq-trio`, which this one does not need: install that beside your tests. With it, pytest has the fixture `nsq_broker`,
which is the address.
"""

from __future__ import annotations

import importlib.metadata
from contextlib import AbstractAsyncContextManager

__all__ = ["broker"]


def broker() -> AbstractAsyncContextManager[str]:
    """A broker that runs in the block: its TCP address, `host:port`. On trio and on asyncio.

    `RuntimeError` if nsq-trio is not installed.
    """
    for entry in importlib.metadata.entry_points(group="nsqkit.testing", name="broker"):
        make = entry.load()
        made: AbstractAsyncContextManager[str] = make()
        return made
    raise RuntimeError(
        "the broker for tests is part of nsq-trio, which is not installed: pip install nsq-trio"
    )
