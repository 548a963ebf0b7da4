"""Files of JSON lines that daemons read again and commands rewrite. Locks and renames: `test_token_file.py`."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqkit.access.shared_file import (
    MAX_FILE,
    ContentError,
    Kind,
    SharedFile,
    fields_of,
    is_comment,
    parse_lines,
    shown,
    told_as,
    with_line,
)


class WrongEntry(ContentError):
    """Of the entries of this test."""


def entry(line: bytes) -> bytes:
    if line == b"wrong":
        raise WrongEntry("it is wrong")
    return line


KIND: Kind[list[bytes]] = Kind(
    noun="entries",
    parse=lambda data: parse_lines(data, entry, WrongEntry),
    mode=0o600,
    warnings={stat.S_IROTH: "everybody can read it"},
)


def test_entries_are_the_lines_that_are_no_comments() -> None:
    assert parse_lines(b"# a\n\n one \r\n  # b\ntwo", entry) == [b"one", b"two"]
    assert [is_comment(line) for line in (b"", b" \n", b" # x", b"x#", b"#")] == [
        True,
        True,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"a\n\nwrong\n", "line 3: it is wrong"), (b"#" * (MAX_FILE + 1), f"more than {MAX_FILE} bytes")],
)
def test_an_error_says_where_it_is(data: bytes, reason: str) -> None:
    with pytest.raises(WrongEntry, match=reason):
        parse_lines(data, entry, WrongEntry)


@pytest.mark.parametrize("data", [b"", b"one", b"one\n"])
def test_a_line_is_added_at_the_end(data: bytes) -> None:
    assert parse_lines(with_line(data, b"two\n"), entry)[-1] == b"two"
    assert len(parse_lines(with_line(data, b"two\n"), entry)) == len(parse_lines(data, entry)) + 1


def test_a_file_is_made_with_the_mode_of_its_kind_and_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "entries"
    KIND.rewrite(str(path), lambda data: with_line(data, b"one\n"), create=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    file = SharedFile(str(path), KIND)
    assert file.content == []
    file.load()
    assert (file.content, caplog.records) == ([b"one"], [])
    path.chmod(0o644)
    file.load()
    assert f"ACCESS: {path}: everybody can read it" in caplog.text


def test_a_change_that_would_break_a_file_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "entries"
    path.write_bytes(b"one\n")
    with pytest.raises(WrongEntry):
        KIND.rewrite(str(path), lambda data: with_line(data, b"wrong\n"))
    assert path.read_bytes() == b"one\n"


def test_errors_are_told_as_those_of_the_program() -> None:
    with pytest.raises(RuntimeError, match=r"^p: it is wrong$"), told_as(RuntimeError, "p"):
        raise ContentError("it is wrong")
    with pytest.raises(RuntimeError, match=r"^p: No space$"), told_as(RuntimeError, "p"):
        raise OSError(28, "No space")


@pytest.mark.parametrize(
    ("line", "reason"),
    [(b"{", "no JSON"), (b"[]", "no JSON object"), (b'{"a":1,"zz":2}', "unknown key 'zz'")],
)
def test_what_is_no_object_of_known_keys_is_told(line: bytes, reason: str) -> None:
    with pytest.raises(ContentError, match=reason):
        fields_of(line, frozenset({"a"}))


def test_an_object_has_its_fields() -> None:
    assert fields_of(b'{"a":1}', frozenset({"a", "b"})) == {"a": 1}


@given(st.text() | st.integers() | st.none() | st.lists(st.text()))
def test_any_value_is_shown_in_some_characters(value: object) -> None:
    assert 0 < len(shown(value)) < 1000
