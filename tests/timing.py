"""How long a test waits for what must happen: the longer, the slower or busier this machine is.

`patience(10)` are the seconds in which a process, a socket or a thread has to do what takes less than 10 on a quiet
machine. Once a session its controller measures how slow the machine is (`measure`); the workers of pytest-xdist inherit
the result. What begins later shows in the load average.

Waiting that proves that something does *not* happen, and times that a daemon is configured with, are not scaled.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

__all__ = ["measure", "patience"]

_VARIABLE = "NSQ_TESTS_SLOWNESS"
_LOOPS = 5
_LOOP_S = 0.02  # seconds of `_loop` on the quiet machine where deadlines were chosen (two cores, Python 3.11)
_START_S = 0.04  # and of starting an interpreter
_HEADROOM = 2.0  # the workers and the daemons that they start compete with one another, too
_MOST = 30.0


def measure() -> None:
    """Measure the machine for this process and its children; half a second on a quiet one."""
    if _VARIABLE not in os.environ:
        loop_s = sum(_loop() for _ in range(_LOOPS)) / _LOOPS
        start_s = sum(_start() for _ in range(_LOOPS)) / _LOOPS
        os.environ[_VARIABLE] = f"{max(loop_s / _LOOP_S, start_s / _START_S):.2f}"


def patience(seconds: float) -> float:
    """So many seconds of a quiet machine, as seconds on this one now; never less."""
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    slowness = max(float(os.environ.get(_VARIABLE, "1")), load)
    return seconds * min(max(1.0, _HEADROOM * slowness), _MOST)


def _loop() -> float:
    began = time.perf_counter()
    total = 0
    for number in range(400_000):
        total += number * number % 7
    return time.perf_counter() - began


def _start() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import json, socket"], check=True)
    return time.perf_counter() - began
