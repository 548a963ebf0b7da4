"""The file of the audit trail: renamed, removed, torn, and none."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nsqkit.audit.target import FileTarget, StderrTarget

ONE, TWO, THREE = b'{"n":1}\n', b'{"n":2}\n', b'{"n":3}\n'


def test_lines_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    target = FileTarget(str(path))
    assert target.write([ONE, TWO]) == 2
    target.reopen()
    assert target.write([THREE]) == 1
    target.reopen()
    target.reopen()
    assert path.read_bytes() == ONE + TWO + THREE
    assert stat.S_IMODE(path.stat().st_mode) & 0o137 == 0, "names are not for everybody"


def test_a_file_that_was_renamed_gets_no_more_lines(tmp_path: Path) -> None:
    path, old = tmp_path / "audit", tmp_path / "audit.1"
    target = FileTarget(str(path))
    target.write([ONE])
    path.rename(old)
    target.write([TWO])
    assert (old.read_bytes(), path.read_bytes()) == (ONE, TWO)
    path.unlink()
    target.write([THREE])
    assert path.read_bytes() == THREE


def test_a_file_that_another_program_has_put_there_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    target = FileTarget(str(path))
    target.write([ONE])
    new = tmp_path / "new"
    new.write_bytes(TWO)
    new.rename(path)
    target.write([THREE])
    assert path.read_bytes() == TWO + THREE


def test_a_part_of_a_line_gets_an_end(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    path.write_bytes(ONE + b'{"n":')
    FileTarget(str(path)).write([TWO])
    assert path.read_bytes() == ONE + b'{"n":\n' + TWO


def test_what_a_failed_write_has_left_gets_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audit"
    target = FileTarget(str(path))
    target.write([ONE])
    calls: list[bytes] = []

    def write(descriptor: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:3])

    real = os.write
    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space"):
        target.write([TWO])
    monkeypatch.undo()
    target.write([TWO, THREE])
    assert path.read_bytes() == ONE + TWO[:3] + b"\n" + TWO + THREE


def test_a_sync_that_fails_has_the_lines_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    path = tmp_path / "audit"
    target = FileTarget(str(path))
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(OSError, match="Input/output"):
        target.write([ONE])
    monkeypatch.undo()
    target.write([ONE])
    assert path.read_bytes() == ONE + ONE


def test_a_long_batch_is_written_in_parts(tmp_path: Path) -> None:
    target, line = FileTarget(str(tmp_path / "audit")), b"x" * 8000 + b"\n"
    lines = [line] * 30
    parts = 0
    while lines:
        lines = lines[target.write(lines) :]
        parts += 1
    assert parts > 1
    assert (tmp_path / "audit").read_bytes() == line * 30


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path / "pipe", "no regular file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "none" / "audit", "No such file"),
    ):
        with pytest.raises(OSError, match=reason):
            FileTarget(str(path)).write([ONE])


def test_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert StderrTarget().write([ONE, TWO]) == 2
    assert capsys.readouterr().err == (ONE + TWO).decode()
