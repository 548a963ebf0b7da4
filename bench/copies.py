"""Measure what copies on another node cost: `python -m bench.copies [--quick]`. README.md explains the rows.

The same load against an nsqd without a follower, with one, and with one that answers wait for (`--ack-copies=2`), in
turn. Leader, follower and load share the machine. Prints a Markdown table; exit code 1 if a row failed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from bench.machine import facts
from bench.meter import Measurement
from bench.server import PROJECT, Server, ServerError, free_port, nsqd

LOAD_SECONDS = 300
IN_STEP_SECONDS = 30
HOST = "127.0.0.1"


@attrs.frozen
class Scale:
    """How often each row is run, and how long each run is."""

    runs: int
    seconds: float
    batch_messages: int
    lone_messages: int


FULL = Scale(runs=5, seconds=2.0, batch_messages=2_000_000, lone_messages=2_000)
QUICK = Scale(runs=3, seconds=0.5, batch_messages=400_000, lone_messages=500)


@attrs.frozen
class Setting:
    """`acks`: `--ack-copies`; None without a follower."""

    title: str
    acks: int | None


ALONE = Setting("no follower", None)
COPIED = Setting("one follower", 1)
AWAITED = Setting("answers wait for it", 2)


@attrs.frozen
class Row:
    """One kind of work. `load`: arguments of `bench.load`, `{...}` from the scale. `flags`: of all nsqds.

    `latency`: the result is the median time of an answer, not a rate.
    """

    name: str
    title: str
    load: str
    flags: str = ""
    latency: bool = False


ROWS = (
    Row("mpub", "publish, batches of 200, 2 connections", "mpub --conns=2 --count={batch_messages}"),
    Row("pub-1", "publish one at a time, 1 connection", "pub --conns=1 --seconds={seconds}"),
    Row("pub-16", "publish one at a time, 16 connections", "pub --conns=16 --seconds={seconds}"),
    Row("pub-64", "publish one at a time, 64 connections", "pub --conns=64 --seconds={seconds}"),
    Row(
        "pub-pipelined",
        "publish, pipelined 100 deep, 16 connections",
        "pub --conns=16 --depth=100 --seconds={seconds}",
    ),
    Row("lone", "a lone publish every 1 ms", "lone --count={lone_messages}", latency=True),
    Row(
        "disk",
        "level `disk`: one at a time, 64 connections",
        "pub --conns=64 --seconds={seconds}",
        flags="--durability=disk",
    ),
)


@contextmanager
def cluster(python: str, data_root: Path, row: Row, setting: Setting) -> Iterator[tuple[Server, list[int]]]:
    """A leader, and the process ids of its followers, which are in step. `ServerError`."""
    broker = nsqd(python)
    if setting.acks is None:
        with Server(broker, data_root, flags=row.flags) as leader:
            yield leader, []
        return
    address = f"{HOST}:{free_port()}"
    keeping = f"{row.flags} --replication-address={address}"
    copied = f"{row.flags} --replicate-to={address} --ack-copies={setting.acks}"
    with (
        Server(broker, data_root, flags=keeping) as follower,
        Server(broker, data_root, flags=copied) as leader,
    ):
        wait_until_in_step(leader)
        yield leader, follower.pids


def wait_until_in_step(leader: Server) -> None:
    """Until all copies are in step. `ServerError`."""
    deadline = time.monotonic() + IN_STEP_SECONDS
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"http://{HOST}:{leader.http_port}/replicas", timeout=5) as answer:
            copies = json.load(answer)
        if copies["in_step"] == copies["wanted"]:
            return
        leader.check()
        time.sleep(0.02)
    raise ServerError(f"the follower is not in step after {IN_STEP_SECONDS} s: {copies}")


def run_once(python: str, data_root: Path, row: Row, setting: Setting, scale: Scale) -> Measurement:
    """`ServerError`."""
    kind, *options = row.load.format(**attrs.asdict(scale)).split()
    with cluster(python, data_root, row, setting) as (leader, followers):
        pids = [f"--pids={_joined(leader.pids)}", f"--beside={_joined(followers)}"]
        command = [sys.executable, "-m", "bench.load", kind, str(leader.port), *pids, *options]
        try:
            done = subprocess.run(
                command, cwd=PROJECT, capture_output=True, text=True, timeout=LOAD_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise ServerError(f"{shlex.join(command[3:])}: not done after {LOAD_SECONDS} s") from None
        if done.returncode:
            leader.check()
            raise ServerError(done.stderr.strip() or f"load generator ended with code {done.returncode}")
        leader.check()
    return Measurement.from_json(done.stdout)


def run_row(
    python: str, data_root: Path, row: Row, scale: Scale, progress: Callable[[str], None]
) -> dict[Setting, list[Measurement]]:
    """As many measurements of each setting, made in turn: only neighbours can be compared. `ServerError`."""
    found: dict[Setting, list[Measurement]] = {ALONE: [], COPIED: [], AWAITED: []}
    for run in range(scale.runs):
        for setting, measurements in found.items():
            progress(f"{row.name}: {setting.title}, run {run + 1} of {scale.runs}")
            measurements.append(run_once(python, data_root, row, setting, scale))
    return found


def lines(row: Row, found: dict[Setting, list[Measurement]]) -> list[str]:
    """The row's lines of the table."""
    alone = found[ALONE]
    return [_line(row, setting, measurements, alone) for setting, measurements in found.items()]


HEAD = (
    "| work | copies | result | lowest to highest | leader, CPU a message | follower | load CPU | leader's CPU ratio"
    " | lowest to highest |\n| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def _line(row: Row, setting: Setting, measurements: list[Measurement], alone: list[Measurement]) -> str:
    if row.latency:
        results = [measurement.extra["p50_ms"] for measurement in measurements]
        unit, digits = " ms", 3
    else:
        results = [measurement.rate for measurement in measurements]
        unit, digits = "/s", 0
    leader = statistics.median(measurement.cpu_us for measurement in measurements)
    follower = statistics.median(
        measurement.extra.get("beside_cpu_s", 0.0) * 1e6 / measurement.messages
        for measurement in measurements
    )
    load = statistics.median(measurement.load_share for measurement in measurements)
    cells = [
        row.title,
        setting.title,
        f"{statistics.median(results):,.{digits}f}{unit}",
        f"{min(results):,.{digits}f} to {max(results):,.{digits}f}",
        f"{leader:.2f} us",
        "" if setting is ALONE else f"{follower:.2f} us",
        f"{load:.0%}",
        *_ratio(measurements, alone),
    ]
    return f"| {' | '.join(cells)} |"


def _ratio(measurements: list[Measurement], alone: list[Measurement]) -> tuple[str, str]:
    """Of the leader's CPU, each run over the one without a follower beside it: the median, and the range."""
    if measurements is alone:
        return "", ""
    ratios = [run.cpu_us / base.cpu_us for run, base in zip(measurements, alone, strict=True) if base.cpu_us]
    if not ratios:  # too short for a clock that counts in steps of 10 ms
        return "", ""
    return f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"


def _joined(pids: Sequence[int]) -> str:
    return ",".join(map(str, pids))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rows and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.copies", description="Measure what copies cost.")
    parser.add_argument("--quick", action="store_true", help="short runs, for a look")
    parser.add_argument("--runs", type=int, help="runs of each row and setting")
    parser.add_argument(
        "--only", action="append", choices=[row.name for row in ROWS], help="this row; may be repeated"
    )
    parser.add_argument("--python", default=sys.executable, help="interpreter that runs the nsqds")
    parser.add_argument("--data-root", type=Path, default=PROJECT, help="where the data paths are made")
    options = parser.parse_args(argv)
    scale = QUICK if options.quick else FULL
    if options.runs:
        scale = attrs.evolve(scale, runs=options.runs)
    failed = False
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.data_root) as folder:
        machine = facts(options.python, Path(folder))
        print(
            f"{machine.cpu}, {machine.cores} cores, load {machine.load_average:.2f}; {machine.interpreter};"
            f" {machine.file_system}; {scale.runs} runs\n\n{HEAD}",
            flush=True,
        )
        for row in ROWS:
            if options.only and row.name not in options.only:
                continue
            try:
                found = run_row(options.python, Path(folder), row, scale, _progress)
            except (ServerError, OSError) as error:
                print(f"{row.name}: {error}", file=sys.stderr)
                failed = True
                continue
            print("\n".join(lines(row, found)), flush=True)
    return int(failed)


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
