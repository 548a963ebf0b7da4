"""The log under random lives: a state machine that kills it and takes its power, and a death at every operation."""

from __future__ import annotations

import contextlib
import errno
import random
from collections.abc import Callable, Iterator
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from nsqd.log.ranges import RangeSet
from nsqd.log.records import Kind
from nsqd.log.segment import Segment
from nsqd.log.snapshots import KEPT, SnapshotWriter, snapshot_name
from nsqd.log.state import Change, Code, flat_runs
from nsqd.log.store import Store, StoreOptions
from nsqd.log.topic_log import Batch, TopicLog
from nsqd.testing.faulty_storage import WRITES, Break, Crash, CrashAt, Die, Fail, FaultyStorage
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.log.samples import FOLDER, append, everything, frame, read_all, recovered, sync

WALL_NS = 1_700_000_000_000_000_000


def origin_of(frame: bytes) -> bytes:
    """Of a dead letter."""
    return b"from " + frame[-5:]


class LogMachine(RuleBasedStateMachine):
    """A log against what was written to it, and what of that was synced.

    `there`: messages by number, as the log must have them after a kill. `synced`: those that a power loss must not
    take. `perhaps`: what a broken append may have left. `finished_by`: what each generation of the channel needs no
    more, and `finished_synced`: what of it a power loss must not take.
    """

    @initialize()
    def create(self) -> None:
        self.memory = MemoryStorage()
        self.storage = FaultyStorage(self.memory)
        store = open_store(self.storage)
        self.log = store.create_topic("t", WALL_NS)
        store.syncer.want(store.syncer.written)
        store.jobs.run_all()
        self.bodies = count()  # so that no two messages are the same, whatever their numbers
        self.there: dict[int, bytes] = {}
        self.synced: dict[int, bytes] = {}
        self.perhaps: dict[int, bytes] = {}
        self.writer: SnapshotWriter | None = None
        self.generation = self.last_generation = 1
        self.finished_by: dict[int, set[int]] = {1: set()}
        self.finished_synced: dict[int, set[int]] = {1: set()}
        self.change((Code.CHANNEL_CREATED, 1, "ch", 0))
        self.letters: set[bytes] = set()
        self.directed: set[int] = set()
        self.settings = 0
        self.settings_synced = 0  # what a power loss must not take, or what came later
        self.sync()

    @property
    def finished(self) -> set[int]:
        return self.finished_by[self.generation]

    @rule(
        sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
        kind=st.sampled_from([Kind.MESSAGES, Kind.DEFERRED, Kind.LETTERS, Kind.DIRECTED]),
    )
    def publish(self, sizes: list[int], kind: Kind) -> None:
        batches, seq = [], self.log.end
        for size in sizes:
            made = [frame(n, b"message %d" % next(self.bodies)) for n in range(seq, seq + size)]
            batch = Batch.of(made, [9] * size if kind is Kind.DEFERRED else None)
            if kind is Kind.LETTERS:
                batch.origins = [origin_of(each) for each in made]
            elif kind is Kind.DIRECTED:
                batch.directed = self.generation
                self.directed.update(range(seq, seq + size))
            assert batch.encode()[0] is kind
            batches.append(batch)
            if kind is Kind.LETTERS:
                self.letters.update(made)
            self.there.update(enumerate(made, seq))
            seq += size
        self.log.append(batches, flowing=True)

    @rule(part=st.none() | st.integers(0, 200))
    def publish_fails(self, part: int | None) -> None:
        """I15: nothing is left of it, unless the cut back fails too: then it may be there after a restart."""
        fault = Fail(errno.ENOSPC) if part is None else Break(errno.EIO, part)
        self.storage.fault = lambda operation, path: fault if operation == "append" else None
        first = self.log.end
        made = [frame(first + at, b"message %d" % next(self.bodies)) for at in range(2)]
        with pytest.raises(OSError):
            self.log.append([Batch.of(made)], flowing=True)
        self.storage.fault = lambda operation, path: None
        assert self.log.end == first + 2
        if part is not None:
            self.perhaps.update(enumerate(made, first))

    @rule(luck=st.randoms(use_true_random=False))
    def finish(self, luck: random.Random) -> None:
        open_numbers = sorted(self.there.keys() - self.finished)
        if open_numbers:
            chosen = sorted(luck.sample(open_numbers, min(3, len(open_numbers))))
            self.finished.update(chosen)
            for seq in chosen:
                if seq in self.log.moved:  # a power loss may have left no other copy of it
                    self.perhaps[seq] = self.there.pop(seq)
                    self.synced.pop(seq, None)
                self.log.forget_moved(seq)
            self.change((Code.FINISHED, self.generation, *flat_runs((n, n + 1) for n in chosen)))

    @rule(luck=st.randoms(use_true_random=False))
    def seek(self, luck: random.Random) -> None:
        """The channel's generation ends, and another begins anywhere: without what was removed, it needs all again."""
        start, old = luck.randint(0, self.log.end), self.generation
        self.generation = self.last_generation = self.last_generation + 1
        removed = self.log.removed(start, self.log.end)
        self.change(
            (Code.CHANNEL_DELETED, old),
            (Code.DIRECTED, self.generation, *flat_runs(RangeSet((n, n + 1) for n in self.directed))),
            (Code.CHANNEL_CREATED, self.generation, "ch", start),
            (Code.FINISHED, self.generation, *flat_runs(removed)),
            *self._settings(),
        )
        self.finished_by[self.generation] = {*range(start), *(n for part in removed for n in range(*part))}
        for segment in self.log.segments:
            segment.emptied = False

    def change(self, *changes: Change) -> None:
        self.log.append((), changes)

    @rule()
    def set_limits(self) -> None:
        self.settings += 1
        self.change(*self._settings())

    def _settings(self) -> list[Change]:
        given = {"max_depth": self.settings} if self.settings else {}
        return [(Code.TOPIC_SETTINGS, given), (Code.CHANNEL_SETTINGS, self.generation, given)]

    @rule()
    def roll(self) -> None:
        self.log.roll()

    @rule(luck=st.randoms(use_true_random=False))
    def move(self, luck: random.Random) -> None:
        """Move what is needed of a complete segment: of its own messages, and of those that were moved into it."""
        if len(self.log.segments) == 1:
            return
        segment = luck.choice(self.log.segments[:-1])
        inside = range(segment.position, segment.end)
        needed = [
            (seq, body)
            for seq, body in self.there.items()
            if seq not in self.finished
            and (
                self.log.moved[seq] in inside
                if seq in self.log.moved
                else not segment.emptied and segment.has(seq)
            )
        ]
        if needed:
            origins = {seq: origin_of(body) for seq, body in needed if body in self.letters}
            self.log.append_moved(sorted(needed), origins=origins)
        segment.emptied = True

    @rule()
    def sync(self) -> None:
        sync(self.log)
        self.storage.sync_folder(FOLDER)
        self.log.folder_unsynced = False
        self._all_is_synced()

    def _all_is_synced(self) -> None:
        self.synced = dict(self.there)
        self.finished_synced = {self.generation: set(self.finished)}
        self.settings_synced = self.settings

    @rule()
    def begin_snapshot(self) -> None:
        if self.writer is None:
            self.writer = SnapshotWriter.begin(self.log, self._slices())

    def _slices(self) -> Iterator[list[Change]]:
        yield [(Code.MARK, self.log.end, 0), self.log.segments_change()]
        yield [(Code.MOVED, position, seq) for seq, position in self.log.moved.items()]
        generation = self.generation
        yield [(Code.CHANNEL_CREATED, generation, "ch", 0), *self._settings()]
        finished = RangeSet((seq, seq + 1) for seq in self.finished_by[generation])
        yield [(Code.FINISHED, generation, *flat_runs(finished))]
        directed = RangeSet((seq, seq + 1) for seq in self.directed if seq < self.log.end)
        yield [(Code.DIRECTED, self.generation, *flat_runs(directed))]

    @rule()
    def step_snapshot(self) -> None:
        if self.writer is not None and self.writer.step():
            writer, self.writer = self.writer, None
            writer.finish(list(self.log.unsynced))
            self._all_is_synced()
            self.log.snapshots.append(writer.position)
            for position in self.log.snapshots[:-KEPT]:
                self.storage.remove(f"{FOLDER}/{snapshot_name(position)}")
            self.log.snapshots = self.log.snapshots[-KEPT:]

    @rule()
    def release(self) -> None:
        """As the topic does: what was finished is synced before its segments go."""
        gone = self.log.releasable(self._is_needless)
        if not gone:
            return
        self.log.drop(gone)
        sync(self.log)
        self._all_is_synced()
        self.log.remove_files(segment.path for segment in gone)
        for seqs in (self.there, self.synced):
            for seq in [n for n in seqs if n in self.finished and not self._is_in_a_segment(n)]:
                del seqs[seq]

    def _is_needless(self, segment: Segment) -> bool:
        own = [seq for seq in self.there if segment.has(seq)]
        return not segment.moved_count and (segment.emptied or self.finished.issuperset(own))

    def _is_in_a_segment(self, seq: int) -> bool:
        return any(segment.has(seq) for segment in self.log.segments)

    @rule()
    def kill(self) -> None:
        """I1, I3: whatever was appended is there, and nothing else."""
        self._restart(self.memory.kill())
        now = self._read()
        assert self.there.items() <= now.items() <= self.there.items() | self.perhaps.items()
        self.there = now
        assert self.found.state.channels.keys() == {self.generation}
        assert not self._settled() & (now.keys() - self.finished), "something is missing for the channel"
        assert self._settled() >= self._messages(self.finished)
        assert self._found_settings() == self.settings
        assert not self._reported() & self.there.keys()

    @rule(luck=st.randoms(use_true_random=False))
    def lose_power(self, luck: random.Random) -> None:
        """I1, I2: whatever was synced is there; of the rest some may be, unchanged."""
        end = self.log.end
        self._restart(self.memory.crash(luck))
        now = self._read()
        assert now.items() >= self.synced.items(), "something synced was lost"
        known = self.there.items() | self.perhaps.items()
        assert now.items() <= known, "a phantom, or another message under its number"
        assert max(now, default=-1) < self.log.end <= end
        assert not self._reported() & self.synced.keys()
        before = self.generation
        (self.generation,) = self.found.state.channels  # before the settings are asked for
        settled = self._settled()
        assert self.generation >= max(self.finished_synced), "a seek that was synced has not happened"
        finished = self._messages(self.finished_synced.get(self.generation, set()))
        assert settled >= finished, "I3: something finished comes again"
        # Where a seek is lost, and later records are not: those were for a generation that is not there.
        lost_seek = self.generation != before
        expected = self.finished | (self.directed if lost_seek else set())
        assert not settled & (now.keys() - expected), "something is missing for the channel"
        self.there, self.finished_by[self.generation] = now, settled
        found = int(self.found.state.settings.get("max_depth", 0)) if lost_seek else self._found_settings()
        assert self.settings_synced <= found <= self.settings
        self.settings = found
        if lost_seek:
            self.change(*self._settings())
        self.sync()

    def _messages(self, seqs: set[int]) -> set[int]:
        """Those of numbers that belong to a message. What is lost at the end of the log has none any more."""
        return {seq for seq in seqs if seq < self.log.end}

    def _restart(self, storage: MemoryStorage) -> None:
        self.memory, self.storage, self.writer = storage, FaultyStorage(storage), None
        self.found = recovered(self.storage, max_segment_bytes=self.log.max_segment_bytes)
        self.log = self.found.log
        files = everything(storage)
        again = recovered(storage)
        assert everything(storage) == files, "I13: a second restart changes nothing"
        assert again.log.position == self.log.position
        # What the first one has found lost at the end, the broker records; here nobody does.
        assert again.log.end == self.log.end or self.found.damage

    def _found_settings(self) -> int:
        """Both are in one record."""
        state = self.found.state
        assert state.settings == state.channels[self.generation].settings
        return int(state.settings.get("max_depth", 0))

    def _read(self) -> dict[int, bytes]:
        found = read_all(self.log)
        with contextlib.closing(self.log.look(found).messages(found)) as messages:
            for body, looked in zip(found.values(), messages, strict=True):
                assert looked == (body, origin_of(body) if body in self.letters else None)
        return found

    def _reported(self) -> set[int]:
        return {n for damage in self.found.damage for n in range(damage.first, damage.end)}

    def _settled(self) -> set[int]:
        settled = self.found.state.channels[self.generation].settled
        return {n for start, end in settled for n in range(start, end)}

    @invariant()
    def numbers_rise(self) -> None:
        firsts = [segment.first for segment in self.log.segments]
        assert firsts == sorted(firsts)
        assert all(seq < self.log.end for seq in self.there)


LogMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestLogMachine = LogMachine.TestCase


def open_store(storage: MemoryStorage | FaultyStorage) -> Store:
    options = StoreOptions(min_free_space=0, ballast_bytes=1 << 20, max_segment_bytes=300)
    return Store(storage, options, WALL_NS)


Act = Callable[[Store, TopicLog], None]


def create(store: Store, log: TopicLog) -> None:
    append(store.create_topic("new", WALL_NS), 1)


def some_appends(store: Store, log: TopicLog) -> None:
    append(log, 2)
    log.append([Batch.of([frame(log.end)], [5])], [(Code.TOPIC_PAUSED, True)])


def roll(store: Store, log: TopicLog) -> None:
    log.roll()
    append(log, 1)


def snapshot(store: Store, log: TopicLog) -> None:
    slices: list[list[Change]] = [[(Code.MARK, log.end, 0)], [(Code.CHANNEL_CREATED, 1, "ch", 0)]]
    writer = SnapshotWriter.begin(log, iter(slices))
    append(log, 1)
    while not writer.step():
        pass
    writer.finish(list(log.unsynced))
    log.snapshots.append(writer.position)


def delete(store: Store, log: TopicLog) -> None:
    store.delete_topic(log)
    store.jobs.run_all()


def retain(store: Store, log: TopicLog) -> None:
    for _ in range(2):
        log.roll()
        snapshot(store, log)
    gone = log.releasable(lambda segment: True)
    assert gone
    log.drop(gone)
    log.remove_files(segment.path for segment in gone)


def take_ids(store: Store, log: TopicLog) -> None:
    store.ids.take(1 << 24)
    store.ids.take(1 << 24)
    store.jobs.run_all()


def stop(store: Store, log: TopicLog) -> None:
    append(log, 1)
    store.close()


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power loss"])
@pytest.mark.parametrize("fault", [Die(), Die(after=True), Die(part=5)], ids=["before", "after", "part"])
@pytest.mark.parametrize("act", [create, some_appends, roll, snapshot, delete, retain, take_ids, stop])
def test_die_at_operation(act: Act, fault: Die, power: bool) -> None:
    """I1, I2, I10, I13: at each write, sync, rename and removal on the way, what was there before is there after."""
    seq = 0
    while True:
        inner = MemoryStorage()
        storage = FaultyStorage(inner)
        store = open_store(storage)
        log = store.create_topic("t", WALL_NS)
        log.append((), [(Code.CHANNEL_CREATED, 1, "ch", 0)])
        append(log, 3)
        store.syncer.want(store.syncer.wrote(log))
        store.jobs.run_all()
        before, first_id = read_all(log), store.ids.next
        storage.fault = CrashAt(seq, fault, among=WRITES)
        died = False
        try:
            act(store, log)
        except Crash:
            died = True
        written = {n: frame(n) for n in range(log.end + 10)}
        after = inner.crash(random.Random(seq)) if power else inner.kill()
        again = open_store(after)
        found = dict(again.topics(WALL_NS))
        again.jobs.run_all()
        assert again.ids.next >= first_id
        assert not any(folder.startswith("trash-") for folder in after.folders())
        if act is delete:
            assert died or "t" not in found or power
        else:
            assert "t" in found
        if "t" in found:
            messages = read_all(found["t"].log, found["t"].log.segments[0].first)
            kept = {n: b for n, b in before.items() if n >= found["t"].log.segments[0].first}
            assert messages.items() >= kept.items()
            assert messages.items() <= written.items()
            if act is not retain:
                assert kept == before
            assert 1 in found["t"].state.channels
            append(found["t"].log, 1)
        third = {name: topic.log.end for name, topic in open_store(after.kill()).topics(WALL_NS)}
        assert third == {name: topic.log.end for name, topic in found.items()}
        if not died:
            return
        seq += 1


@pytest.mark.parametrize("part", [None, 5])
def test_die_at_every_operation_of_a_start(part: int | None) -> None:
    """I13: a start that dies is one that never was."""
    seq = 0
    while True:
        inner = MemoryStorage()
        log = open_store(inner).create_topic("t", WALL_NS)
        append(log, 3)
        append(log, 2)
        file = inner.open(log.segments[-1].path)
        file.truncate(file.size - 3)
        inner = inner.kill()
        storage = FaultyStorage(inner, CrashAt(seq, Die(part=part)))
        died = False
        try:
            dict(open_store(storage).topics(WALL_NS))
        except Crash:
            died = True
        after = dict(open_store(inner.kill()).topics(WALL_NS))
        assert sorted(read_all(after["t"].log)) == [0, 1, 2]
        if not died:
            return
        seq += 1
