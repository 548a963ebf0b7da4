"""A channel's reads of its topic's log, for messages at its cursor that are not in memory.

A channel has at most one read in progress, and reads ahead up to 1 MiB. All channels together hold a bounded number of
bytes: the channel that read longest ago drops its frames, which can be read again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from nsqd.broker.log_view import LogView
from nsqd.broker.plan_runner import PlanRunner
from nsqd.log.moved import MovedPlan
from nsqd.log.segment import MessageRun, ReadPlan, ReadResult

__all__ = ["LogReader"]

FIRST_READ = 64 * 1024  # bytes; doubled after each read in place, up to `LARGEST_READ`
LARGEST_READ = 1024 * 1024
INLINE_READS = 4  # in one round and channel; further reads are jobs, which bounds the length of a round


class LogReader:
    """The reads of one channel. `wake` is called when a read that ran as a job has ended.

    `let_go(first, frames)`: these frames, which were taken, leave memory.
    """

    def __init__(
        self, view: LogView, wake: Callable[[], None], let_go: Callable[[int, list[bytes]], None]
    ) -> None:
        self._view = view
        self._wake = wake
        self._let_go = let_go
        self._budget = view.context.read_ahead
        self._runs: deque[MessageRun] = deque()  # in rising order
        self._taken: list[MessageRun] = []  # of the last read; most of them are finished before the next one
        self._size = FIRST_READ
        self._runner = PlanRunner(view, INLINE_READS, wake)

    def take(self, seq: int, limit: int) -> list[bytes] | None:
        """Up to `limit` consecutive messages from `seq` on; None while they are being read."""
        frames = self._cached(seq, limit)
        if frames is None and self._read(seq):
            self._size = min(2 * self._size, LARGEST_READ)
            frames = self._cached(seq, limit)
        return frames

    def _cached(self, seq: int, limit: int) -> list[bytes] | None:
        runs = self._runs
        while runs and runs[0].first + len(runs[0].frames) <= seq:
            self._taken.append(runs.popleft())
        if not runs or runs[0].first > seq:
            return None
        at = seq - runs[0].first
        return runs[0].frames[at : at + limit]

    def _read(self, seq: int) -> bool:
        """Read from `seq` on: True when done, False when it runs as a job or has to be retried later."""
        runner = self._runner
        if runner.busy:
            return False
        plan = self._view.log.plan(seq, self._size)
        if runner.may_read_inline() and self._view.context.may_read_inline():
            result = runner.try_now(lambda: plan.run(wait=False))
            if result is not None:
                self._accept(plan, result)
                return True
            if runner.busy:  # after an error
                return False

        def accept(result: ReadResult | None) -> None:
            assert result is not None
            self._accept(plan, result)
            self._wake()

        runner.start(plan.run, accept)
        return False

    def _accept(self, plan: ReadPlan | MovedPlan, result: ReadResult) -> None:
        self._view.accept(result)
        first = result.runs[0].first if result.runs else result.next
        if first > plan.seq:  # damaged, or never written
            self._view.on_loss(plan.seq, first, True)
            self._wake()  # the caller got nothing, but there may be messages after the gap
        elif not result.runs:
            self._wake()  # the message is not where it was said to be, but may be elsewhere
        self._let_taken_go()
        self._runs = deque(result.runs)
        self._budget.update(self, sum(sum(map(len, run.frames)) for run in self._runs))

    def let_go_before(self, seq: int) -> None:
        """Let the frames before the cursor go, which is at `seq`."""
        if self._runs and self._runs[0].first < seq:
            run, at = self._runs[0], seq - self._runs[0].first
            self._taken.append(MessageRun(run.first, run.frames[:at]))
            self._runs[0] = MessageRun(seq, run.frames[at:])
        self._let_taken_go()

    def _let_taken_go(self) -> None:
        taken, self._taken = self._taken, []
        for run in taken:
            self._let_go(run.first, run.frames)

    @property
    def holds_frames(self) -> bool:
        return bool(self._runs or self._taken)

    def end(self) -> None:
        """The cursor has reached messages in memory: let all frames go."""
        self._taken += self._runs
        self._runs.clear()
        self._let_taken_go()
        self._size = FIRST_READ
        self._budget.update(self, 0)

    def release(self, size: int) -> int:
        """Drop all frames; they can be read again. See `MemoryBudget`."""
        self._taken.clear()
        self._runs.clear()
        self._size = FIRST_READ
        return 0

    def close(self) -> None:
        """Drop all frames, and ignore the result of a read in progress."""
        self._runner.cancel()
        self._taken.clear()
        self._runs.clear()
        self._size = FIRST_READ
        self._budget.update(self, 0)
