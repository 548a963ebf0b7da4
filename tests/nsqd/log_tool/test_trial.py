"""`nsqd-log verify` says what a start of the daemon would find, because it runs the daemon's own recovery."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nsqd.log.file_storage import FileStorage
from nsqd.log.store import Store
from nsqd.log_tool import trial
from nsqd.log_tool.trial import trial_start
from tests.nsqd.broker.test_sectors import OPTIONS, data_path
from tests.nsqd.log_tool.test_inspect import contents, run


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "RETRY_AFTER_S", 0.0)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Of a daemon that was killed."""
    return data_path(clean=False).files


@pytest.fixture
def root(tmp_path: Path, files: dict[str, bytes]) -> Path:
    """A data path with these files."""
    root = tmp_path / "data"
    root.mkdir()
    write(root, files)
    return root


def write(root: Path, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(data)


def started(root: Path) -> tuple[list[str], set[tuple[str, int]]]:
    """What the daemon says of a copy of these files, and where there is damage."""
    copy = root.parent / "copy"
    shutil.copytree(root, copy)
    storage = FileStorage(copy)
    store = Store(storage, OPTIONS, time.time_ns())
    topics = [topic for _, topic in store.topics(time.time_ns())]
    storage.close()
    shutil.rmtree(copy)
    places = {(f"{root}/{damage.path}", damage.offset) for topic in topics for damage in topic.damage}
    return store.notes, places | {(f"{root}/nsqd.ids", 0) for _ in store.ids.notes}


@pytest.mark.heavy
def test_it_agrees_with_the_daemon_on_every_sector(root: Path, files: dict[str, bytes]) -> None:
    luck = random.Random(3)
    for file, data in files.items():
        for offset in range(0, len(data), 512):
            end = min(offset + 512, len(data))
            write(root, files | {file: data[:offset] + luck.randbytes(end - offset) + data[end:]})
            before = contents(root)
            found = trial_start(str(root))
            assert contents(root) == before
            assert (found.notes, found.places) == started(root), f"{file} at {offset}"


def segments(root: Path) -> list[Path]:
    return sorted((root / "topic-busy").glob("*.log"))


def remove_the_first(root: Path) -> None:
    segments(root)[0].unlink()


def copy_one_over_another(root: Path) -> None:
    shutil.copy(segments(root)[0], segments(root)[1])


def swap(root: Path) -> None:
    first, second = segments(root)[-2:]
    first.rename(root / "x")
    second.rename(first)
    (root / "x").rename(second)


def damage_the_ids(root: Path) -> None:
    data = bytearray((root / "nsqd.ids").read_bytes())
    data[-3] ^= 1
    (root / "nsqd.ids").write_bytes(data)


@pytest.mark.parametrize("harm", [remove_the_first, copy_one_over_another, swap, damage_the_ids])
def test_what_no_single_file_shows(
    root: Path, harm: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", str(root)) == 0
    assert capsys.readouterr().out.endswith("no damage\n")
    harm(root)
    notes, places = started(root)
    assert notes
    assert places
    assert run("verify", str(root)) == 1
    out = capsys.readouterr().out
    assert all(note in out for note in notes)


def test_one_topic(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    remove_the_first(root)
    assert run("verify", str(root / "topic-idle")) == 0
    assert run("verify", str(root / "topic-busy") + os.sep) == 1
    assert "are in no file" in capsys.readouterr().out


def test_a_gap_is_no_damage(root: Path) -> None:
    """Segments in the middle that nobody needs were removed by the daemon."""
    paths = segments(root)
    ends = [int(path.stem) + path.stat().st_size for path in paths]
    assert any(end < int(path.stem) for end, path in zip(ends, paths[1:], strict=False)), "there is a gap"
    assert trial_start(str(root)).notes == []


def test_what_only_one_of_two_looks_finds_is_the_daemon_at_work(
    root: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = next(name for name in files if name.startswith("topic-small") and name.endswith(".log"))
    write(root, {path: files[path][:-7]})
    monkeypatch.setattr(time, "sleep", lambda _: write(root, {path: files[path]}))
    assert trial_start(str(root)).notes == []
