"""Every sector and every page of a data path is damaged in turn: it costs what was in it, and every loss is counted."""

from __future__ import annotations

import random
from collections.abc import Iterator

import attrs
import pytest

from nsqd.log.records import FILE_HEADER_SIZE, FileHeader, Kind, decode_deferred, decode_moved, split_messages
from nsqd.log.scan import Record, scan
from nsqd.log.store import StoreOptions
from nsqd.testing.memory_storage import MemoryStorage
from nsqkit.wire.frames import decode_message
from tests.nsqd.broker.harness import Harness
from tests.nsqd.log.samples import everything, put

OPTIONS = StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=4096)
LONG = 3000.0
Open = dict[tuple[str, str], set[bytes]]
"""By topic and channel: the bodies that are not finished."""


@attrs.frozen
class DataPath:
    """`files`: their content, by path. `open`: the messages in it."""

    files: dict[str, bytes]
    now: float
    open: Open


def data_path(*, clean: bool) -> DataPath:
    """Topics with one and with many segments, with and without snapshots, moved, deferred and requeued messages."""
    harness = Harness(OPTIONS)
    bodies: Open = {}
    for topic, channels in (("busy", ("a", "b")), ("small", ("c",)), ("idle", ("d", "e"))):
        for channel in channels:
            harness.create(channel, topic)
            bodies[topic, channel] = set()
    numbers = iter(range(10**6))

    def body(topic: str, size: int = 90) -> bytes:
        made = b"%s %d " % (topic.encode(), next(numbers)) + b"x" * size
        for name, found in bodies.items():
            if name[0] == topic:
                found.add(made)
        return made

    for _ in range(4):
        harness.publish(body("small"), body("small"), topic="small")
    for _ in range(30):
        harness.publish(body("idle"), topic="idle")
    luck = random.Random(1)
    for at in range(220):
        if at % 12 == 0:
            harness.defer(body("busy"), LONG, topic="busy")
        harness.publish(body("busy"), topic="busy")
        for name in ("a", "b"):
            consumer = harness.subscribe(name, topic="busy", rdy=1)
            for message in consumer.new():
                if luck.random() < 0.1:
                    harness.requeue(consumer, message.id, LONG)
                else:
                    harness.finish(consumer, message.id)
                    bodies["busy", name].discard(message.body)
            harness.disconnect(consumer)
        if at % 20 == 0:
            harness.advance(1.0)
            while harness.broker.has_snapshots:
                harness.broker.step_snapshots()
                harness.round()
    assert harness.broker.retentions["busy"].log.moved, "messages were moved"
    assert len(harness.broker.retentions["busy"].log.snapshots) == 2
    assert len(harness.broker.retentions["busy"].log.segments) > 2
    if clean:
        harness.broker.close()
    return DataPath(everything(harness.memory), harness.now, bodies)


def storage_of(files: dict[str, bytes]) -> MemoryStorage:
    memory = MemoryStorage()
    for path, data in files.items():
        folder, _, _ = path.rpartition("/")
        if folder and folder not in memory.folders():
            memory.make_folder(folder)
        put(memory, path, data)
    return memory


def messages_in(data: bytes, name: str) -> Iterator[tuple[int, int, list[bytes]]]:
    """(begin, end, bodies) of each record of a segment."""
    if not name.endswith(".log"):
        return

    def read(offset: int, size: int) -> bytes:
        return data[offset : offset + size]

    header = FileHeader.decode(data)
    for item in scan(read, FILE_HEADER_SIZE, len(data), header.salt, 0):
        assert isinstance(item, Record)
        frames = {
            Kind.MESSAGES: lambda p, n: split_messages(p, n),
            Kind.DEFERRED: lambda p, n: decode_deferred(p, n)[0],
            Kind.MOVED: lambda p, n: decode_moved(p, n)[0],
        }.get(item.head.kind, lambda p, n: [])(item.payload, item.head.count)
        end = item.offset + item.head.size
        yield item.offset, end, [decode_message(frame).body for frame in frames]


def drained(memory: MemoryStorage, now: float) -> tuple[Harness, Open, dict[tuple[str, str], int]]:
    """Start on these files. The bodies that each channel gives, and how many it counts as damaged."""
    harness = Harness(OPTIONS)
    harness.memory, harness.now = memory, now
    harness._start()
    harness.advance(2 * LONG)
    found: Open = {}
    damaged: dict[tuple[str, str], int] = {}
    for topic in list(harness.broker.topics.values()):
        for name in list(topic.channels):
            consumer = harness.subscribe(name, topic=topic.name, rdy=2500)
            bodies = harness.drain(consumer)
            assert len(bodies) == len(set(bodies)), "a message came twice"
            found[topic.name, name] = set(bodies)
            damaged[topic.name, name] = topic.channels[name].counts.damaged
    return harness, found, damaged


@pytest.mark.parametrize("size", [512, 4096])
@pytest.mark.parametrize("garbage", [False, True], ids=["zeros", "garbage"])
@pytest.mark.parametrize("clean", [False, True], ids=["killed", "stopped"])
@pytest.mark.heavy
def test_each_sector(clean: bool, garbage: bool, size: int) -> None:
    path = data_path(clean=clean)
    luck = random.Random(2)
    tried = 0
    for file, data in path.files.items():
        records = list(messages_in(data, file))
        for offset in range(0, len(data), size):
            end = min(offset + size, len(data))
            changed = luck.randbytes(end - offset) if garbage else bytes(end - offset)
            memory = storage_of(path.files | {file: data[:offset] + changed + data[end:]})
            hit = {
                body for begin, stop, bodies in records if begin < end and offset < stop for body in bodies
            }
            last = bool(records) and offset < records[-1][1] and end > records[-1][0]
            check(path, memory, hit, f"{file} at {offset}", torn=last and not clean)
            tried += 1
    assert tried > 20


def check(path: DataPath, memory: MemoryStorage, hit: set[bytes], where: str, *, torn: bool) -> None:
    """`hit`: the bodies in the damaged records. `torn`: among them may be the last record of a killed daemon's log."""
    __tracebackhide__ = True
    harness, found, damaged = drained(memory, path.now)
    assert found.keys() == path.open.keys(), f"{where}: the channels are others"
    for channel, bodies in path.open.items():
        lost = bodies - found[channel]
        assert lost <= hit, f"{where}: {channel} lost what was elsewhere"
        if torn:
            assert damaged[channel] <= len(hit), f"{where}: {channel}"
        else:
            assert len(lost) <= damaged[channel] <= len(hit), f"{where}: {channel} lost {len(lost)}"
    assert harness.broker.store.fatal is None
