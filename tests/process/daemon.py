"""One real `nsqd` in a process of its own, for a test to start, ask, hurt and start again.

    with Daemon(tmp_path) as daemon:
        daemon.start()
        ...daemon.tcp_port, daemon.http_port...
        daemon.kill()
        daemon.start()  # the same ports, the same data path

Rules:

- The first start listens on free ports and learns them from the daemon's own log lines; every later
  start asks for the same ones, as a restarted daemon in the field does.
- With `closed` it serves nobody without TLS and a token, and the requests of this class have both.
- Ready means: both listeners were announced and `/ping` was answered, whatever it said. A daemon that
  is not ready within `ready_within_s` is killed, and the error carries the end of its log.
- No process stays behind: leaving the `with` block kills it, and on Linux the kernel does so when the
  process that runs the tests dies first (`setpriv --pdeathsig`; that looks at the *thread* that started
  it, so start daemons from a thread that lives as long as the test).
- All waiting has a limit, in seconds on a quiet machine (`patience`), and all output kept is bounded.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import attrs

from tests.process.closed import Closed
from tests.process.ports import free_port
from tests.process.raw import RawClient
from tests.timing import patience

__all__ = ["HOST", "Daemon", "DaemonError"]

HOST = "127.0.0.1"
LINES_KEPT = 5_000
LISTENING = re.compile(r"INFO: (TCP|HTTPS?): listening on (?:.*):(\d+)\s*$")


class DaemonError(AssertionError):
    """The daemon did not do what the test needed of it; the text ends with the last lines of its log."""


@attrs.define(eq=False)
class Daemon:
    """A daemon on one data path. Start it with `start`; it is not running before."""

    data_path: Path
    flags: Sequence[str] = ()
    ready_within_s: float = 10.0
    tcp_port: int = attrs.field(factory=free_port)
    """The same over all its lives, as are the other ones."""
    http_port: int = attrs.field(factory=free_port)
    closed: Closed | None = None
    """What closes it; None: it is open to everybody."""
    https_port: int = 0
    """Of one that is closed."""
    process: subprocess.Popen[str] | None = None
    lines: deque[str] = attrs.field(factory=lambda: deque(maxlen=LINES_KEPT))
    """The log lines of all lives of this daemon, oldest first."""
    _announced: dict[str, int] = attrs.field(factory=dict)
    _news: threading.Condition = attrs.field(factory=threading.Condition)
    _reader: threading.Thread | None = None

    def __attrs_post_init__(self) -> None:
        if self.closed is not None:
            self.https_port = free_port()

    def __enter__(self) -> Daemon:
        """Start nothing; only promise that nothing is left behind."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the daemon if it runs."""
        self.kill()

    # Its life.

    def start(self) -> None:
        """Start the daemon and wait until it is ready. Raises `DaemonError` when it ends or stays silent."""
        assert self.process is None, "it is running already"
        self.launch()
        deadline = time.monotonic() + patience(self.ready_within_s)
        try:
            self._wait_for_listeners(deadline)
            self._wait_for_ping(deadline)
        except BaseException:
            self.kill()
            raise

    def launch(self) -> None:
        """Start the process and return at once: for tests of a start that fails, with `wait`."""
        self._announced.clear()
        self.process = subprocess.Popen(
            self.command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self._reader = threading.Thread(target=self._read_log, args=(self.process.stderr,), daemon=True)
        self._reader.start()

    def command(self) -> list[str]:
        """Give the command line of the next start."""
        guard = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        return [
            *guard,
            sys.executable,
            "-m",
            "nsqd",
            f"--tcp-address={HOST}:{self.tcp_port}",
            f"--http-address={HOST}:{self.http_port}",
            f"--data-path={self.data_path}",
            *self.closing_flags(),
            *self.flags,
        ]

    def closing_flags(self) -> list[str]:
        """Give what closes it; nothing for one that is open."""
        return self.closed.nsqd_flags(self.https_port) if self.closed is not None else []

    def kill(self) -> None:
        """Send SIGKILL and wait for the end. Does nothing when it does not run."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self._reap(5.0)

    def terminate(self, within_s: float = 10.0) -> int:
        """Send SIGTERM, wait, give the exit code. It is an error not to end within the limit."""
        process = self._running()
        process.terminate()
        return self.wait(within_s)

    def wait(self, within_s: float = 10.0) -> int:
        """Wait for the end and give the exit code (negative: the signal that ended it)."""
        process, within_s = self._running(), patience(within_s)
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DaemonError(f"not ended within {within_s:.1f} s\n{self.log_end()}") from None
        return self._reap(5.0)

    @contextlib.contextmanager
    def stop_cont(self) -> Iterator[None]:
        """Hold the process with SIGSTOP while the block runs; SIGCONT at its end, whatever happened in it."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    # What it says.

    @property
    def tcp_address(self) -> str:
        """Give host and port of the TCP protocol, as clients write it."""
        return f"{HOST}:{self.tcp_port}"

    def log_end(self, count: int = 40) -> str:
        """Give the last lines of the log for an error message, without what a test asks again and again."""
        lines = [line for line in list(self.lines) if "INFO: 200 GET /" not in line]
        return "".join(f"    {line}\n" for line in lines[-count:]) or "    (it logged nothing)\n"

    def request(
        self, method: str, target: str, body: bytes | None = None, *, within_s: float = 5.0
    ) -> tuple[int, bytes]:
        """Make one HTTP request on a connection of its own: status and body. OSError when nobody answers."""
        connection, headers = self.http_client(patience(within_s))
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def http_client(self, timeout_s: float) -> tuple[http.client.HTTPConnection, dict[str, str]]:
        """Give a connection, not open yet, and the headers for its requests."""
        if self.closed is None:
            return http.client.HTTPConnection(HOST, self.http_port, timeout=timeout_s), {}
        context = self.closed.context
        secure = http.client.HTTPSConnection(HOST, self.https_port, timeout=timeout_s, context=context)
        return secure, self.closed.headers

    def connect(self) -> RawClient:
        """Connect a client that may publish and subscribe. OSError when nobody listens."""
        client = RawClient.connect(self.tcp_port)
        try:
            if self.closed is not None:
                self.closed.enter(client)
        except BaseException:
            client.close()
            raise
        return client

    def metrics(self) -> bytes:
        """Give the page for Prometheus."""
        status, page = self.request("GET", "/metrics")
        assert status == 200
        return page

    def create_channel(self, topic: str, channel: str) -> None:
        """Create the topic and the channel over HTTP."""
        for target in (f"/topic/create?topic={topic}", f"/channel/create?topic={topic}&channel={channel}"):
            status, body = self.request("POST", target)
            assert status == 200, (target, status, body)

    def stats(self) -> dict[str, Any]:
        """Give `/stats?format=json`, without memory and clients."""
        status, body = self.request("GET", "/stats?format=json&include_mem=false&include_clients=false")
        assert status == 200, (status, body)
        stats: dict[str, Any] = json.loads(body)
        return stats

    def clients(self, topic: str, channel: str) -> list[dict[str, Any]]:
        """Give the clients of one channel, as /stats shows them."""
        status, body = self.request("GET", f"/stats?format=json&topic={topic}&channel={channel}")
        assert status == 200, (status, body)
        found: list[dict[str, Any]] = json.loads(body)["topics"][0]["channels"][0]["clients"]
        return found

    def channel_stats(self, topic: str, channel: str) -> dict[str, Any]:
        """Give the statistics of one channel; KeyError when there is none of that name."""
        for found in self._topic_stats(topic)["channels"]:
            if found["channel_name"] == channel:
                return dict(found)
        raise KeyError(channel)

    def unfinished(self, topic: str, channel: str) -> int:
        """Count what the channel has or will get: ready, in flight, deferred, waiting in the topic."""
        found = self.channel_stats(topic, channel)
        waiting = found["depth"] + found["in_flight_count"] + found["deferred_count"]
        return int(waiting + self._topic_stats(topic)["depth"])

    # Inside.

    @property
    def _listeners(self) -> set[str]:
        """Those that it announces in its log."""
        return {"TCP", "HTTP"} if self.closed is None else {"TCP", "HTTP", "HTTPS"}

    def _running(self) -> subprocess.Popen[str]:
        assert self.process is not None, "it is not running"
        return self.process

    def _topic_stats(self, topic: str) -> dict[str, Any]:
        for found in self.stats()["topics"]:
            if found["topic_name"] == topic:
                return dict(found)
        raise KeyError(topic)

    def _reap(self, within_s: float) -> int:
        process, within_s = self._running(), patience(within_s)
        code = process.wait(within_s)
        if self._reader is not None:
            self._reader.join(within_s)  # so that the last lines are in before anyone looks at them
        if process.stderr is not None:
            process.stderr.close()
        self.process = None
        return code

    def _read_log(self, stderr: IO[str]) -> None:
        with contextlib.suppress(ValueError, OSError):  # closed under us at the very end
            for line in stderr:
                self._take_line(line.rstrip("\n"))
        with self._news:
            self._news.notify_all()

    def _take_line(self, line: str) -> None:
        with self._news:
            self.lines.append(line)
            match = LISTENING.search(line)
            if match:
                self._announced[match[1]] = int(match[2])
            self._news.notify_all()

    def _wait_for_listeners(self, deadline: float) -> None:
        process = self._running()
        while not self._listens(within_s=0.1):
            if process.poll() is not None:
                code = self._reap(5.0)
                raise DaemonError(f"ended with exit code {code} before it listened\n{self.log_end()}")
            if time.monotonic() >= deadline:
                raise DaemonError(
                    f"does not listen after {patience(self.ready_within_s):.1f} s\n{self.log_end()}"
                )
        self.tcp_port = self._announced.get("TCP", self.tcp_port)
        self.http_port = self._announced.get("HTTP", self.http_port)

    def _listens(self, within_s: float) -> bool:
        with self._news:
            return self._news.wait_for(lambda: self._announced.keys() >= self._listeners, within_s)

    def _wait_for_ping(self, deadline: float) -> None:
        while True:
            try:
                self.request("GET", "/ping", within_s=max(0.1, deadline - time.monotonic()))
            except OSError as error:
                if time.monotonic() >= deadline:
                    raise DaemonError(f"does not answer /ping: {error}\n{self.log_end()}") from error
                time.sleep(0.02)
            else:
                return
