"""The files of one topic, with a clock that the tests move."""

from __future__ import annotations

import errno
import fcntl
import gzip
import os
import shutil
import stat
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from nsqtools.nsq_to_file.files import FileSettings, Instant, TopicFiles


@attrs.define
class Clock:
    """Both clocks at once; an hour of it gives a new name."""

    seconds: float = 0.0

    @property
    def now(self) -> Instant:
        """The time."""
        return Instant(self.seconds, self.seconds)


@pytest.fixture
def clock() -> Clock:
    """At the beginning of an hour."""
    return Clock()


def template_at(now: float) -> str:
    """One name an hour."""
    return f"t<REV>.{int(now) // 3600}.log"


def make(folder: Path, *, work: bool = False, **changes: Any) -> TopicFiles:
    """Files in `out`, or on their way there from `work`."""
    out = folder / "out"
    settings = FileSettings(output_dir=out, work_dir=folder / "work" if work else out, **changes)
    return TopicFiles(settings, template_at)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below, by their path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_records_are_lines(tmp_path: Path, clock: Clock) -> None:
    """Written at once, counted as synced after the sync."""
    files = make(tmp_path)
    files.write([b"one", b"two"], clock.now)
    assert contents(tmp_path) == {"out/t-000000.0.log": b"one\ntwo\n"}
    assert files.synced == 0
    files.sync()
    assert files.synced == 2


def test_names_without_revision(tmp_path: Path, clock: Clock) -> None:
    """When nothing needs them."""
    files = make(tmp_path, revisions=False)
    files.write([b"one"], clock.now)
    assert contents(tmp_path) == {"out/t.0.log": b"one\n"}


def test_modes(tmp_path: Path, clock: Clock) -> None:
    """0666 and the umask for files, 0770 for folders."""
    old = os.umask(0o022)
    try:
        make(tmp_path / "deep").write([b"one"], clock.now)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "deep/out/t-000000.0.log").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "deep/out").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o750


def test_new_name_begins_a_new_file(tmp_path: Path, clock: Clock) -> None:
    """What was written to the old one is synced by its end."""
    files = make(tmp_path)
    files.write([b"one"], clock.now)
    clock.seconds = 3600
    files.write([b"two"], clock.now)
    assert contents(tmp_path) == {"out/t-000000.0.log": b"one\n", "out/t-000000.1.log": b"two\n"}
    assert files.synced == 1


def test_appends_to_files_that_may_be_appended_to(tmp_path: Path, clock: Clock) -> None:
    """After a restart, and after a hang-up."""
    files = make(tmp_path)
    files.write([b"one"], clock.now)
    files.close()
    files.write([b"two"], clock.now)
    files.close()
    make(tmp_path).write([b"three"], clock.now)
    assert contents(tmp_path) == {"out/t-000000.0.log": b"one\ntwo\nthree\n"}


def test_half_a_line_spoils_no_other(tmp_path: Path, clock: Clock) -> None:
    """It was left by a process that was killed while it wrote."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/t-000000.0.log").write_bytes(b"one\ntw")
    make(tmp_path).write([b"two"], clock.now)
    assert contents(tmp_path) == {"out/t-000000.0.log": b"one\ntw\ntwo\n"}


@pytest.mark.parametrize("changes", [{"gzip_level": 6}, {"rotate_interval": 60.0}])
def test_leaves_existing_files_alone(tmp_path: Path, clock: Clock, changes: dict[str, Any]) -> None:
    """Compressed, or with an interval, files are new."""
    (tmp_path / "out").mkdir()
    for number in range(2):
        (tmp_path / f"out/t-00000{number}.0.log").write_bytes(b"old")
    files = make(tmp_path, **changes)
    files.write([b"one"], clock.now)
    files.close()
    files.write([b"two"], clock.now)
    files.close()
    found = contents(tmp_path)
    assert list(found) == [f"out/t-00000{number}.0.log" for number in range(4)]
    assert found["out/t-000000.0.log"] == found["out/t-000001.0.log"] == b"old"


def test_rotation_by_size(tmp_path: Path, clock: Clock) -> None:
    """A file is complete when there is more in it than the size, in the midst of a batch, too."""
    files = make(tmp_path, rotate_size=8)
    files.write([b"123", b"456", b"789", b"abc", b"def", b"ghi", b"j"], clock.now)
    assert contents(tmp_path) == {
        "out/t-000000.0.log": b"123\n456\n789\n",
        "out/t-000001.0.log": b"abc\ndef\nghi\n",
        "out/t-000002.0.log": b"j\n",
    }
    assert files.synced == 6


def test_rotation_by_size_counts_what_is_there(tmp_path: Path, clock: Clock) -> None:
    """A full file is passed over, one with room is appended to."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/t-000000.0.log").write_bytes(b"12345678\n")
    (tmp_path / "out/t-000001.0.log").write_bytes(b"123456\n")
    files = make(tmp_path, rotate_size=8)
    files.write([b"a", b"b"], clock.now)
    assert contents(tmp_path) == {
        "out/t-000000.0.log": b"12345678\n",
        "out/t-000001.0.log": b"123456\na\n",
        "out/t-000002.0.log": b"b\n",
    }


def test_rotation_by_size_counts_before_compression(tmp_path: Path, clock: Clock) -> None:
    """The size is that of the records."""
    files = make(tmp_path, rotate_size=1000, gzip_level=9)
    files.write([b"x" * 1000, b"y"], clock.now)
    files.close()
    assert [gzip.decompress(data) for data in contents(tmp_path).values()] == [b"x" * 1000 + b"\n", b"y\n"]


def test_rotation_by_interval(tmp_path: Path, clock: Clock) -> None:
    """Longer than the interval, by the clock that nobody sets."""
    files = make(tmp_path, rotate_interval=60.0)
    files.write([b"one"], clock.now)
    clock.seconds = 60
    files.write([b"two"], clock.now)
    clock.seconds = 61
    files.write([b"three"], clock.now)
    files.write([b"four"], Instant(0.0, 121.0))
    assert contents(tmp_path) == {
        "out/t-000000.0.log": b"one\ntwo\n",
        "out/t-000001.0.log": b"three\nfour\n",
    }


def test_revisions_begin_anew_with_the_name(tmp_path: Path, clock: Clock) -> None:
    """They count within one name."""
    files = make(tmp_path, rotate_size=1)
    files.write([b"one", b"two"], clock.now)
    clock.seconds = 3600
    files.write([b"three"], clock.now)
    assert list(contents(tmp_path)) == ["out/t-000000.0.log", "out/t-000000.1.log", "out/t-000001.0.log"]


def test_tick_makes_empty_files(tmp_path: Path, clock: Clock) -> None:
    """One for each period without a message."""
    files = make(tmp_path)
    files.tick(clock.now)
    files.tick(clock.now)
    clock.seconds = 3600
    files.tick(clock.now)
    assert contents(tmp_path) == {"out/t-000000.0.log": b"", "out/t-000000.1.log": b""}


def test_tick_skips_empty_files(tmp_path: Path, clock: Clock) -> None:
    """It completes what is due, and begins nothing."""
    files = make(tmp_path, work=True, skip_empty=True)
    files.tick(clock.now)
    assert contents(tmp_path) == {}
    files.write([b"one"], clock.now)
    clock.seconds = 3600
    files.tick(clock.now)
    assert contents(tmp_path) == {"out/t-000000.0.log": b"one\n"}
    files.write([b"two"], clock.now)
    assert contents(tmp_path)["work/t-000000.1.log"] == b"two\n"


@pytest.mark.parametrize("changes", [{"rotate_interval": 10.0}, {"rotate_size": 3}])
def test_tick_rotates(tmp_path: Path, clock: Clock, changes: dict[str, Any]) -> None:
    """An idle topic's file is completed, too."""
    files = make(tmp_path, **changes)
    files.write([b"one"], clock.now)
    clock.seconds = 11
    files.tick(clock.now)
    assert contents(tmp_path) == {"out/t-000000.0.log": b"one\n", "out/t-000001.0.log": b""}


def test_gzip_is_readable_after_each_sync(tmp_path: Path, clock: Clock) -> None:
    """Each sync ends a member; what comes after it is not there yet, or incomplete."""
    files = make(tmp_path, gzip_level=6)
    path = tmp_path / "out/t-000000.0.log"
    files.write([b"one"], clock.now)
    files.sync()
    assert gzip.decompress(path.read_bytes()) == b"one\n"
    files.write([os.urandom(100_000)], clock.now)
    assert zlib.decompressobj(31).decompress(path.read_bytes()) == b"one\n"
    files.write([b"two"], clock.now)
    files.sync()
    files.close()
    text = gzip.decompress(path.read_bytes())
    assert text.startswith(b"one\n")
    assert text.endswith(b"two\n")
    assert len(text) == 100_009


def test_empty_gzip_file(tmp_path: Path, clock: Clock) -> None:
    """One that gzip can read."""
    files = make(tmp_path, gzip_level=6)
    files.tick(clock.now)
    files.close()
    data = (tmp_path / "out/t-000000.0.log").read_bytes()
    assert data
    assert gzip.decompress(data) == b""


def test_sync_without_records_writes_nothing(tmp_path: Path, clock: Clock) -> None:
    """A tick of an idle compressed file adds no members."""
    files = make(tmp_path, gzip_level=6)
    files.write([b"one"], clock.now)
    files.sync()
    before = contents(tmp_path)
    files.sync()
    files.close()
    assert contents(tmp_path) == before


def test_work_dir(tmp_path: Path, clock: Clock) -> None:
    """A file shows up in its place when it is complete."""
    files = make(tmp_path, work=True)
    files.write([b"one"], clock.now)
    assert contents(tmp_path) == {"work/t-000000.0.log": b"one\n"}
    clock.seconds = 3600
    files.write([b"two"], clock.now)
    assert contents(tmp_path) == {"out/t-000000.0.log": b"one\n", "work/t-000000.1.log": b"two\n"}
    files.close()
    files.write([b"three"], clock.now)  # the name is taken, in the other folder
    assert contents(tmp_path) == {
        "out/t-000000.0.log": b"one\n",
        "out/t-000000.1.log": b"two\n",
        "work/t-000001.1.log": b"three\n",
    }


def test_move_never_replaces(tmp_path: Path, clock: Clock) -> None:
    """What somebody else has put there meanwhile stays, and ours gets the next free number."""
    files = make(tmp_path, work=True)
    files.write([b"one"], clock.now)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/t-000000.0.log").write_bytes(b"other")
    (tmp_path / "out/t-000001.0.log").write_bytes(b"another")
    files.close()
    assert contents(tmp_path) == {
        "out/t-000000.0.log": b"other",
        "out/t-000001.0.log": b"another",
        "out/t-000002.0.log": b"one\n",
    }


def test_goes_on_in_the_work_dir(tmp_path: Path, clock: Clock) -> None:
    """What a killed process has left there is appended to, and gets to its place in the end."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work/t-000000.0.log").write_bytes(b"one\n")
    files = make(tmp_path, work=True)
    files.write([b"two"], clock.now)
    files.close()
    assert contents(tmp_path) == {"out/t-000000.0.log": b"one\ntwo\n"}


def test_two_in_the_same_work_dir(tmp_path: Path, clock: Clock) -> None:
    """Two processes, or two topics, with one name: each has files of its own, and moves only those."""
    one, two = make(tmp_path, work=True, rotate_size=6), make(tmp_path, work=True, rotate_size=6)
    for number in range(4):
        one.write([b"one %d" % number], clock.now)
        two.write([b"two %d" % number], clock.now)
    one.close()
    two.close()
    assert contents(tmp_path) == {
        "out/t-000000.0.log": b"one 0\none 1\n",
        "out/t-000001.0.log": b"two 0\ntwo 1\n",
        "out/t-000002.0.log": b"one 2\none 3\n",
        "out/t-000003.0.log": b"two 2\ntwo 3\n",
    }


def test_half_a_line_of_another_is_not_ours(tmp_path: Path, clock: Clock) -> None:
    """A file that somebody else writes to is left alone, whatever is in it at the moment."""
    (tmp_path / "work").mkdir()
    path = tmp_path / "work/t-000000.0.log"
    with path.open("wb", buffering=0) as other:
        other.write(b"hal")
        fcntl.flock(other, fcntl.LOCK_EX)
        make(tmp_path, work=True).write([b"one"], clock.now)
        assert contents(tmp_path) == {"work/t-000000.0.log": b"hal", "work/t-000001.0.log": b"one\n"}


def test_file_that_is_moved_while_it_is_opened(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is complete, and gets nothing more."""
    other = make(tmp_path, work=True)
    other.write([b"one"], clock.now)
    real = os.open

    def open_slowly(path: Any, *arguments: int, **where: int) -> int:
        descriptor = real(path, *arguments, **where)
        if str(path) == "t-000000.0.log":
            other.close()
        return descriptor

    monkeypatch.setattr(os, "open", open_slowly)
    files = make(tmp_path, work=True)
    files.write([b"two"], clock.now)
    files.close()
    assert contents(tmp_path) == {"out/t-000000.0.log": b"one\n", "out/t-000001.0.log": b"two\n"}


def test_the_old_name_goes_before_the_lock(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can go on with a file in the midst of its move."""
    files, other = make(tmp_path, work=True), make(tmp_path, work=True)
    files.write([b"one"], clock.now)
    real = os.link

    def link_slowly(*arguments: Any, **folders: Any) -> None:
        monkeypatch.setattr(os, "link", real)
        other.write([b"two"], clock.now)
        real(*arguments, **folders)

    monkeypatch.setattr(os, "link", link_slowly)
    files.close()
    other.close()
    assert contents(tmp_path) == {"out/t-000000.0.log": b"one\n", "out/t-000001.0.log": b"two\n"}


def test_folders_in_names(tmp_path: Path, clock: Clock) -> None:
    """They are made where they are missing, on both sides."""
    out, work = tmp_path / "out", tmp_path / "work"
    files = TopicFiles(FileSettings(output_dir=out, work_dir=work), lambda now: "a/b/t<REV>.log")
    files.write([b"one"], clock.now)
    files.close()
    assert contents(tmp_path) == {"out/a/b/t-000000.log": b"one\n"}


FAULTS: list[tuple[str, Callable[[TopicFiles, Instant], None]]] = [
    ("write", lambda files, now: files.write([b"two"], now)),
    ("fsync", lambda files, now: files.sync()),
    ("fsync", lambda files, now: files.close()),
    ("link", lambda files, now: files.close()),
]


@pytest.mark.parametrize(("call", "what"), FAULTS)
def test_failures_count_nothing_as_synced(
    tmp_path: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    what: Callable[[TopicFiles, Instant], None],
) -> None:
    """The error comes out; a record in question is not called safe."""
    files = make(tmp_path, work=True)
    files.write([b"one"], clock.now)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "injected")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="injected"):
        what(files, clock.now)
    assert files.synced == (1 if call == "link" else 0)


def test_files_are_synced_at_their_times(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file and the folder that it is new in; before a move its contents, before the old name goes the new one."""
    calls: list[str] = []

    def record(call: str, real: Callable[..., Any]) -> None:
        def recorded(*arguments: Any, **folders: int) -> None:
            last = [*folders.values(), arguments[-1]][-2:]
            parts = [os.readlink(f"/proc/self/fd/{part}") if isinstance(part, int) else part for part in last]
            calls.append(f"{call} {os.path.relpath(os.path.join(*parts), tmp_path)}")
            real(*arguments, **folders)

        monkeypatch.setattr(os, call, recorded)

    for call in ("fsync", "link", "unlink"):
        record(call, getattr(os, call))
    files = make(tmp_path, work=True)
    files.write([b"one"], clock.now)
    assert calls == []
    files.sync()
    assert calls == ["fsync work/t-000000.0.log", "fsync work"]
    files.sync()
    assert len(calls) == 2
    files.write([b"two"], clock.now)
    files.close()
    assert calls[2:] == [
        "fsync work/t-000000.0.log",
        "link out/t-000000.0.log",
        "fsync out",
        "unlink work/t-000000.0.log",
    ]


def test_short_writes(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel did not take is written again."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    make(tmp_path).write([b"0123456789"], clock.now)
    assert contents(tmp_path) == {"out/t-000000.0.log": b"0123456789\n"}


def test_half_a_line_written_before_the_lock_was_free(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner wrote on between our opening and its end: what counts is the size that the file has then."""
    path = tmp_path / "work" / "t-000000.0.log"
    path.parent.mkdir()
    path.write_bytes(b"whole\n")
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        path.write_bytes(b"whole\nhal")
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    make(tmp_path, work=True).write([b"next"], clock.now)
    assert path.read_bytes() == b"whole\nhal\nnext\n"


def test_file_that_a_killed_one_had_half_moved(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its name in the output folder already, and nothing is added to it."""
    work, out = (tmp_path / name / "t-000000.0.log" for name in ("work", "out"))
    for path in (work, out):
        path.parent.mkdir()
    work.write_bytes(b"of another\n")
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if not out.exists():
            os.link(work, out)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    files = make(tmp_path, work=True)
    files.write([b"ours"], clock.now)
    files.close()
    assert contents(out.parent) == {"t-000000.0.log": b"of another\n", "t-000001.0.log": b"ours\n"}


def test_file_system_without_locks(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    files = make(tmp_path, work=True)
    files.write([b"x"], clock.now)
    files.close()
    assert contents(tmp_path) == {"out/t-000000.0.log": b"x\n"}


# --- names that are taken away ------------------------------------------------------------------------------


def remove(path: Path) -> None:
    path.unlink()


def rename(path: Path) -> None:
    path.rename(path.with_name("kept"))


def replace(path: Path) -> None:
    path.with_name("new").write_bytes(b"of another\n")
    path.with_name("new").rename(path)


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def replace_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("old"))
    path.parent.mkdir()


def replace_folder_by_file(path: Path) -> None:
    path.parent.rename(path.parent.with_name("old"))


LOSSES = [remove, rename, replace, truncate, remove_folder, replace_folder, replace_folder_by_file]
LAYOUTS: list[dict[str, Any]] = [{}, {"work": True}, {"gzip_level": 6}, {"work": True, "rotate_size": 20}]


def text_of(data: bytes) -> bytes:
    return gzip.decompress(data) if data.startswith(b"\x1f") else data


@pytest.mark.parametrize("end", [TopicFiles.sync, TopicFiles.close, partial(TopicFiles.close, hang_up=True)])
@pytest.mark.parametrize("changes", LAYOUTS)
@pytest.mark.parametrize("lose", LOSSES)
def test_lost_file_is_written_again(
    tmp_path: Path,
    clock: Clock,
    lose: Callable[[Path], None],
    changes: dict[str, Any],
    end: Callable[[TopicFiles], None],
) -> None:
    """Every record that counts as synced is in a file of this name, or was already synced before the loss."""
    files = make(tmp_path, **changes)
    files.write([b"synced"], clock.now)
    files.sync()
    files.write([b"early"], clock.now)
    path = files.path
    assert path is not None
    lose(path)
    files.write([b"late"], clock.now)
    assert files.synced == 1
    end(files)
    assert files.synced == 3
    found = {Path(name): text_of(data) for name, data in contents(tmp_path).items()}
    at_its_name = b"".join(
        text for name, text in found.items() if name.parts[0] != "old" and name.name != "kept"
    )
    anywhere = b"".join(found.values())
    renamed = isinstance(end, partial) and lose in (rename, replace_folder, replace_folder_by_file)
    assert b"early\nlate\n" in (anywhere if renamed else at_its_name)
    files.write([b"next"], clock.now)
    files.close()
    assert files.synced == 4


def test_hang_up_after_a_rename_repeats_nothing(tmp_path: Path, clock: Clock) -> None:
    """The records are complete under the new name."""
    files = make(tmp_path)
    files.write([b"one"], clock.now)
    (tmp_path / "out/t-000000.0.log").rename(tmp_path / "out/t.1")
    files.close(hang_up=True)
    files.write([b"two"], clock.now)
    files.close()
    assert contents(tmp_path) == {"out/t-000000.0.log": b"two\n", "out/t.1": b"one\n"}


def test_file_that_is_lost_again_and_again(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make(tmp_path)
    files.write([b"one"], clock.now)
    real = os.fsync

    def fsync(descriptor: int) -> None:
        for path in (tmp_path / "out").iterdir():
            path.unlink()
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(FileNotFoundError, match="again and again"):
        files.sync()
    assert files.synced == 0


def test_idle_file_that_was_removed_is_let_go(tmp_path: Path, clock: Clock) -> None:
    """Its space on the disk is free after the next tick, and there is an empty file, as for any idle topic."""
    files = make(tmp_path)
    files.write([b"one"], clock.now)
    files.sync()
    (tmp_path / "out/t-000000.0.log").unlink()
    files.tick(clock.now)
    assert contents(tmp_path) == {"out/t-000000.0.log": b""}


# --- links --------------------------------------------------------------------------------------------------


def link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def hard_link(path: Path, victim: Path) -> None:
    path.hardlink_to(victim)


def fifo(path: Path, victim: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("plant", [link, hard_link, fifo])
def test_planted_names_are_not_written_to(
    tmp_path: Path, clock: Clock, plant: Callable[[Path, Path], None]
) -> None:
    """Without revisions there is no other name, so that it is an error; with them, the next one is taken."""
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.write_bytes(b"untouched")
    plant(out / "t.0.log", victim)
    plant(out / "t-000000.0.log", victim)
    with pytest.raises(OSError, match="no links are followed"):
        make(tmp_path, revisions=False).write([b"one"], clock.now)
    make(tmp_path).write([b"one"], clock.now)
    assert (out / "t-000001.0.log").read_bytes() == b"one\n"
    assert victim.read_bytes() == b"untouched"


@pytest.mark.parametrize("work", [False, True])
@pytest.mark.parametrize("place", ["out", "work"])
def test_planted_folders_are_not_written_to(tmp_path: Path, clock: Clock, work: bool, place: str) -> None:
    victim = tmp_path / "victim"
    for name in ("victim/b", "out", "work"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / place / "a").symlink_to(victim)
    out = tmp_path / "out"
    settings = FileSettings(output_dir=out, work_dir=tmp_path / "work" if work else out)
    files = TopicFiles(settings, lambda now: "a/b/t<REV>.log")

    def write_and_move() -> None:
        files.write([b"one"], clock.now)
        files.close()

    if place == "out" or work:
        with pytest.raises(OSError, match="a/b"):
            write_and_move()
    assert list((victim / "b").iterdir()) == []


def test_folder_that_is_a_link_is_used(tmp_path: Path, clock: Clock) -> None:
    """The folder of the command line is the user's own choice."""
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    make(tmp_path).write([b"one"], clock.now)
    assert contents(tmp_path / "real") == {"t-000000.0.log": b"one\n"}
