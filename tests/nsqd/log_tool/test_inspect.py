"""`nsqd-log`: what it says of whole and of damaged files, and that it changes none."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from nsqd.log.file_storage import FileStorage
from nsqd.log.origin import Origin
from nsqd.log.records import FILE_HEADER_SIZE, RECORD_HEAD_SIZE, VERSION, FileHeader, FileKind
from nsqd.log.recovery import recover_topic
from nsqd.log.scan import Damaged
from nsqd.log.snapshots import SnapshotWriter
from nsqd.log.state import Change, Code
from nsqd.log.topic_log import Batch, TopicLog
from nsqd.log_tool import __main__ as command
from nsqd.log_tool.inspect import FileRecord, LogFile, check, find_files, read_records
from tests.nsqd.log.samples import FOLDER, append, flip, frame, new_log
from tests.nsqd.log.test_recovery import newer

CREATED = (Code.CHANNEL_CREATED, 1, "ch\n", 0)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[FileStorage]:
    storage = FileStorage(tmp_path)
    yield storage
    storage.close()


@pytest.fixture
def log(storage: FileStorage) -> TopicLog:
    """Three segments: a channel and two messages; a deferred one; three messages in two records."""
    log = new_log(storage)
    log.append((), [CREATED])
    append(log, 2, flowing=True)
    log.roll()
    log.append([Batch.of([frame(2, b"late \xff\n'", timestamp_ns=1_700_000_000_123_456_789)], [90 * 10**9])])
    log.roll()
    append(log, 2)
    append(log, 1)
    return log


@pytest.fixture
def snapshot(log: TopicLog) -> str:
    changes: list[list[Change]] = [
        [CREATED, (Code.FINISHED, 1, 3, 2, 5, 1)],
        [(Code.PARKED, 1, 7, 2, 99), (Code.DEFERRED, 9, 5)],
    ]
    writer = SnapshotWriter.begin(log, iter(changes))
    while not writer.step():
        pass
    writer.finish([])
    return f"{FOLDER}/{writer.position:020d}.snap"


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        command.main(argv)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def items(path: str | Path) -> list[FileRecord | Damaged]:
    file = LogFile.open(str(path))
    try:
        return list(read_records(file))
    finally:
        file.close()


def contents(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def segment(log: TopicLog, at: int) -> str:
    return log.segments[at].path


class TestVerify:
    @pytest.mark.parametrize("where", ["", FOLDER])
    def test_all_is_well(
        self, tmp_path: Path, log: TopicLog, snapshot: str, where: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = contents(tmp_path)
        assert run("verify", str(tmp_path / where)) == 0
        out = capsys.readouterr()
        assert out.out.splitlines()[-1] == "4 files, 9 records, 6 messages, no damage"
        assert f"{tmp_path}/{segment(log, 0)}: 2 records, 2 messages" in out.out
        assert out.err == "", "no progress where nobody looks"
        assert contents(tmp_path) == before

    def test_files_that_were_opened_for_writing_would_fail(self, tmp_path: Path, log: TopicLog) -> None:
        for path in find_files(str(tmp_path)):
            os.chmod(path, 0o400)
        assert run("verify", str(tmp_path)) == 0

    def test_a_flipped_bit(
        self, tmp_path: Path, storage: FileStorage, log: TopicLog, capsys: pytest.CaptureFixture[str]
    ) -> None:
        flip(storage, segment(log, 2), 8 * (FILE_HEADER_SIZE + RECORD_HEAD_SIZE + 3))
        before = contents(tmp_path)
        assert run("verify", f"{tmp_path}/{segment(log, 2)}") == 1
        size = RECORD_HEAD_SIZE + 2 * len(frame(3))
        reason = "the checksum of a record's payload does not match"
        assert f"damaged: {size} bytes at {FILE_HEADER_SIZE} ({reason})" in capsys.readouterr().out
        assert contents(tmp_path) == before

    def test_every_flipped_byte_is_found(self, tmp_path: Path, storage: FileStorage, log: TopicLog) -> None:
        path = tmp_path / segment(log, 2)
        data = path.read_bytes()
        for offset in [*range(52), *range(FILE_HEADER_SIZE, len(data))]:
            path.write_bytes(data[:offset] + bytes([data[offset] ^ 16]) + data[offset + 1 :])
            report = check(str(path))
            assert report is not None
            assert report.damage, offset

    @pytest.mark.parametrize("cut", [1, 40, 70])
    def test_a_torn_end(self, tmp_path: Path, log: TopicLog, cut: int) -> None:
        path = tmp_path / segment(log, 2)
        path.write_bytes(path.read_bytes()[:-cut])
        assert run("verify", str(tmp_path)) == 1

    def test_zeros_at_the_end_are_an_end(
        self, tmp_path: Path, log: TopicLog, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / segment(log, 2)
        path.write_bytes(path.read_bytes() + bytes(4096))
        assert run("verify", str(path)) == 0
        assert "4096 zero bytes" in capsys.readouterr().out

    @pytest.mark.parametrize("kept", [0, 10, FILE_HEADER_SIZE])
    def test_an_unfinished_snapshot(self, tmp_path: Path, snapshot: str, kept: int) -> None:
        path = tmp_path / snapshot
        path.write_bytes(path.read_bytes()[: kept or -RECORD_HEAD_SIZE])
        report = check(str(path))
        assert report is not None
        assert report.damage

    def test_a_missing_segment(
        self, tmp_path: Path, log: TopicLog, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / segment(log, 1)).unlink()
        assert run("verify", str(tmp_path)) == 1
        begin, end = log.segments[0].end, log.segments[2].position
        assert f"the log from byte {begin} to {end} is missing" in capsys.readouterr().out

    def test_a_newer_format(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "x.log"
        path.write_bytes(newer(FileHeader(FileKind.SEGMENT, 1, 1, 0, 0, 0)))
        assert run("verify", str(path)) == 1
        assert f"format version {VERSION + 1}" in capsys.readouterr().out
        assert run("dump", str(path)) == 2

    def test_bytes_set_aside_are_listed_and_not_counted(
        self, tmp_path: Path, storage: FileStorage, log: TopicLog, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / segment(log, 2)
        path.write_bytes(path.read_bytes()[:-1])
        recover_topic(storage, FOLDER, max_segment_bytes=1 << 20)
        assert run("verify", str(tmp_path)) == 0
        assert "set aside" in capsys.readouterr().out

    def test_a_missing_path(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("verify", str(tmp_path / "nothing")) == 2
        assert "nothing" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["nsqd.log", "trash-7"])
    def test_in_a_data_path_only_topics_count(self, tmp_path: Path, log: TopicLog, name: str) -> None:
        (tmp_path / name).write_bytes(b"what a daemon has printed")
        assert run("verify", str(tmp_path)) == 0

    def test_a_data_path_without_topics(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "nsqd.ids").write_bytes(b"nsqd ids 1 5\n")
        (tmp_path / "nsqd.log").write_bytes(b"what a daemon has printed")
        assert run("verify", str(tmp_path)) == 0
        assert "0 files" in capsys.readouterr().out

    def test_a_file_that_was_released_meanwhile_is_no_problem(self, tmp_path: Path) -> None:
        assert check(str(tmp_path / "gone.log")) is None

    def test_a_running_daemon_in_the_middle_of_an_append(
        self, tmp_path: Path, log: TopicLog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The end looked torn, and the file has grown since: it is read again."""
        path = tmp_path / segment(log, 2)
        whole = path.read_bytes()
        path.write_bytes(whole[:-9])
        read = LogFile.read

        def read_and_grow(file: LogFile, offset: int, size: int) -> bytes:
            data = read(file, offset, size)
            if offset:
                path.write_bytes(whole)
            return data

        monkeypatch.setattr(LogFile, "read", read_and_grow)
        report = check(str(path))
        assert report is not None
        assert (report.records, report.messages, report.damage) == (2, 3, [])

    def test_progress(self, log: TopicLog, tmp_path: Path) -> None:
        seen: list[tuple[int, int]] = []
        path = f"{tmp_path}/{segment(log, 2)}"
        check(path, lambda path, done, size: seen.append((done, size)))
        size = os.path.getsize(path)
        assert seen[-1] == (size, size)
        assert len(seen) == 2

    def test_progress_is_shown_on_a_terminal_only(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command._on_terminal() is None
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        monkeypatch.setattr(command, "_REDRAW_S", 0)
        show = command._on_terminal()
        assert show is not None
        show("x.log", 50, 200)
        assert " 25 %  x.log" in capsys.readouterr().err


class TestDump:
    def test_records_and_changes(
        self, tmp_path: Path, log: TopicLog, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("dump", f"{tmp_path}/{segment(log, 0)}") == 0
        created, messages = capsys.readouterr().out.splitlines()
        assert created.split() == [
            "64",
            "CHANGES",
            "first=0",
            "count=1",
            "CHANNEL_CREATED(generation=1,",
            "name='ch\\n',",
            "start=0)",
        ]
        assert messages.split()[1:] == ["MESSAGES", "first=0", "count=2", "flowing"]

    def test_the_position_counts_the_whole_log(
        self, tmp_path: Path, log: TopicLog, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run("dump", f"{tmp_path}/{segment(log, 2)}")
        assert int(capsys.readouterr().out.split()[0]) == log.segments[2].position + FILE_HEADER_SIZE

    def test_bodies_are_escaped(
        self, tmp_path: Path, log: TopicLog, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("dump", "--bodies", f"{tmp_path}/{segment(log, 1)}") == 0
        out = capsys.readouterr().out
        assert "late \\xff\\n'" in out
        assert f"2  {2:016x}  2023-11-14T22:13:20.123456789Z  delay=90s" in out
        assert out.isascii()

    def test_json(self, tmp_path: Path, log: TopicLog, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("dump", "--json", "--bodies", f"{tmp_path}/{segment(log, 1)}") == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert json.loads(line) == {
            "offset": FILE_HEADER_SIZE,
            "position": log.segments[1].position + FILE_HEADER_SIZE,
            "kind": "DEFERRED",
            "first": 2,
            "count": 1,
            "flowing": False,
            "bytes": os.path.getsize(f"{tmp_path}/{segment(log, 1)}") - FILE_HEADER_SIZE,
            "messages": [
                {
                    "number": 2,
                    "id": f"{2:016x}",
                    "timestamp_ns": 1_700_000_000_123_456_789,
                    "body": "late \\xff\\n'",
                    "delay_ns": 90 * 10**9,
                }
            ],
        }

    def test_a_snapshot(self, tmp_path: Path, snapshot: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("dump", str(tmp_path / snapshot)) == 0
        first, second, seal = capsys.readouterr().out.splitlines()
        assert "FINISHED(generation=1, ranges=[[3 5] [10 11]])" in first
        assert "PARKED(generation=1, messages=[7:2:99])" in second
        assert "DEFERRED(messages=[9:5])" in second
        assert "SEAL" in seal

    def test_every_change_has_a_name(self) -> None:
        samples: dict[Code, tuple[object, ...]] = {
            Code.CHECKPOINT: (),
            Code.TOPIC_PAUSED: (True,),
            Code.MARK: (1, 2),
            Code.TOPIC_EMPTIED: (1, 2),
            Code.LOST: (1, 2, True),
            Code.DEFERRED: (1, 2),
            Code.SEGMENTS: (1, 2, 3, 4),
            Code.MOVED: (1, 2, 3),
            Code.LAST_ID: (1,),
            Code.TOPIC_SETTINGS: ({"max_depth": 1},),
            Code.DELAYED: (1, 2),
            Code.DIRECTED: (1, 2, 3),
            Code.LETTERS: (1, 2),
            Code.NOT_COUNTED: (1, 2, 3),
            Code.REDRIVE: (1, 2, 3, 4),
            Code.CHANNEL_CREATED: (1, "a", 0),
            Code.CHANNEL_DELETED: (1,),
            Code.CHANNEL_PAUSED: (1, True),
            Code.CHANNEL_EMPTIED: (1, 2),
            Code.FINISHED: (1, 2, 3),
            Code.PARKED: (1, 2, 3, 4),
            Code.CHANNEL_SETTINGS: (1, {"max_depth": 1}),
        }
        assert set(samples) == set(Code)
        from nsqd.log_tool.inspect import _named

        for code, values in samples.items():
            named = _named([code, *values])
            assert named["change"] == code.name
            assert bool(values) == (len(named) > 1)

    def test_damage_in_the_middle(
        self, tmp_path: Path, storage: FileStorage, log: TopicLog, capsys: pytest.CaptureFixture[str]
    ) -> None:
        flip(storage, segment(log, 2), 8 * (FILE_HEADER_SIZE + RECORD_HEAD_SIZE + 3))
        assert run("dump", f"{tmp_path}/{segment(log, 2)}") == 1
        bad, good = capsys.readouterr().out.splitlines()
        assert "DAMAGED" in bad
        assert "first=5" in good
        run("dump", "--json", f"{tmp_path}/{segment(log, 2)}")
        assert "damaged" in json.loads(capsys.readouterr().out.splitlines()[0])

    def test_dead_letters_and_messages_for_one_channel(
        self, tmp_path: Path, storage: FileStorage, log: TopicLog, capsys: pytest.CaptureFixture[str]
    ) -> None:
        origin = Origin(
            topic="orders",
            channel="mail",
            generation=3,
            seq=17,
            cause="attempts",
            attempts=5,
            first_ns=0,
            last_ns=1_700_000_000 * 10**9,
        )
        seqs = range(log.end, log.end + 3)
        letter, single = frame(seqs[0], b"dead"), frame(seqs[1], b"alive")
        log.append(
            [
                Batch([letter], len(letter), origins=[origin.encode()]),
                Batch([single], len(single), directed=9),
            ]
        )
        log.append_moved([(seqs[0], letter)], origins={seqs[0]: origin.encode()})
        path = f"{tmp_path}/{log.segments[-1].path}"
        assert run("dump", "--bodies", path) == 0
        *_, one, first, two, second, three, third = capsys.readouterr().out.splitlines()
        assert ("LETTERS" in one, "DIRECTED" in two, "MOVED_LETTERS" in three) == (True, True, True)
        place = (
            "from orders:mail seq=17 cause=attempts attempts=5 last=2023-11-14T22:13:20.000000000Z  'dead'"
        )
        assert first.endswith(place)
        assert third.endswith(place)
        assert second.endswith("channel=9  'alive'")
        run("dump", "--bodies", "--json", path)
        records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert records[-3]["messages"][0]["origin"] == attrs.asdict(origin)
        assert records[-2]["messages"][0]["channel"] == 9
        assert run("verify", path) == 0

    def test_a_folder(self, tmp_path: Path, log: TopicLog, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("dump", str(tmp_path / FOLDER)) == 0
        assert capsys.readouterr().out.count(".log:") == 3

    def test_a_missing_path(self, tmp_path: Path) -> None:
        assert run("dump", str(tmp_path / "nothing")) == 2


class TestSetAside:
    def test_a_record_with_a_flipped_bit_still_shows_its_messages(
        self, tmp_path: Path, storage: FileStorage, log: TopicLog, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = segment(log, 2)
        flip(storage, path, 8 * (os.path.getsize(tmp_path / path) - 1))
        recover_topic(storage, FOLDER, max_segment_bytes=1 << 20)
        (aside,) = (tmp_path / FOLDER).glob("*.damaged")
        assert run("dump", "--bodies", str(aside)) == 0
        head, message = capsys.readouterr().out.splitlines()
        assert "DAMAGED: the checksum of a record's payload" in head
        assert f"{5:016x}" in message

    def test_records_of_any_file_among_garbage(self, tmp_path: Path, log: TopicLog) -> None:
        pieces = [(tmp_path / segment(log, at)).read_bytes()[FILE_HEADER_SIZE:] for at in (0, 2)]
        path = tmp_path / "x.damaged"
        path.write_bytes(b"junk" + pieces[0] + b"\xa7Q more junk" + pieces[1] + b"end")
        found = items(path)
        assert [item.head.first for item in found if isinstance(item, FileRecord)] == [0, 0, 3, 5]
        assert [item.offset for item in found if isinstance(item, Damaged)] == [
            0,
            4 + len(pieces[0]),
            os.path.getsize(path) - 3,
        ]

    def test_a_torn_record(self, tmp_path: Path, log: TopicLog) -> None:
        path = tmp_path / "x.damaged"
        path.write_bytes((tmp_path / segment(log, 2)).read_bytes()[FILE_HEADER_SIZE:-1])
        whole, torn = items(path)
        assert isinstance(whole, FileRecord)
        assert isinstance(torn, FileRecord)
        assert torn.problem == "the payload of a record is cut off"
        assert "problem" in torn.as_json(bodies=True)

    @pytest.mark.parametrize("data", [b"", b"\xa7Q", bytes(100), b"\xa7" * 70])
    def test_garbage(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "x.damaged"
        path.write_bytes(data)
        assert not any(isinstance(item, FileRecord) for item in items(path))
        assert run("dump", str(path)) == 0

    def test_a_segment_whose_header_is_damaged_is_searched(
        self, tmp_path: Path, storage: FileStorage, log: TopicLog, capsys: pytest.CaptureFixture[str]
    ) -> None:
        flip(storage, segment(log, 2), 100)
        path = f"{tmp_path}/{segment(log, 2)}"
        assert run("verify", path) == 1
        assert "2 records, 3 messages" in capsys.readouterr().out
        assert run("dump", path) == 1
        assert "checksum" in capsys.readouterr().err


class TestHelp:
    @pytest.mark.parametrize("argv", [["--help"], ["verify", "--help"], ["dump", "--help"], ["--version"]])
    def test_help_has_examples(self, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert run(*argv) == 0
        assert "nsqd-log" in capsys.readouterr().out

    @pytest.mark.parametrize("argv", [[], ["verify"], ["dump"], ["dump", "a", "b"], ["repair", "x"]])
    def test_an_unknown_command(self, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert run(*argv) == 2
        assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["missing", "other"])
@pytest.mark.parametrize("what", ["verify", "dump"])
def test_path_without_a_log_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, what: str
) -> None:
    """A mistyped path is not called free of damage."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    assert run(what, str(tmp_path / path)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert str(tmp_path / path) in err
