"""The rhythm of the daemon: between two looks at the network everything happens in one *round*.

    begin()   the broker's clock is set
    ...       sessions are fed, HTTP handlers call the broker; none of it awaits
    end()     one append a topic, answers are released, messages handed out, sockets written to

Rounds never nest, and nothing in them awaits, whoever runs them: the loop of the connections, an HTTP handler, the
clock, a job that has ended. The one exception: when the connections' part was long, others have their turn before its
end; a round of theirs that comes in between ends it with its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import trio

from nsqd.broker import Broker
from nsqd.log.jobs import Job
from nsqd.protocol_v2.context import Context
from nsqkit.logging import get_logger

__all__ = ["Connection", "Rounds"]

log = get_logger("nsqd")

LATE = 0.1  # seconds; whoever looks at the clock so late was stopped, or has been very busy
READ_FIRST = 1.0  # seconds at the most
WORKERS = 8  # jobs that may wait for the disk at the same time


class Connection(Protocol):
    """What a round asks of the driver of a connection."""

    def flush(self) -> None:
        """Send what the session's outbox holds, or close what is to be closed. Must not raise."""


class Rounds:
    """Runs the broker's rounds, timers and jobs on trio. `on_fatal`: a sync has failed, the daemon must stop."""

    def __init__(self, broker: Broker, context: Context, on_fatal: Callable[[OSError], None]) -> None:
        self.broker = broker
        self.context = context
        context.refresh_clock = self.begin
        self.awake: list[Connection] = []  # who has something to send
        self.more = False  # messages are left to hand out, without anything having to happen first
        self.input_waits: Callable[[], bool] = lambda: (
            False
        )  # whether a connection has bytes that nobody has read
        self._on_fatal = on_fatal
        self._holding: dict[object, None] = {}  # sessions whose answers wait for a sync
        self._synced = 0
        self._sync_waiters: list[tuple[int, trio.Event]] = []
        self._clock = trio.CancelScope()
        self._jobs = trio.Event()
        self._workers = trio.CapacityLimiter(WORKERS)
        self._syncer = trio.CapacityLimiter(1)

    # --- a round

    def begin(self) -> None:
        self.broker.advance(trio.current_time(), time.time_ns())

    def end(self, *, goes_on: bool = False) -> None:
        """`goes_on`: the caller looks at `more` by itself, and nobody else need go on with what is left over."""
        broker, context = self.broker, self.context
        broker.commit()
        if context.answering:
            self._release_answers()
        if broker.has_failures:
            broker.end_of_failures()
        self.more = broker.pump()
        if self.awake:
            awake, self.awake = self.awake, []
            # The last woken have messages, the first have answers: more hangs on a message (20 us of its latency).
            for connection in reversed(awake):
                connection.flush()
        self.more = self.more or bool(self.awake) or broker.has_work
        if broker.jobs:
            self._jobs.set()
        wake = broker.now if self.more and not goes_on else broker.timers.next()
        if wake < self._clock.deadline:
            self._clock.deadline = wake
        if broker.fatal is not None:
            self._on_fatal(broker.fatal)

    def _release_answers(self) -> None:
        broker, context = self.broker, self.context
        if broker.has_failures:
            for session in context.answering:
                session.failed_commits()
        ticket = broker.sync_ticket
        if ticket <= broker.synced:
            ticket = 0
        answering, context.answering = context.answering, []
        for session in answering:
            if session.release(ticket):
                self._holding[session] = None
                broker.want_sync()

    @property
    def holds_answers(self) -> bool:
        """Whether answers wait: for a sync, or for the end of a long round."""
        return bool(self._holding or self.context.answering)

    # --- syncs

    async def synced(self, ticket: int) -> None:
        """Wait until the disk has everything up to this ticket. Level `os` never waits."""
        if ticket > self.broker.synced:
            self.broker.want_sync()
            self._jobs.set()
            event = trio.Event()
            self._sync_waiters.append((ticket, event))
            await event.wait()

    def _after_sync(self) -> None:
        self._synced = synced = self.broker.synced
        for session in list(self._holding):
            if session.synced(synced):  # type: ignore[attr-defined]
                del self._holding[session]
        waiters, self._sync_waiters = self._sync_waiters, []
        for ticket, event in waiters:
            if ticket <= synced:
                event.set()
            else:
                self._sync_waiters.append((ticket, event))

    # --- background tasks

    async def run_clock(self) -> None:
        """Fire the broker's timers when they are due, and go on with what a round has left over."""
        while True:
            with trio.CancelScope() as self._clock:
                self._clock.deadline = self.broker.timers.next()
                await trio.sleep_forever()
            if self._clock.cancelled_caught:
                if trio.current_time() - self.broker.timers.next() > LATE:
                    await self._read_first()
                self.begin()
                self.broker.fire_timers()
                self.end()
            await self.run_pending()

    async def _read_first(self) -> None:
        """What came in while nobody looked (the process was stopped) comes before what has timed out meanwhile."""
        with trio.move_on_after(READ_FIRST):
            await trio.lowlevel.checkpoint()
            while self.input_waits():
                await trio.lowlevel.checkpoint()

    async def run_pending(self) -> None:
        """Rounds without input, while there is something to hand out or a snapshot to write."""
        while self.more or self.broker.has_snapshots:
            await trio.lowlevel.checkpoint()
            self.begin()
            self.broker.fire_timers()
            self.broker.step_snapshots()
            self.end(goes_on=True)

    async def run_jobs(self) -> None:
        """Start the broker's jobs in threads; what each has to say is a round of its own."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._jobs.wait()
                self._jobs = trio.Event()
                while self.broker.jobs:
                    nursery.start_soon(self._run_job, self.broker.jobs.popleft())

    async def _run_job(self, job: Job) -> None:
        try:
            # Reads that hang must not hold back the sync that publishers wait for.
            limiter = self._syncer if job.name == "sync" else self._workers
            job.begin()
            result = await trio.to_thread.run_sync(job.work, limiter=limiter)
        except OSError as error:
            log.error("%s failed: %s", job.name, error)
            self.begin()
            job.failed(error)
        else:
            self.begin()
            job.done(result)
        if self.broker.synced != self._synced:
            self._after_sync()
        self.end()
        await self.run_pending()
