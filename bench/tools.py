"""Measure the tools: `python -m bench.tools [--quick] [--runs N]`.

Messages of 200 bytes are queued in an nsqd first; then the tool runs in a process of its own until nsqd reports them as
finished. The timed part is from the first of them to the last that fill the tool's window: it includes neither the
start of the tool nor the last few messages, which `nsq_to_file` may keep until its sync interval. Then the tool is
stopped, and all messages must have arrived. For `nsq_to_nsq` there is a second nsqd, the destination. Prints a Markdown
table with messages per second and microseconds of CPU per message, of the tool and of the nsqds. Exit code 1 if a tool
failed or messages are missing, 2 if an nsqd did not start.

With the default flags of the tools (200 in flight), with 2500, and for `nsq_to_nsq` with 1, where no message can share
a batch with another one. `nsq_to_file` waits for the disk (fsync) before it finishes; `nsq_to_nsq` waits for the OK.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import attrs

from bench.machine import facts
from bench.meter import Measurement, Meter
from bench.procfs import cpu_seconds
from bench.server import PROJECT, Server, ServerError, nsqd
from nsqkit.client import Producer

BODY = b"x" * 200
BATCH = 1000
CHANNEL = "bench"
MESSAGES = 200_000
QUICK_MESSAGES = 20_000
POLL_S = 0.02
TOOL_SECONDS = 120


class ToolFailed(Exception):
    """The tool ended, or did not do its work; the text is the reason."""


@attrs.frozen
class Row:
    """A tool and how it is run; `{out}`, `{destination}` stand for a folder and the second nsqd."""

    title: str
    module: str
    flags: str
    in_flight: int = 200
    """The default of the tools."""
    part: float = 1.0
    """Fraction of the messages, for slow rows."""


ROWS = (
    Row("nsq_to_file", "nsq_to_file", "--output-dir={out}"),
    Row("nsq_to_file, 2500 in flight", "nsq_to_file", "--output-dir={out}", 2500),
    Row("nsq_to_file --gzip, 2500 in flight", "nsq_to_file", "--output-dir={out} --gzip", 2500),
    Row("nsq_to_nsq", "nsq_to_nsq", "--destination-nsqd-tcp-address={destination}"),
    Row("nsq_to_nsq, 2500 in flight", "nsq_to_nsq", "--destination-nsqd-tcp-address={destination}", 2500),
    Row("nsq_to_nsq, 1 in flight", "nsq_to_nsq", "--destination-nsqd-tcp-address={destination}", 1, 0.05),
)


@attrs.frozen
class Result:
    """One run; in `measurement` the tool takes the place of the server."""

    measurement: Measurement
    nsqd_cpu_us: float
    """CPU of all nsqds per message."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run all rows and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.tools", description="Measure the tools.")
    parser.add_argument("--quick", action="store_true", help="one short run of each")
    parser.add_argument("--runs", type=int, help="runs of each (default 3, with --quick 1)")
    options = parser.parse_args(argv)
    runs = options.runs or (1 if options.quick else 3)
    messages = QUICK_MESSAGES if options.quick else MESSAGES
    with tempfile.TemporaryDirectory(prefix="bench-tools-") as folder:
        machine = facts(sys.executable, Path(folder))
        print(
            f"{machine.cpu}, {machine.cores} cores, load {machine.load_average:.2f}; {machine.interpreter}\n"
        )
        print("| tool | msg/s | lowest to highest | CPU us/msg | CPU us/msg of the nsqds |")
        print("| --- | --- | --- | --- | --- |")
        try:
            for row in ROWS:
                print(_line(row, [run_row(row, messages, Path(folder)) for _ in range(runs)]), flush=True)
        except ToolFailed as error:
            print(f"{row.title}: {error}", file=sys.stderr)
            return 1
        except ServerError as error:
            print(error, file=sys.stderr)
            return 2
    return 0


def run_row(row: Row, messages: int, folder: Path) -> Result:
    """One run with nsqds of its own. Raises `ToolFailed`, `ServerError`."""
    messages = int(messages * row.part)
    broker = nsqd(sys.executable)
    with (
        tempfile.TemporaryDirectory(dir=folder) as out,
        Server(broker, folder) as source,
        Server(broker, folder) as destination,
    ):
        _request(source, "POST", "/topic/create?topic=t")
        _request(source, "POST", f"/channel/create?topic=t&channel={CHANNEL}")
        anyio.run(_fill, f"127.0.0.1:{source.port}", messages)
        flags = row.flags.format(out=out, destination=f"127.0.0.1:{destination.port}").split()
        result = _run_tool(row, flags, messages, source, destination)
        _check(row, messages - _left(source), Path(out), destination)
        return result


async def _fill(address: str, messages: int) -> None:
    async with Producer(nsqd_tcp_addresses=[address]) as producer:
        for _ in range(messages // BATCH):
            await producer.publish_multi("t", [BODY] * BATCH)


def _run_tool(row: Row, flags: list[str], messages: int, source: Server, destination: Server) -> Result:
    command = [sys.executable, "-m", f"nsqtools.{row.module}", "--topic=t", f"--channel={CHANNEL}"]
    command += [f"--nsqd-tcp-address=127.0.0.1:{source.port}", f"--max-in-flight={row.in_flight}", *flags]
    nsqds = [*source.pids, *destination.pids]
    tool = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.DEVNULL)
    try:
        meter = Meter([tool.pid])
        before = _wait(tool, source, messages - 1)  # the first is finished: the tool is at work
        meter.start()
        nsqd_cpu = cpu_seconds(nsqds)
        after = _wait(tool, source, row.in_flight)
        measured = meter.stop(before - after)
        nsqd_cpu = cpu_seconds(nsqds) - nsqd_cpu
        tool.terminate()
        if tool.wait(TOOL_SECONDS) != 0:
            raise ToolFailed(f"ended with code {tool.returncode}")
    finally:
        tool.kill()
        tool.wait()
    if before == after:
        raise ToolFailed("too fast to be measured with so few messages")
    return Result(measured, nsqd_cpu / measured.messages * 1e6)


def _wait(tool: subprocess.Popen[bytes], source: Server, most: int) -> int:
    """Wait until at most `most` messages remain; returns their number."""
    deadline = time.monotonic() + TOOL_SECONDS
    while time.monotonic() < deadline:
        left = _left(source)
        if left <= most:
            return left
        if tool.poll() is not None:
            raise ToolFailed(f"ended with code {tool.returncode}, and {left} messages are left")
        time.sleep(POLL_S)
    raise ToolFailed(f"not done after {TOOL_SECONDS} s")


def _left(source: Server) -> int:
    question = f"/stats?format=json&topic=t&channel={CHANNEL}&include_mem=false&include_clients=false"
    channel = json.loads(_request(source, "GET", question))["topics"][0]["channels"][0]
    return int(channel["depth"] + channel["in_flight_count"] + channel["deferred_count"])


def _check(row: Row, finished: int, out: Path, destination: Server) -> None:
    """Check that all messages have arrived."""
    if row.module == "nsq_to_nsq":
        topics: list[dict[str, Any]] = json.loads(_request(destination, "GET", "/stats?format=json"))[
            "topics"
        ]
        arrived = topics[0]["message_count"]
    else:
        arrived = sum(_size(path) for path in out.iterdir()) // (len(BODY) + 1)
    if arrived < finished:
        raise ToolFailed(f"{finished - arrived} messages are missing")


def _size(path: Path) -> int:
    """Bytes in a file, after decompression."""
    if path.suffix != ".gz":
        return path.stat().st_size
    with gzip.open(path) as file:
        return sum(map(len, file))


def _request(server: Server, method: str, target: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=10)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise ServerError(f"{target}: {response.status} {body!r}")
    return body


def _line(row: Row, results: list[Result]) -> str:
    rates = [result.measurement.rate for result in results]
    cpu = statistics.median(result.measurement.cpu_us for result in results)
    nsqds = statistics.median(result.nsqd_cpu_us for result in results)
    spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
    return f"| {row.title} | {statistics.median(rates):,.0f} | {spread} | {cpu:.1f} | {nsqds:.1f} |"


if __name__ == "__main__":
    sys.exit(main())
