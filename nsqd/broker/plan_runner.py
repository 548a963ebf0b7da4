"""Reads of the log for one channel, one at a time.

The core cannot wait. A read is first tried in place, without waiting for the disk (most of the data is in the page
cache). If the system reports that it would block, it becomes a job. An I/O error is not taken for damage: the read is
tried again after a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from nsqd.broker.log_view import LogView
from nsqd.log.jobs import Job

__all__ = ["PlanRunner"]

RETRY_AFTER = 1.0  # seconds, after an I/O error

T = TypeVar("T")


class PlanRunner:
    """`resume` is called when a read can be tried: after an error, or in the next round.

    `inline_reads`: in place, in one round.
    """

    def __init__(self, view: LogView, inline_reads: int, resume: Callable[[], None]) -> None:
        self._view = view
        self._inline_reads = inline_reads
        self._resume = resume
        self._reading = False
        self._round = 0
        self._reads = 0
        self._epoch = 0  # raised by `cancel`: the result of a read that began earlier is discarded
        self.alarm_at = math.inf

    @property
    def busy(self) -> bool:
        """Whether a read is in progress, or waits to be tried again."""
        return self._reading or self.alarm_at < math.inf

    def may_read_inline(self) -> bool:
        """Take one of the reads in place of this round, if there is one left for this channel."""
        current = self._view.context.round
        if current != self._round:
            self._round, self._reads = current, 0
        self._reads += 1
        return self._reads <= self._inline_reads

    def try_now(self, read: Callable[[], T]) -> T | None:
        """Read in place; None after an error."""
        try:
            return read()
        except OSError as error:
            self._failed(error)
            return None

    def start(self, read: Callable[[], T], accept: Callable[[T], None]) -> None:
        """Read in a job; `accept` gets the result in a later round."""
        self._reading = True
        epoch = self._epoch

        def done(result: T) -> None:
            if epoch == self._epoch:  # else the channel was emptied or deleted during the read
                self._reading = False
                accept(result)

        def failed(error: OSError) -> None:
            if epoch == self._epoch:
                self._reading = False
                self._failed(error)

        self._view.context.store.jobs.append(Job("read", read, done, failed))

    def _failed(self, error: OSError) -> None:
        self._view.context.report_read_error(self._view.topic_name, error)
        self._view.context.timers.set(self, self._view.context.now + RETRY_AFTER)

    def in_next_round(self) -> None:
        """Call `resume` in the next round: this one has read enough."""
        self._view.context.timers.set(self, self._view.context.now)

    def alarm(self, now: float) -> None:
        self._resume()

    def cancel(self) -> None:
        """Ignore the result of a read in progress."""
        self._epoch += 1
        self._reading = False
