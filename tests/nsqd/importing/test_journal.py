"""What a start must know of an import: that it is complete, and which ids it has brought."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsqd.importing import ImportRefused, prepare_start
from nsqd.importing.journal import JOURNAL, LOWEST_ROOM, Journal
from nsqd.log.file_storage import FileStorage
from nsqd.log.ids import BLOCK, NODE_SHIFT
from nsqd.log.store import Store, StoreOptions
from nsqd.testing.faulty_storage import WRITES, Crash, CrashAt, FaultyStorage
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.broker.harness import WALL_NS
from tests.nsqd.importing.harness import bring
from tests.nsqd.importing.original import Ids, Message, write_metadata, write_queue

COUNTERS = 1 << NODE_SHIFT
NODE = 98
CLOCK = WALL_NS // 1000  # where the counter of a new data path begins


def imported(tmp_path: Path, *ids: int) -> Path:
    """A data path into which messages with these ids were imported."""
    original, new = tmp_path / "original", tmp_path / "new"
    original.mkdir()
    new.mkdir()
    write_queue(original, "t:c", [Message(b"%016x" % number, 1, 0, b"x") for number in ids])
    storage = FileStorage(new)
    bring(original, storage)
    storage.close()
    return new


def next_id(data_path: Path, node_id: int = NODE) -> int:
    """The id that a daemon gives next, after what every start does."""
    prepare_start(str(data_path), node_id)
    storage = FileStorage(data_path)
    number = Store(storage, StoreOptions(node_id=node_id), WALL_NS).ids.take(1)
    storage.close()
    return number


def node(node_id: int, counter: int) -> int:
    return node_id << NODE_SHIFT | counter


@pytest.mark.parametrize("ahead", [0, 1, 10, BLOCK, 5 * BLOCK, COUNTERS // 4])
def test_an_imported_id_is_never_given_again(tmp_path: Path, ahead: int) -> None:
    """Even if it looks like one of this node and lies before its counter."""
    there = node(NODE, CLOCK + ahead)
    data_path = imported(tmp_path, node(NODE, 5), there, node(NODE + 1, COUNTERS - 1), node(NODE, 7))
    ids = [next_id(data_path) for _ in range(3)]
    assert there < ids[0] < ids[1] < ids[2]
    assert ids[2] < there + 6 * BLOCK or ahead == 0
    assert {number >> NODE_SHIFT for number in ids} == {NODE}


def test_another_node_id_later_is_as_safe(tmp_path: Path) -> None:
    data_path = imported(tmp_path, node(NODE, CLOCK), node(3, CLOCK + 40 * BLOCK), node(3, CLOCK))
    assert next_id(data_path) > node(NODE, CLOCK)
    assert next_id(data_path, 3) > node(3, CLOCK + 40 * BLOCK)


def test_ids_of_other_times_change_nothing(tmp_path: Path) -> None:
    """The usual case: no more is reserved than by any start."""
    data_path = imported(tmp_path, node(NODE - 1, COUNTERS - 1), node(NODE + 1, 0))
    reserved = (data_path / "nsqd.ids").read_bytes()
    prepare_start(str(data_path), NODE)
    assert (data_path / "nsqd.ids").read_bytes() == reserved


def test_ids_that_leave_no_room_need_another_node_id(tmp_path: Path) -> None:
    data_path = imported(tmp_path, node(NODE, COUNTERS - LOWEST_ROOM))
    with pytest.raises(ImportRefused, match="--node-id=98, and leave too little room"):
        prepare_start(str(data_path), NODE)
    assert next_id(data_path, NODE + 1) >> NODE_SHIFT == NODE + 1


def test_real_ids_of_the_original(tmp_path: Path) -> None:
    """They begin with their time, which counts up once in 52 days; a daemon with that node id goes on behind them."""
    original = Ids()
    last = [int(original.message(b"x").id, 16) for _ in range(5)][-1]
    data_path = imported(tmp_path, last)
    begins_like = last >> NODE_SHIFT
    assert begins_like == 97
    assert next_id(data_path, begins_like) > last


def test_a_start_before_the_import_is_complete(tmp_path: Path) -> None:
    (tmp_path / "original").mkdir()
    (tmp_path / "new").mkdir()
    write_metadata(tmp_path / "original", {"t": []})
    storage = FileStorage(tmp_path / "new")
    with pytest.raises(Crash):
        bring(tmp_path / "original", FaultyStorage(storage, CrashAt(4, among=WRITES)))
    storage.close()
    with pytest.raises(ImportRefused, match=f"not complete: finish it with --import={tmp_path}/original"):
        prepare_start(str(tmp_path / "new"), NODE)


def test_a_data_path_without_an_import_is_not_touched(tmp_path: Path) -> None:
    prepare_start(str(tmp_path), NODE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read"),
        (b"{}", "cannot be read"),
        (b'{"version":2,"source":"x","fingerprint":"y"}', "newer"),
    ],
)
def test_a_journal_that_says_nothing(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / JOURNAL).write_bytes(content)
    with pytest.raises(ImportRefused, match=reason):
        prepare_start(str(tmp_path), NODE)


def test_a_journal_keeps_its_entries() -> None:
    storage = MemoryStorage()
    journal = Journal(source="/x", fingerprint="y")
    journal.note_topic("t", ["torn"], {"185": "1850000000000000", "186": "1860000000000000"})
    journal.note_topic("t", ["torn"], {"185": "1850000000000009"})
    journal.note_topic("u", [], {"185": "1850000000000001"})
    journal.save(storage)
    again = Journal.load(storage)
    assert again == journal
    assert again.problems == {"t": ["torn"]}
    assert again.highest == {"185": "1850000000000009", "186": "1860000000000000"}
