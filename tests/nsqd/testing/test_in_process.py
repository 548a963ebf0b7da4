"""The broker for users' tests, as they use it."""

from __future__ import annotations

import importlib.metadata
import socket
from pathlib import Path

import anyio
import pytest

import nsqkit.testing
from nsqkit.client import Consumer, Finish, Message, Producer, Requeue
from tests.nsqkit.client.fake import both_backends, run


@both_backends
def test_what_is_published_is_consumed(backend: str) -> None:
    """Deferred and requeued messages as well."""
    seen: list[tuple[bytes, int]] = []

    async def handle(message: Message) -> None:
        seen.append((message.body, message.attempts))
        if message.body == b"again" and message.attempts == 1:
            message.requeue(0.01)
        if len(seen) == 4:
            consumer.stop()

    async def main() -> None:
        nonlocal consumer
        async with nsqkit.testing.broker() as address:
            async with Producer(nsqd_tcp_addresses=[address]) as producer:
                await producer.publish_multi("t", [b"one", b"again"])
                await producer.publish_deferred("t", b"later", 0.05)
            consumer = Consumer("t", "c", nsqd_tcp_addresses=[address], handler=handle)
            await consumer.run()

    consumer: Consumer
    run(main, backend)
    assert sorted(seen) == [(b"again", 1), (b"again", 2), (b"later", 1), (b"one", 1)]


def test_each_block_has_a_broker_of_its_own() -> None:
    """Two at once, and nothing left afterwards."""

    async def main() -> None:
        async with nsqkit.testing.broker() as one, nsqkit.testing.broker() as other:
            assert one != other
            async with Producer(nsqd_tcp_addresses=[one]) as producer:
                await producer.publish("t", b"x")
            with anyio.move_on_after(0.3):
                async with Consumer("t", "c", nsqd_tcp_addresses=[other]) as consumer:
                    async for _ in consumer:
                        raise AssertionError("that is in the other broker")
        for address in (one, other):
            host, port = address.split(":")
            with pytest.raises(OSError):
                socket.create_connection((host, int(port)), 1)

    run(main)


def test_without_the_broker_s_distribution_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """nsqkit can be installed alone."""
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: ())
    with pytest.raises(RuntimeError, match="pip install nsq-trio"):
        nsqkit.testing.broker()


def test_pytest_has_a_fixture(nsq_broker: str) -> None:
    """Loaded by pytest itself."""
    host, port = nsq_broker.split(":")
    socket.create_connection((host, int(port)), 5).close()


def test_the_plugin_is_declared() -> None:
    """Its module exists where the entry point says."""
    [entry] = importlib.metadata.entry_points(group="pytest11", name="nsq")
    assert entry.value == "nsqd.testing.plugin"
    assert Path(entry.load().__file__).name == "plugin.py"


def test_a_message_made_by_hand_notes_its_answer() -> None:
    """For tests of handlers."""

    def message() -> Message:
        return Message(timestamp_ns=0, attempts=1, id=b"0" * 16, body=b"job")

    requeued, finished, open_one = message(), message(), message()
    requeued.requeue(3)
    finished.finish()
    assert requeued.answer == Requeue(3)
    assert requeued.answer != Requeue(3, backoff=False)
    assert (finished.answer, open_one.answer) == (Finish(), None)
