"""How the bodies of many messages are read: how many with one read, in place or by a job.

A read in place is small, and a channel makes one in a round, so that no round takes long. When the disk would block,
the read is a job, and each job reads further ahead: the more messages are wanted, the nearer they are to one another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from nsqd.broker.log_view import LogView
from nsqd.broker.plan_runner import PlanRunner
from nsqd.log.fetch import FetchResult
from nsqd.log.segment import ReadResult

__all__ = ["Bodies", "Fetcher"]

# In place: messages, and bytes that are read for them. About 2 ms.
INLINE_MESSAGES = 512
INLINE_BYTES = 1024 * 1024
# In a job: messages at first, doubled by each, and bytes.
FIRST_JOB = 1024
LAST_JOB = 16 * 1024
JOB_BYTES = 32 * 1024 * 1024
SINGLE_READ = 64 * 1024


class Bodies(Protocol):
    """Where the bodies go."""

    @property
    def room(self) -> int:
        """Bytes that one read may bring."""

    def accept(self, result: FetchResult) -> None:
        """The result of a read."""

    def accept_single(self, seq: int, result: ReadResult) -> None:
        """The result of a read of one message that the result for `accept` calls doubtful."""


class Fetcher:
    """One read at a time. `missing(count)`: seqs to read, of the next `count` that are wanted.

    `resume` is called when a job has ended, and when a read can be tried again.
    """

    def __init__(
        self, view: LogView, bodies: Bodies, missing: Callable[[int], list[int]], resume: Callable[[], None]
    ) -> None:
        self._view = view
        self._bodies = bodies
        self._missing = missing
        self._resume = resume
        self._runner = PlanRunner(view, 1, resume)
        self._job_messages = FIRST_JOB

    @property
    def busy(self) -> bool:
        """Whether a read is in progress, or waits for the next round or for a second try."""
        return self._runner.busy

    def cancel(self) -> None:
        """Ignore the result of a read in progress."""
        self._runner.cancel()

    def in_next_round(self) -> None:
        """Call `resume` in the next round."""
        self._runner.in_next_round()

    def read(self) -> None:
        """Read the bodies that are missing. Afterwards `busy` says whether something is still to come."""
        runner = self._runner
        if not runner.may_read_inline():
            runner.in_next_round()
        elif not self._view.context.may_read_inline() or not self._read_inline():
            self._start()

    def _read_inline(self) -> bool:
        """Read in place. False when the disk would block."""
        plan = self._view.log.plan_fetch(self._missing(INLINE_MESSAGES), INLINE_BYTES, self._bodies.room)
        result = self._runner.try_now(lambda: plan.run(wait=False))
        if result is None:  # an error
            return True
        if not result.frames and not result.doubtful:
            return False
        self._bodies.accept(result)
        return True

    def _start(self) -> None:
        wanted = self._missing(self._job_messages)
        plan = self._view.log.plan_fetch(wanted, JOB_BYTES, self._bodies.room)
        self._runner.start(plan.run, self._done)

    def _done(self, result: FetchResult) -> None:
        # When the frames are too large to be held together, the first ones must be among the next that are read.
        self._job_messages = (
            max(1, self._job_messages // 4) if result.full else min(2 * self._job_messages, LAST_JOB)
        )
        self._bodies.accept(result)
        self._resume()

    def read_single(self, seq: int) -> None:
        """Read a message that was not found as expected, over damage."""
        runner, plan = self._runner, self._view.log.plan(seq, SINGLE_READ)

        def accept(result: ReadResult | None) -> None:
            assert result is not None
            self._bodies.accept_single(seq, result)
            self._resume()

        if runner.may_read_inline():
            result = runner.try_now(lambda: plan.run(wait=False))
            if result is not None:
                self._bodies.accept_single(seq, result)
            if result is not None or runner.busy:
                return
        runner.start(plan.run, accept)
