"""The messages of one channel that are on their way to the dead topic, and how a dead topic is called.

A message that leaves is neither ready nor in flight, and takes no place in a consumer's window. It is not settled
before it is safe in the dead topic; `nsqd.broker.dead_letters` takes it there.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from nsqd.log.origin import Cause
from nsqkit.wire.names import EPHEMERAL, MAX_NAME_LENGTH, is_ephemeral

__all__ = ["Leaving", "LeavingMessage", "LetterSource", "dead_topic_of"]

_DEAD: Final = ".dead"
_HASH_LENGTH: Final = 8


def dead_topic_of(topic: str, channel: str, wanted: str | None = None) -> str | None:
    """The topic to which dead letters of a channel go. `wanted`: the one that a rule names.

    `<topic>.<channel>.dead`, without the mark of ephemeral ones, and shortened to the longest valid name. None for the
    channels of a dead topic, unless a rule names another one: dead letters do not die once more.
    """
    if wanted is not None:
        return None if wanted == topic or is_ephemeral(wanted) else wanted
    if topic.removesuffix(EPHEMERAL).endswith(_DEAD):
        return None
    name = f"{topic.removesuffix(EPHEMERAL)}.{channel.removesuffix(EPHEMERAL)}"
    most = MAX_NAME_LENGTH - len(_DEAD)
    if len(name) > most:
        digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_LENGTH]
        name = f"{name[: most - len(digest) - 1]}-{digest}"
    return name + _DEAD


class LeavingMessage(NamedTuple):
    """`attempts`: deliveries. `last_ns`: when it was given up, wall time in nanoseconds."""

    attempts: int
    cause: Cause
    last_ns: int


class Leaving:
    """Messages by seq. `unwritten`: (seq, attempts) of those that are still to be written, oldest first."""

    __slots__ = ("messages", "unwritten")

    def __init__(self) -> None:
        self.messages: dict[int, LeavingMessage] = {}
        self.unwritten: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        return len(self.messages)

    def __contains__(self, seq: int) -> bool:
        return seq in self.messages

    def add(self, seq: int, message: LeavingMessage) -> None:
        self.messages[seq] = message
        self.unwritten.append((seq, message.attempts))

    def take_unwritten(self, limit: int) -> list[tuple[int, int]]:
        """The next ones to be written. Those that were settled otherwise meanwhile are passed over."""
        taken: list[tuple[int, int]] = []
        while self.unwritten and len(taken) < limit:
            entry = self.unwritten.popleft()
            if entry[0] in self.messages:
                taken.append(entry)
        return taken

    def give_back(self, taken: Sequence[tuple[int, int]]) -> None:
        """These were not written."""
        self.unwritten.extendleft(reversed(taken))

    def remove(self, seq: int) -> LeavingMessage | None:
        """It is settled. None if it does not leave."""
        return self.messages.pop(seq, None)

    def clear(self) -> None:
        self.messages.clear()
        self.unwritten.clear()


class LetterSource(Protocol):
    """A channel, as its dead letters are taken from it."""

    topic_name: str
    name: str
    dead_topic: str | None
    leaving: Leaving

    @property
    def generation(self) -> int:
        """Of the channel in the log; 0 for one in memory."""

    def take_letters(self, limit: int) -> list[tuple[int, LeavingMessage, bytes]]:
        """Messages that are to be written to the dead topic: (seq, message, frame). None while they are read: then the
        channel asks again when they may be there.
        """

    def letters_refused(self, letters: Sequence[tuple[int, int]]) -> None:
        """These, (seq, attempts), could not be written to the dead topic: they are to be taken again."""

    def letters_safe(self, seqs: Iterable[int]) -> None:
        """These are safe in the dead topic."""
