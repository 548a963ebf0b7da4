"""Measure nsqadmin: `python -m bench.nsqadmin [--quick]`.

First with three idle nsqds and a registry: the time from exec until the console listens, and the CPU of an unused
console. Then with simulated clusters (`tests.nsqadmin.big_cluster`, in this process) of 10, 1,000 and 10,000 topics on
three nodes with two channels and five consumers each, a twentieth of them busy: the front page over a new connection,
from the request to its first byte, and the size of its body plain and compressed; then the cost of polling at the
default interval. Last with one channel that has 48,000 consumers, on 81 nsqds and on one: three browsers look at its
page and renew it with each event, while a script asks the API for it; the longest stretch of CPU between two polls of
the network, and the peak of the memory.

Prints a Markdown table. CPU is counted by the kernel in steps of 10 ms. Exit code 1 if a page is wrong, 2 if a daemon
did not start.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import attrs
import trio

from bench.link import LoadError
from bench.lookupd import HOST, Row
from bench.machine import facts
from bench.procfs import cpu_seconds, peak_rss_bytes, rss_bytes
from bench.server import Broker, Server, ServerError
from tests.nsqadmin.big_cluster import BigCluster, topic_name

READ_SECONDS = 60
FIRST_PICTURE_SECONDS = 60
POLL_SECONDS = 5.0


@attrs.frozen
class Scale:
    """The sizes of the clusters, and the time for which each is measured."""

    topics: tuple[int, ...]
    pages: int
    polls: int
    idle_seconds: float
    consumers: int = 48_000
    """Of one channel."""
    consumer_nodes: tuple[int, ...] = (81, 1)
    """The numbers of nsqds that they are spread over."""


FULL = Scale(topics=(10, 1_000, 10_000), pages=50, polls=4, idle_seconds=30)
QUICK = Scale(topics=(10, 1_000), pages=10, polls=2, idle_seconds=6)
BROWSERS = 3


@attrs.frozen
class Page:
    """One response."""

    first_byte_s: float
    whole_s: float
    sent_bytes: int
    """Bytes of the body as sent."""


def get(port: int, path: str, *, packed: bool) -> tuple[Page, bytes]:
    """GET on a new connection, as a newly opened browser. `LoadError` unless it is a 200."""
    accept = "gzip" if packed else "identity"
    with socket.create_connection((HOST, port), timeout=READ_SECONDS) as sock:
        began = time.perf_counter()
        request = f"GET {path} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {accept}\r\nConnection: close\r\n\r\n"
        sock.sendall(request.encode())
        data = bytearray(sock.recv(1))
        first = time.perf_counter() - began
        while piece := sock.recv(1 << 16):
            data += piece
    whole = time.perf_counter() - began
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise LoadError(f"GET {path}: {head[:100]!r}")
    return Page(first, whole, len(body)), body


def wait_for_picture(port: int, name: str) -> None:
    """Wait until the front page shows this topic."""
    deadline = time.perf_counter() + FIRST_PICTURE_SECONDS
    while name.encode() not in get(port, "/", packed=False)[1]:
        if time.perf_counter() > deadline:
            raise LoadError(f"the front page does not show {name}")
        time.sleep(0.1)


def measure_pages(server: Server, topics: int, scale: Scale) -> list[Row]:
    """The front page of a cluster with this number of topics, and the cost of keeping it up to date."""
    port = server.port
    wait_for_picture(port, topic_name(0))
    rows = []
    for packed in (False, True):
        pages = [get(port, "/", packed=packed)[0] for _ in range(scale.pages)]
        first = [page.first_byte_s * 1000 for page in pages]
        size = statistics.median(page.sent_bytes for page in pages)
        name = f"front page, {topics:,} topics{', gzip' if packed else ''}"
        text = f"first byte p50 {statistics.median(first):.1f} ms, worst {max(first):.1f} ms; {size / 1000:,.1f} kB"
        rows.append(Row(name, text, rss=_rss(server)))
    seconds = scale.polls * POLL_SECONDS
    rows.append(_at_rest(server, f"polling {topics:,} topics, 3 nsqds", seconds))
    return rows


def _at_rest(server: Server, what: str, seconds: float) -> Row:
    cpu = cpu_seconds(server.pids)
    began = time.perf_counter()
    time.sleep(seconds)
    share = (cpu_seconds(server.pids) - cpu) / (time.perf_counter() - began)
    return Row(what, f"{share * 100:.2f} % of a core over {seconds:.0f} s", rss=_rss(server))


def _rss(server: Server) -> str:
    return f"{rss_bytes(server.pids) / 1e6:.0f} MB"


async def paper_clusters(python: str, scale: Scale, folder: Path) -> list[Row]:
    """Measure a console with each of the simulated clusters."""
    rows: list[Row] = []
    for topics in scale.topics:
        big = BigCluster(topics=topics, clients=5 * topics, busy=max(1, topics // 20))
        async with big.serving() as addresses, trio.open_nursery() as nursery:
            nursery.start_soon(_tick, big)
            rows += await trio.to_thread.run_sync(
                _measure_one, python, addresses.registries, topics, scale, folder
            )
            nursery.cancel_scope.cancel()
    return rows


async def _tick(big: BigCluster) -> None:
    while True:
        await trio.sleep(POLL_SECONDS)
        big.tick()


def _measure_one(
    python: str, registries: Sequence[str], topics: int, scale: Scale, folder: Path
) -> list[Row]:
    with Server(console(python, registries), folder) as server:
        rows = measure_pages(server, topics, scale)
        server.check()
    return rows


async def crowded_channels(python: str, scale: Scale, folder: Path) -> list[Row]:
    """Measure a console whose users look at a channel with very many consumers."""
    rows: list[Row] = []
    for nodes in scale.consumer_nodes:
        big = BigCluster(topics=1, channels=1, busy=1, clients=scale.consumers, nodes=nodes)
        async with big.serving() as addresses:
            rows += await trio.to_thread.run_sync(
                _measure_channel, python, addresses.registries, nodes, scale, folder
            )
    return rows


def _measure_channel(
    python: str, registries: Sequence[str], nodes: int, scale: Scale, folder: Path
) -> list[Row]:
    what = f"{scale.consumers:,} consumers of one channel on {nodes} nsqds"
    path = f"/topics/{topic_name(0)}/c0"
    with Server(console(python, registries).traced(), folder) as server:
        wait_for_picture(server.port, topic_name(0))
        server.longest_stretch()  # of the start
        before = _rss(server)
        with ExitStack() as stack:
            for number in range(BROWSERS):
                query = ("", "?sort=host&page=400", "?q=consumer4799")[number % 3]
                stack.enter_context(_browser(server.port, path + query))
            for _ in range(scale.polls):
                time.sleep(POLL_SECONDS)
                get(server.port, "/api" + path, packed=False)
        server.check()
        stretch = server.longest_stretch() or 0.0
        peak = f"{peak_rss_bytes(server.pids) / 1e6:.0f} MB"
    text = f"longest stretch {stretch * 1000:.0f} ms; peak {peak}, {before} before"
    return [Row(what, text, rss=peak)]


@contextlib.contextmanager
def _browser(port: int, path: str) -> Iterator[None]:
    """A browser that shows a page, and renews it with each event of its stream, until the block ends."""
    ended = threading.Event()

    def show() -> None:
        with socket.create_connection((HOST, port), timeout=READ_SECONDS) as sock:
            sock.sendall(b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n")
            sock.settimeout(0.1)  # to see the end
            get(port, path, packed=True)
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    if b"event:" in sock.recv(1 << 16):
                        get(port, path, packed=True)

    thread = threading.Thread(target=show)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def idle_console(python: str, scale: Scale, folder: Path) -> list[Row]:
    """Measure an unused console with three idle nsqds."""
    interpreter = shlex.quote(python)
    with ExitStack() as stack:

        def start(name: str, flags: str) -> Server:
            command = f"{interpreter} -m {name} --tcp-address={HOST}:0 --http-address={HOST}:0 {flags}"
            return stack.enter_context(Server(Broker(name, command, reports_ports=True), folder))

        registry = start("nsqlookupd", f"--broadcast-address={HOST}")
        for number in range(3):
            known = f"--lookupd-tcp-address={HOST}:{registry.port} --broadcast-address={HOST}"
            start("nsqd", f"--data-path={{data_path}} --node-id={number} {known}")
        server = stack.enter_context(Server(console(python, [f"{HOST}:{registry.http_port}"]), folder))
        time.sleep(2 * POLL_SECONDS if scale is FULL else 1)
        return [
            Row("start, until it listens", f"{server.start_seconds * 1000:.0f} ms", rss=_rss(server)),
            _at_rest(server, "nobody looks, 3 nsqds at rest", scale.idle_seconds),
        ]


def console(python: str, registries: Sequence[str]) -> Broker:
    """nsqadmin with default options for these registries."""
    known = " ".join(f"--lookupd-http-address={address}" for address in registries)
    flags = f"--http-address={HOST}:{{port}} --log-level=warn {known}"
    return Broker(
        "nsqadmin",
        f"{shlex.quote(python)} -m nsqadmin {flags}",
        traced_command=f"{shlex.quote(python)} -m bench.traced nsqadmin {flags}",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run all measurements and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.nsqadmin", description="Measure nsqadmin.")
    parser.add_argument("--quick", action="store_true", help="smaller clusters, some seconds")
    parser.add_argument("--python", default=sys.executable, help="interpreter that runs the daemons")
    options = parser.parse_args(argv)
    scale = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        machine = facts(options.python, folder)
        try:
            rows = idle_console(options.python, scale, folder)
            rows += trio.run(paper_clusters, options.python, scale, folder)
            rows += trio.run(crowded_channels, options.python, scale, folder)
        except LoadError as error:
            print(f"nsqadmin: {error}", file=sys.stderr)
            return 1
        except ServerError as error:
            print(error, file=sys.stderr)
            return 2
    print(f"{machine.cpu}, {machine.cores} cores, load {machine.load_average:.2f}; {machine.interpreter}\n")
    print("| what | result | RSS after |\n| --- | --- | --- |")
    for row in rows:
        print(f"| {row.what} | {row.result} | {row.rss} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
