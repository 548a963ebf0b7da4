"""Disks that forget bits while segments are written, removed, compared and mended: no record is lost by that.

A record is bad on a disk when its bytes are not those that were written. What is bad on one disk and good on another
is good on all after a pass without further rot; what is bad on all is reported; and a scrub never makes a record bad.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import closing
from unittest import mock

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nsqd.log.records import FILE_HEADER_SIZE, FileHeader
from nsqd.log.scan import scan
from nsqd.replication import rot
from nsqd.replication import scrub as scrub_module
from nsqd.replication.noted_storage import FileNote
from nsqd.replication.scrub import Damage, Finding, Looking, Mended, MendedThere, Request, Scrub
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.replication.pair import Follower, bytes_of
from tests.nsqd.replication.scrubbing import Scrubbed, log_of

TOPICS = st.sampled_from(["t", "u"])
SIZES = {rot: {"PIECE": 600, "CHUNK": 500, "STEP_BYTES": 1000}, scrub_module: {"FETCH_SIZE": 700}}
Bad = set[tuple[str, int, int]]
"""Path, start and end of records, and of file headers."""


@attrs.frozen
class Written:
    """A complete segment as it was written. `parts`: start and end of its header and its records."""

    note: FileNote
    data: bytes
    parts: list[tuple[int, int]]


def read(disk: MemoryStorage, path: str) -> bytes | None:
    try:
        with closing(disk.open(path, read_only=True)) as file:
            return file.read(0, file.size)
    except FileNotFoundError:
        return None


class ScrubMachine(RuleBasedStateMachine):
    """`away`, in the pair: followers that hear nothing. `request`: what the look that goes on has asked for last."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = contextlib.ExitStack()
        for module, sizes in SIZES.items():
            self.sizes.enter_context(mock.patch.multiple(module, **sizes))
        self.written: dict[str, Written] = {}
        self.looking: Looking[tuple[int, list[Finding]]] | None = None
        self.request: tuple[str, Request] | None = None

    @initialize(followers=st.integers(1, 2))
    def begin(self, followers: int) -> None:
        self.pair = Scrubbed(followers={name: Follower() for name in "fg"[:followers]})
        for topic in ("t", "u"):
            self.pair.leader.create(topic=topic)

    # --- the leader's life

    @rule(topic=TOPICS, count=st.integers(1, 8), size=st.integers(1, 400))
    def publish(self, topic: str, count: int, size: int) -> None:
        for _ in range(count):
            assert self.pair.leader.publish(b"m" * size, b"n" * (400 - size), topic=topic).acknowledged
        self.note_written()

    def note_written(self) -> None:
        """The segments that are complete now."""
        notes = self.pair.leader.noted.notes
        for folder in notes.folders:
            files = notes.files(folder)
            for name in sorted(name for name in files if name.endswith(".log"))[:-1]:
                path, note = f"{folder}/{name}", files[name]
                if path not in self.written or self.written[path].note is not note:
                    data = read(self.pair.leader.memory, path)
                    assert data is not None
                    self.written[path] = Written(note, data, list(parts_of(data)))

    @rule(topic=TOPICS)
    def remove_segments(self, topic: str) -> None:
        """Nobody needs its messages, and a publish later their segments go."""
        leader = self.pair.leader
        leader.channel(topic=topic).empty()
        leader.round()
        for _ in range(2):
            leader.publish(b"last", topic=topic)
            leader.snapshot(topic)
        leader.advance(1.0)
        self.note_written()

    @rule(topic=TOPICS)
    def delete_topic(self, topic: str) -> None:
        self.pair.leader.delete_topic(topic)
        self.pair.leader.create(topic=topic)
        self.note_written()

    @rule(size=st.integers(50, 3000))
    def send_some(self, size: int) -> None:
        for address in sorted(self.pair.senders.keys() - self.pair.away):
            parts = self.pair.senders[address].take(self.pair.leader.written, size)
            self.pair.followers[address].feed(bytes_of(parts))

    @rule()
    def send_all(self) -> None:
        self.pair.send()

    @rule(which=st.sampled_from("fg"))
    def hear_nothing_or_again(self, which: str) -> None:
        if which in self.pair.followers:
            self.pair.away ^= {which}

    # --- rot

    @precondition(lambda self: self.there())
    @rule(disk=st.integers(0, 2), which=st.integers(0, 99), at=st.integers(0, 9999), bit=st.integers(0, 7))
    def rot(self, disk: int, which: int, at: int, bit: int) -> None:
        paths = self.there()
        self.rot_at(paths[which % len(paths)], disk, at, bit)

    @precondition(lambda self: self.there())
    @rule(which=st.integers(0, 99), at=st.tuples(*[st.integers(0, 9999)] * 3))
    def rot_everywhere(self, which: int, at: tuple[int, ...]) -> None:
        """In one segment, on each disk, as a rule in different records."""
        paths = self.there()
        for disk in range(len(self.pair.disks())):
            self.rot_at(paths[which % len(paths)], disk, at[disk], 0)

    def rot_at(self, path: str, disk: int, at: int, bit: int) -> None:
        size = len(self.written[path].data)
        storage = self.pair.disks()[disk % len(self.pair.disks())]
        self.pair.sync()
        found = read(storage, path)
        if found is not None and len(found) == size:
            storage.rot(path, at % size, bit)

    def there(self) -> list[str]:
        """Complete segments that were not removed."""
        notes = self.pair.leader.noted.notes
        found = []
        for path, written in sorted(self.written.items()):
            folder, _, name = path.partition("/")
            if notes.files(folder).get(name) is written.note:
                found.append(path)
        return found

    def bad(self, disk: MemoryStorage) -> Bad:
        found: Bad = set()
        for path in self.there():
            written, data = self.written[path], read(disk, path)
            for start, end in written.parts:
                if data is None or data[start:end] != written.data[start:end]:
                    found.add((path, start, end))
        return found

    def bad_everywhere(self) -> Bad:
        return set.intersection(*map(self.bad, self.pair.disks()))

    # --- the scrub

    @rule(steps=st.integers(1, 6))
    def look(self, steps: int) -> None:
        """Some steps of a look; whatever happens next happens while it goes on."""
        before = self.bad_everywhere()
        for _ in range(steps):
            if self.looking is None:
                self.pair.scrub.count()
                self.looking = self.pair.scrub.look(list(self.pair.followers), 0.0)
                self.request = None
            try:
                answer = self.pair.do(*self.request) if self.request is not None else None
                self.request = self.looking.send(answer)
            except StopIteration:
                self.looking = None
        assert self.bad_everywhere() <= before

    @rule()
    def begin_anew(self) -> None:
        self.pair.scrub.begin_at_once()

    @precondition(lambda self: self.looking is None)
    @rule()
    def start_again(self) -> None:
        """From the note, as after a start of the leader."""
        pair = self.pair
        pair.scrub.write_note()
        place = pair.scrub.note.place
        pair.scrub = Scrub(
            pair.leader.noted.inner,
            pair.leader.noted.notes,
            lambda folder: log_of(pair.leader, folder),
            pair.interval,
            pair.fast,
        )
        assert pair.scrub.note.place == place

    @invariant()
    def temporary_files_are_of_the_look_that_goes_on(self) -> None:
        if self.looking is None and hasattr(self, "pair"):
            memory = self.pair.leader.memory
            for folder in memory.folders():
                assert not [name for name in memory._folder(folder).names if name.startswith(".scrub")]

    def teardown(self) -> None:
        try:
            if hasattr(self, "pair"):
                self.go_through()
        finally:
            self.sizes.close()

    def go_through(self) -> None:
        pair = self.pair
        if self.looking is not None:
            pair.finish(self.looking, self.request)
        pair.away.clear()
        pair.send()
        lost = self.bad_everywhere()
        pair.scrub.begin_at_once()
        pair.go_through()
        reported = {
            (each.path, start, end)
            for each in pair.found
            if isinstance(each, Damage)
            for start, end in each.ranges
        }
        for path, start, end in lost:
            assert any(where == path and a <= start and end <= b for where, a, b in reported)
        for disk in pair.disks():
            assert self.bad(disk) == lost
        found = pair.go_through()
        assert not [each for each in found if isinstance(each, Mended)]
        assert {each.path for each in found} == {path for path, _, _ in lost} == set(pair.scrub.unmended)
        assert all(isinstance(each, Damage | MendedThere) for each in found)


def parts_of(data: bytes) -> Iterator[tuple[int, int]]:
    yield 0, FILE_HEADER_SIZE
    salt = FileHeader.decode(data[:FILE_HEADER_SIZE]).salt

    def read_at(offset: int, size: int) -> bytes:
        return data[offset : offset + size]

    for item in scan(read_at, FILE_HEADER_SIZE, len(data), salt, 0):
        yield item.offset, item.offset + item.head.size  # type: ignore[union-attr]


TestScrub = ScrubMachine.TestCase
TestScrub.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
