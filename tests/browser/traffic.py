"""Messages like those of a small company, for the console to show: busy topics, quiet ones, forgotten ones.

    python -m tests.browser.traffic 127.0.0.1:4150 127.0.0.1:4250 127.0.0.1:4350

publishes to these nsqds and consumes from them until it is stopped. The load is light, some 150 messages a second, and
rises and falls; it is not for measurements.
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
class TopicLoad:
    """One topic: its average rate (messages a second), and the period in which it varies."""

    rate: float
    period_s: float


@attrs.frozen
class ChannelLoad:
    """One channel and its consumers."""

    topic: str
    channel: str
    hosts: Sequence[str]
    pause_s: float = 0.0
    """Time per message."""
    failing: float = 0.0
    """The share of the messages that is requeued."""


TOPICS = {
    "orders": TopicLoad(35, 90),
    "payments": TopicLoad(12, 60),
    "emails.outbound": TopicLoad(8, 45),
    "clickstream": TopicLoad(70, 120),
    "invoices": TopicLoad(4, 30),
    "image.resize": TopicLoad(3, 50),
    "webhooks": TopicLoad(5, 40),
}
CHANNELS = (
    ChannelLoad("orders", "billing", ["billing-1", "billing-2"]),
    ChannelLoad("orders", "warehouse", ["warehouse-1"]),
    ChannelLoad("orders", "audit", ["audit-1"]),
    ChannelLoad("payments", "ledger", ["ledger-1", "ledger-2"]),
    ChannelLoad("payments", "fraud-check", ["fraud-1"], pause_s=0.11),
    ChannelLoad("emails.outbound", "sender", ["mail-1", "mail-2"], failing=0.06),
    ChannelLoad("clickstream", "sessions", ["sessions-1", "sessions-2", "sessions-3"]),
    ChannelLoad("clickstream", "metrics#ephemeral", ["grafana-1"]),
    ChannelLoad("image.resize", "worker", ["resize-1"], pause_s=0.05),
    ChannelLoad("webhooks", "deliver", ["hooks-1"]),
)
FORGOTTEN = ("invoices", "archive")
"""A channel without a consumer."""
STUCK = ("webhooks", "deliver")
"""A channel with one more consumer, which takes messages and never responds."""


async def main(addresses: Sequence[str]) -> None:
    """Publish and consume until cancelled."""
    threading.Thread(target=_never_answer, args=(addresses[0],), daemon=True).start()
    async with trio.open_nursery() as nursery:
        for load in CHANNELS:
            for host in load.hosts:
                nursery.start_soon(_consume, load, host, addresses)
        for address, share in zip(addresses, (1.0, 0.7, 0.4), strict=False):
            nursery.start_soon(_publish, address, share / 2.1)


async def _publish(address: str, share: float) -> None:
    async with Producer(nsqd_tcp_addresses=[address]) as producer, trio.open_nursery() as nursery:
        for topic, load in TOPICS.items():
            nursery.start_soon(_publish_to, producer, topic, load, share)


async def _publish_to(producer: Producer, topic: str, load: TopicLoad, share: float) -> None:
    for number in itertools.count():
        body = f'{{"topic":"{topic}","number":{number},"pad":"{"x" * random.randrange(40, 300)}"}}'
        if topic == "webhooks" and number % 9 == 0:
            await producer.publish_deferred(topic, body.encode(), delay=20)
        else:
            await producer.publish(topic, body.encode())
        swing = 1 + 0.45 * math.sin(2 * math.pi * trio.current_time() / load.period_s)
        await trio.sleep(random.expovariate(load.rate * share * swing))


async def _consume(load: ChannelLoad, host: str, addresses: Sequence[str]) -> None:
    consumer = Consumer(
        load.topic,
        load.channel,
        nsqd_tcp_addresses=list(addresses),
        handler=_handler(load),
        max_in_flight=30,
        hostname=f"{host}.eu.example",
        client_id=host,
        max_attempts=0,
        topology_region="eu",
        topology_zone="eu-1b" if host.endswith("2") else "eu-1a",
    )
    await consumer.run()


def _handler(load: ChannelLoad) -> Callable[[Message], Awaitable[None]]:
    async def handle(message: Message) -> None:
        await trio.sleep(load.pause_s)
        if random.random() < load.failing:
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
