"""`nsqd-log backup`: whatever a broker does meanwhile, the backup recovers without a loss and has what must be in it."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsqd.broker import Broker
from nsqd.importing.journal import Journal
from nsqd.log.file_storage import FileStorage
from nsqd.log.records import FILE_HEADER_SIZE
from nsqd.log.store import Store, StoreOptions
from nsqd.log_tool import backup
from nsqd.log_tool.backup import BackupRefused, BackupReport, back_up
from nsqd.replication.keep import CopyNote
from tests.nsqd.broker.harness import Consumer, Harness
from tests.nsqd.log_tool.test_inspect import contents, run
from tests.nsqd.log.test_recovery import newer
from tests.nsqd.replication.test_machine import Ledger, delivered

CHANNELS = ("x", "y")


@pytest.fixture(autouse=True, scope="module")
def _unsynced() -> Iterator[None]:
    """No test of this file asks what a power loss leaves, and syncs take long on some disks."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("os.fsync", "os.fdatasync", "nsqd.log.file_storage._syncfs"):
            patch.setattr(name, lambda _: None)
        yield


class OnDisk(Harness):
    """A daemon whose data path is a real folder, started at `now`."""

    def __init__(self, root: Path, now: float = 100.0) -> None:
        self.root, self._began = root, now
        self.files = FileStorage(root)
        super().__init__(StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=2000))

    def _boot(self) -> Broker:
        self.now = max(self.now, self._began)
        self.files.close()
        self.files = FileStorage(self.root)
        return Broker(Store(self.files, self.store_options, self.wall_ns), self.options, self.now, self.wall_ns)

    def kill(self) -> None:
        self._start()

    def snapshot(self, topic: str = "t") -> None:
        while self.broker.retentions[topic].has_snapshot_in_hand:  # one that was due
            self.broker.step_snapshots()
            self.round()
        super().snapshot(topic)


@attrs.define(eq=False)
class Life:
    """A daemon with two topics of two channels, and what must be in them."""

    harness: OnDisk
    ledger: Ledger = attrs.field(factory=Ledger)
    consumers: dict[tuple[str, str], Consumer] = attrs.field(factory=dict)

    @classmethod
    def begin(cls, root: Path) -> Life:
        """With a history: segments and snapshots that are gone, and others that are not."""
        life = cls(OnDisk(root))
        life.create("a")
        life.create("b")
        life.turn_over("a")
        life.defer("b")
        life.finish("b")
        return life

    def create(self, topic: str) -> None:
        for channel in CHANNELS:
            self.ledger.wanted[topic, channel] = set()
            self.ledger.finished[topic, channel] = set()
            self.subscribe(topic, channel)
        for _ in range(2):  # the second one goes into another segment
            self.publish(topic, 7)

    def subscribe(self, topic: str, channel: str) -> None:
        self.consumers[topic, channel] = self.harness.subscribe(channel, topic=topic, rdy=3)

    def publish(self, topic: str, count: int = 3) -> None:
        receipt = self.harness.publish(*[b"m" * 300] * count, topic=topic)
        assert receipt.acknowledged
        self._note_published(topic, receipt.ids)

    def defer(self, topic: str) -> None:
        self._note_published(topic, self.harness.defer(b"later", 20.0, topic=topic).ids)

    def _note_published(self, topic: str, ids: list[bytes]) -> None:
        for channel in CHANNELS:
            self.ledger.wanted[topic, channel].update(ids)

    def finish(self, topic: str) -> None:
        for key, consumer in self._of(topic):
            if ids := consumer.in_flight[::2]:
                assert not self.harness.finish(consumer, *ids)
                self.ledger.wanted[key].difference_update(ids)
                self.ledger.finished[key].update(ids)

    def requeue(self, topic: str) -> None:
        for _, consumer in self._of(topic):
            for message_id in consumer.in_flight[:1]:
                self.harness.requeue(consumer, message_id)

    def turn_over(self, topic: str) -> None:
        """Nearly all is finished; snapshots are written; the segments that nobody needs any more go."""
        self.publish(topic, 12)
        for _, consumer in self._of(topic):
            while len(consumer.in_flight) > 1:
                self.finish(topic)
        self.snapshot(topic)
        self.harness.advance(1.0)
        self.harness.advance(1.0)

    def snapshot(self, topic: str) -> None:
        """Two, so that those before them go."""
        for _ in range(2):
            self.publish(topic, 1)
            self.harness.snapshot(topic)

    def write_manifest(self, topic: str) -> None:
        """After a segment was begun."""
        self.publish(topic, 7)
        self.publish(topic, 1)
        self.harness.broker.retentions[topic].channels_changed()

    def delete(self, topic: str) -> None:
        """And make another topic of this name, whose segments have the same names."""
        for key, consumer in self._of(topic):
            self.harness.consumers.remove(consumer)
            del self.consumers[key], self.ledger.wanted[key], self.ledger.finished[key]
        self.harness.broker.delete_topic(topic)
        self.harness.round()
        self.create(topic)

    def kill(self, _: str) -> None:
        self.harness.kill()
        for topic, channel in self.consumers:
            self.subscribe(topic, channel)

    def _of(self, topic: str) -> list[tuple[tuple[str, str], Consumer]]:
        return [(key, consumer) for key, consumer in self.consumers.items() if key[0] == topic]

    def close(self) -> None:
        self.harness.files.close()


EVENTS: dict[str, Callable[[Life, str], None]] = {
    "publish": Life.publish,
    "finish": Life.finish,
    "requeue": Life.requeue,
    "snapshot": Life.snapshot,
    "turn over": Life.turn_over,
    "manifest": Life.write_manifest,
    "delete": Life.delete,
    "kill": Life.kill,
}


class Interleaved:
    """The module `os`, and something that happens before each operation on a data path."""

    def __init__(self, source: Path, before: Callable[[], None]) -> None:
        self._source, self._before = str(source), before

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        return self.before(found) if callable(found) and not isinstance(found, type) else found

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if function is os.copy_file_range or str(args[0]).startswith(self._source):
                self._before()
            return function(*args, **kwargs)

        return call


def back_up_while(happens: Callable[[], None], source: Path, target: Path) -> BackupReport:
    """Make a backup, and call `happens` before each of its operations on the data path."""
    interleaved = Interleaved(source, happens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backup, "os", interleaved)
        patch.setattr(backup, "open", interleaved.before(open), raising=False)
        return back_up(str(source), str(target))


def check(target: Path, began: Ledger, ended: Ledger, now: float) -> None:
    """Start on a backup: no loss, every message that it must have, and none that it must not have."""
    restored = OnDisk(target, now)
    assert restored.broker.store.notes == []
    found = delivered(restored)
    restored.files.close()
    for key, ids in began.wanted.items():
        still = ids & ended.wanted[key]
        assert still <= found.get(key, set()), f"{key}: {len(still - found.get(key, set()))} are missing"
        assert not began.finished[key] & found.get(key, set()), f"{key}: finished ones come again"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.fixture
def life(source: Path) -> Iterator[Life]:
    life = Life.begin(source)
    yield life
    life.close()


@pytest.mark.heavy
@pytest.mark.parametrize("event", EVENTS)
def test_an_event_before_each_operation(tmp_path: Path, event: str) -> None:
    operations, at = 1, 0
    while at < operations:
        source, target = tmp_path / f"data-{at}", tmp_path / f"backup-{at}"
        source.mkdir()
        life = Life.begin(source)
        began, operations = life.ledger.copy(), 0

        def happens() -> None:
            nonlocal operations
            if operations == at:
                for topic in ("a", "b"):
                    EVENTS[event](life, topic)
            operations += 1

        back_up_while(happens, source, target)
        check(target, began, life.ledger, life.harness.now)
        life.close()
        at += 1
    assert operations > 20, "they were not seen"


@pytest.mark.heavy
@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(sorted(EVENTS)), st.sampled_from(["a", "b"])), max_size=25
    )
)
def test_a_random_life_meanwhile(events: list[tuple[int, str, str]]) -> None:
    """Each event comes so many operations after the one before it. Then both daemons go on, with files in common."""
    with TemporaryDirectory() as folder:
        source, target = Path(folder, "data"), Path(folder, "backup")
        source.mkdir()
        life = Life.begin(source)
        began = life.ledger.copy()
        left = list(events)
        pause = 0

        def happens() -> None:
            nonlocal pause
            pause += 1
            while left and pause > left[0][0]:
                _, event, topic = left.pop(0)
                EVENTS[event](life, topic)
                pause = 0

        back_up_while(happens, source, target)
        there = contents(source)
        check(target, began, life.ledger, life.harness.now)
        assert contents(source) == there, "a start on the backup has changed the data path"
        life.harness.kill()
        assert life.harness.broker.store.notes == []
        found = delivered(life.harness)
        assert all(ids <= found[key] for key, ids in life.ledger.wanted.items())
        life.close()


def test_a_backup_does_not_change_any_more(tmp_path: Path, source: Path, life: Life) -> None:
    back_up(str(source), str(tmp_path / "backup"))
    before = contents(tmp_path / "backup")
    for event in EVENTS.values():
        for topic in ("a", "b"):
            event(life, topic)
    assert contents(tmp_path / "backup") == before
