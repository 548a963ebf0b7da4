"""Look-ups that wait for a change: a request with a known version is answered when there is another one.

    GET /lookup?topic=t                                -> X-Nsq-Topic-Version: 5f3c9a10-7
    GET /lookup?topic=t&newer_than=5f3c9a10-7&wait=25s -> as soon as the topic's nsqds change, after 25 s at the latest

A version stands for the nsqds that are registered for a topic, or for the fact that there is no such topic. Clients
compare it, and nothing else; it is never the same again, also after a restart. Not every change of an answer is one of
the version: an nsqd that falls silent, or whose tombstone expires, changes what a look-up finds with time alone. So
clients go on asking from time to time.

Bounds: half of the connections may wait, each for a minute at most. At the limit, the address with most waiting
requests gives way to one with fewer: its oldest is answered at once. All that wait for one topic share one event, and a
change of a topic wakes nobody else. They are answered `SETTLE_S` later, so that a cluster that starts is one change for
each topic, and not one for each nsqd.
"""

from __future__ import annotations

import secrets
from typing import Final

import trio

from nsqkit.service.shares import Shares, remote_group
from nsqlookupd.registry import Registry

__all__ = ["MAX_WAIT_S", "SETTLE_S", "VERSION_HEADER", "Watches"]

VERSION_HEADER: Final = b"X-Nsq-Topic-Version"
MAX_WAIT_S: Final = 60.0
SETTLE_S: Final = 0.1


class Watches:
    """The waiting requests of one registry. `limit`: how many there may be."""

    def __init__(self, registry: Registry, limit: int) -> None:
        registry.on_topic_changed = self._changed
        self._registry = registry
        self._limit = limit
        self._start = secrets.token_hex(4)  # versions of an earlier start are none of these
        self._events: dict[str, trio.Event] = {}
        """By topic; only those that somebody waits for."""
        self._waiting: Shares[trio.CancelScope] = Shares()
        self._stopping = False

    @property
    def waiting(self) -> int:
        """The number of requests that wait."""
        return self._waiting.total

    def version(self, topic: str) -> str:
        """The present version of a topic, which need not exist."""
        return f"{self._start}-{self._registry.version(topic)}"

    def stop(self) -> None:
        """Answer everybody at once, now and from now on."""
        self._stopping = True
        while group := self._waiting.largest():
            self._answer_oldest(group)

    async def wait_for_change(self, topic: str, known: str, seconds: float, remote: str) -> None:
        """Return when the version is not `known` any more; after `seconds`, or at the limit, in any case.

        `remote`: the address of the client.
        """
        group = remote_group(remote)
        if self.version(topic) != known or not self._make_room(group):
            return
        event = self._events.setdefault(topic, trio.Event())
        with trio.move_on_after(max(0.0, min(seconds, MAX_WAIT_S))) as scope:
            self._waiting.add(group, scope, 1)
            try:
                await event.wait()
                await trio.sleep(SETTLE_S)
            finally:
                self._waiting.remove(group, scope)
                if self._events.get(topic) is event and not event.statistics().tasks_waiting:
                    del self._events[topic]

    def _changed(self, topic: str) -> None:
        if (event := self._events.pop(topic, None)) is not None:
            event.set()

    def _make_room(self, group: str) -> bool:
        """Whether one more request of this group may wait, perhaps in the place of another group's."""
        if self._stopping:
            return False
        if self._waiting.total < self._limit:
            return True
        largest = self._waiting.largest()
        if self._waiting.sum_of(largest) <= self._waiting.sum_of(group) + 1:
            return False
        self._answer_oldest(largest)
        return True

    def _answer_oldest(self, group: str) -> None:
        scope = self._waiting.oldest(group)
        assert scope is not None, "a group without requests"
        self._waiting.remove(group, scope)
        scope.cancel()
