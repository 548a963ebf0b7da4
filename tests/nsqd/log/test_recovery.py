"""From the files of a topic back to its log: against a list of what was appended, under every damage."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from crc32c import crc32c

from nsqd.log.records import (
    FILE_HEADER_SIZE,
    VERSION,
    FileHeader,
    FileKind,
    NewerFormat,
)
from nsqd.log.recovery import Recovered, recover_topic
from nsqd.log.snapshots import SnapshotWriter, snapshot_name
from nsqd.log.state import Change, Code, flat_runs
from nsqd.log.topic_log import Batch
from nsqd.testing.faulty_storage import Break, Fail, FaultyStorage
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.log.samples import (
    FOLDER,
    append,
    content,
    everything,
    flip,
    frames,
    new_log,
    put,
    read_all,
    recovered,
    segments,
)

SEGMENT = 500


@attrs.frozen
class Written:
    """One record that was appended: its place, and its messages (none for a record of changes)."""

    path: str
    start: int
    end: int
    first: int
    count: int


class Model:
    """A log, and the list of what was appended to it."""

    def __init__(self, max_segment_bytes: int = SEGMENT) -> None:
        self.storage = MemoryStorage()
        self.log = new_log(self.storage, max_segment_bytes=max_segment_bytes)
        self.written: list[Written] = []
        self.messages: dict[int, bytes] = {}

    def batch(self, count: int, delay: int | None = None) -> None:
        first = self.log.end
        sent = frames(first, count)
        self._append([Batch.of(sent, None if delay is None else [delay] * count)], ())
        self.messages.update(enumerate(sent, first))

    def apart(self, count: int, **what: Any) -> None:
        """Dead letters, or messages for one channel alone."""
        first = self.log.end
        sent = frames(first, count)
        self._append([Batch(sent, sum(map(len, sent)), **what)], ())
        self.messages.update(enumerate(sent, first))

    def change(self, *changes: Change) -> None:
        self._append([], changes)

    def _append(self, batches: list[Batch], changes: tuple[Change, ...]) -> None:
        first = self.log.end
        if self.log.segments[-1].file.size >= self.log.max_segment_bytes:
            self.log.roll()
        segment = self.log.segments[-1]
        start = segment.file.size
        self.log.append(batches, changes)
        self.written.append(Written(segment.path, start, segment.file.size, first, self.log.end - first))

    def snapshot(self) -> int:
        """One that says what the list says: a channel, and what it has finished."""
        writer = SnapshotWriter.begin(self.log, iter([[(Code.CHANNEL_CREATED, 1, "ch", 0)]]))
        while not writer.step():
            pass
        writer.finish(list(self.log.unsynced))
        self.log.snapshots.append(writer.position)
        return writer.position


def model() -> Model:
    made = Model()
    made.change((Code.CHANNEL_CREATED, 1, "ch", 0))
    for seq in range(10):
        made.batch(seq % 3 + 1, delay=5 if seq % 4 == 3 else None)
        if seq % 3 == 0:
            made.change((Code.FINISHED, 1, *flat_runs([(seq, seq + 1)])))
        if seq % 5 == 3:
            made.change(
                (Code.TOPIC_SETTINGS, {"max_age": seq}), (Code.CHANNEL_SETTINGS, 1, {"max_depth": seq})
            )
        if seq == 2:
            made.apart(2, origins=[b"one", b"two"])
            made.apart(2, directed=1)
    made.change((Code.CHANNEL_CREATED, 2, "side", 0), (Code.FINISHED, 2, 8, 1))
    made.batch(1)
    made.change((Code.CHANNEL_DELETED, 2), (Code.CHANNEL_CREATED, 3, "side", 0))  # it seeks
    made.change((Code.FINISHED, 3, 8, 1))
    made.change((Code.CHANNEL_PAUSED, 3, True), (Code.PARKED, 3, 9, 1, 0), (Code.NOT_COUNTED, 3, 9, 1))
    made.apart(2, origins=[b"one", b"two"])
    made.apart(2, directed=1)
    made.apart(1, origins=[b"three"])
    made.change((Code.REDRIVE, 1, 5, 10, 100))
    return made


def clone(storage: MemoryStorage) -> MemoryStorage:
    """The same files, so that one log serves many damages."""
    return storage.crash(lambda path, chunks: chunks)


def lost(found: Recovered) -> set[int]:
    return {seq for damage in found.damage for seq in range(damage.first, damage.end)}


def assert_nothing_changes(storage: MemoryStorage) -> None:
    """I13: a second restart changes nothing."""
    before = everything(storage)
    recovered(storage)
    assert everything(storage) == before


class TestWhole:
    def test_all_is_there(self) -> None:
        made = model()
        assert len(made.log.segments) > 2
        found = recovered(made.storage.kill())
        assert read_all(found.log) == made.messages
        assert (found.log.end, found.log.position) == (made.log.end, made.log.position)
        assert found.log.generation == made.log.generation
        assert not found.damage
        assert not found.notes
        assert found.torn_bytes == 0

    def test_a_recovered_log_continues_where_it_ended(self) -> None:
        made = model()
        after = made.storage.kill()
        found = recovered(after, max_segment_bytes=SEGMENT)
        end = found.log.end
        for _ in range(5):
            append(found.log, 3)
        again = recovered(after.kill())
        assert read_all(again.log) == made.messages | dict(enumerate(frames(end, 15), end))

    def test_an_empty_log(self) -> None:
        storage = MemoryStorage()
        new_log(storage)
        found = recovered(storage.kill())
        assert (found.log.end, found.log.position) == (0, FILE_HEADER_SIZE)

    @pytest.mark.parametrize("name", [None, ".00000000000000000000.log.new", "notes.txt"])
    def test_a_creation_that_was_never_finished_is_no_topic(self, name: str | None) -> None:
        storage = MemoryStorage()
        storage.make_folder(FOLDER)
        if name:
            put(storage, f"{FOLDER}/{name}", b"x")
        assert recover_topic(storage, FOLDER, max_segment_bytes=SEGMENT) is None

    @pytest.mark.parametrize("size", [0, 1, FILE_HEADER_SIZE - 1, FILE_HEADER_SIZE])
    def test_a_first_segment_that_a_power_loss_took_is_no_topic(self, size: int) -> None:
        storage = MemoryStorage()
        storage.make_folder(FOLDER)
        put(storage, f"{FOLDER}/{0:020d}.log", bytes(size))
        assert recover_topic(storage, FOLDER, max_segment_bytes=SEGMENT) is None

    def test_numbers_that_an_append_gave_up_are_no_damage(self) -> None:
        storage = MemoryStorage()
        faulty = FaultyStorage(storage)
        log = new_log(faulty)
        log.append((), [(Code.CHANNEL_CREATED, 1, "ch", 0)])
        append(log, 2)
        faulty.fault = lambda operation, path: Fail(errno.ENOSPC) if operation == "append" else None
        with pytest.raises(OSError):
            append(log, 3)
        faulty.fault = lambda operation, path: None
        append(log, 1)
        found = recovered(storage.kill())
        assert not found.damage
        assert list(found.state.channels[1].settled) == [(2, 5)]
        assert found.state.channels[1].damaged == 0
        assert sorted(read_all(found.log)) == [0, 1, 5]


class TestTorn:
    def test_cut_at_any_byte(self) -> None:
        """I1, I2, I13: everything whole before the cut is there, nothing else is."""
        made = model()
        last = segments(made.storage)[-1]
        data = content(made.storage, last)
        assert len(data) > 300
        for size in range(FILE_HEADER_SIZE, len(data)):
            storage = clone(made.storage)
            put(storage, last, data[:size])
            here = [w for w in made.written if w.path == last]
            kept = [w for w in made.written if w.path != last or w.end <= size]
            seqs = {n for w in kept for n in range(w.first, w.first + w.count)}
            whole = max([w.end for w in here if w.end <= size], default=FILE_HEADER_SIZE)
            found = recovered(storage)
            assert read_all(found.log) == {n: made.messages[n] for n in seqs}
            assert found.log.end == max(seqs) + 1
            assert found.torn_bytes == size - whole
            assert not found.damage
            assert bool(found.notes) == (size != whole)
            assert len(content(storage, last)) == whole
            assert found.state.channels.keys() in ({1}, {1, 2}, {1, 3}), "a seek happens or does not"
            assert_nothing_changes(storage)

    def test_a_header_that_is_cut_off(self) -> None:
        made = model()
        last = segments(made.storage)[-1]
        for size in range(FILE_HEADER_SIZE):
            storage = clone(made.storage)
            put(storage, last, content(made.storage, last)[:size])
            found = recovered(storage)
            seqs = {n for w in made.written if w.path != last for n in range(w.first, w.first + w.count)}
            assert read_all(found.log) == {n: made.messages[n] for n in seqs}
            append(found.log, 1)
            assert len(read_all(recovered(storage).log)) == len(seqs) + 1

    @pytest.mark.parametrize("count", [1, 31, 4096])
    def test_zeros_at_the_end_are_cut_without_a_copy(self, count: int) -> None:
        made = model()
        last = segments(made.storage)[-1]
        before = everything(made.storage)
        put(made.storage, last, content(made.storage, last) + bytes(count))
        found = recovered(made.storage)
        assert found.torn_bytes == count
        assert read_all(found.log) == made.messages
        assert everything(made.storage) == before

    def test_the_torn_bytes_are_kept_aside(self) -> None:
        made = model()
        last = segments(made.storage)[-1]
        data = content(made.storage, last)
        put(made.storage, last, data[:-3])
        recovered(made.storage)
        start = made.written[-1].start
        assert content(made.storage, f"{last}.{start}.damaged") == data[start:-3]

    def test_numbers_go_on_behind_the_cut(self) -> None:
        made = model()
        last = segments(made.storage)[-1]
        put(made.storage, last, content(made.storage, last)[:-1])
        found = recovered(made.storage)
        end = found.log.end
        append(found.log, 2)
        again = recovered(made.storage.kill())
        assert not again.damage
        assert sorted(read_all(again.log)) == list(range(end + 2))


class TestFlippedBits:
    def test_only_the_numbers_of_that_record_are_lost(self) -> None:
        """I2, I9: one flipped bit anywhere. The damaged record is reported, all others are there."""
        made = model()
        paths = segments(made.storage)
        for path in paths:
            for offset in range(FILE_HEADER_SIZE, len(content(made.storage, path))):
                storage = clone(made.storage)
                flip(storage, path, 8 * offset + offset % 8)
                (hit,) = [w for w in made.written if w.path == path and w.start <= offset < w.end]
                gone = set(range(hit.first, hit.first + hit.count))
                found = recovered(storage)
                assert read_all(found.log) == {n: b for n, b in made.messages.items() if n not in gone}
                if hit is made.written[-1]:  # not to be told from a torn one
                    assert found.torn_bytes == hit.end - hit.start
                    assert not found.damage
                else:
                    (damage,) = found.damage
                    assert (damage.path, damage.offset) == (path, hit.start)
                    assert damage.size == hit.end - hit.start
                    assert lost(found) == gone
                    assert found.log.end == made.log.end
                original = content(made.storage, path)[hit.start : hit.end]
                kept = content(storage, f"{path}.{hit.start}.damaged")
                assert sum((a ^ b).bit_count() for a, b in zip(kept, original, strict=True)) == 1

    def test_a_flipped_bit_in_a_file_header_costs_no_message(self) -> None:
        """The name and the first record of a segment say what its header says."""
        made = model()
        for path in segments(made.storage):
            for bit in range(0, 8 * 52, 5):
                storage = clone(made.storage)
                flip(storage, path, bit)
                found = recovered(storage)
                assert read_all(found.log) == made.messages
                assert found.log.generation == made.log.generation
                assert found.notes
                assert_nothing_changes(storage)

    def test_a_header_and_a_torn_first_record(self) -> None:
        """I13: nothing of the file serves, so the first restart sets it aside, not the second one."""
        made = model()
        last = segments(made.storage)[-1]
        first = next(w for w in made.written if w.path == last)
        put(
            made.storage,
            last,
            bytes(FILE_HEADER_SIZE) + content(made.storage, last)[FILE_HEADER_SIZE : first.end - 1],
        )
        recovered(made.storage)
        assert last not in segments(made.storage)
        assert_nothing_changes(made.storage)

    def test_in_a_log_of_one_file(self) -> None:
        """I1: a topic is never thrown away because its only file has a damaged header."""
        storage = MemoryStorage()
        append(new_log(storage), 3)
        flip(storage, segments(storage)[0], 99)
        assert len(read_all(recovered(storage).log)) == 3

    def test_a_second_restart_changes_nothing(self) -> None:
        made = model()
        flip(made.storage, segments(made.storage)[1], 8 * 200)
        recovered(made.storage)
        assert_nothing_changes(made.storage)

    def test_the_channels_need_the_lost_numbers_no_more(self) -> None:
        made = model()
        finished = recovered(made.storage.kill()).state.channels[1].settled
        for hit in [written for written in made.written if written.count]:
            made = model()
            flip(made.storage, hit.path, 8 * (hit.start + 40))
            channel = recovered(made.storage).state.channels[1]
            numbers = range(hit.first, hit.first + hit.count)
            assert all(n in channel.settled for n in numbers)
            assert channel.damaged == sum(n not in finished for n in numbers), "finished ones are not lost"

    def test_damage_between_the_start_of_a_snapshot_and_its_seal(self) -> None:
        """I9: what came while the slices were taken is lost like anything else."""
        made = Model()
        made.batch(2)
        writer = SnapshotWriter.begin(made.log, iter([[(Code.CHANNEL_CREATED, 1, "ch", 0)]]))
        made.batch(3)
        made.batch(1)
        while not writer.step():
            pass
        writer.finish(list(made.log.unsynced))
        flip(made.storage, made.written[1].path, 8 * (made.written[1].start + 50))
        found = recovered(made.storage.kill())
        assert lost(found) == {2, 3, 4}
        assert found.state.channels[1].damaged == 3

    def test_a_segment_of_garbage_is_set_aside(self) -> None:
        made = model()
        paths = segments(made.storage)
        garbage = b"\x5a" * 300
        put(made.storage, paths[1], garbage)
        found = recovered(made.storage)
        gone = {n for w in made.written if w.path == paths[1] for n in range(w.first, w.first + w.count)}
        assert gone
        assert lost(found) == gone
        assert read_all(found.log) == {n: b for n, b in made.messages.items() if n not in gone}
        assert content(made.storage, f"{paths[1]}.damaged") == garbage

    def test_garbage_before_a_segment_without_header(self) -> None:
        """I9: what is missing between them is lost, and was not aborted."""
        made = model()
        paths = segments(made.storage)
        put(made.storage, paths[1], b"\x5a" * 300)
        flip(made.storage, paths[2], 99)
        gone = {n for w in made.written if w.path == paths[1] for n in range(w.first, w.first + w.count)}
        assert lost(recovered(made.storage)) == gone

    def test_a_topic_of_garbage_keeps_its_bytes(self) -> None:
        storage = MemoryStorage()
        append(new_log(storage), 3)
        (path,) = segments(storage)
        put(storage, path, b"\x5a" * 300)
        found = recovered(storage)
        assert found.damage
        assert found.notes
        assert content(storage, f"{path}.damaged") == b"\x5a" * 300
        append(found.log, 2)
        assert len(read_all(recovered(storage).log)) == 2

    def test_what_was_set_aside_is_still_a_topic(self) -> None:
        """A power loss took the segment that the start before had begun instead."""
        storage = MemoryStorage()
        storage.make_folder(FOLDER)
        for name in ("00000000000000000000.log.damaged", "manifest"):
            put(storage, f"{FOLDER}/{name}", b"\x5a" * 140)
        found = recovered(storage)
        append(found.log, 2)
        assert len(read_all(recovered(storage).log)) == 2
        assert content(storage, f"{FOLDER}/00000000000000000000.log.damaged") == b"\x5a" * 140


class TestBrokenAppends:
    """The write failed, and so did the cut back: bytes are left behind that nobody may believe."""

    @pytest.mark.parametrize("part", [1, 40, 100, 10_000])
    def test_the_next_segment_is_read_from_its_beginning(self, part: int) -> None:
        storage = MemoryStorage()
        faulty = FaultyStorage(storage)
        log = new_log(faulty)
        append(log, 2)
        faulty.fault = lambda operation, path: Break(errno.EIO, part) if operation == "append" else None
        with pytest.raises(OSError):
            append(log, 3)
        faulty.fault = lambda operation, path: None
        append(log, 1)
        append(log, 2)
        after = storage.kill()
        found = recovered(after)
        assert sorted(read_all(found.log)) == [0, 1, 5, 6, 7]
        assert not lost(found)
        assert found.log.position == log.position
        assert_nothing_changes(after)


class TestSnapshots:
    def test_the_newest_one_bounds_the_replay(self) -> None:
        """I13"""
        made = model()
        made.snapshot()
        position = made.snapshot()
        made.batch(3)
        found = recovered(made.storage.kill())
        assert found.log.snapshots[-1] == position
        assert len(found.log.snapshots) == 2
        assert found.replayed_bytes == found.log.position - position
        assert read_all(found.log) == made.messages

    @pytest.mark.parametrize("damage", ["flip", "cut", "empty", "unsealed"])
    def test_an_unreadable_one_means_the_older_one(self, damage: str) -> None:
        made = model()
        older = made.snapshot()
        made.batch(3)
        made.change((Code.CHANNEL_PAUSED, 1, True))
        path = f"{FOLDER}/{snapshot_name(made.snapshot())}"
        data = content(made.storage, path)
        changed = {
            "flip": data[:80] + bytes([data[80] ^ 4]) + data[81:],
            "cut": data[:-1],
            "empty": b"",
            "unsealed": data[:-32],
        }
        put(made.storage, path, changed[damage])
        found = recovered(made.storage)
        assert found.log.snapshots == [older]
        assert found.state.channels[1].paused
        assert not found.damage
        assert found.notes
        assert content(made.storage, f"{path}.damaged") == changed[damage]
        assert_nothing_changes(made.storage)

    def test_every_flipped_bit_of_one_is_noticed(self) -> None:
        made = model()
        older = made.snapshot()
        path = f"{FOLDER}/{snapshot_name(made.snapshot())}"
        for bit in range(0, 8 * len(content(made.storage, path)), 3):
            if 8 * 52 <= bit < 8 * FILE_HEADER_SIZE:
                continue
            storage = clone(made.storage)
            flip(storage, path, bit)
            assert recovered(storage).log.snapshots == [older]

    def test_a_snapshot_of_an_earlier_topic_of_that_name_is_not_used(self) -> None:
        made = model()
        made.snapshot()
        made.log.generation += 1
        made.snapshot()
        found = recovered(made.storage)
        assert len(found.log.snapshots) == 1
        assert any("another topic" in note for note in found.notes)

    def test_both_unreadable_and_the_beginning_of_the_log_gone(self) -> None:
        made = model()
        path = f"{FOLDER}/{snapshot_name(made.snapshot())}"
        put(made.storage, path, b"")
        made.storage.remove(segments(made.storage)[0])
        found = recovered(made.storage)
        assert found.log.end == made.log.end
        assert any("no snapshot" in note for note in found.notes)
        assert read_all(found.log, found.log.segments[0].first)


class TestMissingFiles:
    def test_a_segment_in_the_middle(self) -> None:
        made = model()
        path = segments(made.storage)[1]
        made.storage.remove(path)
        gone = {n for w in made.written if w.path == path for n in range(w.first, w.first + w.count)}
        found = recovered(made.storage)
        assert lost(found) == gone
        assert read_all(found.log) == {n: b for n, b in made.messages.items() if n not in gone}
        assert found.log.end == made.log.end
        assert_nothing_changes(made.storage)

    @pytest.mark.parametrize("how", ["removed", "garbage", "cut"])
    def test_the_last_segment_from_before_the_snapshot_on(self, how: str) -> None:
        """I1: what is appended afterwards is not taken for older than the snapshot."""
        made = model()
        made.log.roll()
        last = made.log.segments[-1].path
        made.batch(2)
        made.batch(2)
        made.snapshot()
        if how == "removed":
            made.storage.remove(last)
            gone = {n for w in made.written if w.path == last for n in range(w.first, w.first + w.count)}
        elif how == "garbage":
            put(made.storage, last, b"\x5a" * 400)
            gone = {n for w in made.written if w.path == last for n in range(w.first, w.first + w.count)}
        else:
            end = made.written[-2].end
            put(made.storage, last, content(made.storage, last)[:end])
            gone = set(range(made.written[-1].first, made.log.end))
        found = recovered(made.storage)
        assert lost(found) == gone
        assert found.log.end == made.log.end, "numbers are not used again"
        append(found.log, 2)
        expected = {n: b for n, b in made.messages.items() if n not in gone}
        expected |= dict(enumerate(frames(made.log.end, 2), made.log.end))
        again = recovered(made.storage)
        assert read_all(again.log) == expected
        assert again.log.end == made.log.end + 2
        assert_nothing_changes(made.storage)

    def test_all_segments_but_not_the_snapshot(self) -> None:
        made = model()
        made.snapshot()
        for path in segments(made.storage):
            made.storage.remove(path)
        found = recovered(made.storage)
        assert found.state.channels[1].name == "ch"
        assert found.log.end == made.log.end
        append(found.log, 1)
        assert sorted(read_all(recovered(made.storage).log, made.log.end)) == [made.log.end]


class TestExtraFiles:
    @pytest.mark.parametrize("name", ["notes.txt", "x.damaged", ".hidden.log", "core"])
    def test_files_of_others_stay(self, name: str) -> None:
        made = model()
        put(made.storage, f"{FOLDER}/{name}", b"mine")
        found = recovered(made.storage)
        assert not found.notes
        assert content(made.storage, f"{FOLDER}/{name}") == b"mine"

    @pytest.mark.parametrize("name", ["abc.log", "99999999999999999999.log", "1.log"])
    def test_files_that_only_look_like_segments_are_set_aside(self, name: str) -> None:
        made = model()
        put(made.storage, f"{FOLDER}/{name}", b"not ours at all" * 10)
        found = recovered(made.storage)
        assert read_all(found.log) == made.messages
        assert not lost(found)
        assert content(made.storage, f"{FOLDER}/{name}.damaged") == b"not ours at all" * 10

    @pytest.mark.parametrize("beyond", [False, True])
    def test_a_segment_of_another_life_of_the_topic_is_set_aside(self, beyond: bool) -> None:
        made = model()
        made.snapshot()
        position = 10**6 if beyond else 30
        header = FileHeader(FileKind.SEGMENT, 5, made.log.generation - 1, position, 3, 0)
        put(made.storage, f"{FOLDER}/{position:020d}.log", header.encode() + b"whatever")
        found = recovered(made.storage)
        assert read_all(found.log) == made.messages
        assert len(found.log.snapshots) == 1
        assert found.log.position == made.log.position
        assert not lost(found)

    def test_a_renamed_segment_is_not_believed(self) -> None:
        made = model()
        path = segments(made.storage)[1]
        made.storage.rename(path, f"{FOLDER}/{10**6:020d}.log")
        found = recovered(made.storage)
        gone = {n for w in made.written if w.path == path for n in range(w.first, w.first + w.count)}
        assert lost(found) == gone


def newer(header: FileHeader) -> bytes:
    data = bytearray(header.encode()[:48])
    struct.pack_into(">H", data, 8, VERSION + 1)
    return bytes(data) + struct.pack(">I", crc32c(bytes(data))) + bytes(12)


class TestNewerFormat:
    @pytest.mark.parametrize("kind", FileKind)
    def test_a_newer_format_is_refused_and_nothing_is_touched(self, kind: FileKind) -> None:
        """Not even what is damaged besides."""
        made = model()
        made.snapshot()
        put(made.storage, segments(made.storage)[0], b"damaged" * 100)
        position = made.log.position
        suffix = "log" if kind is FileKind.SEGMENT else "snap"
        path = f"{FOLDER}/{position:020d}.{suffix}"
        put(
            made.storage,
            path,
            newer(FileHeader(kind, 1, made.log.generation, position, 0, 0)) + b"new things",
        )
        before = everything(made.storage)
        with pytest.raises(NewerFormat, match=f"{path}: format version {VERSION + 1}"):
            recovered(made.storage)
        assert everything(made.storage) == before


class TestErrorsAreNoDamage:
    @pytest.mark.parametrize("seq", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.EACCES])
    @pytest.mark.parametrize("operation", ["open", "read", "files"])
    def test_every_error_is_raised_and_nothing_is_touched(self, operation: str, seq: int) -> None:
        made = model()
        made.snapshot()
        before = everything(made.storage)
        faulty = FaultyStorage(made.storage)
        recover_topic(faulty, FOLDER, max_segment_bytes=SEGMENT)
        count = faulty.counts[operation]
        assert count
        for at in range(count):
            faulty = FaultyStorage(made.storage, fail_at(operation, at, seq))
            with pytest.raises(OSError) as caught:
                recover_topic(faulty, FOLDER, max_segment_bytes=SEGMENT)
            assert caught.value.errno == seq
            assert everything(made.storage) == before


def fail_at(operation: str, seq: int, error: int) -> Callable[[str, str], Fail | None]:
    left = [seq]

    def fault(asked: str, path: str) -> Fail | None:
        if asked != operation:
            return None
        left[0] -= 1
        return Fail(error) if left[0] == -1 else None

    return fault
