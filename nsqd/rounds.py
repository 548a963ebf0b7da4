"""The rhythm of the daemon: between two polls of the network everything happens in one *round*.

    begin()   the broker's clock is set
    ...       sessions are fed, HTTP handlers call the broker; none of it awaits
    end()     one append a topic, answers are released, messages handed out, sockets written to

Rules:
- A round is begun and ended by one task without awaiting in between: the loop of the connections, an HTTP handler, the
  clock, a job that has ended. Rounds never nest.
- The one exception: when the connections' part was long, other tasks have their turn before its end; a round of theirs
  that comes in between ends it with its own.
- Jobs (syncs, reads from disk, removals) run in threads. The end of each is a round of its own.

This module knows the broker only. Those who take part in the end of a round put themselves on `answering` or `awake`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import attrs
import trio

from nsqd.broker import Broker, Refused
from nsqd.log.jobs import Job
from nsqkit.logging import get_logger

__all__ = ["Answering", "Durability", "Flushable", "OwnDisk", "Rounds"]

log = get_logger("nsqd")

LATE: Final = 0.1  # seconds; a timer so late means that the process was stopped, or very busy
READ_FIRST: Final = 1.0  # seconds at most
WORKERS: Final = 8  # jobs that may wait for the disk at the same time


class Answering(Protocol):
    """Answers that wait for the end of the round in which they were given."""

    def failed_commits(self) -> None:
        """Appends of this round failed: see whether an answer depends on one of them."""

    def release(self, ticket: int) -> bool:
        """The round is committed; its publishes are safe after the sync `ticket` (0: already). True while some wait."""

    def synced(self, ticket: int) -> bool:
        """Everything up to this ticket is safe now. True when nothing waits any more."""

    def refuse_waiting(self, reason: str) -> None:
        """What waits will not become safe."""


class Flushable(Protocol):
    """The driver of a connection."""

    def flush(self) -> None:
        """Send what the session's outbox holds, or close what is to be closed. Must not raise."""


@attrs.define(eq=False)
class _Waiter:
    ticket: int
    event: trio.Event = attrs.field(factory=trio.Event)
    refused: str | None = None


class Durability(Protocol):
    """When a publish is safe, so that it can be answered."""

    @property
    def ticket(self) -> int:
        """Of everything committed so far."""

    @property
    def reached(self) -> int:
        """The ticket up to which publishes are safe."""

    @property
    def at_once(self) -> bool:
        """Whether publishes are always safe as soon as they are committed."""

    def want(self) -> None:
        """Somebody waits for all that is committed so far."""

    def committed(self) -> None:
        """A round has ended; it may have written something."""


class OwnDisk:
    """Publishes are safe when they are written, or, at level `disk`, synced."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.want = broker.want_sync
        self.at_once = not broker.options.sync_on_commit

    @property
    def ticket(self) -> int:
        return self._broker.sync_ticket

    @property
    def reached(self) -> int:
        return self._broker.synced

    def committed(self) -> None:
        """Nobody else is interested."""


class Rounds:
    """Runs the broker's rounds, timers and jobs on trio. `on_fatal`: a sync has failed, the daemon must stop.

    `durability`: what answers to publishers wait for.
    """

    def __init__(
        self, broker: Broker, on_fatal: Callable[[OSError], None], durability: Durability | None = None
    ) -> None:
        self.broker = broker
        self.durability: Durability = durability or OwnDisk(broker)
        self.answering: list[Answering] = []  # in this round; always the same list, for it is appended to
        self.awake: list[Flushable] = []  # have something to send
        self.more = False  # messages are left to hand out, without anything having to happen first
        self.at_begin: Callable[[], None] | None = None  # looks whether anything may be done at all
        self.input_waits: Callable[[], bool] = lambda: False  # whether unread bytes wait in a socket
        self._on_fatal = on_fatal
        self._awaiting_sync: dict[Answering, None] = {}
        self._reached = 0
        self._sync_waiters: list[_Waiter] = []
        self._clock = trio.CancelScope()
        self._jobs = trio.Event()
        self._job_ended = trio.Event()
        self._workers = trio.CapacityLimiter(WORKERS)
        self._syncer = trio.CapacityLimiter(1)
        self._sync_began: float | None = None  # while one runs

    # --- a round

    def begin(self) -> None:
        self.broker.advance(trio.current_time(), time.time_ns())
        if self.at_begin is not None:
            self.at_begin()

    def end(self, *, goes_on: bool = False) -> None:
        """`goes_on`: the caller looks at `more` itself, so the clock need not be woken for what is left over."""
        broker = self.broker
        broker.commit()  # before anything leaves: an answer promises that the log has it
        if self.answering:
            self._release_answers()
        if broker.failures:
            broker.clear_failures()
        self.durability.committed()
        self.more = broker.pump()
        if self.awake:
            awake, self.awake = self.awake, []
            # The last woken have messages, the first have answers. Messages first: 20 us less latency for them.
            for connection in reversed(awake):
                connection.flush()
        self.more = self.more or bool(self.awake) or broker.has_work
        if broker.jobs:
            self._jobs.set()
        # The clock sleeps in a task of its own: it is only woken earlier here, never later.
        wake = broker.now if self.more and not goes_on else broker.timers.next()
        if wake < self._clock.deadline:
            self._clock.deadline = wake
        if broker.fatal is not None:
            self._on_fatal(broker.fatal)

    @contextlib.contextmanager
    def round(self) -> Iterator[None]:
        """A round of its own."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def _release_answers(self) -> None:
        broker, answering = self.broker, self.answering
        if broker.failures:
            for answers in answering:
                answers.failed_commits()
        ticket = self.durability.ticket
        if ticket <= self.durability.reached:
            ticket = 0
        for answers in answering:
            if answers.release(ticket):
                self._awaiting_sync[answers] = None
                self.durability.want()
        answering.clear()

    @property
    def has_unreleased_answers(self) -> bool:
        """Whether answers wait: for a sync, or for the end of a long round."""
        return bool(self._awaiting_sync or self.answering)

    # --- syncs

    @property
    def sync_age(self) -> float:
        """Seconds since the sync began that has not ended yet; 0 while there is none."""
        return 0.0 if self._sync_began is None else trio.current_time() - self._sync_began

    async def synced(self, ticket: int) -> None:
        """Wait until everything up to this ticket is safe. `Refused` when that cannot be."""
        if ticket > self.durability.reached:
            self.durability.want()
            self._jobs.set()
            waiter = _Waiter(ticket)
            self._sync_waiters.append(waiter)
            await waiter.event.wait()
            if waiter.refused is not None:
                raise Refused(waiter.refused)

    async def on_own_disk(self) -> None:
        """Wait until everything that is written now is on the own disk, whatever `durability` asks for."""
        ticket = self.broker.store.syncer.written
        while self.broker.synced < ticket:  # a sync that fails stops the daemon
            self.broker.want_sync()
            self._jobs.set()
            await self._job_ended.wait()

    def release_safe(self) -> None:
        """More may be safe than before: answer those who have waited for it. Within a round."""
        self._reached = reached = self.durability.reached
        for answers in list(self._awaiting_sync):
            if answers.synced(reached):
                del self._awaiting_sync[answers]
        waiters, self._sync_waiters = self._sync_waiters, []
        for waiter in waiters:
            if waiter.ticket <= reached:
                waiter.event.set()
            else:
                self._sync_waiters.append(waiter)

    def refuse_waiting(self, reason: str) -> None:
        """What waits to be safe will not be: its publishers get an error, although the log has it. Within a round."""
        awaiting, self._awaiting_sync = self._awaiting_sync, {}
        for answers in awaiting:
            answers.refuse_waiting(reason)
        waiters, self._sync_waiters = self._sync_waiters, []
        for waiter in waiters:
            waiter.refused = reason
            waiter.event.set()

    # --- background tasks

    async def run_clock(self) -> None:
        """Fire the broker's timers when they are due, and hand out what a round has left over."""
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
        """What arrived while the process was stopped comes before what has timed out meanwhile."""
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
        """Start the broker's jobs in threads; the end of each is a round of its own."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._jobs.wait()
                self._jobs = trio.Event()
                while self.broker.jobs:
                    nursery.start_soon(self._run_job, self.broker.jobs.popleft())

    async def _run_job(self, job: Job) -> None:
        is_sync = job.name == "sync"
        try:
            if is_sync:
                self._sync_began = trio.current_time()
            job.begin()
            # Reads that hang must not hold back the sync that publishers wait for.
            limiter = self._syncer if is_sync else self._workers
            result = await trio.to_thread.run_sync(job.work, limiter=limiter)
        except OSError as error:
            log.error("%s failed: %s", job.name, error)
            self.begin()
            job.failed(error)
        else:
            self.begin()
            job.done(result)
        if is_sync:
            self._sync_began = None
        if self.durability.reached != self._reached:
            self.release_safe()
        self.end()
        ended, self._job_ended = self._job_ended, trio.Event()
        ended.set()
        await self.run_pending()
