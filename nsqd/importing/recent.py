"""The last messages of a queue, so that a message that the original has written twice is imported once.

After a kill the original reads again all that it had read since its last sync, and so writes it a second time into the
queues of the channels, or has it in two queues. The copies are close together: within a few thousand messages with its
default settings. Imported twice, both could be in flight at the same time, under one id.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ID", "RECENT", "Recent"]

RECENT = 1 << 16  # messages of one queue to remember
TOTAL = 1 << 19  # messages of all queues of a topic to remember: at most about 100 MB

ID: Final = slice(10, 26)  # in a message of the original, without its length


class Recent:
    """Remembers between `size` and twice as many messages of a queue, by their ids and timestamps."""

    def __init__(self, queues: int) -> None:
        self._size = max(1, min(RECENT, TOTAL // max(1, queues)))
        self._new: set[bytes] = set()
        self._old: set[bytes] = set()

    def add(self, messages: list[bytes]) -> list[bytes]:
        """Remember these messages; returns those that were not known, without duplicates in the list itself."""
        keys = _keys(messages)
        distinct = set(keys)
        if len(distinct) < len(keys) or self._knows_some(distinct):
            messages = [message for key, message in zip(keys, messages, strict=True) if self._is_new(key)]
        self._new |= distinct
        if len(self._new) >= self._size:
            self._old, self._new = self._new, set()
        return messages

    def known(self, messages: list[bytes]) -> list[int]:
        """The indexes of the messages that are known."""
        keys = _keys(messages)
        if not self._knows_some(set(keys)):
            return []
        return [at for at, key in enumerate(keys) if key in self._new or key in self._old]

    def _knows_some(self, keys: set[bytes]) -> bool:
        return not (self._new.isdisjoint(keys) and self._old.isdisjoint(keys))

    def _is_new(self, key: bytes) -> bool:
        if key in self._new or key in self._old:
            return False
        self._new.add(key)
        return True


def _keys(messages: list[bytes]) -> list[bytes]:
    # With the timestamp: the original may use an id again after its clock was set back.
    return [message[:8] + message[ID] for message in messages]
