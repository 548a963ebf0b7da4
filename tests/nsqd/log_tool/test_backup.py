"""`nsqd-log backup`: whatever a broker does meanwhile, the backup recovers without loss, and has what it must have."""

from __future__ import annotations

import errno
import os
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
from nsqd.log.records import FILE_HEADER_SIZE, RECORD_HEAD_SIZE, FileHeader
from nsqd.log.store import Store, StoreOptions
from nsqd.log_tool import backup
from nsqd.log_tool.backup import BackupReport, back_up
from nsqd.replication.keep import CopyNote
from tests.nsqd.broker.harness import Consumer, Harness
from tests.nsqd.log.test_recovery import newer
from tests.nsqd.log_tool.test_inspect import contents, run
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
        return Broker(
            Store(self.files, self.store_options, self.wall_ns), self.options, self.now, self.wall_ns
        )

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


def refuse(number: int) -> Callable[..., Any]:
    """A function of the system that does not work."""

    def call(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


def back_up_while(
    happens: Callable[[], None], source: Path, target: Path, *, linked: bool = True
) -> BackupReport:
    """Make a backup, and call `happens` before each of its operations on the data path."""
    interleaved = Interleaved(source, happens)
    with pytest.MonkeyPatch.context() as patch:
        if not linked:
            patch.setattr(os, "link", refuse(errno.EXDEV))
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


def operations_with(event: str, at: int, folder: Path) -> int:
    """Have an event happen before one of the operations of a backup, and check that. How many operations it took."""
    source, target = folder / f"data-{at}", folder / f"backup-{at}"
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
    return operations


@pytest.mark.heavy
@pytest.mark.parametrize("event", EVENTS)
def test_an_event_before_each_operation(tmp_path: Path, event: str) -> None:
    at = 0
    while at < operations_with(event, at, tmp_path):
        at += 1
    assert at > 40, "they were not seen"


@pytest.mark.heavy
@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(sorted(EVENTS)), st.sampled_from(["a", "b"])),
        max_size=25,
    ),
    st.booleans(),
)
def test_a_random_life_meanwhile(events: list[tuple[int, str, str]], linked: bool) -> None:
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

        back_up_while(happens, source, target, linked=linked)
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


def restored(target: Path, now: float) -> dict[tuple[str, str], set[bytes]]:
    """What a daemon that is started on a backup delivers, without a remark on its files."""
    daemon = OnDisk(target, now)
    assert daemon.broker.store.notes == []
    try:
        return delivered(daemon)
    finally:
        daemon.files.close()


def topics_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.glob("topic-*/*")}


class TestFiles:
    def test_linked_but_for_the_last_segments(self, tmp_path: Path, source: Path, life: Life) -> None:
        report = back_up(str(source), str(tmp_path / "backup"))
        assert topics_of(tmp_path / "backup") == topics_of(source)
        ours = {path: os.stat(source / path).st_ino for path in topics_of(source)}
        theirs = {path: os.stat(tmp_path / "backup" / path).st_ino for path in topics_of(source)}
        last = {
            max(path for path in ours if path.startswith(f"topic-{t}/") and path.endswith(".log"))
            for t in "ab"
        }
        copied = {path for path in ours if ours[path] != theirs[path]}
        assert copied == last | {"topic-a/manifest", "topic-b/manifest"}
        assert (report.topics, report.linked, report.copied) == (2, len(ours) - 4, 4)
        assert report.bytes == sum(map(len, topics_of(source).values()))
        assert report.copied_bytes == sum(len(topics_of(source)[path]) for path in copied)

    @pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM])
    def test_copied_where_they_cannot_be_linked(
        self, tmp_path: Path, source: Path, life: Life, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "link", refuse(number))
        monkeypatch.setattr(os, "copy_file_range", refuse(errno.EXDEV))
        report = back_up(str(source), str(tmp_path / "backup"))
        assert topics_of(tmp_path / "backup") == topics_of(source)
        assert (report.linked, report.copied) == (0, len(topics_of(source)))
        (note,) = report.notes
        assert "copied" in note
        for path in topics_of(source):
            assert not os.path.samefile(source / path, tmp_path / "backup" / path)

    def test_copies_of_an_earlier_look_are_kept(self, tmp_path: Path, source: Path, life: Life) -> None:
        copies = operations = 0

        def happens() -> None:
            nonlocal operations
            operations += 1
            if operations == 25:
                life.snapshot("b")

        def count(reader: int, writer: int, size: int) -> int:
            nonlocal copies
            copies += 1
            return os.sendfile(writer, reader, None, size)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "copy_file_range", count)
            report = back_up_while(happens, source, tmp_path / "backup", linked=False)
        assert restored(tmp_path / "backup", life.harness.now)
        again = copies - (report.copied - 2)  # manifests are not counted
        assert again <= 3, "the last segment, and snapshots that went"

    def test_what_says_whose_it_is_stays_out(self, tmp_path: Path, source: Path, life: Life) -> None:
        life.harness.broker.close()
        for path in ("nsqd.deleted", "nsqd.seal", "topic-a/0.damaged", "topic-a/.log.new"):
            (source / path).write_bytes(b"x" * 100)
        for folder in ("trash-1", "copies", "topic-a b", "other"):
            (source / folder).mkdir()
            (source / folder / f"{0:020d}.log").write_bytes(b"x" * 100)
        assert {"nsqd.life", "nsqd.ids", "nsqd.clean", "nsqd.ballast"} <= set(os.listdir(source))
        back_up(str(source), str(tmp_path / "backup"))
        assert sorted(os.listdir(tmp_path / "backup")) == ["topic-a", "topic-b"]
        names = {path.rpartition(".")[2].rpartition("/")[2] for path in topics_of(tmp_path / "backup")}
        assert names == {"log", "snap", "manifest"}

    def test_ids_continue_after_those_in_the_logs(self, tmp_path: Path, source: Path, life: Life) -> None:
        back_up(str(source), str(tmp_path / "backup"))
        daemon = OnDisk(tmp_path / "backup", life.harness.now - 10)  # its clock is behind
        assert daemon.broker.store.ids.next >= life.harness.broker.store.ids.next
        daemon.files.close()

    def test_the_journal_of_an_import_is_kept(self, tmp_path: Path, source: Path, life: Life) -> None:
        with closing(FileStorage(source)) as storage:
            Journal(source="/old", fingerprint="x", complete=True).save(storage)
        back_up(str(source), str(tmp_path / "backup"))
        assert (tmp_path / "backup/nsqd.import").read_bytes() == (source / "nsqd.import").read_bytes()

    def test_every_torn_end_is_left_out(self, tmp_path: Path, source: Path, life: Life) -> None:
        life.publish("b", 1)
        last = max((source / "topic-b").glob("*.log"))
        data = last.read_bytes()
        life.publish("b", 1)
        more = last.read_bytes()
        assert data == more[: len(data)] != more, "the record is in the same segment"
        head = len(data) + RECORD_HEAD_SIZE
        for size in (*range(len(data), head + 2), *range(head + 2, len(more), 37), len(more) - 1):
            last.write_bytes(more[:size])
            target = tmp_path / f"backup-{size}"
            back_up(str(source), str(target))
            assert (target / last.relative_to(source)).read_bytes() == data
        assert run("verify", str(target)) == 0

    @pytest.mark.parametrize("size", [0, 1, FILE_HEADER_SIZE - 1])
    def test_a_segment_without_a_whole_header_is_left_out(
        self, tmp_path: Path, source: Path, life: Life, size: int
    ) -> None:
        """A copy of another node's begins like this; the segment before it is then the one that will grow."""
        last = max((source / "topic-b").glob("*.log"))
        new = last.with_name(f"{int(last.stem) + last.stat().st_size:020d}.log")
        new.write_bytes(last.read_bytes()[:size])
        back_up(str(source), str(tmp_path / "backup"))
        assert not (tmp_path / "backup/topic-b" / new.name).exists()
        assert not os.path.samefile(last, tmp_path / "backup/topic-b" / last.name)

    def test_damage_is_for_the_recovery_to_tell(self, tmp_path: Path, source: Path, life: Life) -> None:
        last = max((source / "topic-b").glob("*.log"))
        data = bytearray(last.read_bytes())
        data[-5] ^= 1
        last.write_bytes(data)
        back_up(str(source), str(tmp_path / "backup"))
        assert (tmp_path / "backup/topic-b" / last.name).read_bytes() == data
        assert run("verify", str(tmp_path / "backup")) == 1


class TestNoBackup:
    """It says why, and leaves nothing behind."""

    def refused(self, source: Path, target: Path, why: str, capsys: pytest.CaptureFixture[str]) -> None:
        before = contents(source)
        assert run("backup", str(source), str(target)) == 2
        error = capsys.readouterr().err
        assert error.startswith("nsqd-log: ")
        assert error.count("\n") == 1
        assert why in error
        assert contents(source) == before

    @pytest.mark.parametrize("name", ["x", ".backup.new"])
    def test_the_target_is_not_empty(
        self, tmp_path: Path, source: Path, life: Life, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "backup" / name).mkdir(parents=True)
        why = "is not empty" if name == "x" else "the rest of a backup"
        self.refused(source, tmp_path / "backup", why, capsys)
        assert os.listdir(tmp_path / "backup") == [name]

    def test_the_source_is_something_else(
        self, tmp_path: Path, source: Path, life: Life, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other, target = tmp_path / "other", tmp_path / "backup"
        self.refused(other, target, "No such file", capsys)
        other.mkdir()
        self.refused(other, target, "is no data path", capsys)
        self.refused(source / "topic-a", target, "the folder of one topic", capsys)
        (other / "nsqd.dat").touch()
        self.refused(other, target, "the original nsqd", capsys)
        assert not target.exists()

    def test_the_target_is_in_the_way(
        self, tmp_path: Path, source: Path, life: Life, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (source / "copies").mkdir()
        for inside in ("topic-a/x", "topic-new", "copies/x", "trash-7"):
            self.refused(source, source / inside, "belongs to nsqd", capsys)
        copy = source / "copies/life"
        copy.mkdir()
        (copy / "nsqd.copy").touch()
        self.refused(copy, source / "copies/backup", "belongs to nsqd", capsys)
        self.refused(source, tmp_path / "no/such", "No such file", capsys)
        assert run("backup", str(source), str(source / "backups")) == 0, "a container may have no other place"

    def test_an_import_is_not_complete(
        self, tmp_path: Path, source: Path, life: Life, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with closing(FileStorage(source)) as storage:
            Journal(source="/old", fingerprint="x").save(storage)
        self.refused(source, tmp_path / "backup", "the import of /old", capsys)
        assert not (tmp_path / "backup").exists()

    def test_a_newer_format(
        self, tmp_path: Path, source: Path, life: Life, capsys: pytest.CaptureFixture[str]
    ) -> None:
        last = max((source / "topic-a").glob("*.log"))
        data = last.read_bytes()
        last.write_bytes(newer(FileHeader.decode(data)) + data[FILE_HEADER_SIZE:])
        self.refused(source, tmp_path / "backup", f"{last}: format version", capsys)
        assert not (tmp_path / "backup").exists()

    @pytest.mark.parametrize("there", [True, False])
    def test_no_room(
        self,
        tmp_path: Path,
        source: Path,
        life: Life,
        there: bool,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A target that was there stays, and is empty again."""
        if there:
            (tmp_path / "backup").mkdir()
        monkeypatch.setattr(backup, "RESERVE", 1 << 60)
        self.refused(source, tmp_path / "backup", "No space left on device", capsys)
        assert (tmp_path / "backup").exists() is there
        assert not list(tmp_path.glob("backup/*"))

    def test_interrupted(self, tmp_path: Path, source: Path, life: Life) -> None:
        def interrupt(_path: str, _done: int, _size: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            back_up(str(source), str(tmp_path / "backup"), interrupt)
        assert not (tmp_path / "backup").exists()

    def test_files_that_are_never_the_same(self, tmp_path: Path, source: Path, life: Life) -> None:
        with pytest.raises(OSError, match="during each of 100 looks") as refused:
            back_up_while(lambda: life.write_manifest("a"), source, tmp_path / "backup")
        assert refused.value.errno == errno.EBUSY
        assert not (tmp_path / "backup").exists()


class TestCommand:
    def test_it_ends_with_a_summary(
        self, tmp_path: Path, source: Path, life: Life, capsys: pytest.CaptureFixture[str]
    ) -> None:
        target = tmp_path / "backup"
        assert run("backup", str(source), str(target)) == 0
        out = capsys.readouterr()
        files = len(topics_of(source))
        size = sum(map(len, topics_of(source).values()))
        begin = f"{target}: 2 topics, {size} bytes, {files - 4} files linked, 4 files copied ("
        assert out.out.startswith(begin)
        assert out.err == "", "no progress where nobody looks"
        assert run("verify", str(target)) == 0

    def test_a_copy_with_a_gap(
        self, tmp_path: Path, source: Path, life: Life, capsys: pytest.CaptureFixture[str]
    ) -> None:
        note = CopyNote("00" * 16, "leader", 1, complete=True)
        with closing(FileStorage(source)) as storage:
            storage.replace("nsqd.copy", note.encode())
            assert run("backup", str(source), str(tmp_path / "whole")) == 0
            storage.replace("nsqd.copy", attrs.evolve(note, complete=False).encode())
        capsys.readouterr()
        assert run("backup", str(source), str(tmp_path / "backup")) == 1
        assert "the copy is not complete" in capsys.readouterr().out
        assert sorted(os.listdir(tmp_path / "backup")) == ["topic-a", "topic-b"], "it is none any more"

    def test_progress_reaches_the_end(self, tmp_path: Path, source: Path, life: Life) -> None:
        seen: list[tuple[int, int]] = []
        back_up(str(source), str(tmp_path / "backup"), lambda _path, done, size: seen.append((done, size)))
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert seen[-1][0] <= seen[-1][1]
        assert seen[-1][0] > seen[-1][1] // 2
