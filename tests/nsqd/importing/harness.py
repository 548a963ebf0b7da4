"""What the tests of the import share: run one into a storage in memory, and see what a broker makes of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nsqd.importing import ImportOptions, Outcome, import_data_path
from nsqd.log.storage import Storage
from nsqd.log.store import StoreOptions
from nsqd.testing.memory_storage import MemoryStorage
from nsqkit.wire import Message as Delivered
from tests.nsqd.broker.harness import WALL_NS, Harness
from tests.nsqd.importing.original import Message

SEGMENT_BYTES = 2000


def bring(folder: Path, storage: Storage, **options: int) -> Outcome:
    """Import `folder` into `storage`, with small segments."""
    sizes = {"max_segment_bytes": SEGMENT_BYTES, "min_free_space": 0} | options
    return import_data_path(str(folder), storage, ImportOptions(**sizes), WALL_NS)


def boot(storage: MemoryStorage) -> Harness:
    """A broker on what is in the storage."""
    harness = Harness(StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=SEGMENT_BYTES))
    harness.memory = storage
    harness.kill()
    return harness


def drain(harness: Harness, topic: str, channel: str) -> list[Delivered]:
    """Everything that a channel delivers, finished as it comes."""
    consumer = harness.subscribe(channel, topic=topic, rdy=7)
    while consumer.in_flight:
        harness.finish(consumer)
    harness.disconnect(consumer)
    return consumer.received


def delivered(messages: list[Message], *, fresh: bool = False) -> list[Delivered]:
    """These messages as the next delivery shows them, sorted. `fresh`: those of a topic begin to count anew."""
    return sorted_by_id(
        Delivered(m.timestamp_ns, 1 if fresh else min(m.attempts + 1, 65535), m.id, m.body) for m in messages
    )


def sorted_by_id(messages: Iterable[Delivered]) -> list[Delivered]:
    return sorted(messages, key=lambda message: (message.id, message.attempts))
