"""A foreign client library in a process of its own, led by the test with lines of JSON.

Each library has a small script (`_pynsq_client.py`, `nsqjs_client.js`, ...) that understands the same
few orders on standard input and reports on standard output, so that one set of scenarios serves them
all. The process of its own keeps the library's event loop, its warnings and its faults away from the
tests.

Arguments: the nsqds' addresses, and the registries' as `--lookupd=host:port`; with registries alone a consumer
connects to what they know, now and later. Where the library can: `--layer=tls` with `--ca=FILE`, `--layer=snappy`,
`--layer=deflate`, and `--secret=SECRET` for AUTH.

Orders, one JSON object a line (bodies are base64):

- `publish` with `how` (`single`, `multi` or `deferred`), `topic`, `bodies`, `delay_ms`: reports
  `published` when all are acknowledged.
- `consume` with `topic`, `channel`, `in_flight`, `requeue_every`, `touch_every`, `hold_after`: reports
  `subscribed` (with registries: when it has begun to look for nsqds), and then each message.
- `touch_for` with `topic`, `channel`, `seconds`: keeps the first message so long, touching it twice a
  second, then finishes it and reports it.
- `resume`: forget what is held, answer again what comes; reports `resumed`.
- `sync`: reports `synced`, after all that was reported before.
- `quit`: end with exit code 0.

Reports: `ready` (started), `published` (`count`), `publish_failed` (`error`), `subscribed`, `holding`,
`resumed`, `synced` and `message` with `id`, `attempts`, `body` and `action`, what the client does with it:
`finish`, `touch` (touch, then finish), `requeue` (only at the first attempt) or `hold`. With
`hold_after` = n the client answers n messages and then keeps all that come unanswered, until it is told
to resume. Each report gets `at_s`, the monotonic time when it was read here.
"""

from __future__ import annotations

import base64
import contextlib
import json
import queue
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import attrs

from tests.timing import patience

__all__ = ["Puppet", "Report"]

ROOT = Path(__file__).resolve().parents[2]

Report = dict[str, Any]


@attrs.define(eq=False)
class Puppet:
    """One process with a foreign client in it; use it in a `with` block, which ends the process."""

    command: Sequence[str]
    """What to run; the addresses of the daemons come after it."""
    addresses: Sequence[str]
    lookupds: Sequence[str] = ()
    """The registries' HTTP addresses, for a library that is to find its nsqds by itself."""
    past: list[Report] = attrs.field(factory=list)
    """All reports read so far."""
    _process: subprocess.Popen[str] | None = None
    _reports: queue.Queue[Report | None] = attrs.field(factory=queue.Queue)
    _errors: deque[str] = attrs.field(factory=lambda: deque(maxlen=60))

    def __enter__(self) -> Puppet:
        """Start the process and wait until it is connected."""
        guard = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        self._process = subprocess.Popen(
            [*guard, *self.command, *self.addresses, *(f"--lookupd={each}" for each in self.lookupds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        for work, pipe in (
            (self._read_reports, self._process.stdout),
            (self._read_errors, self._process.stderr),
        ):
            threading.Thread(target=work, args=(pipe,), daemon=True).start()
        try:
            self.wait_for("ready")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ask it to quit; kill it when it does not."""
        with contextlib.suppress(OSError):
            self.order("quit")
        self._end(grace_s=2.0)

    def order(self, name: str, **fields: Any) -> None:
        """Send one order. OSError when the process has ended."""
        process = self._running()
        assert process.stdin is not None
        process.stdin.write(json.dumps({"order": name, **fields}) + "\n")
        process.stdin.flush()

    def publish(self, how: str, topic: str, bodies: Sequence[bytes], *, delay_ms: int = 0) -> None:
        """Let it publish these and wait until all are acknowledged."""
        encoded = [base64.b64encode(body).decode() for body in bodies]
        self.order("publish", how=how, topic=topic, bodies=encoded, delay_ms=delay_ms)
        report = self.wait_for("published", "publish_failed")
        assert report["report"] == "published", report
        assert report["count"] == len(bodies), report

    def consume(self, topic: str, channel: str, **fields: Any) -> None:
        """Let it subscribe and wait until it has."""
        self.order("consume", **{"topic": topic, "channel": channel, "in_flight": 50, **fields})
        self.wait_for("subscribed")

    def wait_for(self, *names: str, within_s: float = 15.0) -> Report:
        """Read reports up to the first of one of these names, and give it."""
        within_s = patience(within_s)
        deadline = time.monotonic() + within_s
        while True:
            report = self._next_report(deadline, f"no report {' or '.join(names)} within {within_s:.1f} s")
            if report["report"] in names:
                return report

    def all_messages(self) -> list[Report]:
        """Give the reports of all messages: a daemon may know of an answer before its report has come here."""
        self.order("sync")
        self.wait_for("synced")
        return self.messages()

    def messages(self) -> list[Report]:
        """Give the reports of messages, with their bodies decoded, as far as they came."""
        with contextlib.suppress(queue.Empty):
            while True:
                report = self._reports.get_nowait()
                if report is None:
                    break
                self._enter(report)
        return [report for report in self.past if report["report"] == "message"]

    def trouble(self) -> str:
        """Give what it wrote to standard error, for an error message."""
        return f"{self.command[-1]}: " + "\n    ".join(["its standard error:", *self._errors])

    # Inside.

    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None, "not started"
        return self._process

    def _next_report(self, deadline: float, otherwise: str) -> Report:
        try:
            report = self._reports.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise AssertionError(f"{otherwise}\n{self.trouble()}") from None
        if report is None:
            self._reports.put(None)
            raise AssertionError(
                f"it ended with {self._running().wait(patience(5))}: {otherwise}\n{self.trouble()}"
            )
        self._enter(report)
        return report

    def _enter(self, report: Report) -> None:
        if "body" in report:
            report["body"] = base64.b64decode(report["body"])
        self.past.append(report)

    def _read_reports(self, pipe: IO[str]) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in pipe:
                if line.startswith("{"):  # a library may print things of its own
                    self._reports.put({"at_s": time.monotonic(), **json.loads(line)})
        self._reports.put(None)

    def _read_errors(self, pipe: IO[str]) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in pipe:
                self._errors.append(line.rstrip("\n"))

    def _end(self, grace_s: float = 0.0) -> None:
        process = self._running()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience(grace_s))
        process.kill()
        process.wait(patience(5))
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
