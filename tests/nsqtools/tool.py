"""One tool in a process of its own, as users start it: `python -m nsqtools.NAME`.

    done = run_tool("to_nsq", "--topic=t", "--nsqd-tcp-address=...", stdin=b"one\\ntwo\\n")
    with Tool(tmp_path, "nsq_tail", "--topic=t", ...) as tail:
        tail.wait_for_output(b"one\\n")
        assert tail.terminate() == 0

What it writes goes to files, so that it never waits for its reader; nothing stays behind.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from tests.process.waiting import wait_until
from tests.timing import patience

__all__ = ["Tool", "run_tool", "run_with_full_stdout"]

WITHIN_S = 15.0


def command(name: str, *flags: str) -> list[str]:
    """Give the command line; on Linux the kernel ends the tool when the tests die."""
    guard = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    return [*guard, sys.executable, "-m", f"nsqtools.{name}", *flags]


def run_tool(
    name: str, *flags: str, stdin: bytes = b"", within_s: float = WITHIN_S
) -> subprocess.CompletedProcess[bytes]:
    """Run a tool to its end."""
    return subprocess.run(
        command(name, *flags), input=stdin, capture_output=True, timeout=patience(within_s), check=False
    )


def run_with_full_stdout(name: str, *flags: str) -> subprocess.CompletedProcess[bytes]:
    """Run a tool to its end whose standard output cannot be written: no space left on device."""
    with open("/dev/full", "wb") as full:
        return subprocess.run(
            command(name, *flags),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=patience(WITHIN_S),
            check=False,
        )


class Tool:
    """A tool that runs while the block does; `start` runs it again."""

    def __init__(self, folder: Path, name: str, *flags: str, stdin: int = subprocess.DEVNULL) -> None:
        self._command = command(name, *flags)
        self._stdin = stdin
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Tool:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill it if it still runs."""
        self.kill()

    def start(self) -> None:
        """Start it; what it writes is appended to what it wrote before."""
        assert self.process is None, "it is running already"
        with self._out.open("ab") as out, self._err.open("ab") as err:
            self.process = subprocess.Popen(self._command, stdin=self._stdin, stdout=out, stderr=err)

    @property
    def running(self) -> subprocess.Popen[bytes]:
        """The process."""
        assert self.process is not None, "it is not running"
        return self.process

    @property
    def output(self) -> bytes:
        """Everything on stdout so far."""
        return self._out.read_bytes()

    @property
    def log(self) -> str:
        """Everything on stderr so far."""
        return self._err.read_text()

    def wait_for_output(self, wanted: bytes, within_s: float = WITHIN_S) -> None:
        """Wait until this is on stdout."""
        wait_until(lambda: wanted in self.output, within_s, f"{wanted!r} on stdout", describe=self._describe)

    def wait_for_log(self, wanted: str, within_s: float = WITHIN_S) -> None:
        """Wait until this is on stderr."""
        wait_until(lambda: wanted in self.log, within_s, f"{wanted!r} on stderr", describe=self._describe)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.running.send_signal(number)

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send SIGTERM and give the exit code."""
        self.send(number)
        return self.wait()

    def wait(self, within_s: float = WITHIN_S) -> int:
        """Wait for the end and give the exit code."""
        process, within_s = self.running, patience(within_s)
        try:
            code = process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not ended within {within_s:.1f} s\n{self._describe()}") from None
        self._gone()
        return code

    def kill(self) -> None:
        """Send SIGKILL and wait for the end. Does nothing when it does not run."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait(patience(5))
            self._gone()

    def _gone(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        self.process = None

    def _describe(self) -> str:
        return f"stdout: {self.output[-500:]!r}\nstderr:\n{self.log[-3000:]}"
