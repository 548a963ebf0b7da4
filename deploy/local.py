"""Runs the programs of a Procfile on this machine until Ctrl-C, for `make run` and `make demo`: not for production.

    python deploy/local.py deploy/Procfile [MORE_PROCFILES ...]

A line of a Procfile is `NAME: COMMAND`. All programs are started at once, in the order of the lines, and write to this
terminal. They are stopped in the reverse order, each after the one before has ended, so that a registry outlives the
nsqds that report to it, and no log line of a stop looks like an error. If one ends by itself, all are stopped.

Ctrl-C is for this program alone: it becomes the foreground process group, as a job of a shell would. Otherwise `make`
would get the signal too, and report an interrupt.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

STOP_WITHIN_S = 20.0


def commands(paths: list[str]) -> dict[str, str]:
    """Names and commands of these Procfiles, in their order."""
    lines = [line for path in paths for line in Path(path).read_text().splitlines()]
    split = [line.partition(":") for line in lines if line.strip() and not line.startswith("#")]
    return {name.strip(): command.strip() for name, _, command in split}


@contextlib.contextmanager
def foreground() -> Iterator[None]:
    """Make this process the foreground job of its terminal, if there is one."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
    except OSError:
        yield
        return
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # sent to a background job that changes this
    original = os.tcgetpgrp(terminal)
    try:
        if original == os.getpgrp():
            os.setpgid(0, 0)
            os.tcsetpgrp(terminal, os.getpid())
        yield
    finally:
        with contextlib.suppress(OSError):
            os.tcsetpgrp(terminal, original)
        signal.signal(signal.SIGTTOU, before)
        os.close(terminal)


def run(wanted: dict[str, str]) -> int:
    """Start all, wait for a signal or for the first to end, and stop all. The exit code: 1 if one ended by itself."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD}
    signal.signal(signal.SIGCHLD, _ignore)  # whose default is not to arrive
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        for name, command in wanted.items():
            running[name] = subprocess.Popen(  # noqa: S603 - of our own Procfile
                ["/bin/sh", "-c", command],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_unblock,
            )
        while True:
            received = signal.sigwait(signals)
            if received != signal.SIGCHLD:
                print("\nstopping ...", flush=True)
                return 0
            for name, process in running.items():
                if process.poll() is not None:
                    print(f"{name} has ended, with code {process.returncode}: stopping all", flush=True)
                    return 1
    finally:
        for process in reversed(running.values()):
            _stop(process)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """For `sigwait` to receive the signal."""


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End its process group: first politely."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(STOP_WITHIN_S)
            return
        except subprocess.TimeoutExpired:
            continue


def main() -> None:
    """Run the Procfiles of the command line."""
    with foreground():
        code = run(commands(sys.argv[1:]))
    sys.exit(code)


if __name__ == "__main__":
    main()
