"""`nsqadmin user`: what it does to the file, and where it reads passwords."""

from __future__ import annotations

import getpass
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nsqadmin.auth import Role, passwords
from nsqadmin.auth.command import run_user_command
from nsqadmin.auth.passwords import matches
from nsqadmin.auth.users import User, UserFile
from tests.nsqadmin.auth.people import PASSWORD


class Stdin:
    """A standard input with these bytes."""

    def __init__(self, data: bytes, *, is_terminal: bool = False) -> None:
        self.buffer = io.BytesIO(data)
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(passwords, "_NOBODY", passwords._Hash(1, 1, 1, bytes(16), bytes(32)))
    monkeypatch.setattr("nsqadmin.auth.command.guard_standard_streams", lambda: None)
    return tmp_path / "users"


@pytest.fixture
def run(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(command: str, *arguments: str, stdin: bytes = b"", is_terminal: bool = False) -> int:
        monkeypatch.setattr(sys, "stdin", Stdin(stdin, is_terminal=is_terminal))
        return run_user_command([command, f"--users-file={path}", *arguments])

    return run


def users(path: Path) -> dict[str, User]:
    file = UserFile(str(path))
    file.load()
    return file.users.by_name


@pytest.mark.parametrize("line", [PASSWORD.encode() + end for end in (b"", b"\n", b"\r\n", b"\nmore\n")])
def test_a_password_is_the_first_line_of_the_input(run: Any, path: Path, line: bytes) -> None:
    assert run("add", "--role=operator", "--topics=orders.*, payments", "alice", stdin=line) == 0
    alice = users(path)["alice"]
    assert matches(alice.password, PASSWORD)
    assert (alice.role, alice.topics.patterns) == (Role.OPERATOR, ("orders.*", "payments"))
    assert alice.password_set > 1e9


def test_a_terminal_is_asked_twice(run: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter([PASSWORD, PASSWORD, PASSWORD, "another one"])
    monkeypatch.setattr(getpass, "getpass", lambda _: next(typed))
    assert run("add", "--role=viewer", "alice", is_terminal=True) == 0
    assert run("add", "--role=viewer", "bob", is_terminal=True) == 1
    assert list(users(path)) == ["alice"]


def test_a_user_is_changed_listed_and_removed(
    run: Any, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("alice", "bob"):
        assert run("add", "--role=viewer", name, stdin=PASSWORD.encode()) == 0
    assert run("change", "--role=admin", "alice") == 0
    assert run("change", "--topics=orders", "bob") == 0
    assert run("passwd", "bob", stdin=b"a new password") == 0
    capsys.readouterr()
    assert run("list") == 0
    head, alice, bob = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head == ["NAME", "ROLE", "TOPICS", "PASSWORD", "SET"]
    assert (alice[:3], bob[:3]) == (["alice", "admin", "*"], ["bob", "viewer", "orders"])
    assert matches(users(path)["bob"].password, "a new password")
    assert run("change", "--topics=*", "bob") == 0
    assert users(path)["bob"].topics.are_all
    assert run("remove", "alice", "bob") == 0
    assert users(path) == {}


@pytest.mark.parametrize(
    ("command", "arguments", "stdin", "reason"),
    [
        ("add", ["--role=viewer", "a b"], PASSWORD, "name 'a b'"),
        ("add", ["--role=viewer", "alice"], PASSWORD, "already"),
        ("add", ["--role=viewer", "bob"], "short", "at least 8 characters"),
        ("add", ["--role=viewer", "bob"], "", "at least 8 characters"),
        ("add", ["--role=viewer", "bob"], "x" * 5000, "at most 1024 bytes"),
        ("add", ["--role=viewer", "--topics=a/b", "bob"], PASSWORD, "'a/b' is no pattern"),
        ("change", ["alice"], "", "nothing to change"),
        ("change", ["--role=viewer", "bob"], "", "no user has the name 'bob'"),
        ("passwd", ["bob"], PASSWORD, "no user has the name 'bob'"),
        ("remove", ["bob"], "", "no user has the name 'bob'"),
    ],
)
def test_what_cannot_be_done_is_told(
    run: Any,
    path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    arguments: list[str],
    stdin: str,
    reason: str,
) -> None:
    assert run("add", "--role=viewer", "alice", stdin=PASSWORD.encode()) == 0
    before = path.read_bytes()
    capsys.readouterr()
    assert run(command, *arguments, stdin=stdin.encode()) == 1
    assert reason in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "words", [[], ["add"], ["add", "--users-file=x", "alice"], ["fly"], ["--password=x"]]
)
def test_a_mistake_on_the_command_line_is_a_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_user_command(words)
    assert ended.value.code == 2


@pytest.mark.process
def test_the_program_has_the_command(tmp_path: Path) -> None:
    file = tmp_path / "users"
    words = [sys.executable, "-m", "nsqadmin", "user", "add", f"--users-file={file}", "--role=admin", "ann"]
    done = subprocess.run(words, input=PASSWORD.encode(), capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"made the user ann (admin)" in done.stderr
    assert matches(users(file)["ann"].password, PASSWORD)
