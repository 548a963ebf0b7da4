"""Which topics and channels an import finds in a folder, and which folders it refuses."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

import pytest

from nsqd.importing import ImportOptions, ImportRefused, import_data_path
from nsqd.importing.source import Source
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.broker.harness import WALL_NS
from tests.nsqd.importing.harness import boot, bring
from tests.nsqd.importing.original import Ids, write_metadata, write_queue
from tests.nsqd.log.samples import new_log


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "original").mkdir()
    return tmp_path / "original"


def look(folder: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Topics with their channels, and the notes."""
    source = Source(str(folder))
    source.close()
    return {topic.name: list(topic.channels) for topic in source.topics.values()}, source.notes


# --- nsqd.dat


def test_topics_and_channels_without_a_message(folder: Path) -> None:
    """They come too: a channel that is not there would miss what is published before it is made again."""
    write_metadata(folder, {"t": ["c", "d"], "u": []}, paused=["u", "t:d"])
    storage = MemoryStorage()
    bring(folder, storage)
    topics = boot(storage).broker.topics
    assert {name: list(topic.channels) for name, topic in topics.items()} == {"t": ["c", "d"], "u": []}
    assert (topics["t"].paused, topics["u"].paused) == (False, True)
    assert [channel.paused for channel in topics["t"].channels.values()] == [False, True]


@pytest.mark.parametrize(
    "content", ["{}", "null", '{"topics":null,"version":"1.3.0"}', '{"topics":[],"new":{"key":1}}']
)
def test_a_metadata_file_without_topics(folder: Path, content: str) -> None:
    (folder / "nsqd.dat").write_text(content)
    storage = MemoryStorage()
    assert bring(folder, storage).topics == 0
    assert boot(storage).broker.topics == {}


@pytest.mark.parametrize(
    "content",
    ["", "{", '{"topics":[{"name":1}]}', '{"topics":{}}', '{"topics":[{"name":"t","paused":0}]}', "\xff"],
)
def test_a_metadata_file_that_cannot_be_read(folder: Path, content: str) -> None:
    (folder / "nsqd.dat").write_bytes(content.encode("latin-1"))
    write_queue(folder, "t", [Ids().message(b"x")])
    storage = MemoryStorage()
    with pytest.raises(ImportRefused, match=r"nsqd\.dat cannot be read .* import a copy without it"):
        bring(folder, storage)
    assert storage.files() == []


def test_a_metadata_file_that_is_too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsqd.importing.source.MAX_METADATA_BYTES", 10)
    write_metadata(folder, {})
    with pytest.raises(ImportRefused, match="more than 10 bytes"):
        look(folder)


def test_names_that_are_none(folder: Path) -> None:
    bad = [
        {"name": "a b"},
        {"name": ""},
        {"name": "e#ephemeral"},
        {"name": "t", "channels": [{"name": "../x"}]},
    ]
    write_metadata(folder, {"t": ["c"]}, extra=bad)
    topics, notes = look(folder)
    assert topics == {"t": ["c"]}
    assert notes == [
        "nsqd.dat: 'a b' is no name for a topic, skipped",
        "nsqd.dat: '' is no name for a topic, skipped",
        "nsqd.dat: the topic e#ephemeral is ephemeral, skipped",
        "nsqd.dat: '../x' is no name for a channel, skipped",
    ]


# --- files


def test_queues_that_the_metadata_does_not_know(folder: Path) -> None:
    """Made shortly before a kill: the original forgets them, and what is in them."""
    ids = Ids()
    write_metadata(folder, {"t": []})
    for name in ("t:c", "u", "v:c"):
        write_queue(folder, name, [ids.message(b"x")])
    topics, notes = look(folder)
    assert topics == {"t": ["c"], "u": [], "v": ["c"]}
    assert notes == [
        "the channel t:c has files, but is not in nsqd.dat",
        "the topic u has files, but is not in nsqd.dat",
        "the topic v has files, but is not in nsqd.dat",
        "the channel v:c has files, but is not in nsqd.dat",
    ]


def test_files_alone(folder: Path) -> None:
    write_queue(folder, "t:c", [Ids().message(b"x")])
    topics, notes = look(folder)
    assert topics == {"t": ["c"]}
    assert notes == ["there is no nsqd.dat: topics and channels are those that have files"]


def test_a_queue_of_the_original_on_windows(folder: Path) -> None:
    write_queue(folder, "t;c", [Ids().message(b"x")])
    assert look(folder)[0] == {"t": ["c"]}
    write_queue(folder, "t:c", [Ids().message(b"x")])
    with pytest.raises(ImportRefused, match="twice"):
        look(folder)


@pytest.mark.parametrize(
    "name",
    [
        "nsqd.dat.123.tmp",
        "t.diskqueue.meta.dat.123.tmp",
        "t.diskqueue.12345.dat",
        "t.diskqueue.0000001.dat",
        "t.diskqueue.000000.dat.gz",
        ".diskqueue.000000.dat",
        "notes.txt",
    ],
)
def test_files_that_are_no_queue_are_left_alone(folder: Path, name: str) -> None:
    write_metadata(folder, {"t": []})
    (folder / name).write_text("x")
    assert look(folder) == ({"t": []}, [])


@pytest.mark.parametrize("name", ["a b", "t:c:d", "t:", ":c", "e#ephemeral", "t:e#ephemeral"])
def test_files_whose_queue_has_an_impossible_name(folder: Path, name: str) -> None:
    write_metadata(folder, {"t": []})
    (folder / f"{name}.diskqueue.000000.dat").write_text("x")
    assert look(folder) == ({"t": []}, [f"{name!r} is no name for a queue: its files are skipped"])


# --- folders


def test_a_folder_that_is_in_use(folder: Path) -> None:
    """The original holds an exclusive lock while it runs."""
    write_metadata(folder, {"t": []})
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with pytest.raises(ImportRefused, match="is in use: stop the nsqd that runs there first"):
        bring(folder, MemoryStorage())
    os.close(descriptor)
    assert bring(folder, MemoryStorage()).topics == 1


def test_the_original_cannot_start_meanwhile(folder: Path) -> None:
    write_metadata(folder, {"t": []})
    source = Source(str(folder))
    descriptor = os.open(folder, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    source.close()
    source.close()
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_a_folder_that_is_none_of_the_original(folder: Path) -> None:
    with pytest.raises(ImportRefused, match="holds no files of the original nsqd"):
        bring(folder, MemoryStorage())
    with pytest.raises(ImportRefused, match="No such file"):
        bring(folder / "none", MemoryStorage())
    (folder / "file").write_text("")
    with pytest.raises(ImportRefused, match="Not a directory"):
        bring(folder / "file", MemoryStorage())


def test_a_data_path_with_the_same_topics(folder: Path) -> None:
    """What is there could be doubled, or mixed up with what comes."""
    write_metadata(folder, {f"t{number}": [] for number in range(7)})
    storage = MemoryStorage()
    for number in range(7):
        new_log(storage, f"topic-t{number}")
    before = storage.folders()
    with pytest.raises(ImportRefused, match="of the same names already: t0, t1, t2, t3, t4 and 2 more;"):
        bring(folder, storage)
    assert (storage.folders(), storage.files()) == (before, [])


def test_a_data_path_with_other_topics(folder: Path) -> None:
    write_metadata(folder, {"t": []})
    storage = MemoryStorage()
    new_log(storage, "topic-other")
    bring(folder, storage)
    assert sorted(boot(storage).broker.topics) == ["other", "t"]


def test_a_data_path_of_the_original(folder: Path) -> None:
    write_metadata(folder, {"t": []})
    storage = MemoryStorage()
    storage.replace("nsqd.dat", b"{}")
    with pytest.raises(ImportRefused, match=r"the data path holds nsqd\.dat"):
        bring(folder, storage)


def test_a_disk_with_too_little_room(folder: Path) -> None:
    """It is said before anything is written."""
    write_queue(folder, "t", [Ids().message(bytes(2000))])
    storage = MemoryStorage(capacity=5000)
    with pytest.raises(ImportRefused, match=r"about 2\.0 kB are needed, and 5\.0 kB are free .*=4000 "):
        bring(folder, storage, min_free_space=4000)
    assert storage.files() == []
    assert bring(folder, storage).messages == 1


# --- what it says


def test_progress_of_an_import(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every five seconds, with rates; a line a queue; and how it went."""
    ids = Ids()
    for name in ("t", "t:c"):
        write_queue(folder, name, [ids.message(bytes(69_970), 2) for _ in range(10)])  # 70,000 bytes each
    write_metadata(folder, {"t": ["c"]})
    caplog.set_level("INFO", logger="nsq.import")
    seconds = iter(range(0, 1000, 2))  # each message is a piece of its own, and takes two seconds
    storage = MemoryStorage()
    options = ImportOptions(min_free_space=0)
    import_data_path(str(folder), storage, options, WALL_NS, clock=lambda: float(next(seconds)))
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == f"{folder}: 1 topics, 1.4 MB to read"
    assert said[1] == "15 %: 3 messages, 210.0 kB, 0 messages/s, 26.2 kB/s"
    assert said[-3:-1] == [
        "CHANNEL(t:c): 10 messages, 700.0 kB, 10 of them delivered before",
        "TOPIC(t): 10 messages, 700.0 kB",
    ]
    assert said[-1].startswith("imported 1 topics: 20 messages, 1.4 MB, ")
    assert all(" %: " in line for line in said[1:-3])


def test_a_folder_whose_name_is_no_text(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "nsq")  # pytest's own report cannot hold that name
    strange = folder / os.fsdecode(b"\xff")
    strange.mkdir()
    write_metadata(strange, {"t": []})
    storage = MemoryStorage()
    assert bring(strange, storage).topics == 1
    assert bring(strange, storage).topics == 0
