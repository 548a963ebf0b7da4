"""Traffic for `make demo`, so that the console has something to show: clients of the nodes of `make run`.

    python deploy/demo.py

Three topics: `orders`, at a rate that comes and goes; `clicks`, many small messages; `mails`, some of them deferred. Of
the channels, one is slow, so that it has a depth, one fails with some of its messages, and one has no consumer, of
which the console makes alarms. Ctrl-C ends it.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable

import trio

from nsqkit.client import Consumer, Message, NSQError, Producer
from nsqkit.http_client import HttpClient, HttpFailed, HttpOptions, http_url

NSQDS = ["127.0.0.1:4150", "127.0.0.1:4250", "127.0.0.1:4350"]
REGISTRIES = ["127.0.0.1:4161", "127.0.0.1:4261"]
PERIOD_S = 300.0
"""In which the rate of `orders` comes and goes."""


async def publish(topic: str, rate: Callable[[float], float], size: int, defer_s: float = 0.0) -> None:
    """Publish so many messages a second, in batches, for ever."""
    async with Producer(nsqd_tcp_addresses=NSQDS) as producer:
        while True:
            count = round(rate(trio.current_time()))
            bodies = [random.randbytes(random.randrange(1, size)) for _ in range(max(1, count))]
            try:
                await producer.publish_multi(topic, bodies)
                if defer_s:
                    await producer.publish_deferred(topic, b"later", random.random() * defer_s)
            except NSQError as error:
                sys.stderr.write(f"[demo] {topic}: {error}\n")
            await trio.sleep(1)


async def consume(topic: str, channel: str, seconds: float = 0.0, failures: float = 0.0) -> None:
    """Consume with a handler that takes this time and fails with this share of the messages."""

    async def handle(message: Message) -> None:
        await trio.sleep(random.random() * 2 * seconds)
        if random.random() < failures:
            message.requeue(delay=5.0, backoff=False)

    await Consumer(topic, channel, lookupd_http_addresses=REGISTRIES, handler=handle, concurrency=20).run()


async def create_channel(topic: str, channel: str) -> None:
    """One without a consumer, on the first nsqd."""
    client = HttpClient(HttpOptions())
    for path, more in (("/topic/create", {}), ("/channel/create", {"channel": channel})):
        await client.ask(http_url("127.0.0.1", 4151, path, {"topic": topic, **more}), method="POST")


async def wait_for_nodes() -> None:
    """Return when all of them listen."""
    for address in NSQDS:
        host, port = address.split(":")
        while True:
            try:
                await (await trio.open_tcp_stream(host, int(port))).aclose()
                break
            except OSError:
                await trio.sleep(0.2)


async def main() -> None:
    """All of it, until cancelled."""
    await wait_for_nodes()
    try:
        await create_channel("clicks", "archive")
    except HttpFailed as error:
        sys.stderr.write(f"[demo] {error}\n")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            publish, "orders", lambda now: 60 + 50 * math.sin(2 * math.pi * now / PERIOD_S), 400
        )
        nursery.start_soon(publish, "clicks", lambda _: 200 + 40 * random.random(), 80)
        nursery.start_soon(publish, "mails", lambda _: 3, 2000, 120.0)
        nursery.start_soon(consume, "orders", "billing", 0.01)
        nursery.start_soon(consume, "orders", "warehouse", 0.3)
        nursery.start_soon(consume, "clicks", "counting")
        nursery.start_soon(consume, "mails", "smtp", 0.2, 0.1)


if __name__ == "__main__":
    try:
        trio.run(main)
    except KeyboardInterrupt:
        sys.exit(0)
