"""Compare the client library with pynsq: `python -m bench.clients [--quick] [--runs N]`.

One nsqd for all of it, 200-byte messages, and for each figure a client process of its own, so that none
profits from what another one has warmed up. In turn: pynsq, then this library on asyncio and on trio. Prints a
Markdown table with messages a second, microseconds of the client's own CPU for one message, and the ratio of
the rates to pynsq's.

Each publisher has 100 publishes in the air (batches: 10 of 100 messages); each consumer has 2500 messages in
flight and a handler that does nothing. Each library is used as its documentation says: pynsq's publishes are
pipelined from callbacks, ours from tasks. Publishers are measured from after their first publish, consumers from
before their connect; imports count for nobody. Exit code 1 if a client failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import anyio
import attrs

from bench.server import PROJECT, Server, ServerError, nsqd
from nsqkit.client import Consumer, Message, Producer

BODY = b"x" * 200
IN_THE_AIR = 100
BATCHES_IN_THE_AIR = 10
BATCH = 100
IN_FLIGHT = 2500
LIBRARIES = ("pynsq", "asyncio", "trio")
CHILD_SECONDS = 120


@attrs.frozen
class Row:
    """One kind of work; `count` messages, in a short run a tenth of them."""

    name: str
    title: str
    count: int


ROWS = (
    Row("pub", "publish one by one, 100 in the air", 100_000),
    Row("mpub", "publish batches of 100, 10 in the air", 400_000),
    Row("consume", "consume and finish, 2500 in flight", 200_000),
)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    options = _parse(argv)
    if options.child:
        library, work, address, topic, count = options.child
        print(json.dumps(_measure(library, work, address, topic, int(count))))
        return 0
    runs = options.runs or (1 if options.quick else 3)
    with tempfile.TemporaryDirectory(prefix="bench-clients-") as folder:
        try:
            with Server(nsqd(sys.executable), Path(folder)) as server:
                _report(f"127.0.0.1:{server.port}", runs, 10 if options.quick else 1)
        except (ServerError, subprocess.SubprocessError) as error:
            print(error, file=sys.stderr)
            return 1
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.clients", description="Measure the client library."
    )
    parser.add_argument("--quick", action="store_true", help="one short run of each")
    parser.add_argument("--runs", type=int, help="runs of each (default 3, with --quick 1)")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _report(address: str, runs: int, divisor: int) -> None:
    print("| work | client | msg/s | CPU us/msg | ratio to pynsq |\n| --- | --- | --- | --- | --- |")
    for row in ROWS:
        figures: dict[str, list[dict[str, float]]] = {library: [] for library in LIBRARIES}
        for run in range(runs):
            for library in LIBRARIES:  # in turn, so that a disturbance affects all of them
                topic = f"{row.name}-{library}-{run}"
                figures[library].append(_run_child(library, row, address, topic, row.count // divisor))
        base = statistics.median(run["rate"] for run in figures["pynsq"])
        for library in LIBRARIES:
            rate = statistics.median(run["rate"] for run in figures[library])
            cpu_us = statistics.median(run["cpu_us"] for run in figures[library])
            name = "pynsq" if library == "pynsq" else f"nsqkit on {library}"
            print(f"| {row.title} | {name} | {rate:,.0f} | {cpu_us:.1f} | {rate / base:.1f} |", flush=True)


def _run_child(library: str, row: Row, address: str, topic: str, count: int) -> dict[str, float]:
    if row.name == "consume":
        anyio.run(_fill, address, topic, count)
    command = [
        sys.executable,
        "-m",
        "bench.clients",
        "--child",
        library,
        row.name,
        address,
        topic,
        str(count),
    ]
    done = subprocess.run(
        command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, timeout=CHILD_SECONDS, check=True
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


async def _fill(address: str, topic: str, count: int) -> None:
    """Publish messages for a consumer; the first channel of the topic gets all of them."""
    async with Producer(nsqd_tcp_addresses=[address]) as producer:
        for _ in range(count // 1000):
            await producer.publish_multi(topic, [BODY] * 1000)


# In the child.


@attrs.frozen
class Meter:
    """A stop watch, started when it is created."""

    _wall: float = attrs.field(factory=time.perf_counter)
    _cpu: float = attrs.field(factory=time.process_time)

    def figures(self, messages: int) -> dict[str, float]:
        """Messages per second, and microseconds of CPU per message."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return {"rate": messages / wall, "cpu_us": cpu / messages * 1e6}


def _measure(library: str, work: str, address: str, topic: str, count: int) -> dict[str, float]:
    runners: dict[str, Callable[[str, str, int], Awaitable[dict[str, float]]]] = {
        "pub": _publish,
        "mpub": _publish_batches,
        "consume": _consume,
        "pynsq-pub": _pynsq_publish,
        "pynsq-mpub": _pynsq_publish_batches,
        "pynsq-consume": _pynsq_consume,
    }
    name = f"pynsq-{work}" if library == "pynsq" else work
    backend = "trio" if library == "trio" else "asyncio"
    return anyio.run(runners[name], address, topic, count, backend=backend)


async def _publish(address: str, topic: str, count: int) -> dict[str, float]:
    async with Producer(nsqd_tcp_addresses=[address]) as producer:

        async def some() -> None:
            for _ in range(count // IN_THE_AIR):
                await producer.publish(topic, BODY)

        await producer.publish(topic, BODY)
        meter = Meter()
        await _all(some, IN_THE_AIR)
        return meter.figures(count)


async def _publish_batches(address: str, topic: str, count: int) -> dict[str, float]:
    async with Producer(nsqd_tcp_addresses=[address]) as producer:
        bodies = [BODY] * BATCH

        async def some() -> None:
            for _ in range(count // BATCH // BATCHES_IN_THE_AIR):
                await producer.publish_multi(topic, bodies)

        await producer.publish_multi(topic, bodies)
        meter = Meter()
        await _all(some, BATCHES_IN_THE_AIR)
        return meter.figures(count)


async def _all(some: Callable[[], Coroutine[Any, Any, None]], tasks: int) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(tasks):
            group.start_soon(some)


async def _consume(address: str, topic: str, count: int) -> dict[str, float]:
    left = count

    async def handle(message: Message) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            consumer.stop()

    consumer = Consumer(topic, "c", nsqd_tcp_addresses=[address], handler=handle, max_in_flight=IN_FLIGHT)
    meter = Meter()
    await consumer.run()
    return meter.figures(count)


async def _pynsq_publish(address: str, topic: str, count: int) -> dict[str, float]:
    writer = await _pynsq_writer(address)

    def send(answer: Answer) -> None:
        writer.pub(topic, BODY, answer)

    await _pynsq_pipelined(send, 1, 1)
    meter = Meter()
    await _pynsq_pipelined(send, count, IN_THE_AIR)
    return meter.figures(count)


async def _pynsq_publish_batches(address: str, topic: str, count: int) -> dict[str, float]:
    writer = await _pynsq_writer(address)
    bodies = [BODY] * BATCH

    def send(answer: Answer) -> None:
        writer.mpub(topic, bodies, answer)

    await _pynsq_pipelined(send, 1, 1)
    meter = Meter()
    await _pynsq_pipelined(send, count // BATCH, BATCHES_IN_THE_AIR)
    return meter.figures(count)


Answer = Callable[[Any, Any], None]
"""A callback of pynsq: the connection, and nsqd's response."""


async def _pynsq_writer(address: str) -> Any:
    import nsq  # type: ignore[import-untyped]

    writer = nsq.Writer([address])
    while not writer.conns:  # noqa: ASYNC110 - pynsq has no event for this
        await asyncio.sleep(0.001)
    return writer


async def _pynsq_pipelined(send: Callable[[Answer], None], count: int, deep: int) -> None:
    """Each callback sends the next message: the cheapest way to keep `deep` of them in flight."""
    done = asyncio.Event()
    sent = answered = 0

    def answer(_: Any, data: Any) -> None:
        nonlocal sent, answered
        if data != b"OK":
            raise RuntimeError(repr(data))
        answered += 1
        if answered == count:
            done.set()
        elif sent < count:
            sent += 1
            send(answer)

    for _ in range(min(deep, count)):
        sent += 1
        send(answer)
    await done.wait()


async def _pynsq_consume(address: str, topic: str, count: int) -> dict[str, float]:
    import nsq

    done = asyncio.Event()
    left = count

    def handle(_: Any) -> bool:
        nonlocal left
        left -= 1
        if left == 0:
            done.set()
        return True

    meter = Meter()
    reader = nsq.Reader(
        topic, "c", message_handler=handle, nsqd_tcp_addresses=[address], max_in_flight=IN_FLIGHT
    )
    await done.wait()
    figures = meter.figures(count)
    reader.close()
    return figures


if __name__ == "__main__":
    sys.exit(main())
