"""A small company's messages, for the console to show: topics that are busy, quiet, paused, forgotten.

    python -m tests.browser.traffic 127.0.0.1:4150 127.0.0.1:4250 127.0.0.1:4350

publishes to these nsqds and consumes from them until it is ended. It is a gentle load, 150 messages a second or so,
that rises and falls: something to look at, not a measurement.
"""

from __future__ import annotations

import itertools
import math
import random
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from nsqkit.client import Consumer, Message, Producer
from tests.process.raw import RawClient

__all__ = ["CHANNELS", "FORGOTTEN", "TOPICS", "main"]


@attrs.frozen
class Flow:
    """One topic: how many messages a second it gets on the average, and how slowly that swings."""

    rate: float
    period_s: float


@attrs.frozen
class Reader:
    """The consumers of one channel."""

    topic: str
    channel: str
    hosts: Sequence[str]
    pause_s: float = 0.0
    """How long one message takes."""
    failing: float = 0.0
    """The part of the messages that is given back."""


TOPICS = {
    "orders": Flow(35, 90),
    "payments": Flow(12, 60),
    "emails.outbound": Flow(8, 45),
    "clickstream": Flow(70, 120),
    "invoices": Flow(4, 30),
    "image.resize": Flow(3, 50),
    "webhooks": Flow(5, 40),
}
CHANNELS = (
    Reader("orders", "billing", ["billing-1", "billing-2"]),
    Reader("orders", "warehouse", ["warehouse-1"]),
    Reader("orders", "audit", ["audit-1"]),
    Reader("payments", "ledger", ["ledger-1", "ledger-2"]),
    Reader("payments", "fraud-check", ["fraud-1"], pause_s=0.11),
    Reader("emails.outbound", "sender", ["mail-1", "mail-2"], failing=0.06),
    Reader("clickstream", "sessions", ["sessions-1", "sessions-2", "sessions-3"]),
    Reader("clickstream", "metrics#ephemeral", ["grafana-1"]),
    Reader("image.resize", "worker", ["resize-1"], pause_s=0.05),
    Reader("webhooks", "deliver", ["hooks-1"]),
)
FORGOTTEN = ("invoices", "archive")
"""A channel that nobody consumes from."""
STUCK = ("webhooks", "deliver")
"""A channel with one more consumer, which takes messages and never answers."""


async def main(addresses: Sequence[str]) -> None:
    """Publish and consume until cancelled."""
    threading.Thread(target=_never_answer, args=(addresses[0],), daemon=True).start()
    async with trio.open_nursery() as nursery:
        for reader in CHANNELS:
            for host in reader.hosts:
                nursery.start_soon(_consume, reader, host, addresses)
        for address, share in zip(addresses, (1.0, 0.7, 0.4), strict=False):
            nursery.start_soon(_publish, address, share / 2.1)


async def _publish(address: str, share: float) -> None:
    async with Producer(nsqd_tcp_addresses=[address]) as producer, trio.open_nursery() as nursery:
        for topic, flow in TOPICS.items():
            nursery.start_soon(_publish_to, producer, topic, flow, share)


async def _publish_to(producer: Producer, topic: str, flow: Flow, share: float) -> None:
    for number in itertools.count():
        body = f'{{"topic":"{topic}","number":{number},"pad":"{"x" * random.randrange(40, 300)}"}}'
        if topic == "webhooks" and number % 9 == 0:
            await producer.publish_deferred(topic, body.encode(), delay=20)
        else:
            await producer.publish(topic, body.encode())
        swing = 1 + 0.45 * math.sin(2 * math.pi * trio.current_time() / flow.period_s)
        await trio.sleep(random.expovariate(flow.rate * share * swing))


async def _consume(reader: Reader, host: str, addresses: Sequence[str]) -> None:
    consumer = Consumer(
        reader.topic,
        reader.channel,
        nsqd_tcp_addresses=list(addresses),
        handler=_handler(reader),
        max_in_flight=30,
        hostname=f"{host}.eu.example",
        client_id=host,
        max_attempts=0,
        topology_region="eu",
        topology_zone="eu-1b" if host.endswith("2") else "eu-1a",
    )
    await consumer.run()


def _handler(reader: Reader) -> Callable[[Message], Awaitable[None]]:
    async def handle(message: Message) -> None:
        await trio.sleep(reader.pause_s)
        if random.random() < reader.failing:
            message.requeue(2.0, backoff=False)

    return handle


def _never_answer(address: str) -> None:
    topic, channel = STUCK
    with RawClient.connect(int(address.rpartition(":")[2]), timeout_s=3600.0) as client:
        client.identify(
            hostname="hooks-2.eu.example",
            client_id="hooks-2",
            user_agent="home-made/0.1",
            msg_timeout=4000,
            topology_region="eu",
            topology_zone="eu-1a",
        )
        client.sub(topic, channel)
        client.rdy(3)
        while True:
            client.message()


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
