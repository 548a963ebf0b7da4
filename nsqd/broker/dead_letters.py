"""Takes messages that leave their channels to the dead topics, so that a kill may double them, but lose none.

    1. the message leaves: it is neither delivered nor settled (`Channel.leaving`)
    2. its frame is appended to the dead topic, unchanged, with where it is from (a LETTERS record)
    3. once that is as safe as the strongest promise (synced, and in the copies where copies are asked for, whatever
       `--durability` says), it is settled where it was

Killed after 2, it is in the dead topic and in its channel, which has it leave once more. While the dead topic cannot be
written (a full disk, a fence) the message stays where it is, and this is tried again after growing pauses.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

import attrs

from nsqd.broker.context import BrokerContext
from nsqd.broker.errors import Refused
from nsqd.broker.leaving import LeavingMessage, LetterSource
from nsqd.broker.topic import Topic
from nsqd.log.origin import Origin
from nsqkit.logging import RateLimitedLogger, get_logger
from nsqkit.wire.frames import HEAD

__all__ = ["DeadLetters"]

AT_ONCE: Final = 256  # messages that are taken at once, and
TURNS: Final = 16  # how often that is done for one channel in one round, which bounds its length
MAX_UNSAFE: Final = 10_000  # messages that are written, and not known to be safe yet
FIRST_PAUSE: Final = 1.0  # seconds until the next attempt after a refusal; doubled after each
LONGEST_PAUSE: Final = 30.0
SYNC_SOON: Final = 0.1  # seconds after a write: a sync that was too early then is begun


@attrs.define(eq=False)
class _Batch:
    """Messages of one channel that are written together. `letters`: (seq, attempts).

    `ticket`: of the append, once it is committed under `commit_number`.
    """

    channel: LetterSource
    letters: list[tuple[int, int]]
    topic: Topic
    commit_number: int
    ticket: int = 0


@attrs.define(eq=False)
class _Pause:
    until: float
    length: float


class DeadLetters:
    """`topic_of(name)`: the topic, created if it does not exist; `Refused`.

    `safe`: the ticket up to which everything is as safe as it gets. `refused`: attempts that failed, for statistics.
    """

    def __init__(self, context: BrokerContext, topic_of: Callable[[str], Topic]) -> None:
        self._context = context
        self._topic_of = topic_of
        self._syncer = context.store.syncer
        self.safe: Callable[[], int] = lambda: self._syncer.synced
        self.refused: Counter[str] = Counter()  # by name of the dead topic
        self.alarm_at = math.inf
        self._log = RateLimitedLogger(get_logger("broker"))
        self._written: list[_Batch] = []  # in this round
        self._unsafe: deque[_Batch] = deque()
        self._unsafe_count = 0
        self._pauses: dict[LetterSource, _Pause] = {}

    # --- a round

    @property
    def has_work(self) -> bool:
        """Whether `before_commit` has something to look at."""
        return bool(self._context.leaving or self._unsafe)

    def before_commit(self) -> None:
        """Settle what is safe by now, and have the next ones written with the round's commit."""
        self.settle_safe()
        leaving, self._context.leaving = self._context.leaving, {}
        for channel in leaving:
            if self._unsafe_count >= MAX_UNSAFE:
                self._context.leave_soon(channel)  # goes on when some are safe
            elif channel not in self._pauses or self._pauses[channel].until <= self._context.now:
                self._write(channel)

    def after_commit(self) -> None:
        """The round is committed."""
        written, self._written = self._written, []
        for batch in written:
            if reason := batch.topic.failed.get(batch.commit_number):
                self._unsafe_count -= len(batch.letters)
                batch.channel.letters_refused(batch.letters)
                self._refused(batch.channel, reason)
            else:
                batch.ticket = self._syncer.written
                self._unsafe.append(batch)
                self._pauses.pop(batch.channel, None)
                self._context.sync_due = True
                self._context.timers.set(self, self._context.now + SYNC_SOON)

    def settle_safe(self) -> None:
        """Settle what is safe by now."""
        safe = self.safe() if self._unsafe else 0
        while self._unsafe and self._unsafe[0].ticket <= safe:
            batch = self._unsafe.popleft()
            self._unsafe_count -= len(batch.letters)
            batch.channel.letters_safe(seq for seq, _ in batch.letters)

    def _write(self, channel: LetterSource) -> None:
        if not channel.leaving.unwritten or channel.dead_topic is None:
            self._pauses.pop(channel, None)  # it was emptied or deleted, or others have settled the messages
            return
        try:
            self._context.refuse_moving()
            topic = self._topic_of(channel.dead_topic)
        except Refused as error:
            self._refused(channel, str(error))
            return
        for _ in range(TURNS):
            letters = channel.take_letters(AT_ONCE)
            if not letters:
                return  # that were all, or they are being read, and the channel asks again
            frames = [frame for _, _, frame in letters]
            topic.publish_letters(frames, [_origin(channel, *letter).encode() for letter in letters])
            self._unsafe_count += len(letters)
            taken = [(seq, message.attempts) for seq, message, _ in letters]
            self._written.append(_Batch(channel, taken, topic, topic.commit_number))
        self._context.leave_soon(channel)

    # --- refusals

    def _refused(self, channel: LetterSource, reason: str) -> None:
        pause = self._pauses.get(channel)
        length = FIRST_PAUSE if pause is None else min(2 * pause.length, LONGEST_PAUSE)
        self._pauses[channel] = _Pause(self._context.now + length, length)
        self._context.timers.set(self, self._context.now + length)
        assert channel.dead_topic is not None
        self.refused[channel.dead_topic] += 1
        self._log.log(
            self._context.now,
            "DEAD LETTERS: %s/%s to %s refused - %s; %d messages stay, next attempt in %g s",
            channel.topic_name,
            channel.name,
            channel.dead_topic,
            reason,
            len(channel.leaving),
            length,
        )

    def alarm(self, now: float) -> None:
        """Try again where a pause has ended."""
        for channel, pause in self._pauses.items():
            if pause.until <= now:
                self._context.leave_soon(channel)
            else:
                self._context.timers.set(self, pause.until)


def _origin(channel: LetterSource, seq: int, message: LeavingMessage, frame: bytes) -> Origin:
    return Origin(
        topic=channel.topic_name,
        channel=channel.name,
        generation=channel.generation,
        seq=seq,
        cause=message.cause.value,
        attempts=message.attempts,
        first_ns=HEAD.unpack_from(frame)[2],
        last_ns=message.last_ns,
    )
