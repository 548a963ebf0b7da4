"""The file of users: its lines, its limits, and the changes that are made to it."""

from __future__ import annotations

import contextlib
import json
import stat
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqadmin.auth import ALL_TOPICS, Role, Topics
from nsqadmin.auth.users import MAX_USERS, ROLES, User, UserFile, UserFileError, Users, add, change, remove
from nsqkit.access.shared_file import MAX_FILE, ContentError
from tests.nsqadmin.auth.people import quick_hash, user

ALICE = user("alice", Role.ADMIN)
BOB = user("bob", Role.OPERATOR, "orders.*", "payments")
FIELDS: dict[str, Any] = json.loads(BOB.line())


def line(**changed: Any) -> bytes:
    return json.dumps({**FIELDS, **changed}).encode()


def loaded(path: Path) -> UserFile:
    file = UserFile(str(path))
    file.load()
    return file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    add(str(path), ALICE)
    add(str(path), BOB)
    return path


def test_a_file_has_what_was_added(path: Path) -> None:
    assert list(loaded(path).users.by_name.values()) == [ALICE, BOB]
    assert {
        "name": "bob",
        "role": "operator",
        "topics": ["orders.*", "payments"],
        "password": quick_hash(),
        "password_set": "2026-09-21T14:13:20Z",
    } == FIELDS
    assert quick_hash() not in repr(BOB)


def test_only_its_owner_can_read_a_new_file(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("mode", "warning"), [(0o644, "may read the hashes"), (0o602, "may write it"), (0o640, "")]
)
def test_a_file_that_everybody_can_read_or_write_is_complained_of(
    path: Path, mode: int, warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    path.chmod(mode)
    loaded(path)
    assert warning in caplog.text
    assert bool(caplog.records) == bool(warning)


def test_a_user_is_changed_in_place(path: Path) -> None:
    path.write_bytes(b"# by hand\n" + path.read_bytes())
    change(str(path), "alice", role=Role.VIEWER, topics=Topics.parse(["a"]))
    change(str(path), "bob", topics=ALL_TOPICS)
    users = list(loaded(path).users.by_name.values())
    assert users == [
        attrs.evolve(ALICE, role=Role.VIEWER, topics=Topics(("a",))),
        attrs.evolve(BOB, topics=ALL_TOPICS),
    ]
    assert path.read_bytes().startswith(b"# by hand\n")


def test_a_user_is_removed(path: Path) -> None:
    remove(str(path), "alice")
    assert list(loaded(path).users.by_name) == ["bob"]


def test_a_name_is_taken_once_and_an_unknown_one_is_told(path: Path) -> None:
    with pytest.raises(UserFileError, match="a user has the name 'bob' already"):
        add(str(path), user("bob"))
    for act in (lambda: remove(str(path), "bop"), lambda: change(str(path), "bop", role=Role.ADMIN)):
        with pytest.raises(UserFileError, match=r"no user has the name 'bop'.*bob"):
            act()
    assert len(loaded(path).users) == 2


def test_a_file_that_is_broken_or_gone_is_no_start_and_is_not_rewritten(path: Path) -> None:
    with pytest.raises(UserFileError, match="none: No such file or directory"):
        loaded(path.with_name("none"))
    path.write_bytes(b"\n{\n")
    for act in (lambda: loaded(path), lambda: add(str(path), user("eve")), lambda: remove(str(path), "bob")):
        with pytest.raises(UserFileError, match=f"{path}: line 2: no JSON"):
            act()
    assert path.read_bytes() == b"\n{\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[]", "no JSON object"),
        (line(role="root"), "role 'root': must be one of viewer, operator, admin"),
        (line(role="stranger"), "role 'stranger'"),
        (line(role=1), r"role \(int\)"),
        (line(name="a b"), "name 'a b'"),
        (line(name=""), "name ''"),
        (line(name=None), "name"),
        (line(topics=[]), "one at least"),
        (line(topics="orders"), "a list of patterns"),
        (line(topics=["a/b"]), "'a/b' is no pattern"),
        (line(topics=[1]), "a list of patterns"),
        (line(topics=["a"] * 101), "101 patterns are more than 100"),
        (line(password="correct horse"), "password must be a hash"),
        (line(password=None), "password must be a hash"),
        (line(password_set=1), "password_set"),
        (line(topic=["a"]), "unknown key 'topic'"),
        (line() + b"\n" + line(), "two users have the name 'bob'"),
        (b"#" * (MAX_FILE + 1), f"more than {MAX_FILE} bytes"),
    ],
)
def test_a_wrong_line_is_told_and_no_secret_with_it(text: bytes, reason: str) -> None:
    with pytest.raises(ContentError, match=reason) as error:
        Users.parse(text)
    assert "correct horse" not in str(error.value)
    assert quick_hash() not in str(error.value)


def test_there_are_only_so_many_users() -> None:
    with pytest.raises(ContentError, match="1001 users are more than 1000"):
        Users(user(f"u{number}") for number in range(MAX_USERS + 1))


def test_a_user_who_has_changed_is_another_one() -> None:
    users = Users([ALICE])
    assert users.has(user("alice", Role.ADMIN))
    for other in (
        user("alice"),
        user("alice", Role.ADMIN, "a"),
        user("alice", Role.ADMIN, password="x"),
        BOB,
    ):
        assert not users.has(other)


VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text(max_size=5), max_size=3)


@given(
    st.binary(max_size=300)
    | st.builds(lambda changed: line(**changed), st.dictionaries(st.sampled_from([*FIELDS, "x"]), VALUES))
)
def test_any_bytes_are_users_or_an_error(data: bytes) -> None:
    with contextlib.suppress(ContentError):
        for each in Users.parse(data).by_name.values():
            assert User.parse(each.line()) == each
            assert str(each.role) in ROLES
