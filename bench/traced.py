"""A daemon with a watch on its loop: `python -m bench.traced nsqd FLAGS OF NSQD`, and so for nsqadmin.

Measures the longest CPU time of the loop between two polls of the network: input that arrives meanwhile waits at least
that long. It is CPU time of the loop's thread, not wall time, so other processes do not affect it. At SIGUSR2 it writes
`longest stretch: SECONDS` to stderr and begins anew.
"""

from __future__ import annotations

import runpy
import signal
import sys
import time
from functools import partial

import attrs
import trio

__all__ = ["Stretches"]


@attrs.define(eq=False)
class Stretches(trio.abc.Instrument):
    """Called by trio before and after each wait for the network."""

    longest: float = 0.0
    """Seconds."""
    _began: float = attrs.field(factory=time.thread_time)

    def after_io_wait(self, timeout: float) -> None:
        self._began = time.thread_time()

    def before_io_wait(self, timeout: float) -> None:
        self.longest = max(self.longest, time.thread_time() - self._began)

    def report(self, *_: object) -> None:
        """The handler of the signal."""
        longest = self.longest
        # First: the next signal may come as soon as it is written.
        self.longest, self._began = (0.0, time.thread_time())
        sys.stderr.write(f"longest stretch: {longest:.6f}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    stretches = Stretches()
    signal.signal(signal.SIGUSR2, stretches.report)
    vars(trio)["run"] = partial(trio.run, instruments=[stretches])  # what the daemon calls
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__")
