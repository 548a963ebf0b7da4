"""Runs rows against brokers, in turn (A B A B), each run with a broker started anew.

In turn, because a machine changes in minutes: two figures of one pair of runs can be compared, two of
different hours cannot. A failed run ends its row for that broker and is shown with its reason; the other
rows go on.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from bench.machine import measure_sync
from bench.meter import Measurement
from bench.procfs import rss_bytes
from bench.rows import Row, Scale
from bench.server import PROJECT, Broker, Server, ServerError

__all__ = ["Cell", "run_row"]

LOAD_SECONDS = 180
SETTLE_SECONDS = 0.2


@attrs.define
class Cell:
    """One row for one broker: its measurements, or why there are none."""

    row: Row
    broker: Broker
    measurements: list[Measurement] = attrs.field(factory=list)
    skipped: str = ""
    failed: str = ""


def run_row(
    row: Row, brokers: Sequence[Broker], scale: Scale, data_root: Path, progress: Callable[[str], None]
) -> list[Cell]:
    """A cell for each broker that can be expected to do this work; the first broker is the one under test."""
    cells = [Cell(row, broker, skipped=_reason_to_skip(row, broker)) for broker in brokers]
    cells = [cell for cell in cells if row.loads.get(cell.broker.protocol) is not None]
    for run in range(scale.runs):
        for cell in cells:
            if cell.skipped or cell.failed:
                continue
            progress(f"{row.name}: {cell.broker.label(to_disk=row.to_disk)}, run {run + 1} of {scale.runs}")
            try:
                measurement = _run_once(row, cell.broker, scale, data_root, strict=cell.broker is brokers[0])
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
        return "its command has no {flags}"
    return ""


def _run_once(row: Row, broker: Broker, scale: Scale, data_root: Path, *, strict: bool) -> Measurement:
    extra: dict[str, float] = {}
    if row.to_disk:
        sync = measure_sync(data_root, scale.sync_rounds)
        extra = {"fdatasync_p50_ms": sync.p50_ms, "fdatasync_p99_ms": sync.p99_ms}
    with Server(broker, data_root, to_disk=row.to_disk) as server:
        if row.measures == "start":
            time.sleep(SETTLE_SECONDS)
            extra = {"start_ms": server.start_seconds * 1e3}
            return Measurement(0, server.start_seconds, 0.0, 0.0, rss_bytes(server.pids), extra=extra)
        if row.measures == "memory":
            time.sleep(SETTLE_SECONDS)
            extra = {"rss_at_start_mib": rss_bytes(server.pids) / 2**20}
        measurement = _run_load(row, server, scale, strict=strict)
        if row.measures == "memory":
            time.sleep(SETTLE_SECONDS)
            measurement = attrs.evolve(measurement, rss_bytes=rss_bytes(server.pids))
        server.check()
    return attrs.evolve(measurement, extra=measurement.extra | extra)


def _run_load(row: Row, server: Server, scale: Scale, *, strict: bool) -> Measurement:
    kind, *options = row.loads[server.broker.protocol].format(**attrs.asdict(scale)).split()
    port = server.http_port if row.http else server.port
    command = [
        sys.executable,
        "-m",
        "bench.load",
        kind,
        str(port),
        f"--pids={','.join(map(str, server.pids))}",
    ]
    if row.http:
        options.append(f"--tcp-port={server.port}")
    if not strict:
        options.append("--allow-repeated-ids")
    try:
        done = subprocess.run(
            command + options, cwd=PROJECT, capture_output=True, text=True, timeout=LOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ServerError(f"{shlex.join(options)}: not done after {LOAD_SECONDS} s") from None
    if done.returncode:
        server.check()
        raise ServerError(done.stderr.strip() or f"load generator ended with code {done.returncode}")
    return Measurement.from_json(done.stdout)
