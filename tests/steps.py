"""How long other tasks have to wait for their turn: the steps of all tasks, in CPU seconds of this thread.

CPU does not count what other programs do meanwhile, and how long the longest step is compares with the sum of all,
measured in the same run: both are as slow as the machine.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import trio

__all__ = ["Steps"]


class Steps(trio.abc.Instrument):
    """`longest_s` and `total_s` of the steps between two checkpoints, while `measured`."""

    def __init__(self) -> None:
        self.longest_s = self.total_s = 0.0
        self._began_s = 0.0

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """Measure all steps from here to the end of the block."""
        self._began_s = time.thread_time()
        trio.lowlevel.add_instrument(self)
        yield
        trio.lowlevel.remove_instrument(self)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began_s = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        step_s = time.thread_time() - self._began_s
        self.longest_s = max(self.longest_s, step_s)
        self.total_s += step_s
