"""Measure nsqlookupd with a large cluster: `python -m bench.lookupd [--quick]`. README.md explains the rows.

1,000 nsqds connect, each over its own connection, and register a channel in each of 100 topics, of 10,000 in total,
so that each topic has 10 nsqds; one more topic is on all of them. Then it is queried. Prints a Markdown table. Every
response is checked: exit code 1 if one is wrong, 2 if nsqlookupd did not start.
"""

from __future__ import annotations

import argparse
import json
import shlex
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import attrs

from bench.link import LoadError
from bench.machine import facts
from bench.procfs import cpu_seconds, rss_bytes
from bench.server import Broker, Server, ServerError
from nsqkit.service.descriptors import raise_descriptor_limit

READ_SECONDS = 60
COMMON = "common"
OK = b"\x00\x00\x00\x02OK"
HOST = "127.0.0.1"


@attrs.frozen
class Scale:
    """The size of the cluster, and the number of requests."""

    nsqds: int
    topics: int
    topics_each: int
    requests: int
    large_requests: int
    singles: int


FULL = Scale(nsqds=1_000, topics=10_000, topics_each=100, requests=3_000, large_requests=20, singles=3_000)
QUICK = Scale(nsqds=200, topics=2_000, topics_each=100, requests=500, large_requests=5, singles=500)


@attrs.frozen
class Row:
    """One line of the table."""

    what: str
    result: str
    cpu: str = ""
    rss: str = ""


@attrs.define
class Cluster:
    """The simulated nsqds, and the daemon to which they are connected."""

    server: Server
    scale: Scale
    nsqds: list[socket.socket] = attrs.field(factory=list)

    def topics_of(self, number: int) -> list[str]:
        """The topics of one nsqd; each topic is on the same number of nsqds."""
        scale = self.scale
        first = number * scale.topics_each
        return [f"topic-{index % scale.topics}" for index in range(first, first + scale.topics_each)]

    def connect(self) -> None:
        """Connect and identify all, one after the other."""
        for number in range(self.scale.nsqds):
            about = {
                "broadcast_address": f"n{number}",
                "tcp_port": 4150,
                "http_port": 4151,
                "version": "1.4.0",
            }
            body = json.dumps(about).encode()
            nsqd = socket.create_connection((HOST, self.server.port), timeout=READ_SECONDS)
            self.nsqds.append(nsqd)
            nsqd.sendall(b"  V1IDENTIFY\n" + struct.pack(">i", len(body)) + body)
            size = struct.unpack(">i", read(nsqd, 4))[0]
            answer = json.loads(read(nsqd, size))
            if answer["tcp_port"] != self.server.port:
                raise LoadError(f"IDENTIFY was answered {answer}")

    def register(self) -> None:
        """Each sends all its registrations at once, as after a restart of the registry; then all responses are read."""
        for number, nsqd in enumerate(self.nsqds):
            lines = [f"REGISTER {topic} channel\n" for topic in self.topics_of(number)]
            nsqd.sendall("".join([*lines, f"REGISTER {COMMON} channel\n"]).encode())
        for nsqd in self.nsqds:
            expect_oks(nsqd, self.scale.topics_each + 1)

    def register_singly(self) -> list[float]:
        """One nsqd registers topics, each after the response to the last; returns the seconds of each."""
        commands = [b"REGISTER single-%d channel\n" % index for index in range(self.scale.singles)]
        return [timed(partial(ask_ok, self.nsqds[0], command)) for command in commands]

    def disconnect(self, asking: Http) -> None:
        """Disconnect all at once; returns when none is listed any more."""
        for nsqd in self.nsqds:
            nsqd.close()
        self.nsqds.clear()
        deadline = time.perf_counter() + READ_SECONDS
        while asking.get("/nodes")["producers"]:
            if time.perf_counter() > deadline:
                raise LoadError("producers that have gone are still shown")


class Http:
    """A consumer with a persistent connection."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection((HOST, port), timeout=READ_SECONDS)
        self._reader = self._sock.makefile("rb")
        self.last_bytes = 0

    def get_raw(self, target: str) -> bytes:
        """The body of a response, which must be a 200."""
        self._sock.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        status = self._reader.readline()
        size = 0
        while (line := self._reader.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                size = int(line[15:])
        body = self._reader.read(size)
        if b" 200 " not in status or len(body) != size:
            raise LoadError(f"GET {target}: {status!r} {body[:100]!r}")
        self.last_bytes = size
        return body

    def get(self, target: str) -> dict[str, list[object]]:
        """The same, decoded."""
        decoded: dict[str, list[object]] = json.loads(self.get_raw(target))
        return decoded

    def close(self) -> None:
        self._reader.close()
        self._sock.close()


def read(sock: socket.socket, size: int) -> bytes:
    """Read exactly `size` bytes."""
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise LoadError(f"nsqlookupd closed a connection after {data!r}")
        data += piece
    return data


def expect_oks(sock: socket.socket, count: int) -> None:
    answers = read(sock, count * len(OK))
    if answers != OK * count:
        raise LoadError(f"REGISTER was answered {answers[:200]!r}")


def ask_ok(sock: socket.socket, command: bytes) -> None:
    sock.sendall(command)
    expect_oks(sock, 1)


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def measure(server: Server, scale: Scale) -> list[Row]:
    """All rows, in the order in which they are run. `LoadError` for a wrong response."""
    cluster, asking = Cluster(server, scale), Http(server.http_port)
    rows = [
        Row("start, from exec until it listens", f"{server.start_seconds * 1000:.0f} ms", rss=_rss(server))
    ]
    try:
        rows += _fill(cluster)
        rows += _ask(cluster, asking)
        rows.append(
            _once(server, f"{scale.nsqds:,} disconnect", scale.nsqds, lambda: cluster.disconnect(asking))
        )
        server.check()
    finally:
        asking.close()
        for nsqd in cluster.nsqds:
            nsqd.close()
    return rows


def _fill(cluster: Cluster) -> list[Row]:
    server, scale = cluster.server, cluster.scale
    count = scale.nsqds * (scale.topics_each + 1)
    rows = [
        _once(server, f"{scale.nsqds:,} connect and IDENTIFY", scale.nsqds, cluster.connect),
        _once(server, f"{count:,} REGISTER, all at once", count, cluster.register),
    ]
    cpu, took = cpu_seconds(server.pids), cluster.register_singly()
    cpu = cpu_seconds(server.pids) - cpu
    return [*rows, _each(server, "REGISTER, one at a time", took, cpu)]


def _ask(cluster: Cluster, asking: Http) -> list[Row]:
    server, scale = cluster.server, cluster.scale
    each = scale.nsqds * scale.topics_each // scale.topics
    plan = [
        (f"/lookup, {each} producers", "/lookup?topic=topic-{}", scale.requests, each),
        (
            f"/lookup, {scale.nsqds:,} producers",
            f"/lookup?topic={COMMON}",
            scale.large_requests * 5,
            scale.nsqds,
        ),
        ("/nodes", "/nodes", scale.large_requests, scale.nsqds),
    ]
    rows = []
    for what, target, requests, expected in plan:
        took = []
        cpu = cpu_seconds(server.pids)
        for index in range(requests):
            began = time.perf_counter()
            body = asking.get_raw(target.format(index % scale.topics))
            took.append(time.perf_counter() - began)
            found = body.count(b'"remote_address":')
            if found != expected:
                raise LoadError(f"{what}: {found} producers instead of {expected}")
        cpu = cpu_seconds(server.pids) - cpu
        rows.append(_each(server, f"{what} ({asking.last_bytes / 1000:,.0f} kB)", took, cpu))
    took = [timed(lambda: asking.get_raw("/topics")) for _ in range(scale.large_requests)]
    return [*rows, _each(server, f"/topics ({asking.last_bytes / 1000:,.0f} kB)", took)]


def _once(server: Server, what: str, count: int, action: Callable[[], object]) -> Row:
    cpu = cpu_seconds(server.pids)
    took = timed(action)
    cpu = cpu_seconds(server.pids) - cpu
    result = f"{took:.2f} s, {count / took:,.0f}/s"
    return Row(what, result, f"{cpu / count * 1e6:.1f} us", _rss(server))


def _each(server: Server, what: str, took: list[float], cpu: float | None = None) -> Row:
    ordered = sorted(took)
    p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    result = f"p50 {statistics.median(took) * 1000:.2f} ms, p99 {p99 * 1000:.2f} ms"
    shown = "" if cpu is None else f"{cpu / len(took) * 1e6:,.0f} us"
    return Row(what, result, shown, _rss(server))


def _rss(server: Server) -> str:
    return f"{rss_bytes(server.pids) / 1e6:.0f} MB"


def main(argv: Sequence[str] | None = None) -> int:
    """Run all measurements and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.lookupd", description="Measure nsqlookupd.")
    parser.add_argument("--quick", action="store_true", help="a fifth of the cluster, some seconds")
    parser.add_argument("--python", default=sys.executable, help="interpreter that runs nsqlookupd")
    options = parser.parse_args(argv)
    raise_descriptor_limit()
    command = f"{shlex.quote(options.python)} -m nsqlookupd --tcp-address={HOST}:0 --http-address={HOST}:0"
    with tempfile.TemporaryDirectory() as folder:
        machine = facts(options.python, Path(folder))
        try:
            with Server(Broker("nsqlookupd", command, reports_ports=True), Path(folder)) as server:
                rows = measure(server, QUICK if options.quick else FULL)
        except LoadError as error:
            print(f"nsqlookupd: {error}", file=sys.stderr)
            return 1
        except ServerError as error:
            print(error, file=sys.stderr)
            return 2
    print(f"{machine.cpu}, {machine.cores} cores, load {machine.load_average:.2f}; {machine.interpreter}\n")
    print("| what | result | CPU each | RSS after |\n| --- | --- | --- | --- |")
    for row in rows:
        print(f"| {row.what} | {row.result} | {row.cpu} | {row.rss} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
