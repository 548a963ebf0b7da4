"""When the oldest unfinished message of each topic and channel was published, as far as it is known.

What is not in memory has to be read from disk: all such reads of one answer are done in one thread, a bounded number
of them, and what they learn is remembered. What is not known yet is left out, and is there when it is asked for again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import trio

from nsqd.broker import Channel, Topic
from nsqd.broker.oldest import OldestRead
from nsqkit.yielder import Yielder

__all__ = ["PlaceKey", "publish_times"]

MOST_READS = 200  # of heads on disk for one answer; the others come with the next ones
READ_SECONDS = 2.0

PlaceKey = tuple[str, str]
"""A topic and a channel; no channel: the topic itself."""


async def publish_times(topics: Iterable[Topic], yielder: Yielder) -> dict[PlaceKey, int]:
    """Nanoseconds since 1970, for each place that has a message. Other tasks run in between."""
    known: dict[PlaceKey, int] = {}
    reads: list[tuple[PlaceKey, OldestRead]] = []
    for key, place in list(_places(topics)):
        answer = place.oldest()
        if isinstance(answer, OldestRead):
            reads.append((key, answer))
        elif answer is not None:
            known[key] = answer
        await yielder.maybe_yield()
    del reads[MOST_READS:]
    if reads:
        until = time.monotonic() + READ_SECONDS
        found = await trio.to_thread.run_sync(
            _read_all, [read for _, read in reads], until, abandon_on_cancel=True
        )
        for (key, read), answer in zip(reads, found, strict=True):
            if answer is not None:
                read.learned(answer)
                known[key] = answer
    return known


def _places(topics: Iterable[Topic]) -> Iterator[tuple[PlaceKey, Topic | Channel]]:
    for topic in topics:
        yield (topic.name, ""), topic
        for name, channel in topic.channels.items():
            yield (topic.name, name), channel


def _read_all(reads: list[OldestRead], until: float) -> list[int | None]:
    """In a thread. A disk that is slow or refuses costs the figure, nothing more."""
    return [_read(read) if time.monotonic() < until else None for read in reads]


def _read(read: OldestRead) -> int | None:
    try:
        return read.run()
    except OSError:
        return None
