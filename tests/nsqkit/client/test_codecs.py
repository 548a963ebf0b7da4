"""Values instead of bytes."""

from __future__ import annotations

import builtins
import random
from typing import Any

import anyio
import attrs
import msgspec
import pytest

from nsqkit.client import Codec, Consumer, Json, Message, Msgpack, Producer
from tests.nsqkit.client.fake import both_backends, fake_nsqd, run


class Order(msgspec.Struct):
    id: int
    note: str = ""


@attrs.define
class Item:
    name: str


VALUES: list[tuple[Codec, Any]] = [
    (Json(), {"a": [1, None, "ä"]}),
    (Json(Order), Order(7, "x")),
    (Json(list[Item]), [Item("x")]),
    (Msgpack(), {"a": [1, None, "ä", b"x"]}),
    (Msgpack(Order), Order(7, "x")),
]


@pytest.mark.parametrize(("codec", "value"), VALUES)
def test_a_value_comes_back(codec: Codec, value: Any) -> None:
    body = codec.encode(value)
    assert isinstance(body, bytes)
    assert codec.decode(body) == value


@pytest.mark.parametrize(
    ("codec", "body"),
    [
        (Json(), b"{"),
        (Json(), b"\xff"),
        (Json(), b"[" * 100_000),
        (Json(), b"1" * 5000),
        (Json(Order), b'{"id":"seven"}'),
        (Json(Order), b"{}"),
        (Msgpack(), b"\xc1"),
        (Msgpack(Order), b"\x01"),
    ],
)
def test_what_cannot_be_decoded_is_a_value_error(codec: Codec, body: bytes) -> None:
    with pytest.raises(ValueError):
        codec.decode(body)


def test_json_has_no_nan() -> None:
    """Other languages could not read it."""
    with pytest.raises(ValueError):
        Json().encode(float("nan"))


@pytest.mark.parametrize("make", [lambda: Json(Order), Msgpack])
def test_without_msgspec_it_says_what_to_install(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "msgspec":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ValueError, match=r"pip install 'nsqkit\[codecs\]'"):
        make()


@both_backends
@pytest.mark.parametrize("as_stream", [True, False])
def test_a_consumer_decodes_and_what_it_cannot_decode_has_failed(backend: str, as_stream: bool) -> None:
    """It is requeued, and given up after `max_attempts`; the handler does not see it."""
    seen: list[Any] = []

    async def handle(message: Message) -> None:
        seen.append(message.value)

    async def bury(message: Message) -> None:
        seen.append(message.body)

    async def main() -> None:
        async with fake_nsqd() as nsqd:
            consumer = Consumer(
                *("t", "c"),
                nsqd_tcp_addresses=["a:1"],
                connect=nsqd.connect,
                random=random.Random(1),
                handler=None if as_stream else handle,
                on_giving_up=bury,
                codec=Json(Order),
                max_in_flight=5,
                max_attempts=3,
                max_backoff_duration=0,
            )

            async def consume() -> None:
                async for message in consumer:
                    await handle(message)
                    message.finish()

            async with consumer, anyio.create_task_group() as group:
                if as_stream:
                    group.start_soon(consume)
                peer = await nsqd.peer()
                await peer.expect("IDENTIFY", "SUB t c", "RDY 5")
                peer.message("m1", b'{"id":1}')
                await peer.expect("FIN m1")
                peer.message("m2", b"{")
                await peer.expect("REQ m2 500")
                peer.message("m2", b"{", attempts=4)
                await peer.expect("FIN m2")
                group.cancel_scope.cancel()

    run(main, backend)
    assert seen == [Order(1), b"{"]


@both_backends
def test_a_producer_encodes(backend: str) -> None:
    async def main() -> None:
        async with fake_nsqd() as nsqd:
            async with Producer(nsqd_tcp_addresses=["a:1"], connect=nsqd.connect, codec=Json()) as producer:
                await producer.publish_value("t", {"id": 1})
                await producer.publish_value("t", [2], delay=1.5)
                with pytest.raises(TypeError):
                    await producer.publish_value("t", object())
            peer = await nsqd.peer()
            await peer.expect("IDENTIFY", "PUB t", "DPUB t 1500")
            assert peer.bodies[1:] == [b'{"id":1}', b"[2]"]
            async with Producer(nsqd_tcp_addresses=["a:1"], connect=nsqd.connect) as producer:
                with pytest.raises(TypeError, match="codec=Json"):
                    await producer.publish_value("t", 1)

    run(main, backend)
