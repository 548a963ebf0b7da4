"""Where a channel is to begin: a place in a topic's log, named by a time or by a message's id.

A place is good if no message from there on was removed; else the oldest time is named for which that holds.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import attrs

from nsqd.broker.oldest import published_ns
from nsqd.broker.peek import search
from nsqd.broker.topic import Topic

__all__ = ["Edge", "Extent", "MessageUnknown", "NoLongerThere", "Place", "find_extent", "find_start"]


class Edge(enum.Enum):
    """A place that needs no search."""

    START = "start"
    """Everything that is still there."""
    END = "end"
    """Only messages that are published from now on."""


Place = Edge | int | bytes
"""Or a time in nanoseconds since 1970: the first message of then or later; or the id of a message."""


@attrs.frozen
class Extent:
    """What is there of a topic: everything from `seq` on, whose first message was published at `oldest_ns`.

    None: no message is there. `since_ever`: nothing was removed before it, either.
    """

    seq: int
    oldest_ns: int | None

    @property
    def since_ever(self) -> bool:
        return self.seq == 0


class NoLongerThere(Exception):
    """Messages from the wanted place on were removed. `extent`: what is there."""

    def __init__(self, extent: Extent) -> None:
        super().__init__()
        self.extent = extent


class MessageUnknown(Exception):
    """There is no message with this id, or no longer."""


def find_extent(topic: Topic) -> Callable[[], Extent]:
    """What is there of a topic; the result is to be run in *any thread*. `OSError` as for a look."""
    seq, look = topic.store.complete_from, topic.store.look_anywhere()

    def run() -> Extent:
        found = None if look is None else look.first_from(seq)
        return Extent(seq, None if found is None else published_ns(found[1]))

    return run


def find_start(topic: Topic, place: Place) -> Callable[[], int]:
    """A search for the seq of the first message at a place, to be run in *any thread*.

    `NoLongerThere`, `MessageUnknown`; `OSError` as for a look.
    """
    if place is Edge.START:
        return lambda: 0
    end = topic.store.end
    if place is Edge.END:
        return lambda: end
    find_there, look = find_extent(topic), topic.store.look_anywhere()
    find_message = search(topic, place) if isinstance(place, bytes) else None

    def run() -> int:
        there = find_there()
        if find_message is not None:
            found = find_message()
            if found is None:
                raise MessageUnknown
            if found[0] < there.seq:
                raise NoLongerThere(there)
            return found[0]
        assert isinstance(place, int)
        if not there.since_ever and (there.oldest_ns is None or place < there.oldest_ns):
            raise NoLongerThere(there)
        first = None if look is None else look.first_since(place, there.seq)
        return end if first is None else first[0]

    return run
