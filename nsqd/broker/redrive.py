"""Puts dead letters back into the channels that they are from, for that channel alone, so that a kill may double them,
but lose none.

    1. letters are read from the dead topic, through its durable channel `redrive`. They stay ready there; those of
       other channels are passed over, and stay, too
    2. their frames are appended to the topic that they are from, unchanged, for the channel's present generation (a
       DIRECTED record), and with them how many were moved so far
    3. once that is as safe as the strongest promise, they are finished in `redrive`

What is wished stands in the log (REDRIVE), so a redrive goes on after a start. While it cannot go on (the topic is
paused, the disk is full) it waits, and tries again every second.
"""

from __future__ import annotations

import contextlib
import enum
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import attrs

from nsqd.broker.channel import Channel
from nsqd.broker.context import BrokerContext
from nsqd.broker.errors import Refused
from nsqd.broker.log_backlog import LogBacklog
from nsqd.broker.topic import Topic
from nsqd.log.jobs import Job
from nsqd.log.look import Look
from nsqd.log.origin import Origin
from nsqd.log.records import FormatError
from nsqd.log.state import Change, Code, RedriveState
from nsqkit.logging import get_logger

__all__ = ["REDRIVE_CHANNEL", "Progress", "RedriveRefused", "Redrives"]

log = get_logger("broker")

REDRIVE_CHANNEL: Final = "redrive"
LOOKED_AT: Final = 1000  # letters that are looked at with one read
READ_BYTES: Final = 1 << 20  # of frames that one read brings, unless one is longer
PAUSE: Final = 1.0  # seconds until the next attempt, where it could not go on
SYNC_SOON: Final = 0.1  # seconds after an append: a sync that was too early then is begun
MOST_LATE: Final = 1.0  # seconds that are caught up with, where a rate could not be kept


class RedriveRefused(Exception):
    """There is nothing to put back, or nowhere; the text is an error code."""


class _Phase(enum.Enum):
    RUNNING = "running"
    WAITING = "waiting"
    DONE = "done"
    STOPPED = "stopped"


@attrs.frozen(kw_only=True)
class Progress:
    """`moved`: letters so far. `left`: letters in the dead topic, also of other channels. `limit`, `rate`: 0: without.

    `state`: `running`, `waiting`, `done`, `stopped`, or `none` since the start. `reason`: why it waits, or has stopped.
    """

    state: str = "none"
    reason: str = ""
    moved: int = 0
    left: int = 0
    limit: int = 0
    rate: int = 0
    dead_topic: str | None = None


@attrs.frozen
class _Letter:
    seq: int
    frame: bytes


@attrs.define(eq=False)
class _Batch:
    """Letters that are put back together; `ticket`: of the append, once it is committed."""

    letters: list[_Letter]
    commit_number: int
    ticket: int | None = None


class _Redrive:
    """One channel's. It is a `Recorder` of the topic that the letters go back to.

    `found`: letters of the channel that were read. `start`: the first seq that was not looked at. `reading`: the read
    that is under way, if any.
    """

    def __init__(self, redrives: Redrives, topic: Topic, channel: Channel, source: Topic) -> None:
        self.topic, self.channel, self.source = topic, channel, source
        self.wish = RedriveState(0, 0, 0)
        self.phase, self.reason = _Phase.RUNNING, ""
        self.start = 0
        self.found: deque[_Letter] = deque()
        self.batch: _Batch | None = None
        self.reading: Job | None = None
        self.next_at = 0.0
        self.alarm_at = math.inf
        self._redrives = redrives
        self._unwritten = False

    def begin(self, wish: RedriveState, now: float) -> None:
        """From the first letter on, also after an earlier wish: what that has put back is finished first."""
        self.wish, self.phase, self.reason = wish, _Phase.RUNNING, ""
        self.start, self.next_at, self.reading = 0, now, None
        self.found.clear()

    # --- what is recorded

    def record(self) -> None:
        """Have the wish written with the topic's next append."""
        self._unwritten = True
        assert isinstance(self.channel.backlog, LogBacklog)
        self.channel.backlog.view.record_soon(self)

    def collect_changes(self, full: bool) -> list[Change]:
        if self.topic.channels.get(self.channel.name) is not self.channel:
            return []
        wish = self.channel.redrive
        items = () if wish is None else attrs.astuple(wish)
        return self.channel.backlog.record(Code.REDRIVE, *items)

    def changes_written(self, full: bool) -> None:
        self._unwritten = False

    @property
    def has_unwritten(self) -> bool:
        return self._unwritten

    # --- steps

    def alarm(self, now: float) -> None:
        """A pause has ended."""
        self._redrives.soon(self)

    @property
    def backlog(self) -> LogBacklog | None:
        """Of the letters; None if the dead topic or its channel is gone."""
        found = self.source.channels.get(REDRIVE_CHANNEL)
        backlog = found.backlog if found is not None else None
        return backlog if isinstance(backlog, LogBacklog) else None


class Redrives:
    """All redrives of one broker. `topics`: by name. `safe`: the ticket up to which all is as safe as it gets."""

    def __init__(self, context: BrokerContext, topics: Mapping[str, Topic], safe: Callable[[], int]) -> None:
        self._context, self._topics, self._safe = context, topics, safe
        self._by_channel: dict[Channel, _Redrive] = {}
        self._due: dict[_Redrive, None] = {}
        self._committing: list[_Redrive] = []
        self._unsafe: dict[_Redrive, None] = {}

    # --- commands

    def begin(self, topic: Topic, channel: Channel, limit: int = 0, rate: int = 0) -> None:
        """Put up to `limit` letters back, `rate` of them a second; 0: no limit. Replaces one that is under way.

        `RedriveRefused`; `Refused` when it cannot be written.
        """
        source = self._source(channel)
        if not channel.generation:
            raise RedriveRefused("EPHEMERAL_CHANNEL")
        if REDRIVE_CHANNEL not in source.channels:
            source.create_channel_from(REDRIVE_CHANNEL, 0)
        wish = RedriveState(0, limit, rate)
        topic.record_redrive(channel, wish)
        self._go_on(topic, channel, source)

    def stop(self, channel: Channel) -> bool:
        """Put nothing more back; False if there is no redrive. `Refused` when it cannot be written."""
        redrive = self._by_channel.get(channel)
        if redrive is None or channel.redrive is None:
            return False
        redrive.topic.record_redrive(channel, None)
        self._end(redrive, _Phase.STOPPED, "")
        return True

    def progress(self, channel: Channel) -> Progress:
        """Of the last one since the start."""
        redrive = self._by_channel.get(channel)
        if redrive is None:
            left, source = 0, self._topics.get(channel.dead_topic or "")
            if source is not None:
                waiting = source.channels.get(REDRIVE_CHANNEL)
                left = source.depth if waiting is None else waiting.backlog.ready
            return Progress(left=left, dead_topic=channel.dead_topic)
        backlog = redrive.backlog
        return Progress(
            state=redrive.phase.value,
            reason=redrive.reason,
            moved=redrive.wish.moved,
            left=backlog.ready if backlog is not None else 0,
            limit=redrive.wish.limit,
            rate=redrive.wish.rate,
            dead_topic=redrive.source.name,
        )

    def resume(self) -> None:
        """After a start: go on with those that are wished for."""
        for topic in self._topics.values():
            for channel in topic.channels.values():
                if channel.redrive is not None:
                    # Without its dead topic nothing is left to do.
                    with contextlib.suppress(RedriveRefused):
                        self._go_on(topic, channel, self._source(channel))

    def _source(self, channel: Channel) -> Topic:
        if channel.dead_topic is None or (source := self._topics.get(channel.dead_topic)) is None:
            raise RedriveRefused("DEAD_TOPIC_NOT_FOUND")
        return source

    def _go_on(self, topic: Topic, channel: Channel, source: Topic) -> None:
        assert channel.redrive is not None
        redrive = self._by_channel.get(channel)
        if redrive is None or redrive.source is not source:
            redrive = self._by_channel[channel] = _Redrive(self, topic, channel, source)
        redrive.begin(channel.redrive, self._context.now)
        self.soon(redrive)

    def forget(self, channel: Channel) -> None:
        """The channel is deleted."""
        if (redrive := self._by_channel.pop(channel, None)) is not None:
            self._context.timers.cancel(redrive)

    # --- a round

    def soon(self, redrive: _Redrive) -> None:
        """Take a step at the end of this round, or of the next one."""
        self._due[redrive] = None
        self._context.commit_soon(redrive.topic.name)

    @property
    def has_work(self) -> bool:
        return bool(self._due or self._unsafe)

    def before_commit(self) -> None:
        """Finish what is safe, and have the next letters written with the round's commit."""
        self.settle_safe()
        due, self._due = self._due, {}
        for redrive in due:
            if self._by_channel.get(redrive.channel) is redrive and redrive.channel.redrive is not None:
                self._step(redrive)

    def settle_safe(self) -> None:
        """Finish what is safe by now."""
        safe = self._safe() if self._unsafe else 0
        for redrive in list(self._unsafe):
            batch = redrive.batch
            assert batch is not None
            if batch.ticket is not None and batch.ticket <= safe:
                del self._unsafe[redrive]
                self._finish(redrive, batch.letters)

    def after_commit(self) -> None:
        committing, self._committing = self._committing, []
        for redrive in committing:
            batch = redrive.batch
            assert batch is not None
            if reason := redrive.topic.failed.get(batch.commit_number):
                redrive.batch = None
                redrive.found.extendleft(reversed(batch.letters))
                redrive.wish = attrs.evolve(redrive.wish, moved=redrive.wish.moved - len(batch.letters))
                if redrive.channel.redrive is not None:
                    redrive.channel.redrive = redrive.wish
                self._wait(redrive, reason)
            else:
                batch.ticket = self._context.store.syncer.written
                self._unsafe[redrive] = None
                self._context.sync_due = True
                self._context.timers.set(redrive, self._context.now + SYNC_SOON)

    def _finish(self, redrive: _Redrive, letters: Iterable[_Letter]) -> None:
        redrive.batch = None
        if (backlog := redrive.backlog) is not None:
            backlog.counts.finished += backlog.finish_ready((each.seq, each.seq + 1) for each in letters)
        self.soon(redrive)

    def _step(self, redrive: _Redrive) -> None:
        backlog, wish, context = redrive.backlog, redrive.wish, self._context
        if redrive.batch is not None or redrive.reading is not None:
            return
        if backlog is None:
            self._end(redrive, _Phase.STOPPED, "the dead topic, or its channel redrive, was deleted")
        elif wish.limit and wish.moved >= wish.limit:
            self._end(redrive, _Phase.DONE, "")
        elif context.now < redrive.next_at:
            context.timers.set(redrive, redrive.next_at)
        elif not redrive.found:
            self._look(redrive, backlog)
        elif not redrive.topic.flowing:
            self._wait(redrive, "the topic is paused")
        else:
            try:
                context.refuse_moving()
            except Refused as reason:
                self._wait(redrive, str(reason))
            else:
                self._put_back(redrive, backlog)

    def _put_back(self, redrive: _Redrive, backlog: LogBacklog) -> None:
        wish, now = redrive.wish, self._context.now
        count = len(redrive.found)
        if wish.rate:
            redrive.next_at = max(redrive.next_at, now - MOST_LATE)
            count = 1 + int((now - redrive.next_at) * wish.rate)
        if wish.limit:
            count = min(count, wish.limit - wish.moved)
        redrive.phase, redrive.reason = _Phase.RUNNING, ""
        letters: list[_Letter] = []
        while redrive.found and len(letters) < count:
            letter = redrive.found.popleft()
            if backlog.is_ready(letter.seq):  # else somebody has taken or finished it since it was read
                letters.append(letter)
        if not letters:
            self.soon(redrive)
            return
        if wish.rate:
            redrive.next_at += len(letters) / wish.rate
        redrive.wish = redrive.channel.redrive = attrs.evolve(wish, moved=wish.moved + len(letters))
        redrive.record()
        redrive.topic.publish_directed([letter.frame for letter in letters], redrive.channel.generation)
        redrive.batch = _Batch(letters, redrive.topic.commit_number)
        self._committing.append(redrive)

    def _look(self, redrive: _Redrive, backlog: LogBacklog) -> None:
        """Read the next letters, in a job."""
        seqs = backlog.ready_from(redrive.start, LOOKED_AT)
        if not seqs:
            self._end(redrive, _Phase.DONE, "")
            return
        look, place = backlog.view.log.look(seqs), (redrive.topic.name, redrive.channel.name)

        def done(found: tuple[list[_Letter], int]) -> None:
            if redrive.reading is job:
                redrive.reading = None
                letters, redrive.start = found
                redrive.found.extend(letters)
                self.soon(redrive)

        def failed(error: OSError) -> None:
            if redrive.reading is job:
                redrive.reading = None
                # A segment that was removed meanwhile: what was in it is not ready any more.
                self._wait(redrive, f"the dead topic cannot be read - {error}")

        job = redrive.reading = Job("read", lambda: _read(look, seqs, place), done, failed)
        self._context.store.jobs.append(job)

    def _wait(self, redrive: _Redrive, reason: str) -> None:
        if (redrive.phase, redrive.reason) != (_Phase.WAITING, reason):
            log.warning(
                "REDRIVE: %s/%s waits - %s; next attempt in %g s",
                redrive.topic.name,
                redrive.channel.name,
                reason,
                PAUSE,
            )
        redrive.phase, redrive.reason = _Phase.WAITING, reason
        self._context.timers.set(redrive, self._context.now + PAUSE)

    def _end(self, redrive: _Redrive, phase: _Phase, reason: str) -> None:
        redrive.phase, redrive.reason, redrive.reading = phase, reason, None
        redrive.found.clear()
        if redrive.channel.redrive is not None:
            redrive.channel.redrive = None
            redrive.record()
        log.info(
            "REDRIVE: %s/%s %s, %d dead letters of %s were put back",
            redrive.topic.name,
            redrive.channel.name,
            phase.value,
            redrive.wish.moved,
            redrive.source.name,
        )


def _read(look: Look, seqs: list[int], place: tuple[str, str]) -> tuple[list[_Letter], int]:
    """The letters of a channel among these, and the first seq that was not looked at. *Any thread*; `OSError`."""
    letters: list[_Letter] = []
    size, following = 0, seqs[0]
    with contextlib.closing(look.messages(seqs)) as messages:
        for seq, message in zip(seqs, messages, strict=False):
            following = seq + 1
            if message is None or message.origin is None:
                continue
            with contextlib.suppress(FormatError):
                origin = Origin.decode(message.origin)
                if (origin.topic, origin.channel) == place:
                    letters.append(_Letter(seq, message.frame))
                    size += len(message.frame)
            if size >= READ_BYTES:
                break
    return letters, following
