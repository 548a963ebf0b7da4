"""The publish times of the oldest unfinished message of each topic and channel, as far as they are known.

A message that is not in memory has to be read from disk. One thread does these reads for one request, up to
`MAX_READS` of them, and the results are cached. A time that is not known yet is omitted; a later request will have it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import trio

from nsqd.broker import Channel, Topic
from nsqd.broker.oldest import OldestRead
from nsqkit.yielder import Yielder

__all__ = ["PlaceKey", "publish_times"]

MAX_READS = 200  # of message heads on disk, for one request
READ_SECONDS = 2.0  # no further read begins after that

PlaceKey = tuple[str, str]
"""Names of a topic and a channel; empty channel: the topic itself."""


async def publish_times(topics: Iterable[Topic], yielder: Yielder) -> dict[PlaceKey, int]:
    """Nanoseconds since 1970, for each topic and channel with a message. Other tasks run between slices."""
    known: dict[PlaceKey, int] = {}
    reads: list[tuple[PlaceKey, OldestRead]] = []
    for key, place in list(_places(topics)):
        answer = place.oldest()
        if isinstance(answer, OldestRead):
            reads.append((key, answer))
        elif answer is not None:
            known[key] = answer
        await yielder.maybe_yield()
    del reads[MAX_READS:]
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
    """Run the reads, in a thread. None for each that failed or was too late."""
    return [_read(read) if time.monotonic() < until else None for read in reads]


def _read(read: OldestRead) -> int | None:
    try:
        return read.run()
    except OSError:
        return None
