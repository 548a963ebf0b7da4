"""A broker for tests of programs that use NSQ: nsqd's own core and protocol, in a thread, with its storage in memory.

    with running_broker() as address:            # or `async with broker() as address`, on trio and on asyncio
        consumer = Consumer("t", "c", nsqd_tcp_addresses=[address], handler=handle)

It has no HTTP API and knows no registries. It starts in some ten milliseconds on a free port of the loopback, and
forgets everything at its end. The clock is the real one: time-outs and delays take their time.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import trio

from nsqd.broker import Broker, BrokerOptions
from nsqd.log.store import Store, StoreOptions
from nsqd.protocol_v2.connections import Connections
from nsqd.protocol_v2.context import Context
from nsqd.rounds import Rounds
from nsqd.testing.memory_storage import MemoryStorage
from nsqkit.service.listeners import accept_forever, remote_address
from nsqkit.version import VERSION

__all__ = ["broker", "running_broker"]

START_S = 30.0
"""Seconds for the start of the thread, on the slowest machine."""


@contextlib.contextmanager
def running_broker() -> Iterator[str]:
    """A broker that runs in the block, for code that is not asynchronous: its TCP address, `host:port`."""
    started: queue.SimpleQueue[_Started] = queue.SimpleQueue()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            trio.run(_serve, started.put)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="nsqd of a test", daemon=True)
    thread.start()
    try:
        address, stop = started.get(timeout=START_S)
    except queue.Empty:
        raise RuntimeError("the broker did not start") from (failures[0] if failures else None)
    try:
        yield address
    finally:
        with contextlib.suppress(trio.RunFinishedError):
            stop()
        thread.join(START_S)
    if failures:
        raise RuntimeError("the broker failed") from failures[0]


@contextlib.asynccontextmanager
async def broker() -> AsyncIterator[str]:
    """A broker that runs in the block: its TCP address, `host:port`. On trio and on asyncio."""
    with running_broker() as address:  # starts and ends in milliseconds
        yield address


class _Stop:
    """Called by another thread: ends the broker."""

    def __init__(self, token: trio.lowlevel.TrioToken, scope: trio.CancelScope) -> None:
        self._token, self._scope = token, scope

    def __call__(self) -> None:
        self._token.run_sync_soon(self._scope.cancel)


_Started = tuple[str, _Stop]
"""The address, and what ends the broker."""


async def _serve(on_started: Callable[[_Started], None]) -> None:
    store = Store(MemoryStorage(), StoreOptions(min_free_space=0, ballast_bytes=0), time.time_ns())
    core = Broker(store, BrokerOptions(), trio.current_time(), time.time_ns())
    rounds = Rounds(core, _sync_failed)
    context = Context(
        broker=core, version=VERSION, enlist=rounds.answering.append, refresh_clock=rounds.begin
    )
    connections = Connections(context, rounds)

    def accept(stream: trio.SocketStream) -> None:
        remote = remote_address(stream)
        sock = socket.socket(fileno=stream.socket.detach())
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections.add(sock, remote)

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, trio.open_nursery() as nursery:
        for task in (rounds.run_jobs, rounds.run_clock, connections.run):
            nursery.start_soon(task)
        nursery.start_soon(accept_forever, listener, accept)
        rounds.begin()
        rounds.end()
        host, port = listener.socket.getsockname()
        on_started((f"{host}:{port}", _Stop(trio.lowlevel.current_trio_token(), nursery.cancel_scope)))
    connections.close_all()


def _sync_failed(error: OSError) -> None:
    raise error
