"""Runs rows against brokers, in turn (A B A B), each run with a newly started broker.

In turn, because the speed of a machine varies within minutes: only figures of runs next to each other can be compared.
A failed run ends its row for that broker and is shown with its reason; the other rows are run.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import attrs

from bench.load import HTTP_KINDS
from bench.machine import measure_sync
from bench.meter import Measurement
from bench.procfs import rss_bytes
from bench.rows import Row, Scale
from bench.server import PROJECT, Broker, Server, ServerError

__all__ = ["CONTROL", "Cell", "run_row"]

LOAD_SECONDS = 300
SETTLE_SECONDS = 0.2
CONTROL = "idle_"
"""Prefix of the figures measured on the same broker without the disturbing load."""


@attrs.define
class Cell:
    """One row for one broker: its measurements, or the reason why there are none."""

    row: Row
    broker: Broker
    measurements: list[Measurement] = attrs.field(factory=list)
    skipped: str = ""
    failed: str = ""


def run_row(
    row: Row, brokers: Sequence[Broker], scale: Scale, data_root: Path, progress: Callable[[str], None]
) -> list[Cell]:
    """A cell for each broker that supports this work; the first broker is the one under test."""
    row = attrs.evolve(row, title=row.title.format(**attrs.asdict(scale)))
    cells = [Cell(row, broker, skipped=_reason_to_skip(row, broker)) for broker in brokers]
    cells = [cell for cell in cells if row.loads.get(cell.broker.protocol) is not None]
    for run in range(scale.runs):
        for cell in cells:
            if cell.skipped or cell.failed:
                continue
            progress(f"{row.name}: {cell.broker.label(to_disk=row.to_disk)}, run {run + 1} of {scale.runs}")
            try:
                measurement = _run_once(row, cell.broker, scale, data_root, strict=cell.broker.tested)
            except (ServerError, OSError) as error:
                cell.failed = str(error)
            else:
                cell.measurements.append(measurement)
    return cells


def _reason_to_skip(row: Row, broker: Broker) -> str:
    if broker.missing:
        return broker.missing
    if row.http and not broker.has_http:
        return "its command has no {http_port}"
    if row.to_disk and not broker.disk_flags:
        return broker.no_disk or "its command has no {flags}"
    if row.flags and "{flags}" not in broker.command:
        return "its command has no {flags}"
    if row.cold and "{data_path}" not in broker.command:
        return "its command has no {data_path}"
    return ""


def _run_once(row: Row, broker: Broker, scale: Scale, data_root: Path, *, strict: bool) -> Measurement:
    extra = _sync_times(data_root, scale) if row.to_disk else {}
    if row.measures == "tail":
        broker = broker.traced()
    flags = f"{row.flags} {broker.disk_flags if row.to_disk else ''}".strip()
    if row.measures == "tail" and row.flags:
        with Server(broker, data_root) as server:
            extra |= _Run(row, server, scale, strict).control()
    with Server(broker, data_root, flags=flags) as server:
        measurement = _Run(row, server, scale, strict).measurement()
        server.check()
    return attrs.evolve(measurement, extra=measurement.extra | extra)


def _sync_times(data_root: Path, scale: Scale) -> dict[str, float]:
    sync = measure_sync(data_root, scale.sync_rounds)
    return {"fdatasync_p50_ms": sync.p50_ms, "fdatasync_p99_ms": sync.p99_ms}


@attrs.frozen
class _Run:
    """One run of a row on an installed broker."""

    row: Row
    server: Server
    scale: Scale
    strict: bool

    def measurement(self) -> Measurement:
        if before := self.row.before.get(self.server.broker.protocol):
            self._load(before)
        if self.row.cold:
            self.server.restart_cold()
        match self.row.measures:
            case "start":
                return self._start()
            case "memory" | "rest":
                return self._memory()
            case "drain":
                started = {"start_ms": self.server.start_seconds * 1e3}
                measurement = self._main_load()
                return attrs.evolve(measurement, extra=measurement.extra | started)
            case "tail":
                return self._tail()
            case _:
                with self._nuisance() if self.row.beside else nullcontext():
                    return self._main_load()

    def _start(self) -> Measurement:
        time.sleep(SETTLE_SECONDS)
        seconds = self.server.start_seconds
        return Measurement(
            0, seconds, 0.0, 0.0, rss_bytes(self.server.pids), extra={"start_ms": seconds * 1e3}
        )

    def _memory(self) -> Measurement:
        time.sleep(SETTLE_SECONDS)
        extra = {"rss_at_start_mib": rss_bytes(self.server.pids) / 2**20}
        measurement = self._main_load()
        rss = measurement.rss_bytes
        if self.row.measures == "memory":
            time.sleep(SETTLE_SECONDS)
            rss = rss_bytes(self.server.pids)
        return attrs.evolve(measurement, rss_bytes=rss, extra=measurement.extra | extra)

    def control(self) -> dict[str, float]:
        """The figures of a row that measures `tail`, without the disturbing load."""
        # Everything once, unmeasured.
        self._load(self.row.loads[self.server.broker.protocol] + " --seconds=0.3")
        figures = self._stretches_of_main_load().extra
        return {CONTROL + name: value for name, value in figures.items()}

    def _tail(self) -> Measurement:
        """First without the disturbing load, on the same broker unless its flags are the disturbance; then with it."""
        idle = self.control()
        with self._nuisance() if self.row.beside else nullcontext():
            measurement = self._stretches_of_main_load()
        return attrs.evolve(measurement, extra=idle | measurement.extra)

    def _stretches_of_main_load(self) -> Measurement:
        """Run the load; also measures the longest time of the broker's loop between two polls of the network."""
        self.server.longest_stretch()
        measurement = self._main_load()
        if (longest := self.server.longest_stretch()) is not None:
            measurement.extra["stretch_ms"] = longest * 1e3
        return measurement

    @contextmanager
    def _nuisance(self) -> Iterator[None]:
        command = self._command(self.row.beside)
        with subprocess.Popen(
            command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stderr is not None
                if process.stdout.readline() != "started\n":
                    raise ServerError(process.stderr.read().strip() or "the nuisance did not begin")
                yield
                if process.poll() is not None:
                    raise ServerError(
                        f"the nuisance ended too early: {process.stderr.read().strip() or 'done'}"
                    )
            finally:
                process.kill()

    def _main_load(self) -> Measurement:
        return self._load(self.row.loads[self.server.broker.protocol])

    def _load(self, arguments: str) -> Measurement:
        command = self._command(arguments)
        try:
            done = subprocess.run(
                command, cwd=PROJECT, capture_output=True, text=True, timeout=LOAD_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise ServerError(f"{shlex.join(command[3:])}: not done after {LOAD_SECONDS} s") from None
        if done.returncode:
            self.server.check()
            raise ServerError(done.stderr.strip() or f"load generator ended with code {done.returncode}")
        return Measurement.from_json(done.stdout)

    def _command(self, arguments: str) -> list[str]:
        kind, *options = arguments.format(**attrs.asdict(self.scale)).split()
        server, over_http = self.server, kind in HTTP_KINDS
        port = server.http_port if over_http else server.port
        if over_http:
            options.append(f"--tcp-port={server.port}")
        if not self.strict:
            options.append("--allow-repeated-ids")
        pids = f"--pids={','.join(map(str, server.pids))}"
        return [sys.executable, "-m", "bench.load", kind, str(port), pids, *options]
