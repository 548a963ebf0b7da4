"""What the channels of the original had is what the same channels have here, however its data path came about."""

from __future__ import annotations

import tempfile
from pathlib import Path

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.broker.harness import Harness
from tests.nsqd.importing.harness import boot, bring, delivered, drain, sorted_by_id
from tests.nsqd.importing.original import DiskQueue, Ids, Message, write_metadata


@attrs.define
class DataPath:
    """Some topics, with what is expected of them."""

    folder: Path
    channels: dict[str, list[str]]
    paused: set[str]
    queues: dict[str, DiskQueue]

    def rest(self, name: str) -> list[Message]:
        return self.queues[name].rest if name in self.queues else []


NAMES = ["a", "b", "..", "x.diskqueue.000001.dat", "Z" * 64]
BODIES = st.binary(max_size=60) | st.integers(1, 3).map(lambda size: b"0123456789abcdef" * 200 * size)
OPERATIONS = st.lists(
    st.tuples(st.just("put"), BODIES, st.sampled_from([0, 0, 1, 3, 65535]))
    | st.tuples(st.sampled_from(["get", "get", "sync", "stop", "kill"]), st.just(b""), st.just(0)),
    max_size=25,
)


@st.composite
def data_paths(draw: st.DrawFn, folder: Path) -> DataPath:
    topics = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1, max_size=3))
    made = DataPath(folder, {}, set(), {})
    for topic in topics:
        channels = made.channels[topic] = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3))
        names = [topic, *(f"{topic}:{channel}" for channel in channels)]
        made.paused.update(draw(st.sets(st.sampled_from(names))))
        ids = Ids()
        for name in draw(st.sets(st.sampled_from(names))):
            made.queues[name] = draw_queue(draw, folder, name, ids)
    write_metadata(folder, made.channels, list(made.paused))
    return made


def draw_queue(draw: st.DrawFn, folder: Path, name: str, ids: Ids) -> DiskQueue:
    queue = DiskQueue(
        folder, name, file_bytes=draw(st.sampled_from([50, 500, 10_000])), sync_every=draw(st.integers(1, 9))
    )
    for operation, body, attempts in draw(OPERATIONS):
        if operation == "put":
            queue.put(ids.message(body, attempts if ":" in name else 0))
        elif operation in ("stop", "kill"):
            queue.restart(kill=operation == "kill")
        else:
            getattr(queue, operation)()
    if draw(st.booleans()):
        queue.sync()
    return queue


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_every_channel_gets_its_messages(data: st.DataObject) -> None:
    """With ids, timestamps, attempts and bodies; the topic's own backlog goes to all channels, or to the first."""
    with tempfile.TemporaryDirectory() as folder:
        made = data.draw(data_paths(Path(folder)))
        before = contents(Path(folder))
        storage = MemoryStorage()
        assert bring(Path(folder), storage).problems == {}
        assert contents(Path(folder)) == before, "the source was changed"
        harness = boot(storage)
        if data.draw(st.booleans(), "restarted from snapshots"):
            for topic in made.channels:
                harness.snapshot(topic)
            harness.kill()
        check(harness, made)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def check(harness: Harness, made: DataPath) -> None:
    assert sorted(harness.broker.topics) == sorted(made.channels)
    for name, channels in made.channels.items():
        topic = harness.broker.topics[name]
        backlog = made.rest(name)
        flows = bool(channels) and name not in made.paused
        assert topic.paused == (name in made.paused)
        assert topic.depth == (0 if flows else len(backlog))
        assert sorted(topic.channels) == sorted(channels)
        for channel in channels:
            own = made.rest(f"{name}:{channel}")
            assert topic.channels[channel].paused == (f"{name}:{channel}" in made.paused)
            assert topic.channels[channel].depth == len(own) + (len(backlog) if flows else 0)
            topic.pause_channel(channel, False)
            expected = delivered(own) + (delivered(backlog, fresh=True) if flows else [])
            assert sorted_by_id(drain(harness, name, channel)) == sorted_by_id(expected)
        if not flows:
            check_backlog(harness, name, backlog)


def check_backlog(harness: Harness, name: str, backlog: list[Message]) -> None:
    """It waits for a first channel, and for the topic to be unpaused; a channel made afterwards gets nothing of it."""
    topic = harness.broker.topics[name]
    channels = list(topic.channels) or [harness.create("first", name).name]
    if topic.paused:
        assert [drain(harness, name, channel) for channel in channels] == [[]] * len(channels)
        topic.pause(False)
        harness.round()
    for channel in channels:
        assert sorted_by_id(drain(harness, name, channel)) == delivered(backlog, fresh=True)
    assert drain(harness, name, "second") == []
