"""Data paths that released versions left behind are recovered to the state that those versions saw in them.

`data/data-path-1.4.0.tar.xz` was written by nsqd 1.4.0, which was killed: several topics in small segments, with what
the names say. `aborted`: one append that failed and was cut back, one that could not be. `damaged`: damage that 1.4.0
has set aside. `flipped`: a flipped bit that it has not met. `torn`: half a record at the end. `unsnapped`: the newest
snapshot cannot be read. `orders`: finishes out of order, requeued and deferred messages, a channel that was deleted and
made again, one that is paused, two snapshots. What is expected here is what 1.4.0 itself recovered from the files.

`data/data-path-format-2.tar.xz` was written with version 2 of the format, which was in no release, by a daemon that was
killed. `orders`: moved messages, two snapshots, a manifest, besides the above.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from nsqd.log.file_storage import FileStorage
from nsqd.log.ranges import runs
from nsqd.log.records import VERSION
from nsqd.log.recovery import Recovered
from nsqd.log.state import Code
from nsqd.log.store import Store, StoreOptions
from nsqkit.wire.frames import decode_message
from tests.nsqd.log.samples import append, everything, read_all

WALL_NS = 1_800_000_000 * 10**9
DEFERRED_UNTIL = 1_700_000_201 * 10**9
REQUEUED_UNTIL = 1_700_000_150 * 10**9

Ranges = list[tuple[int, int]]


@attrs.frozen(kw_only=True)
class ExpectedChannel:
    """`awaiting`: of those that wait for another delivery the attempts and the time when they are due."""

    name: str
    settled: Ranges
    awaiting: dict[int, tuple[int, int]] = attrs.field(factory=dict)
    paused: bool = False
    damaged: int = 0


@attrs.frozen(kw_only=True)
class Expected:
    """What recovery finds of a topic. `messages`: those that can be read; `crc`: CRC-32 of all their frames."""

    end: int
    high_watermark: int
    segments: list[int]
    replayed: int
    messages: Ranges
    crc: int
    channels: dict[int, ExpectedChannel] = attrs.field(factory=dict)
    snapshots: list[int] = attrs.field(factory=list)
    paused: bool = False
    deferred: dict[int, int] = attrs.field(factory=dict)
    unavailable: Ranges = attrs.field(factory=list)
    damage: list[tuple[int, int, int, int]] = attrs.field(factory=list)
    incomplete: bool = False
    torn: int = 0


VERSION_1_4_0 = {
    "aborted": Expected(
        end=11,
        high_watermark=11,
        unavailable=[(2, 5), (7, 9)],
        segments=[0, 338],
        replayed=393,
        messages=[(0, 2), (5, 7), (9, 11)],
        crc=1694444043,
        channels={1: ExpectedChannel(name="c", settled=[(2, 5), (7, 9)])},
    ),
    "again": Expected(
        end=2,
        high_watermark=2,
        segments=[0],
        replayed=164,
        messages=[(0, 2)],
        crc=1884060847,
        channels={1: ExpectedChannel(name="c", settled=[])},
    ),
    "damaged": Expected(
        end=57,
        high_watermark=57,
        segments=[0, 1782],
        snapshots=[836, 3028],
        replayed=34,
        messages=[(0, 34), (44, 57)],
        crc=3779747411,
        channels={1: ExpectedChannel(name="c", settled=[(0, 2), (34, 44)])},
    ),
    "emptied": Expected(
        end=8,
        high_watermark=8,
        segments=[0],
        replayed=524,
        messages=[(0, 8)],
        crc=180435268,
        channels={
            1: ExpectedChannel(name="c", settled=[(0, 6)]),
            2: ExpectedChannel(name="later", settled=[(0, 8)]),
        },
    ),
    "flipped": Expected(
        end=54,
        high_watermark=54,
        incomplete=True,
        segments=[0, 1748],
        replayed=2628,
        unavailable=[(3, 7)],
        damage=[(263, 204, 3, 7)],
        messages=[(0, 3), (7, 54)],
        crc=1533358712,
        channels={1: ExpectedChannel(name="c", settled=[(3, 7)], damaged=4)},
    ),
    "orders": Expected(
        end=36,
        high_watermark=36,
        segments=[0, 1528],
        snapshots=[1633, 2204],
        replayed=318,
        messages=[(0, 36)],
        crc=3214767652,
        channels={
            1: ExpectedChannel(
                name="archive",
                settled=[(0, 9), (10, 16), (17, 18), (21, 31), (34, 36)],
                awaiting={
                    9: (1, REQUEUED_UNTIL),
                    16: (2, 0),
                    18: (2, 0),
                    19: (2, 0),
                    20: (0, DEFERRED_UNTIL),
                },
            ),
            2: ExpectedChannel(
                name="mail",
                paused=True,
                settled=[(1, 2), (4, 5)],
                awaiting={**dict.fromkeys((0, 2, 3, 5, 6, 7), (1, 0)), 20: (0, DEFERRED_UNTIL)},
            ),
            4: ExpectedChannel(name="gone", settled=[(0, 21)]),
        },
    ),
    "torn": Expected(
        end=12,
        high_watermark=12,
        segments=[0],
        torn=107,
        replayed=616,
        messages=[(0, 12)],
        crc=490952845,
        channels={1: ExpectedChannel(name="c", settled=[])},
    ),
    "unsnapped": Expected(
        end=18,
        high_watermark=18,
        segments=[0],
        snapshots=[864],
        replayed=316,
        messages=[(0, 18)],
        crc=1835691534,
        channels={1: ExpectedChannel(name="c", settled=[])},
    ),
    "unwanted": Expected(
        end=6,
        high_watermark=5,
        unavailable=[(0, 5)],
        segments=[0],
        replayed=364,
        messages=[(0, 6)],
        crc=3452662682,
    ),
    "waiting": Expected(
        end=7,
        high_watermark=0,
        paused=True,
        deferred={4: 30 * 10**9},
        segments=[0],
        replayed=447,
        messages=[(0, 7)],
        crc=1328549630,
    ),
}

FORMAT_2 = {
    "emptied": Expected(
        end=6,
        high_watermark=6,
        segments=[0],
        replayed=396,
        messages=[(0, 6)],
        crc=2328641265,
        channels={1: ExpectedChannel(name="c", settled=[(0, 5)])},
    ),
    "orders": Expected(
        end=64,
        high_watermark=64,
        segments=[8333],
        snapshots=[8573, 11855],
        replayed=511,
        messages=[(46, 64)],
        crc=2738655921,
        channels={
            1: ExpectedChannel(
                name="mail",
                settled=[(0, 3), (4, 5), (6, 30), (32, 60)],
                awaiting={
                    3: (1, 1_700_000_600 * 10**9),
                    5: (1, 0),
                    60: (0, 1_700_001_030 * 10**9),
                },
            ),
            3: ExpectedChannel(name="archive", paused=True, settled=[(0, 61)]),
        },
    ),
    "waiting": Expected(
        end=4,
        high_watermark=0,
        paused=True,
        deferred={2: 10**10},
        segments=[0],
        replayed=343,
        messages=[(0, 4)],
        crc=848212732,
    ),
}

SET_ASIDE = {  # by 1.4.0, and what it would have set aside at this start
    "topic-aborted/00000000000000000000.log.338.damaged",
    "topic-damaged/00000000000000001782.log.64.damaged",
    "topic-flipped/00000000000000000000.log.263.damaged",
    "topic-torn/00000000000000000000.log.680.damaged",
    "topic-unsnapped/00000000000000001068.snap.damaged",
}


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[FileStorage]:
    yield from unpacked(tmp_path, "1.4.0")


@pytest.fixture
def format_2(tmp_path: Path) -> Iterator[FileStorage]:
    yield from unpacked(tmp_path, "format-2")


def unpacked(tmp_path: Path, version: str) -> Iterator[FileStorage]:
    with tarfile.open(Path(__file__).parent / "data" / f"data-path-{version}.tar.xz") as archive:
        for member in archive:
            if member.isdir():
                (tmp_path / member.name).mkdir(exist_ok=True)
            else:
                content = archive.extractfile(member)
                assert content is not None
                (tmp_path / member.name).write_bytes(content.read())
    storage = FileStorage(tmp_path)
    yield storage
    storage.close()


def start(storage: FileStorage) -> tuple[Store, dict[str, Recovered]]:
    options = StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=1500)
    store = Store(storage, options, WALL_NS)
    return store, dict(store.topics(WALL_NS))


def found(recovered: Recovered) -> Expected:
    state, log = recovered.state, recovered.log
    messages = read_all(log, log.segments[0].first)
    return Expected(
        end=state.end,
        high_watermark=state.high_watermark,
        paused=state.paused,
        deferred=state.deferred,
        unavailable=list(state.unavailable),
        incomplete=state.incomplete,
        segments=[segment.position for segment in log.segments],
        snapshots=log.snapshots,
        torn=recovered.torn_bytes,
        replayed=recovered.replayed_bytes,
        damage=[(each.offset, each.size, each.first, each.end) for each in recovered.damage],
        messages=runs(list(messages)),
        crc=zlib.crc32(b"".join(messages.values())),
        channels={
            generation: ExpectedChannel(
                name=channel.name,
                paused=channel.paused,
                settled=list(channel.settled),
                awaiting=channel.awaiting_redelivery,
                damaged=channel.damaged,
            )
            for generation, channel in state.channels.items()
        },
    )


def test_1_4_0(storage: FileStorage) -> None:
    store, topics = start(storage)
    assert not store.clean
    assert {name: found(topic) for name, topic in topics.items()} == VERSION_1_4_0
    assert len(store.notes) == 4, "one for each file that was not whole"
    assert store.ids.next == 1_700_000_133_554_432
    store.jobs.run_all()
    assert storage.folders() == [f"topic-{name}" for name in sorted(topics)], "what was deleted is gone"
    assert {path for path in everything(storage) if path.endswith(".damaged")} == SET_ASIDE


def test_bodies_of_1_4_0(storage: FileStorage) -> None:
    """Bodies name their topic and their place in it, but for the deferred ones."""
    _, topics = start(storage)
    for name, topic in topics.items():
        for seq, frame in read_all(topic.log).items():
            body = decode_message(frame).body.decode()
            assert body == f"{name} {seq}" or body.startswith(f"{name} deferred")


def test_1_4_0_and_then_this_version(storage: FileStorage) -> None:
    """What is appended to old segments is there at the next start, with what was there before."""
    _, topics = start(storage)
    before = {}
    for name, topic in topics.items():
        append(topic.log, 2)
        before[name] = read_all(topic.log, topic.log.segments[0].first)
        topic.log.close()
    store, again = start(storage)
    assert all("topic-flipped" in note for note in store.notes), "damage is met again, a cut is not"
    assert {name: read_all(topic.log, topic.log.segments[0].first) for name, topic in again.items()} == before


def test_format_2(format_2: FileStorage) -> None:
    store, topics = start(format_2)
    assert not store.clean
    assert {name: found(topic) for name, topic in topics.items()} == FORMAT_2
    assert topics["orders"].log.moved == dict.fromkeys((3, 5, 30, 31), 11008)
    assert not store.notes


def test_format_2_and_then_this_version(format_2: FileStorage) -> None:
    """Settings are in a new segment; the old ones stay what they are."""
    _, topics = start(format_2)
    log = topics["orders"].log
    log.append((), [(Code.TOPIC_SETTINGS, {"max_depth": 5}), (Code.CHANNEL_SETTINGS, 1, {"max_age": 7})])
    assert [segment.version for segment in log.segments] == [2, VERSION]
    log.close()
    _, again = start(format_2)
    state = again["orders"].state
    assert (state.settings, state.channels[1].settings) == ({"max_depth": 5}, {"max_age": 7})
    assert found(again["orders"]).messages == FORMAT_2["orders"].messages
