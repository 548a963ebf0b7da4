"""A channel's reads of its topic's log, for messages that are not in memory.

The core cannot wait. A read is first tried in place, without waiting for the disk (most of the data is in the page
cache). Only if the system reports that it would block does it become a job, and the channel is pumped again when the
job is done. A channel has at most one read in progress, and reads ahead up to 1 MiB. All channels together hold a
bounded number of bytes: the channel that read longest ago drops its frames, which can be read again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable

from nsqd.broker.log_view import LogView
from nsqd.log.jobs import Job
from nsqd.log.ranges import RangeSet
from nsqd.log.segment import MessageRun, MovedPlan, ReadPlan, ReadResult

__all__ = ["LogReader"]

FIRST_READ = 64 * 1024  # bytes; doubled after each read in place, up to `LARGEST_READ`
LARGEST_READ = 1024 * 1024
FETCH_READ = 256 * 1024  # bytes, for requeued messages
MAX_FETCHED = 2 * 1024 * 1024  # bytes of requeued messages that one channel may hold
INLINE_READS = 4  # in one round and channel; further reads are jobs, which bounds the length of a round
RETRY_AFTER = 1.0  # seconds, after an I/O error


class LogReader:
    """The reads of one channel. `wake` is called when a read that ran as a job has ended."""

    def __init__(self, view: LogView, wake: Callable[[], None]) -> None:
        self._view = view
        self._wake = wake
        self._budget = view.context.read_ahead
        self._runs: deque[MessageRun] = deque()  # consecutive messages, for the cursor
        self._fetched: dict[int, bytes] = {}  # single messages, for redelivery
        self._lost = RangeSet()
        self._size = FIRST_READ
        self._reading = False
        self._round = -math.inf
        self._reads = 0
        self._epoch = 0  # raised by `close`: the result of a read that began earlier is discarded
        self.alarm_at = math.inf

    # --- for the cursor

    def take(self, seq: int, limit: int) -> list[bytes] | None:
        """Up to `limit` consecutive messages from `seq` on; None while they are being read."""
        frames = self._cached(seq, limit)
        if frames is None and self._request(seq, self._size, None):
            self._size = min(2 * self._size, LARGEST_READ)
            frames = self._cached(seq, limit)
        return frames

    def _cached(self, seq: int, limit: int) -> list[bytes] | None:
        runs = self._runs
        while runs and runs[0].first + len(runs[0].frames) <= seq:
            runs.popleft()
        if not runs or runs[0].first > seq:
            if not runs:
                self._update_budget()
            return None
        at = seq - runs[0].first
        return runs[0].frames[at : at + limit]

    # --- for requeued messages

    def get(self, seq: int, wanted_soon: Iterable[int] = ()) -> bytes | None:
        """One message; None while it is being read, or if it is lost. `wanted_soon`: further seqs to keep."""
        frame = self._view.window.get(seq) or self._fetched.pop(seq, None)
        if frame is None and seq not in self._lost:
            wanted = {seq, *wanted_soon}
            if self._request(seq, FETCH_READ, wanted):
                frame = self._fetched.pop(seq, None)
        return frame

    def is_lost(self, seq: int) -> bool:
        """Whether a read has found that this message is lost."""
        return seq in self._lost

    # --- reading

    def _request(self, seq: int, size: int, wanted: set[int] | None) -> bool:
        """Read from `seq` on: True when done, False when it runs as a job or has to be retried later.

        `wanted`: keep only these seqs; None: keep all, for the cursor.
        """
        if self._reading or self.alarm_at < math.inf:
            return False
        plan = self._view.log.plan(seq, size)
        try:
            result = plan.run(wait=False) if self._may_read_inline() else None
        except OSError as error:
            self._failed(error)
            return False
        if result is None:
            self._start(plan, wanted)
            return False
        self._accept(plan, result, wanted)
        return True

    def _may_read_inline(self) -> bool:
        now = self._view.context.now
        if now != self._round:
            self._round, self._reads = now, 0
        self._reads += 1
        return self._reads <= INLINE_READS

    def _start(self, plan: ReadPlan | MovedPlan, wanted: set[int] | None) -> None:
        self._reading = True
        epoch = self._epoch

        def done(result: ReadResult | None) -> None:
            if epoch == self._epoch:  # else the channel was emptied or deleted during the read
                self._reading = False
                assert result is not None
                self._accept(plan, result, wanted)
                self._wake()

        def failed(error: OSError) -> None:
            if epoch == self._epoch:
                self._reading = False
                self._failed(error)

        self._view.context.store.jobs.append(Job("read", plan.run, done, failed))

    def _accept(self, plan: ReadPlan | MovedPlan, result: ReadResult, wanted: set[int] | None) -> None:
        self._view.accept(result)
        first = result.runs[0].first if result.runs else result.next
        if first > plan.seq:  # damaged, or never written
            self._lost.add(plan.seq, first)
            self._view.on_loss(plan.seq, first, True)
            self._wake()  # the caller got nothing, but there may be messages after the gap
        elif not result.runs:
            self._wake()  # the message is not where it was said to be, but may be elsewhere
        if wanted is None:
            self._runs = deque(result.runs)
        else:
            self._fetched.update(
                (seq, frame)
                for run in result.runs
                for seq, frame in enumerate(run.frames, run.first)
                if seq in wanted
            )
        self._update_budget()

    def _failed(self, error: OSError) -> None:
        """Try again later: an I/O error is not taken for damage."""
        self._view.context.report_read_error(self._view.topic_name, error)
        self._view.context.timers.set(self, self._view.context.now + RETRY_AFTER)

    def alarm(self, now: float) -> None:
        self._wake()

    def _update_budget(self) -> None:
        size = sum(sum(map(len, run.frames)) for run in self._runs)
        fetched = sum(map(len, self._fetched.values()))
        while fetched > MAX_FETCHED and len(self._fetched) > 1:  # the oldest were not requested again
            fetched -= len(self._fetched.pop(next(iter(self._fetched))))
        self._budget.update(self, size + fetched)

    def drop(self) -> None:
        """Drop all frames; they can be read again."""
        self._runs.clear()
        self._fetched.clear()
        self._size = FIRST_READ
        self._budget.update(self, 0)

    def close(self) -> None:
        """Drop all frames, and ignore the result of a read in progress."""
        self._epoch += 1
        self._reading = False
        self._lost = RangeSet()
        self.drop()
