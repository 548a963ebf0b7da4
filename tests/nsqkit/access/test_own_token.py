"""The token that a program shows: read from a file, and again while the program runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsqkit.access import TokenFileError
from nsqkit.access.own_token import OwnToken, read_own_token


def test_a_token_is_read_without_the_space_around_it(tmp_path: Path) -> None:
    (tmp_path / "t").write_text(" nsq_x\r\n")
    assert read_own_token(str(tmp_path / "t")) == "nsq_x"


@pytest.mark.parametrize("content", [b"", b"\n", b"a b", b"a\nb", b"\xff", b"a\0", b"x" * 5000])
def test_what_is_no_token(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(TokenFileError, match="t: must have one token and nothing else"):
        OwnToken(str(tmp_path / "t"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match="t: No such file or directory"):
        OwnToken(str(tmp_path / "t"))


def test_another_token_is_used_a_second_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, now = tmp_path / "t", 100.0
    path.write_text("nsq_1")
    token = OwnToken(str(path), clock=lambda: now)
    path.write_text("nsq_2")
    assert token() == "nsq_1"
    now += 1
    assert token() == "nsq_2"
    path.unlink()
    for _ in range(3):
        now += 1
        assert token() == "nsq_2"
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "nsq_2" not in caplog.text
    assert "nsq_2" not in repr(token)
    path.write_text("nsq_3")
    now += 1
    assert token() == "nsq_3"
