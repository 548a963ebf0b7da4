"""Rot on one side, on both, and what only looks like it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nsqd.log.file_storage import FileStorage
from nsqd.log.records import FILE_HEADER_SIZE, FileHeader, encode_record
from nsqd.log.scan import Record, scan
from nsqd.log.storage import Storage
from nsqd.replication import rot, ship
from nsqd.replication import scrub as scrub_module
from nsqd.replication.rot import PAGE, Place, checksum_on_disk
from nsqd.replication.scrub import NOTE, Damage, Differs, Failed, Mended, MendedThere, SendAgain
from nsqd.replication.wire import Check, Fetch, Pass, Whole
from nsqd.testing.faulty_storage import WRITES, Crash, CrashAt, Die, Fail, Fault
from tests.nsqd.replication.pair import Follower, delivered, files_of
from tests.nsqd.replication.scrubbing import Scrubbed
from tests.nsqd.replication.test_ship import frames_of, turn_over

HERE, THERE = 0, 1


@pytest.fixture
def pair() -> Scrubbed:
    """Some complete segments of unfinished messages, on both sides' disks."""
    found = Scrubbed()
    fill(found)
    return found


def fill(pair: Scrubbed, count: int = 20) -> None:
    pair.leader.create()
    for number in range(count):
        pair.leader.publish(b"<%d>" % number + b"m" * 500, b"second")
    pair.send()
    pair.sync()


def records(storage: Storage, path: str) -> list[Record]:
    with closing(storage.open(path, read_only=True)) as file:
        salt = FileHeader.decode(file.read(0, FILE_HEADER_SIZE)).salt
        items = list(scan(file.read, FILE_HEADER_SIZE, file.size, salt, 0))
    return [item for item in items if isinstance(item, Record)]


def assert_whole(pair: Scrubbed, before: dict[str, bytes]) -> None:
    """All have what was there before, and the next pass finds nothing."""
    for disk in pair.disks():
        assert files_of(disk) == before
        assert not [name for name in disk.files("topic-t") if "scrub" in name]
    assert pair.go_through() == []
    assert pair.scrub.unmended == {}


def files_below(pair: Scrubbed) -> dict[str, bytes]:
    return files_of(pair.leader.memory)


OFFSETS = [0, 14, 17, 47, 48, 60, FILE_HEADER_SIZE, FILE_HEADER_SIZE + 8, FILE_HEADER_SIZE + 30, 300, -1]
"""Of the header: magic, salt, generation, time, checksum, padding; of records: marker, length, checksum, payload."""


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("where", [HERE, THERE])
@pytest.mark.parametrize("which", [0, 1, -1])
def test_one_bit_on_one_side_is_mended(pair: Scrubbed, offset: int, where: int, which: int) -> None:
    before, path = files_below(pair), pair.sealed()[which]
    pair.disks()[where].rot(path, offset)
    (finding,) = pair.go_through()
    assert isinstance(finding, Mended if where == HERE else MendedThere)
    assert (finding.path, finding.follower) == (path, "f")
    assert_whole(pair, before)
    assert (pair.scrub.mended, pair.scrub.mended_there) == ((1, 0) if where == HERE else (0, 1))
    assert len(delivered(pair.leader)) == 40


def test_sound_copies_cost_one_question_for_each_piece_and_no_bytes(pair: Scrubbed) -> None:
    assert pair.go_through() == []
    assert [request for _, request in pair.asked] == [
        Check(path, 0, len(files_below(pair)[path])) for path in pair.sealed()
    ]
    assert (
        pair.scrub.checked_bytes == pair.scrub.total == sum(len(files_below(pair)[p]) for p in pair.sealed())
    )


def test_different_records_on_both_sides_are_mended(pair: Scrubbed) -> None:
    before, path = files_below(pair), pair.sealed()[1]
    first, second, *_ = records(pair.leader.memory, path)
    pair.leader.memory.rot(path, first.offset + 40)
    pair.followers["f"].storage.rot(path, second.offset + 40)
    assert pair.go_through() == [
        Mended(path, first.head.size, "f"),
        MendedThere(path, second.head.size, "f"),
    ]
    assert_whole(pair, before)


def test_a_header_here_and_a_record_there_are_mended(pair: Scrubbed) -> None:
    before, path = files_below(pair), pair.sealed()[1]
    for one, other in ((HERE, THERE), (THERE, HERE)):
        pair.disks()[one].rot(path, 13)
        pair.disks()[other].rot(path, FILE_HEADER_SIZE + 40)
        assert {type(finding) for finding in pair.go_through()} == {Mended, MendedThere}
        assert_whole(pair, before)


@pytest.mark.parametrize("bits", [(0, 0), (0, 3)], ids=["the same bit", "another bit"])
def test_the_same_record_on_both_sides_is_reported_in_each_pass_and_the_rest_is_mended(
    pair: Scrubbed, bits: tuple[int, int]
) -> None:
    before, path = files_below(pair), pair.sealed()[1]
    first, second, *_ = records(pair.leader.memory, path)
    for disk, bit in zip(pair.disks(), bits, strict=True):
        disk.rot(path, first.offset + 40, bit)
    pair.followers["f"].storage.rot(path, second.offset + 40)
    end = first.offset + first.head.size
    lost = Damage(path, ((first.offset, end),), ("f",))
    there = MendedThere(path, first.head.size + second.head.size, "f")
    assert pair.go_through() == [lost, there]
    for disk in pair.disks():
        assert files_of(disk)[path][end:] == before[path][end:]
    for _ in range(2):
        assert lost in pair.go_through()
        assert list(pair.scrub.unmended) == [path]


def test_the_header_of_both_sides_is_reported_and_the_records_are_mended(pair: Scrubbed) -> None:
    before, path = files_below(pair), pair.sealed()[1]
    for disk, bit in zip(pair.disks(), (0, 1), strict=True):
        disk.rot(path, 20, bit)
    pair.leader.memory.rot(path, FILE_HEADER_SIZE + 40)
    mended, lost, there = pair.go_through()
    assert isinstance(mended, Mended)
    assert lost == Damage(path, ((0, FILE_HEADER_SIZE),), ("f",))
    assert isinstance(there, MendedThere)
    for disk in pair.disks():
        assert files_of(disk)[path][FILE_HEADER_SIZE:] == before[path][FILE_HEADER_SIZE:]


def test_what_was_mended_by_others_is_not_reported_any_more(pair: Scrubbed) -> None:
    path = pair.sealed()[1]
    for disk in pair.disks():
        disk.rot(path, 300)
    pair.go_through()
    assert pair.scrub.unmended
    for disk in pair.disks():
        disk.rot(path, 300)
    assert pair.go_through() == []
    assert not pair.scrub.unmended


def test_two_followers_mend_what_one_alone_could_not(pair: Scrubbed) -> None:
    pair = Scrubbed(followers={"f": Follower(), "g": Follower()})
    fill(pair)
    before, path = files_below(pair), pair.sealed()[1]
    first, second, *_ = records(pair.leader.memory, path)
    ours, f, g = pair.disks()
    ours.rot(path, first.offset + 40)
    ours.rot(path, second.offset + 40)
    f.rot(path, first.offset + 40, 1)
    g.rot(path, second.offset + 40, 1)
    assert pair.go_through() == [
        Mended(path, second.head.size, "f"),
        Mended(path, first.head.size, "g"),
        MendedThere(path, first.head.size, "f"),
        MendedThere(path, second.head.size, "g"),
    ]
    assert_whole(pair, before)


def test_a_follower_that_does_not_answer_is_left_out_and_what_is_damaged_here_is_reported(
    pair: Scrubbed,
) -> None:
    path = pair.sealed()[1]
    pair.leader.memory.rot(path, 300)
    pair.away.add("f")
    (damage,) = pair.go_through()
    assert isinstance(damage, Damage)
    assert damage.asked == ()
    pair.away.clear()
    (mended,) = pair.go_through()
    assert isinstance(mended, Mended)
    assert not pair.scrub.unmended


def test_records_that_check_and_differ_are_reported_and_left_alone(pair: Scrubbed) -> None:
    """No disk does that: somebody has copied a data path, and written to both."""
    path = pair.sealed()[1]
    theirs = bytearray(files_below(pair)[path])
    body = theirs.index(b"m" * 500)
    record = next(each for each in reversed(records(pair.leader.memory, path)) if each.offset < body)
    payload = record.payload.replace(b"m" * 500, b"x" * 500)
    head = encode_record(
        record.head.kind,
        record.head.flags,
        FileHeader.decode(bytes(theirs[:FILE_HEADER_SIZE])).salt,
        record.head.first,
        record.head.count,
        payload,
    )
    theirs[record.offset : record.offset + record.head.size] = head + payload
    storage = pair.followers["f"].storage
    storage.replace(path, bytes(theirs))
    before = [files_of(disk) for disk in pair.disks()]
    (differs,) = pair.go_through()
    assert isinstance(differs, Differs)
    assert record.offset < differs.offset < record.offset + record.head.size
    assert [files_of(disk) for disk in pair.disks()] == before
    assert list(pair.scrub.unmended) == [path]


# --- what is no rot


def test_a_segment_that_is_removed_meanwhile_is_no_matter(pair: Scrubbed) -> None:
    pair.scrub.count()
    looking = pair.scrub.look(["f"], 0.0)
    asked = next(looking)
    assert asked is not None
    assert asked[1] == Check(pair.sealed()[0], 0, len(files_below(pair)[pair.sealed()[0]]))
    path = pair.sealed()[0]
    turn_over(pair.leader)
    assert path not in files_below(pair)
    with pytest.raises(StopIteration) as end:
        looking.send(None)
    assert end.value.value[1] == []
    assert pair.go_through() == []


@pytest.mark.parametrize("answers", range(1, 4))
def test_a_topic_that_is_deleted_and_made_again_while_it_is_mended_stays_as_it_is(
    pair: Scrubbed, answers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub_module, "FETCH_SIZE", 1000)
    monkeypatch.setattr(rot, "CHUNK", 1000)
    path = pair.sealed()[0]
    pair.leader.memory.rot(path, 300)
    pair.scrub.count()
    looking = pair.scrub.look(["f"], 0.0)
    request = next(looking)
    for _ in range(answers):
        answer = pair.do(*request) if request is not None else None
        request = looking.send(answer)
    pair.leader.delete_topic("t")
    fill(pair)
    before = files_below(pair)
    assert pair.finish(looking, request)[1] == []
    assert files_below(pair) == before
    pair.send()
    assert_whole(pair, before)


def test_the_segment_that_is_written_to_is_not_looked_at(pair: Scrubbed) -> None:
    last = max(path for path in files_below(pair) if path.endswith(".log"))
    pair.followers["f"].storage.rot(last, 70)
    assert pair.go_through() == []


def test_what_a_follower_does_not_have_yet_is_not_asked_for(pair: Scrubbed) -> None:
    for number in range(12):
        pair.leader.publish(b"%d" % number + b"m" * 500)
    pair.scrub.count()
    passes = pair.scrub.passes
    had = {path for path in files_of(pair.followers["f"].storage) if path.endswith(".log")}
    pair.senders["f"].take = lambda *_: []  # type: ignore[method-assign]
    while pair.scrub.passes == passes:
        pair.look()
    assert not pair.found
    assert len(had) < len(pair.sealed())


# --- files that cannot be read


def test_bytes_that_a_disk_cannot_read_are_mended(pair: Scrubbed) -> None:
    before, path = files_below(pair), pair.sealed()[1]

    def fault(operation: str, where: str) -> Fault | None:
        return Fail(errno.EIO) if operation == "read" and where == path and unreadable else None

    unreadable = True
    pair.leader.storage.fault = fault
    (mended,) = pair.go_through()
    unreadable = False
    assert mended == Mended(path, len(before[path]), "f")
    assert_whole(pair, before)


def test_a_segment_that_somebody_has_removed_is_reported_and_others_are_looked_at(pair: Scrubbed) -> None:
    first, second, *_ = pair.sealed()
    pair.leader.memory.remove(first)
    pair.leader.memory.rot(second, 300)
    failed, mended = pair.go_through()
    assert isinstance(failed, Failed)
    assert failed.path == first
    assert isinstance(mended, Mended)
    assert list(pair.scrub.unmended) == [first]


def test_a_disk_without_room_is_reported_and_nothing_is_left_on_it(pair: Scrubbed) -> None:
    path = pair.sealed()[1]
    pair.leader.memory.rot(path, 300)
    before = files_below(pair)
    pair.leader.memory.capacity = pair.leader.memory._used + 100
    (failed,) = pair.go_through()
    assert isinstance(failed, Failed)
    assert files_below(pair) == before
    pair.leader.memory.capacity = None
    (mended,) = pair.go_through()
    assert isinstance(mended, Mended)


def test_a_kill_at_any_time_of_a_mending_leaves_one_file_or_the_other() -> None:
    for operations in range(200):
        pair = Scrubbed()
        fill(pair, 8)
        path = pair.sealed()[0]
        before = files_below(pair)[path]
        pair.leader.memory.rot(path, 300)
        rotten = files_below(pair)[path]
        with contextlib.suppress(Crash):
            pair.leader.storage.fault = CrashAt(operations, Die(after=False), WRITES)
            pair.go_through()
        pair.leader.kill()
        assert files_below(pair)[path] in (before, rotten)
        after_power_loss = files_of(pair.leader.memory.crash())[path]
        assert after_power_loss in (before, rotten)
        if after_power_loss == before:
            break
    else:
        pytest.fail("it was never mended")


# --- how it is sent again


def test_a_copy_stays_complete_while_a_segment_of_it_is_sent_again(pair: Scrubbed) -> None:
    path = pair.sealed()[1]
    sender = pair.senders["f"]
    assert sender.has(path)
    sender.send_again(path)
    assert not sender.has(path)
    pair.leader.publish(b"meanwhile")
    data = b""
    while parts := sender.take(pair.leader.written, 100):
        data += b"".join(part if isinstance(part, bytes) else part.read() for part in parts)
    frames = frames_of(data)
    assert Whole(path, len(files_below(pair)[path])) in frames
    assert not [frame for frame in frames if isinstance(frame, Pass)]
    assert sender.complete
    assert sender.has(path)


def test_a_segment_that_is_removed_while_it_is_sent_again_leaves_nothing(
    pair: Scrubbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ship, "PIECE", 100)
    path, sender, follower = pair.sealed()[0], pair.senders["f"], pair.followers["f"]
    sender.send_again(path)
    follower.feed(b"".join(part for part in sender.take(pair.leader.written, 50) if isinstance(part, bytes)))
    assert [name for name in follower.storage.files("topic-t") if name.endswith(".part")]
    turn_over(pair.leader)
    pair.send()
    assert files_of(follower.storage) == files_below(pair)
    assert not [name for name in follower.storage.files("topic-t") if name.endswith(".part")]
    assert follower.copy.bytes == sum(map(len, files_of(follower.storage).values()))


def test_who_reads_the_old_file_goes_on_with_it_and_later_reads_find_the_new_one(pair: Scrubbed) -> None:
    path = pair.sealed()[1]
    pair.leader.memory.rot(path, 300)
    with closing(pair.leader.memory.open(path, read_only=True)) as old:
        rotten = old.read(0, old.size)
        pair.go_through()
        assert old.read(0, old.size) == rotten
    assert len(delivered(pair.leader)) == 40


def test_a_new_follower_is_sent_what_was_mended(pair: Scrubbed) -> None:
    path = pair.sealed()[1]
    before = files_below(pair)
    sender = pair.leader.new_sender()
    sender._file(path, pair.leader.noted.notes.files("topic-t")[path[8:]], 1)  # it has it open
    pair.senders["new"] = sender
    pair.leader.memory.rot(path, 300)
    pair.followers["new"] = Follower()
    pair.away.add("new")
    pair.go_through()
    pair.away.clear()
    pair.send()
    assert files_of(pair.followers["new"].storage) == before


# --- the pace, and how far it has come


def pace(pair: Scrubbed) -> Iterator[float]:
    """The times of the looks of one pass."""
    now, passes = 50.0, pair.scrub.passes
    while pair.scrub.passes == passes:
        delay = pair.scrub.delay(now)
        assert delay is not None
        now += delay
        size = pair.look()
        if size:
            yield now
        pair.scrub.looked(size, now)


def test_a_pass_takes_the_interval(pair: Scrubbed) -> None:
    pair.scrub.count()
    first, *_, last = pace(pair)
    assert first == 50.0
    assert 500.0 < last - first < 1000.0


def test_what_is_written_meanwhile_makes_it_faster(pair: Scrubbed) -> None:
    pair.scrub.count()
    pair.scrub.looked(pair.look(), 50.0)
    before = pair.scrub.delay(50.0)
    for _ in range(50):
        pair.leader.publish(b"m" * 500)
    pair.scrub.count()
    after = pair.scrub.delay(50.0)
    assert before is not None
    assert after is not None
    assert 0 < after < before / 2


def test_without_an_interval_nothing_is_looked_at_unless_it_is_asked_for() -> None:
    pair = Scrubbed(interval=0.0)
    fill(pair)
    pair.scrub.count()
    assert pair.scrub.delay(0.0) is None
    pair.scrub.begin_at_once()
    assert pair.scrub.delay(0.0) == 0.0
    assert pair.scrub.at_once
    pair.go_through()
    assert not pair.scrub.at_once
    assert pair.scrub.delay(0.0) is None


def test_a_pass_that_is_asked_for_has_a_rate_of_its_own_and_begins_anew(pair: Scrubbed) -> None:
    pair.scrub._fast = 1000.0
    pair.scrub.count()
    pair.scrub.looked(pair.look(), 0.0)
    pair.scrub.begin_at_once()
    pair.asked.clear()
    assert pair.scrub.delay(0.0) == 0.0
    size = pair.look()
    pair.scrub.looked(size, 0.0)
    assert isinstance(pair.asked[0][1], Check)
    assert pair.asked[0][1].path == pair.sealed()[0]
    assert pair.scrub.delay(0.0) == size / 1000.0


def test_what_is_left_falls_to_nothing(pair: Scrubbed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rot, "PIECE", 600)
    pair.scrub.count()
    left = pair.scrub.total
    while left:
        assert pair.scrub.left == left
        left -= pair.look()
    assert pair.scrub.left == 0


def test_a_start_goes_on_where_the_last_one_was(pair: Scrubbed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rot, "PIECE", 600)
    pair.scrub.count()
    checks: list[Check] = []
    passes = 0
    while not passes:
        pair.asked.clear()
        pair.look()
        checks += [request for _, request in pair.asked if isinstance(request, Check)]
        passes += pair.scrub.passes
        pair.scrub.write_note()
        pair.leader.kill()
        pair.begin()
        pair.scrub.count()
    assert len(checks) > len(pair.sealed())
    at = 0
    for check in checks:
        assert check.offset in (at, 0)
        at = check.offset + check.size
    assert sum(check.size for check in checks) == pair.scrub.total


def test_what_could_not_be_mended_is_remembered_over_starts(pair: Scrubbed) -> None:
    path = pair.sealed()[1]
    for disk in pair.disks():
        disk.rot(path, 300)
    pair.go_through()
    unmended = pair.scrub.unmended
    assert list(unmended) == [path]
    pair.scrub.write_note()
    pair.begin()
    assert pair.scrub.unmended == unmended


@pytest.mark.parametrize("note", [b"", b"[]", b"{}", b"\xff", b'{"place": 5}', b"1" * 5000])
def test_a_note_that_cannot_be_read_is_none(pair: Scrubbed, note: bytes) -> None:
    pair.leader.memory.replace(NOTE, note)
    pair.begin()
    assert pair.scrub.note.place == Place()
    assert pair.go_through() == []


def test_another_segment_of_the_same_name_is_looked_at_from_its_beginning(pair: Scrubbed) -> None:
    path = pair.sealed()[0]
    pair.scrub.count()
    pair.scrub.note.place = Place(path, salt=1, offset=333)
    pair.look()
    assert pair.asked[0][1] == Check(path, 0, len(files_below(pair)[path]))


# --- the follower's side


def test_a_checksum_is_of_what_can_be_read(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path)
    with closing(storage):
        assert checksum_on_disk(storage, "missing", 0, 10) == (0, 0)
        assert checksum_on_disk(storage, "topic-t/missing", 0, 10) == (0, 0)
        storage.replace("file", b"0123456789" * PAGE)
        size, checksum = checksum_on_disk(storage, "file", 5, 1 << 62)
        assert size == 10 * PAGE - 5
        assert (size, checksum) == checksum_on_disk(storage, "file", 5, size)
        assert checksum_on_disk(storage, "file", 6, size - 1)[1] != checksum


def test_a_fetch_is_asked_for_only_after_a_difference(pair: Scrubbed) -> None:
    pair.go_through()
    assert not [request for _, request in pair.asked if isinstance(request, Fetch | SendAgain)]
