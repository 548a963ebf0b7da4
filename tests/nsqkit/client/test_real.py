"""Consumers and producers against the real nsqd, on both backends."""

# ruff: noqa: ASYNC110 - another process offers nothing to wait for
from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from nsqkit.client import BadMessage, BadTopic, Consumer, Invalid, Message, Producer, open_connection
from nsqkit.client.address import Address
from nsqkit.client.options import ClientOptions
from nsqkit.client.protocol import Request
from nsqkit.wire import encode
from tests.nsqkit.client.fake import both_backends, run
from tests.process.daemon import Daemon
from tests.timing import patience

pytestmark = pytest.mark.process


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A running nsqd."""
    with Daemon(tmp_path) as daemon:
        daemon.start()
        yield daemon


@both_backends
def test_ten_thousand_messages_once_each(daemon: Daemon, backend: str) -> None:
    """Published by many tasks, in all three ways; consumed by ten workers; nothing left over."""
    seen: Counter[bytes] = Counter()

    async def handle(message: Message) -> None:
        seen[message.body] += 1
        if len(seen) % 100 == 0:
            await anyio.lowlevel.checkpoint()
        if len(seen) == 10_000:
            consumer.stop()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(consumer.run)
            async with Producer(nsqd_tcp_addresses=[daemon.tcp_address]) as producer:

                async def publish(part: int) -> None:
                    for number in range(part * 100, part * 100 + 90):
                        await producer.publish("t", b"%d" % number)
                    rest = [b"%d" % number for number in range(part * 100 + 90, part * 100 + 100)]
                    await producer.publish_multi("t", rest[:-1])
                    await producer.publish_deferred("t", rest[-1], 0.05)

                async with anyio.create_task_group() as publishers:
                    for part in range(100):
                        publishers.start_soon(publish, part)

    consumer = Consumer(
        "t", "c", nsqd_tcp_addresses=[daemon.tcp_address], handler=handle, concurrency=10, max_in_flight=500
    )
    run(main, backend)
    assert seen == Counter(b"%d" % number for number in range(10_000))
    assert daemon.unfinished("t", "c") == 0
    stats = consumer.stats()
    assert (stats.finished, stats.requeued, stats.failed_answers, stats.lost_answers) == (10_000, 0, 0, 0)


@both_backends
def test_kill_9_and_restart_lose_nothing(daemon: Daemon, backend: str) -> None:
    """Whatever publish returned for is consumed, on the same client objects, over two lives more."""
    published: set[bytes] = set()
    seen: set[bytes] = set()
    chance = random.Random(7)

    async def main() -> None:
        addresses = [daemon.tcp_address]
        options: dict[str, Any] = {"reconnect_delay": 0.02, "max_reconnect_delay": 0.1, "max_attempts": 0}
        consumer = Consumer(
            "t", "c", nsqd_tcp_addresses=addresses, max_in_flight=50, msg_timeout=1, **options
        )
        async with consumer, Producer(nsqd_tcp_addresses=addresses, **options) as producer:
            over = anyio.Event()

            async def publish(part: int) -> None:
                number = 0
                while not over.is_set():
                    body = b"%d-%d" % (part, number)
                    await producer.publish("t", body)
                    published.add(body)
                    number += 1

            async def consume() -> None:
                async for message in consumer:
                    seen.add(message.body)
                    message.finish()

            async with anyio.create_task_group() as group:
                group.start_soon(consume)
                for part in range(10):
                    group.start_soon(publish, part)
                for _ in range(2):
                    await anyio.sleep(0.2 + chance.random() / 5)
                    daemon.kill()
                    daemon.start()
                await anyio.sleep(0.2)
                over.set()
                with anyio.fail_after(patience(10)):
                    while not published <= seen or producer.stats().in_air:
                        await anyio.sleep(0.02)
                consumer.stop()
            assert consumer.stats().connects == producer.stats().connects == 3

    run(main, backend)
    assert len(published) > 500


@both_backends
def test_a_stopped_nsqd_is_left_and_the_other_goes_on(tmp_path: Path, backend: str) -> None:
    """SIGSTOP: no heartbeat. After SIGCONT it is a source again."""
    with Daemon(tmp_path / "a") as first, Daemon(tmp_path / "b") as second:
        for daemon, folder in ((first, "a"), (second, "b")):
            (tmp_path / folder).mkdir()
            daemon.start()

        async def main() -> None:
            bodies: list[bytes] = []
            consumer = Consumer(
                "t",
                "c",
                nsqd_tcp_addresses=[first.tcp_address, second.tcp_address],
                handler=lambda message: bodies.append(message.body),
                max_in_flight=2,
                heartbeat_interval=1,
                read_timeout=2,
                reconnect_delay=0.05,
                max_reconnect_delay=0.2,
            )

            async def until(count: int) -> None:
                while len(bodies) < count:
                    await anyio.sleep(0.01)

            async with anyio.create_task_group() as group:
                group.start_soon(consumer.run)
                async with Producer(nsqd_tcp_addresses=[second.tcp_address]) as producer:
                    await producer.publish("t", b"1")
                    await until(1)
                    with first.stop_cont():
                        while [link.address for link in consumer.stats().connections] != [second.tcp_address]:
                            await anyio.sleep(0.02)
                        await producer.publish("t", b"2")
                        await until(2)
                async with Producer(nsqd_tcp_addresses=[first.tcp_address]) as producer:
                    await producer.publish("t", b"3")
                await until(3)
                consumer.stop()
            assert bodies == [b"1", b"2", b"3"]

        run(main, backend)


@both_backends
def test_a_handler_that_fails_gets_its_message_again(daemon: Daemon, backend: str) -> None:
    """With one attempt more, after the delay; the consumer backs off and recovers."""
    attempts: list[int] = []

    def handle(message: Message) -> None:
        attempts.append(message.attempts)
        if message.attempts < 3:
            raise ValueError("not yet")
        consumer.stop()

    async def main() -> None:
        async with Producer(nsqd_tcp_addresses=[daemon.tcp_address]) as producer:
            await producer.publish("t", b"x")
        await consumer.run()

    consumer = Consumer(
        "t",
        "c",
        nsqd_tcp_addresses=[daemon.tcp_address],
        handler=handle,
        default_requeue_delay=0.01,
        backoff_multiplier=0.01,
    )
    run(main, backend)
    assert attempts == [1, 2, 3]
    assert daemon.unfinished("t", "c") == 0


@both_backends
def test_messages_that_always_fail_stop_no_others(daemon: Daemon, backend: str) -> None:
    """With the defaults, and a hook as in docs/client.md: of ten jobs eight are done and two buried, in seconds."""
    done: list[bytes] = []
    buried: list[bytes] = []

    async def handle(message: Message) -> None:
        if message.body in (b"3", b"7"):
            raise ValueError("poison")
        done.append(message.body)

    async def main() -> None:
        async with Producer(nsqd_tcp_addresses=[daemon.tcp_address]) as producer:
            await producer.publish_multi("t", [b"%d" % number for number in range(10)])

            async def bury(message: Message) -> None:
                await producer.publish("t.dead", message.body)
                buried.append(message.body)
                if len(buried) == 2:
                    consumer.stop()

            consumer = Consumer(
                "t", "c", nsqd_tcp_addresses=[daemon.tcp_address], handler=handle, on_giving_up=bury
            )
            with anyio.fail_after(patience(15)):
                await consumer.run()

    run(main, backend)
    assert sorted(done) == sorted(b"%d" % number for number in range(10) if number not in (3, 7))
    assert sorted(buried) == [b"3", b"7"]
    assert daemon.unfinished("t", "c") == 0


@both_backends
def test_a_handler_may_take_longer_than_the_message_time_out(daemon: Daemon, backend: str) -> None:
    """It is touched meanwhile: delivered once, and the FIN is in time."""
    attempts: list[int] = []

    async def handle(message: Message) -> None:
        attempts.append(message.attempts)
        await anyio.sleep(1.8)
        consumer.stop()

    async def main() -> None:
        async with Producer(nsqd_tcp_addresses=[daemon.tcp_address]) as producer:
            await producer.publish("t", b"x")
        await consumer.run()

    consumer = Consumer(
        "t", "c", nsqd_tcp_addresses=[daemon.tcp_address], handler=handle, msg_timeout=1, max_in_flight=5
    )
    run(main, backend)
    assert attempts == [1]
    assert consumer.stats().failed_answers == 0
    assert daemon.unfinished("t", "c") == 0


@both_backends
def test_a_cancelled_consumer_s_messages_go_to_the_next_at_once(daemon: Daemon, backend: str) -> None:
    """Not after their time-out of a minute; with one attempt more."""

    async def main() -> None:
        addresses = [daemon.tcp_address]
        async with Producer(nsqd_tcp_addresses=addresses) as producer:
            await producer.publish_multi("t", [b"%d" % number for number in range(20)])
        started = anyio.Event()

        async def handle(message: Message) -> None:
            started.set()
            await anyio.sleep_forever()

        async with anyio.create_task_group() as group:
            first = Consumer(
                "t", "c", nsqd_tcp_addresses=addresses, handler=handle, concurrency=3, max_in_flight=10
            )
            group.start_soon(first.run)
            await started.wait()
            group.cancel_scope.cancel()
        bodies: set[bytes] = set()
        with anyio.fail_after(patience(5)):
            async with Consumer("t", "c", nsqd_tcp_addresses=addresses, max_in_flight=20) as second:
                async for message in second:
                    bodies.add(message.body)
                    message.finish()
                    if len(bodies) == 20:
                        break
        assert bodies == {b"%d" % number for number in range(20)}

    run(main, backend)
    assert daemon.unfinished("t", "c") == 0


@both_backends
def test_what_is_only_iterated_over_goes_back_when_the_block_is_left(daemon: Daemon, backend: str) -> None:
    """Also what waited in the queue."""

    async def main() -> None:
        addresses = [daemon.tcp_address]
        async with Producer(nsqd_tcp_addresses=addresses) as producer:
            await producer.publish_multi("t", [b"%d" % number for number in range(10)])
        async with Consumer("t", "c", nsqd_tcp_addresses=addresses, max_in_flight=10) as consumer:
            async for _ in consumer:
                break

    run(main, backend)
    stats = daemon.channel_stats("t", "c")
    assert (stats["depth"], stats["in_flight_count"], stats["deferred_count"]) == (10, 0, 0)


@both_backends
def test_nsqd_s_errors_are_typed(daemon: Daemon, backend: str) -> None:
    """A bad name gets past the client only when it is written by hand."""

    async def main() -> None:
        for command, error in ((b"PUB bad$topic\n\0\0\0\1x", BadTopic), (b"RDY 1\n", Invalid)):
            connection = await open_connection(Address.parse(daemon.tcp_address), ClientOptions())
            connection.protocol.ask(Request("PUB"), command)
            with pytest.raises(error):
                await connection.run(lambda events: None)
            await connection.abort()
        connection = await open_connection(Address.parse(daemon.tcp_address), ClientOptions())
        connection.protocol.send(encode.NOP)
        connection.finish()
        await connection.run(lambda events: None)
        await connection.close()

    run(main, backend)


@both_backends
def test_a_message_that_is_too_big_is_refused_by_name(daemon: Daemon, backend: str) -> None:
    """nsqd closes in the middle of the body; its reason must not drown in the reset. Others are not hurt."""

    async def main() -> None:
        async with Producer(nsqd_tcp_addresses=[daemon.tcp_address]) as producer:
            with pytest.raises(BadMessage, match="too big"):
                await producer.publish("t", b"x" * 8_000_000)
            await producer.publish("t", b"fine")

    run(main, backend)
    assert daemon.stats()["topics"][0]["depth"] == 1
