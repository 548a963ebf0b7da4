"""What cannot be read is named; what lies behind it is imported all the same."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsqd.importing import disk_queue
from nsqd.importing.disk_queue import DamagedRange, DiskQueue, Meta, SourceFile, scan
from nsqd.importing.source import Source
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.importing import original
from tests.nsqd.importing.harness import boot, bring, delivered, drain, sorted_by_id
from tests.nsqd.importing.original import Ids, Message, write_metadata, write_queue

MAX_BODY = 1 << 20


@pytest.fixture
def ids() -> Ids:
    return Ids()


def read(folder: Path, topic: str = "t", max_body: int = MAX_BODY) -> tuple[list[bytes], DiskQueue]:
    """All messages of a topic's own queue, and the queue."""
    source = Source(str(folder))
    source.close()
    files = source.topics[topic].queue
    assert files is not None
    queue = DiskQueue(files, max_body)
    return [message for batch in queue.batches() for message in batch], queue


def scanned(path: Path, data: bytes) -> tuple[list[bytes], list[DamagedRange]]:
    path.write_bytes(data)
    file = SourceFile(str(path))
    try:
        items = list(scan(file, 0, MAX_BODY))
    finally:
        file.close()
    damage = [item for item in items if isinstance(item, DamagedRange)]
    return [m for item in items if not isinstance(item, DamagedRange) for m in item], damage


def encoded(messages: list[Message]) -> list[bytes]:
    return [message.encode() for message in messages]


# --- within a file


@settings(deadline=None)
@given(
    garbage=st.binary(min_size=1, max_size=200) | st.integers(1, 5000).map(bytes),
    before=st.integers(0, 3),
    after=st.integers(0, 3),
    size=st.sampled_from([0, 1, 700, 70_000]),
)
def test_garbage_between_messages_costs_no_message(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes, before: int, after: int, size: int
) -> None:
    ids = Ids()
    messages = [ids.message(bytes(size)) for _ in range(before + after)]
    records = [message.record for message in messages]
    data = b"".join(records[:before]) + garbage + b"".join(records[before:])
    found, damage = scanned(tmp_path_factory.getbasetemp() / "file", data)
    assert found == encoded(messages)
    start = sum(map(len, records[:before]))
    assert [(item.offset, item.end) for item in damage] == [(start, start + len(garbage))]


@pytest.mark.parametrize("size", [*range(4060, 4132), 20_480, (1 << 20) + 21_845])
def test_a_message_behind_damage_of_any_length(tmp_path: Path, ids: Ids, size: int) -> None:
    """Also where the search goes from one piece of the file to the next in the middle of its head."""
    message = ids.message(b"x")
    found, damage = scanned(tmp_path / "file", b"\xff" * size + message.record)
    assert found == encoded([message])
    assert [(item.offset, item.end) for item in damage] == [(0, size)]


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_torn_end(tmp_path: Path, ids: Ids, cut: int) -> None:
    records = [ids.message(b"x" * 30).record for _ in range(3)]
    data = b"".join(records)[:-cut]
    found, damage = scanned(tmp_path / "file", data)
    assert found == [record[4:] for record in records[:2]]
    assert damage == [DamagedRange(120, len(data), "the file ends within a message")]


@pytest.mark.parametrize("bit", range(24))
def test_a_length_that_cannot_be_costs_one_message(tmp_path: Path, ids: Ids, bit: int) -> None:
    messages = [ids.message(b"body %d" % number) for number in range(8)]
    record = bytearray(messages[3].record)
    record[bit // 8] ^= 1 << bit % 8
    data = b"".join([*(m.record for m in messages[:3]), bytes(record), *(m.record for m in messages[4:])])
    found, damage = scanned(tmp_path / "file", data)
    assert found == encoded([*messages[:3], *messages[4:]])
    assert [(item.offset, item.end) for item in damage] == [(108, 144)]


def test_an_older_generator_of_ids_is_found_by_what_follows(tmp_path: Path, ids: Ids) -> None:
    """Ids that do not fit their timestamps: a message counts when another one, or the end, is right behind it."""
    messages = [Message(b"%016x" % number, 5, 0, b"body") for number in range(3)]
    found, damage = scanned(tmp_path / "file", b"?" + b"".join(m.record for m in messages))
    assert found == encoded(messages)
    assert [(item.offset, item.end) for item in damage] == [(0, 1)]


def test_an_id_in_a_body_is_no_message(tmp_path: Path, ids: Ids) -> None:
    first, last = ids.message(b"0123456789abcdef" * 50), ids.message(b"last")
    broken = b"\xff" + first.record[1:]
    found, damage = scanned(tmp_path / "file", broken + last.record)
    assert found == encoded([last])
    assert [(item.offset, item.end) for item in damage] == [(0, len(broken))]


def test_zeros_at_the_end_are_called_so(tmp_path: Path, ids: Ids) -> None:
    message = ids.message(b"x")
    found, damage = scanned(tmp_path / "file", message.record + bytes(100_000))
    assert found == encoded([message])
    assert damage == [DamagedRange(31, 100_031, "zeros")]


def test_a_message_longer_than_allowed_says_which_flag(tmp_path: Path, ids: Ids) -> None:
    messages = [ids.message(b"x" * 100), ids.message(b"x" * 101), ids.message(b"x")]
    write_queue(tmp_path, "t", messages)
    found, queue = read(tmp_path, max_body=100)
    assert found == encoded([messages[0], messages[2]])
    assert "131 bytes at 130 are not messages" in queue.problems[0]
    assert "a message of 101 bytes, which --max-msg-size does not allow" in queue.problems[0]
    assert read(tmp_path, max_body=101)[0] == encoded(messages)


def test_a_disk_that_cannot_be_read(tmp_path: Path, ids: Ids, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the file is given up; the next file is read."""
    messages = [ids.message(b"x" * 70_000) for _ in range(4)]
    write_queue(tmp_path, "t", messages, file_bytes=150_000)

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        if offset >= 70_030 and os.readlink(f"/proc/self/fd/{descriptor}").endswith("000000.dat"):
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, size, offset)

    real = os.pread
    monkeypatch.setattr(os, "pread", pread)
    found, queue = read(tmp_path)
    assert found == encoded([messages[0], *messages[2:]])
    assert (
        "t.diskqueue.000000.dat: 70030 bytes at 70030 are not messages (Input/output error)" in queue.problems
    )


def test_other_errors_of_the_system_are_no_damage(
    tmp_path: Path, ids: Ids, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_queue(tmp_path, "t", [ids.message(b"x")])

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(OSError, match="Cannot allocate"):
        read(tmp_path)


def test_a_file_that_becomes_shorter(tmp_path: Path, ids: Ids) -> None:
    path = tmp_path / "file"
    path.write_bytes(ids.message(b"x" * 100).record)
    file = SourceFile(str(path))
    os.truncate(path, 50)
    assert list(scan(file, 0, MAX_BODY)) == [DamagedRange(0, 130, "the file has become shorter")]
    file.close()


# --- files and positions


def test_much_damage_is_counted(tmp_path: Path, ids: Ids) -> None:
    data = b"".join(b"damage" + ids.message(b"x").record for _ in range(500))
    (tmp_path / "t.diskqueue.000000.dat").write_bytes(data)
    found, queue = read(tmp_path)
    assert len(found) == 500
    assert len(queue.problems) == disk_queue.LINES_PER_QUEUE + 1
    assert queue.problems[-1] == "500 damaged places in total, with 3000 bytes"


def test_no_meta_file(tmp_path: Path, ids: Ids) -> None:
    """A queue that was killed before its first sync: the original forgets it."""
    messages = [ids.message(b"x") for _ in range(5)]
    queue = write_queue(tmp_path, "t", messages, file_bytes=70)
    queue.meta.unlink()
    found, read_queue = read(tmp_path)
    assert found == encoded(messages)
    assert read_queue.problems == []
    assert "no meta file" in read_queue.notes[0]


@pytest.mark.parametrize(
    "content", [b"", b"1\n0,0", b"1\n0,0\n0,x\n", b"\0" * 20, b"1\n-1,0\n0,0\n", b"9" * 300]
)
def test_a_meta_file_that_cannot_be_read(tmp_path: Path, ids: Ids, content: bytes) -> None:
    messages = [ids.message(b"x") for _ in range(3)]
    write_queue(tmp_path, "t", messages).meta.write_bytes(content)
    found, queue = read(tmp_path)
    assert found == encoded(messages)
    assert "its meta file cannot be read" in queue.problems[0]


def test_contents_of_a_meta_file() -> None:
    assert Meta.parse(b"6\n0,64\n0,262\n") == Meta(6, 0, 64, 0, 262)
    assert Meta.parse(b"-2\n7,0\n12,1\n") == Meta(-2, 7, 0, 12, 1)


def meta(folder: Path, content: str) -> None:
    (folder / "t.diskqueue.meta.dat").write_text(content)


@pytest.fixture
def three_files(tmp_path: Path, ids: Ids) -> list[Message]:
    """Two messages of 31 bytes in each of three files."""
    messages = [ids.message(bytes([number])) for number in range(6)]
    write_queue(tmp_path, "t", messages, file_bytes=62)
    return messages


def test_reading_goes_on_where_the_original_was(tmp_path: Path, three_files: list[Message]) -> None:
    meta(tmp_path, "3\n1,31\n2,62\n")
    found, queue = read(tmp_path)
    assert found == encoded(three_files[3:])
    assert queue.problems == []
    assert queue.notes == ["t.diskqueue.000000.dat: not imported, all its messages were delivered before"]
    assert queue.size == 93


def test_a_position_behind_the_end(tmp_path: Path, three_files: list[Message]) -> None:
    meta(tmp_path, "2\n1,100\n2,62\n")
    found, queue = read(tmp_path)
    assert found == encoded(three_files[4:])
    assert queue.problems == ["t.diskqueue.000001.dat has 62 bytes, and the read position is 100"]


def test_a_position_within_a_message(tmp_path: Path, three_files: list[Message]) -> None:
    meta(tmp_path, "5\n0,40\n2,62\n")
    found, queue = read(tmp_path)
    assert found == encoded(three_files[2:])
    assert "t.diskqueue.000000.dat: 22 bytes at 40 are not messages" in queue.problems[0]
    assert queue.problems[1] == "5 messages remain according to its meta file, 4 were found"


def test_a_missing_file(tmp_path: Path, three_files: list[Message]) -> None:
    (tmp_path / "t.diskqueue.000001.dat").unlink()
    found, queue = read(tmp_path)
    assert found == encoded([*three_files[:2], *three_files[4:]])
    assert queue.problems == [
        "one file is missing between t.diskqueue.000000.dat and t.diskqueue.000002.dat",
        "6 messages remain according to its meta file, 4 were found",
    ]


def test_a_file_that_the_original_has_set_aside(tmp_path: Path, three_files: list[Message]) -> None:
    path = tmp_path / "t.diskqueue.000001.dat"
    path.rename(f"{path}.bad")
    meta(tmp_path, "4\n0,0\n2,62\n")
    found, queue = read(tmp_path)
    assert found == encoded([*three_files[:2], *three_files[4:]])
    assert queue.problems == []
    assert queue.notes == ["t.diskqueue.000001.dat.bad was set aside by the original, and is not imported"]


def test_the_read_file_was_removed_and_the_meta_file_not_yet_written(
    tmp_path: Path, three_files: list[Message]
) -> None:
    """The original removes a file before it notes that it has read it."""
    (tmp_path / "t.diskqueue.000000.dat").unlink()
    meta(tmp_path, "4\n0,31\n2,62\n")
    found, queue = read(tmp_path)
    assert found == encoded(three_files[2:])
    assert queue.problems == []
    assert queue.notes == ["t.diskqueue.000000.dat, the file of the read position, is missing"]


def test_messages_that_were_overwritten_after_a_kill(tmp_path: Path, ids: Ids) -> None:
    """The original begins a queue without a meta file anew, over what is there."""
    old = [ids.message(b"old %d" % number) for number in range(4)]
    data = bytearray(b"".join(message.record for message in old))
    new = ids.message(b"new, and a little longer")
    data[: len(new.record)] = new.record
    (tmp_path / "t.diskqueue.000000.dat").write_bytes(data)
    meta(tmp_path, f"1\n0,0\n0,{len(new.record)}\n")
    found, queue = read(tmp_path)
    assert found == encoded([new, *old[2:]])
    assert len(queue.problems) == 1


# --- all of it


def test_one_damaged_queue_keeps_nothing_else_from_being_imported(tmp_path: Path, ids: Ids) -> None:
    """And the outcome names the queue, the file and the place."""
    messages = {name: [ids.message(name.encode()) for _ in range(3)] for name in ("t:c", "t:d", "u:c")}
    for name, of_queue in messages.items():
        write_queue(tmp_path, name, of_queue)
    write_metadata(tmp_path, {"t": ["c", "d"], "u": ["c"]})
    path = tmp_path / "t:c.diskqueue.000000.dat"
    path.write_bytes(path.read_bytes()[:-1])
    storage = MemoryStorage()
    outcome = bring(tmp_path, storage)
    assert outcome.problems == {
        "t": [
            "t:c: t:c.diskqueue.000000.dat: 32 bytes at 66 are not messages (the file ends within a message)",
            "t:c: 3 messages remain according to its meta file, 2 were found",
        ]
    }
    harness = boot(storage)
    assert sorted_by_id(drain(harness, "t", "c")) == delivered(messages["t:c"][:2])
    assert sorted_by_id(drain(harness, "t", "d")) == delivered(messages["t:d"])
    assert sorted_by_id(drain(harness, "u", "c")) == delivered(messages["u:c"])


def test_a_message_that_the_original_wrote_twice_is_imported_once(tmp_path: Path, ids: Ids) -> None:
    """After a kill it reads again what it had read since its last sync."""
    messages = [ids.message(b"%d" % number) for number in range(3000)]
    write_queue(tmp_path, "t:c", [*messages, *messages[500:], messages[0]], original.FILE_BYTES)
    write_metadata(tmp_path, {"t": ["c"]})
    storage = MemoryStorage()
    assert bring(tmp_path, storage).messages == 3000
    assert boot(storage).channel("c", "t").depth == 3000


@pytest.mark.parametrize("channels", [1, 2])
def test_a_message_of_both_topic_and_channel_goes_to_that_channel_once(
    tmp_path: Path, ids: Ids, channels: int
) -> None:
    """Killed after a message was given to a channel, and before the topic's meta file said so."""
    messages = [ids.message(b"%d" % number, 1) for number in range(5)]
    write_queue(tmp_path, "t:c", messages)
    backlog = [Message(m.id, m.timestamp_ns, 0, m.body) for m in messages[2:4]] + [ids.message(b"new")]
    write_queue(tmp_path, "t", backlog)
    write_metadata(tmp_path, {"t": ["c", "d"][:channels]})
    storage = MemoryStorage()
    bring(tmp_path, storage)
    harness = boot(storage)
    consumer = harness.subscribe("c", topic="t", rdy=100)
    assert sorted_by_id(consumer.received) == sorted_by_id(
        [*delivered(messages), *delivered(backlog[2:], fresh=True)]
    )
    harness.finish(consumer)
    assert harness.broker.topics["t"].channels["c"].depth == 0
    harness.kill()
    assert harness.channel("c", "t").depth == 0
    if channels == 2:
        assert sorted_by_id(drain(harness, "t", "d")) == delivered(backlog, fresh=True)


def test_another_message_with_the_same_id_is_kept(tmp_path: Path, ids: Ids) -> None:
    """A clock that was set back."""
    one = ids.message(b"one")
    other = Message(one.id, one.timestamp_ns + 1, 0, b"other")
    write_queue(tmp_path, "t:c", [one, other])
    write_metadata(tmp_path, {"t": ["c"]})
    storage = MemoryStorage()
    assert bring(tmp_path, storage).messages == 2
