"""Properties of the environment that affect the figures: machine, interpreter, disk."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import attrs

__all__ = ["Facts", "SyncTime", "facts", "measure_sync"]

SYNC_APPEND_BYTES = 64 * 234
"""Bytes that a broker writes for 64 connections with one 200-byte message each."""
PACKAGES = ("trio", "attrs", "httptools", "msgpack", "crc32c")


@attrs.frozen
class Facts:
    """Printed above the table, stored in the JSON."""

    date: str
    cpu: str
    cores: int
    memory_mib: int
    kernel: str
    load_average: float
    """Of the last minute, before the first row: above about 0.5 the machine is in use."""
    interpreter: str
    """With links resolved: builds of one version differ by up to 1.8 times in speed, so the file is named."""
    python: str
    packages: dict[str, str]
    commit: str
    file_system: str


@attrs.frozen
class SyncTime:
    """Durations of fdatasync after an append to a growing file, in milliseconds."""

    p50_ms: float
    p99_ms: float


def facts(python: str, data_root: Path) -> Facts:
    """`python` is the interpreter that runs the broker, `data_root` the disk it writes to."""
    interpreter, python_version = _interpreter(python)
    return Facts(
        date=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        cpu=_proc_value("/proc/cpuinfo", "model name") or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_mib=int(_proc_value("/proc/meminfo", "MemTotal").split()[0]) // 1024,
        kernel=platform.release(),
        load_average=os.getloadavg()[0],
        interpreter=interpreter,
        python=python_version,
        packages=_package_versions(),
        commit=_output(["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent),
        file_system=_file_system(data_root),
    )


def measure_sync(folder: Path, rounds: int) -> SyncTime:
    """Append `SYNC_APPEND_BYTES` and fdatasync, `rounds` times: the minimum cost of a durable response."""
    data = b"x" * SYNC_APPEND_BYTES
    samples = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(rounds):
            file.write(data)
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            samples.append((time.perf_counter() - started) * 1e3)
    samples.sort()
    return SyncTime(p50_ms=samples[rounds // 2], p99_ms=samples[rounds * 99 // 100])


def _interpreter(python: str) -> tuple[str, str]:
    """The executable itself (a virtual environment only links to it), and its version."""
    script = (
        "import os, sys; print(os.path.realpath(sys.executable)); "
        "print(sys.implementation.name, sys.version.split()[0])"
    )
    lines = _output([python, "-c", script]).splitlines()
    return (lines[0], lines[1]) if len(lines) == 2 else (python, "unknown version")


def _output(command: list[str], cwd: Path | None = None) -> str:
    try:
        return subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _package_versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _proc_value(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _file_system(folder: Path) -> str:
    """Type of the file system that holds the folder, such as `ext4`."""
    best, kind = "", "unknown"
    target = str(folder.resolve()) + "/"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, fs_type, *_ = line.split()
        if target.startswith(mount.rstrip("/") + "/") and len(mount) >= len(best):
            best, kind = mount, fs_type
    return kind
