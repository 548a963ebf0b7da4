"""Frames and pieces of files onto a connection, through the kernel's buffers and by copy."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
import trio.testing

from nsqd.log.file_storage import FileStorage
from nsqd.log.storage import File
from nsqd.replication.send_parts import send_parts
from nsqd.replication.ship import Piece
from nsqd.testing.memory_storage import MemoryStorage

BYTES = random.Random(1).randbytes(3_000_000)  # more than a socket takes at once
PATH = "topic-t/00000000000000000000.log"

Pair = Callable[[], AbstractAsyncContextManager[tuple[trio.abc.Stream, trio.abc.Stream]]]


@asynccontextmanager
async def tcp_pair() -> AsyncIterator[tuple[trio.abc.Stream, trio.abc.Stream]]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = await trio.testing.open_stream_to_socket_listener(listener)
        far = await listener.accept()
    async with near, far:
        yield near, far


@asynccontextmanager
async def memory_pair() -> AsyncIterator[tuple[trio.abc.Stream, trio.abc.Stream]]:
    yield trio.testing.memory_stream_pair()


PAIRS = pytest.mark.parametrize("pair", [tcp_pair, memory_pair])
COLD = pytest.mark.parametrize("cold", [False, True])


@pytest.fixture(params=[FileStorage, MemoryStorage])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[File]:
    storage = FileStorage(tmp_path) if request.param is FileStorage else MemoryStorage()
    storage.make_folder("topic-t")
    with closing(storage.create(PATH)) as file:
        file.append([BYTES])
        yield file


async def receive(stream: trio.abc.Stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.receive_some(1 << 18)
    return data


@PAIRS
@COLD
async def test_everything_arrives_in_its_order(pair: Pair, file: File, cold: bool) -> None:
    parts = [b"head", b"er", Piece(file, 1000, 2_500_000), Piece(file, 0, 1), b"between", Piece(file, 5, 10)]
    expected = b"header" + BYTES[1000:2_501_000] + BYTES[:1] + b"between" + BYTES[5:15]
    async with pair() as (near, far), trio.open_nursery() as nursery:
        nursery.start_soon(lambda: send_parts(near, parts, cold=cold))
        await trio.testing.wait_all_tasks_blocked()  # until there is no room for more
        assert await receive(far, len(expected)) == expected


@PAIRS
@COLD
async def test_bytes_that_are_not_there_any_more_are_an_error(pair: Pair, file: File, cold: bool) -> None:
    """Not a wait for ever, nor fewer of them than the frame before says."""
    piece = Piece(file, 0, 2000)
    file.truncate(1500)
    async with pair() as (near, _far):
        with pytest.raises(OSError, match="No data"):
            await send_parts(near, [b"head", piece], cold=cold)


@COLD
async def test_a_follower_that_is_gone_is_an_error(file: File, cold: bool) -> None:
    async with tcp_pair() as (near, far), trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises((OSError, trio.BrokenResourceError)):
                await send_parts(near, [b"head", Piece(file, 0, len(BYTES))] * 10, cold=cold)

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        await far.aclose()
