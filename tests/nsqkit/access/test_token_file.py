"""The file of tokens: read again when it changes, and rewritten as a whole."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest

from nsqkit.access import Scopes, Token, TokenFile, TokenFileError, digest_of, shared_file
from nsqkit.access.token_file import add, remove


def token(name: str) -> Token:
    return Token(name, digest_of(name.encode()), Scopes.parse(["read"]), 1e9)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    for name in ("a", "b"):
        add(str(path), token(name))
    return path


def loaded(path: Path) -> TokenFile:
    file = TokenFile(str(path))
    file.load()
    return file


def names(file: TokenFile) -> list[str]:
    return list(file.tokens.by_name)


def test_a_file_is_made_with_the_first_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    add(str(path), token("a"))
    assert names(loaded(path)) == ["a"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0
    assert [each.name for each in tmp_path.iterdir()] == ["tokens"]


def test_a_change_is_seen_once(path: Path) -> None:
    file = loaded(path)
    assert not file.look()()
    add(str(path), token("c"))
    assert file.look()()
    assert names(file) == ["a", "b", "c"]
    assert not file.look()()
    remove(str(path), "a")
    assert file.look()()
    assert names(file) == ["b", "c"]


def test_looking_changes_nothing_before_its_result_is_applied(path: Path) -> None:
    file = loaded(path)
    remove(str(path), "a")
    apply = file.look()
    assert names(file) == ["a", "b"]
    assert apply()
    assert names(file) == ["b"]


def test_a_file_is_read_again_on_demand_also_if_it_looks_the_same(path: Path) -> None:
    file = loaded(path)
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b'"a"', b'"z"'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not file.look()()
    file.forget_version()
    assert file.look()()
    assert names(file) == ["z", "b"]


@pytest.mark.parametrize("content", [b"{", b'{"name":"a"}', b"\xff"])
def test_what_was_read_stays_valid_while_a_file_is_broken(
    path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file, good = loaded(path), path.read_bytes()
    path.write_bytes(content)
    assert not file.look()()
    assert not file.look()()
    assert names(file) == ["a", "b"]
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert f"{path}: line 1: " in record.getMessage()
    assert "the 2 tokens that were read before stay valid" in record.getMessage()
    path.write_bytes(good.splitlines(keepends=True)[0])
    assert file.look()()
    assert names(file) == ["a"]


def test_what_was_read_stays_valid_while_there_is_no_file(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = loaded(path)
    away = path.rename(path.with_name("away"))
    assert not file.look()()
    assert not file.look()()
    assert names(file) == ["a", "b"]
    assert [f"{path}: No such file or directory" in record.getMessage() for record in caplog.records] == [
        True
    ]
    away.rename(path)
    assert file.look()()


def test_a_file_that_cannot_be_read_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match="none: No such file or directory"):
        loaded(tmp_path / "none")
    with pytest.raises(TokenFileError, match="not a file"):
        loaded(tmp_path)
    (tmp_path / "bad").write_bytes(b"{")
    with pytest.raises(TokenFileError, match="bad: line 1: no JSON"):
        loaded(tmp_path / "bad")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(TokenFileError, match="not a file"):
        loaded(tmp_path / "fifo")


def test_a_file_that_everybody_may_write_is_complained_of(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.chmod(0o666)
    loaded(path)
    assert "every user of this machine may write it" in caplog.text


def test_a_name_is_taken_once(path: Path) -> None:
    with pytest.raises(TokenFileError, match="a token has the name 'a' already"):
        add(str(path), Token("a", digest_of(b"other"), Scopes.parse(["admin"])))
    assert names(loaded(path)) == ["a", "b"]


def test_what_is_not_there_is_not_revoked(path: Path) -> None:
    with pytest.raises(TokenFileError, match="no token has the name 'c'"):
        remove(str(path), "c")
    with pytest.raises(TokenFileError, match="No such file"):
        remove(str(path.with_name("none")), "a")
    assert not path.with_name("none").exists()


def test_a_broken_file_is_not_rewritten(path: Path) -> None:
    path.write_bytes(b"{\n")
    with pytest.raises(TokenFileError, match="line 1: no JSON"):
        add(str(path), token("c"))
    with pytest.raises(TokenFileError, match="line 1: no JSON"):
        remove(str(path), "a")
    assert path.read_bytes() == b"{\n"


def test_comments_the_mode_and_a_link_stay(path: Path) -> None:
    path.write_bytes(b"# by hand\n" + path.read_bytes().rstrip(b"\n"))
    path.chmod(0o604)
    link = path.with_name("link")
    link.symlink_to(path)
    add(str(link), token("c"))
    remove(str(link), "b")
    assert link.is_symlink()
    assert path.read_bytes().startswith(b"# by hand\n")
    assert names(loaded(path)) == ["a", "c"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_writers_take_turns_and_none_is_lost(path: Path) -> None:
    def work(number: int) -> None:
        for each in range(5):
            add(str(path), token(f"t{number}-{each}"))
            if each % 2:
                remove(str(path), f"t{number}-{each}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(loaded(path))) == 2 + 4 * 3


def test_a_lock_is_not_waited_for_without_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_file, "_LOCK_TIME_S", 0.0)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TokenFileError, match="another process has had the lock for too long"):
            add(str(path), token("c"))
    add(str(path), token("c"))


def test_a_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(TokenFileError, match="No space left on device"):
        add(str(path), token("c"))
    assert names(loaded(path)) == ["a", "b"]
    assert [each.name for each in path.parent.iterdir()] == ["tokens"]
