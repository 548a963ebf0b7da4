"""Brokers under test: start, detection of readiness, and stop.

A broker is a command with placeholders: `{port}`, `{http_port}`, `{data_path}`, `{flags}`. One that reports
where it listens, as nsqd does, is given port 0 and read; any other gets free ports and is ready when it
accepts a connection. Each start has a data path of its own, made anew on the disk of `data_root` and
removed afterwards. A broker runs in a process group of its own, and only that group is ever signalled.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import IO

import attrs

from bench.procfs import group_members

__all__ = ["Broker", "Server", "ServerError", "beanstalkd", "free_port", "nats", "nsqd", "peer", "redis"]

START_SECONDS = 20
RESTART_SECONDS = 120
"""The same, with existing data."""
STOP_SECONDS = 10
KEPT_LOG_LINES = 200
PROJECT = Path(__file__).resolve().parent.parent

# A question that each kind of broker answers as soon as it is at work, and how the answer begins.
QUESTIONS = {
    "nsq": (b"  V2IDENTIFY\n\0\0\0\2{}", b"\0\0\0\6\0\0\0\0OK"),
    "beanstalk": (b"list-tubes\r\n", b"OK "),
    "redis": (b"PING\r\n", b"+PONG"),
    "nats": (b"", b"INFO "),
}
# Where Debian has daemons; not everybody's PATH has it.
DAEMONS = f"{os.environ.get('PATH', '')}:/usr/sbin"

_stretch = re.compile(r"^longest stretch: ([0-9.]+)$")
_listening = re.compile(r"\b(TCP|HTTP): listening on .*:(\d+)\s*$")


class ServerError(Exception):
    """The broker did not start, or ended while it was needed; the text ends with its last log lines."""


@attrs.frozen
class Broker:
    """A kind of server that rows can be run against."""

    name: str
    command: str
    """With placeholders; run by a shell if `shell` is set."""
    protocol: str = "nsq"
    """`nsq`, `beanstalk`, `redis` or `nats`: selects the loads."""
    shell: bool = False
    reports_ports: bool = False
    """True: ready when its log says where it listens (both ports). False: when `port` accepts."""
    disk_flags: str = ""
    """Replaces `{flags}` so that every response waits for the disk; empty if there is no such level."""
    version: str = ""
    missing: str = ""
    """The reason why it cannot be run here, with which its rows are skipped."""
    no_disk: str = ""
    """The reason why there is no such level."""
    default_level: str = ""
    """Its durability without `disk_flags`, if the name in the table has to mention it."""
    traced_command: str = ""
    """The command with a watch on its loop, see `Server.longest_stretch`."""
    tested: bool = False
    """Whether it is under test, and not only there to compare with."""
    interpreter: str = ""
    """It is compared with the one under test that has the same, or with the first one."""

    def label(self, *, to_disk: bool = False) -> str:
        """Its name in the table, with its durability."""
        return f"{self.name} {self.disk_flags if to_disk else self.default_level}".strip()

    def traced(self) -> Broker:
        """The same with a watch on its loop, if there is such a command."""
        return attrs.evolve(self, command=self.traced_command) if self.traced_command else self

    @property
    def has_http(self) -> bool:
        return self.protocol == "nsq" and (self.reports_ports or "{http_port}" in self.command)


def nsqd(python: str, *, of_several: bool = False) -> Broker:
    """This project's broker, run by that interpreter, which is one `of_several`."""
    interpreter = shlex.quote(python)
    flags = "--tcp-address=127.0.0.1:0 --http-address=127.0.0.1:0 --data-path={data_path} {flags}"
    return Broker(
        f"nsqd, {python}" if of_several else "nsqd",
        f"{interpreter} -m nsqd {flags}",
        reports_ports=True,
        disk_flags="--durability=disk",
        version=_first_line([python, "-m", "nsqd", "--version"]),
        traced_command=f"{interpreter} -m bench.traced nsqd {flags}",
        tested=True,
        interpreter=python if of_several else "",
    )


def peer(name: str, command: str, *, tested: bool = False, python: str = "") -> Broker:
    """Anything that speaks NSQ V2, started by a shell command, in which `{python}` is an interpreter."""
    if python:
        name, command = f"{name}, {python}", command.replace("{python}", shlex.quote(python))
    disk_flags = "--durability=disk" if "{flags}" in command else ""
    return Broker(
        name, command, shell=True, disk_flags=disk_flags, version=command, tested=tested, interpreter=python
    )


def beanstalkd() -> Broker:
    """Debian's beanstalkd with its binlog on and its fsync as it is by default, at most every 50 ms."""
    missing, version = _installed("beanstalkd", "-v", "beanstalkd")
    return Broker(
        "beanstalkd -b",
        "beanstalkd -l 127.0.0.1 -p {port} -b {data_path} {flags}",
        protocol="beanstalk",
        disk_flags="-f0",
        version=version,
        missing=missing,
        default_level="(-f50, its default)",
    )


def redis() -> Broker:
    """Debian's Redis with its append-only file on and nothing else written; fsync once a second, its default."""
    missing, version = _installed("redis-server", "--version", "redis-server")
    return Broker(
        "Redis streams",
        "redis-server --bind 127.0.0.1 --port {port} --dir {data_path} --save '' --daemonize no"
        " --appendonly yes --appendfsync everysec {flags}",
        protocol="redis",
        disk_flags="--appendfsync always",
        version=version,
        missing=missing,
        default_level="(AOF, everysec)",
    )


def nats() -> Broker:
    """Debian's nats-server with JetStream on files; fsync every two minutes, its default."""
    missing, version = _installed("nats-server", "--version", "nats-server")
    return Broker(
        "NATS JetStream",
        "nats-server -a 127.0.0.1 -p {port} -js -sd {data_path}",
        protocol="nats",
        version=version,
        missing=missing,
        no_disk="it has no level with an fsync before the answer (nats-server 2.10 has one)",
        default_level="(file, fsync every 2 min)",
    )


def _installed(program: str, version_flag: str, package: str) -> tuple[str, str]:
    """The reason why it cannot be run, or an empty text and its version."""
    path = shutil.which(program, path=DAEMONS)
    if path is None:
        return f"{program} is not installed (apt-get install {package})", ""
    return "", _first_line([path, version_flag])


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown version"
    return (done.stdout.splitlines() or ["unknown version"])[0]


class Server:
    """One running broker; a context manager that starts and ends it.

    Inside: `port`, `http_port` (0 if it has none), `pids`, `start_seconds` (from exec until it listens).
    `flags` are put in the place of `{flags}`.
    """

    def __init__(self, broker: Broker, data_root: Path, *, flags: str = "") -> None:
        self.broker = broker
        self.port = self.http_port = 0
        self.pids: list[int] = []
        self.start_seconds = 0.0
        self._data_root = data_root
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None
        self._ready_at = 0.0
        self._lines: deque[str] = deque(maxlen=KEPT_LOG_LINES)
        self._ready = threading.Event()
        self._stretch = 0.0
        self._stretch_known = threading.Event()

    def __enter__(self) -> Server:
        """Raises ServerError when it is not listening within `START_SECONDS`."""
        self._data_path = Path(tempfile.mkdtemp(prefix="data-", dir=self._data_root))
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def restart_cold(self) -> None:
        """End it in order and start it on the same data, which has left the page cache; wait until it answers.

        `start_seconds` is then the time from exec to its first answer. Raises ServerError.
        """
        self._stop()
        _drop_from_page_cache(self._data_path)
        self.port = self.http_port = 0
        self._ready.clear()
        started = time.perf_counter()
        self._start(RESTART_SECONDS)
        question, answer = QUESTIONS[self.broker.protocol]
        while not _answers(self.port, question, answer):
            self.check()
            if time.perf_counter() - started > RESTART_SECONDS:
                raise ServerError(f"{self.broker.name} does not answer after {RESTART_SECONDS} s")
        self.start_seconds = time.perf_counter() - started
        _drop_from_page_cache(self._data_path)  # and what the start has read

    def longest_stretch(self) -> float | None:
        """Seconds of CPU that its loop took at most between two looks at the network, since this was last asked.

        None if the broker is not one that tells; ServerError if it does not tell.
        """
        if not self.broker.traced_command or self._process is None:
            return None
        self._stretch_known.clear()
        self._process.send_signal(signal.SIGUSR2)
        if not self._stretch_known.wait(STOP_SECONDS):
            raise ServerError(f"{self.broker.name} does not tell about its loop{self._log_tail()}")
        return self._stretch

    def check(self) -> None:
        """Raises ServerError if it has ended."""
        code = self._process.poll() if self._process else None
        if code is not None:
            raise ServerError(f"{self.broker.name} ended with code {code}{self._log_tail()}")

    def _start(self, patience_seconds: float = START_SECONDS) -> None:
        if not self.broker.reports_ports:
            self.port, self.http_port = free_port(), free_port() if self.broker.has_http else 0
        command = self._command()
        started = time.perf_counter()
        process = self._process = subprocess.Popen(
            ["/bin/sh", "-c", command] if self.broker.shell else shlex.split(command),
            cwd=PROJECT,
            env=os.environ | {"PATH": DAEMONS},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        self._reader = threading.Thread(target=self._read_log, args=(process.stdout,), daemon=True)
        self._reader.start()
        self._wait_until_ready(started, patience_seconds)
        self.pids = group_members(process.pid)

    def _command(self) -> str:
        values = {
            "{port}": str(self.port),
            "{http_port}": str(self.http_port),
            "{data_path}": shlex.quote(str(self._data_path)),
            "{flags}": self._flags,
        }
        command = self.broker.command
        for placeholder, value in values.items():
            command = command.replace(placeholder, value)
        return command

    def _wait_until_ready(self, started: float, patience_seconds: float) -> None:
        deadline = started + patience_seconds
        while time.perf_counter() < deadline:
            if self._ready.wait(0.001) if self.broker.reports_ports else _accepts(self.port):
                self.start_seconds = (
                    self._ready_at if self.broker.reports_ports else time.perf_counter()
                ) - started
                return
            self.check()
        raise ServerError(f"{self.broker.name} does not listen after {patience_seconds} s{self._log_tail()}")

    def _read_log(self, pipe: IO[bytes]) -> None:
        """Runs in a thread until the broker closes its end: keeps the last lines, learns the ports."""
        for raw in pipe:
            line = raw.decode(errors="replace").rstrip()
            self._lines.append(line)
            if stretch := _stretch.search(line):
                self._stretch = float(stretch[1])
                self._stretch_known.set()
            found = _listening.search(line) if self.broker.reports_ports else None
            if found and found[1] == "TCP":
                self.port = int(found[2])
            elif found:
                self.http_port = int(found[2])
            if found and self.port and self.http_port:
                self._ready_at = time.perf_counter()
                self._ready.set()

    def _log_tail(self) -> str:
        return "".join(f"\n    {line}" for line in list(self._lines)[-15:])

    def _end(self) -> None:
        self._stop()
        shutil.rmtree(self._data_path, ignore_errors=True)

    def _stop(self) -> None:
        """SIGTERM, and after a while SIGKILL for the remaining processes of the group."""
        process = self._process
        if process is None:
            return
        _signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        _signal_group(process, signal.SIGKILL)
        process.wait()
        self._reader.join(STOP_SECONDS)
        if process.stdout:
            process.stdout.close()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal the group, which may have ended already."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        time.sleep(0.001)
        return False
    return True


def _answers(port: int, question: bytes, answer: bytes) -> bool:
    """Whether it sends this response."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=RESTART_SECONDS) as sock:
            sock.sendall(question)
            if sock.recv(1 << 12).startswith(answer):
                return True
    except OSError:
        pass
    time.sleep(0.01)
    return False


def _drop_from_page_cache(folder: Path) -> None:
    """Sync all files of the folder and drop them from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
