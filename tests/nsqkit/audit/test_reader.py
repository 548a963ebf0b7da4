"""The last lines of a file, whatever else is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqkit.audit import AuditQuery, Event, Means, Result, Who, normal_time, read_tail
from nsqkit.audit.event import MAX_LINE
from nsqkit.audit.reader import _BLOCK

START = 1_796_140_800


def line(number: int, **values: Any) -> bytes:
    """One of each second."""
    known = {
        "time": START + number,
        "who": Who("ann", Means.TOKEN, "10.0.0.9:1"),
        "what": "POST /topic/pause",
    }
    return Event(**{**known, "on": {"topic": f"t{number}"}, **values}).line("nsqd", "a:4151")


def topics(path: Path, **query: Any) -> list[str]:
    """Of the lines that are found."""
    return [each["on"]["topic"] for each in read_tail(path, AuditQuery(**query)).lines]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit"


def test_the_last_lines_the_latest_first(path: Path) -> None:
    path.write_bytes(b"".join(map(line, range(10))))
    assert topics(path, limit=3) == ["t9", "t8", "t7"]
    assert not read_tail(path, AuditQuery(limit=3)).complete
    assert topics(path, limit=10) == [f"t{number}" for number in range(9, -1, -1)]
    assert read_tail(path, AuditQuery(limit=10)).complete


def test_a_line_is_as_it_was_written(path: Path) -> None:
    written = line(1, before={"paused": False, "names": ["a"]}, after={"paused": True}, status=200, count=3)
    path.write_bytes(written)
    expected = json.loads(written)
    del expected["level"]
    assert read_tail(path, AuditQuery()).lines == [expected]


def test_an_empty_file_and_none(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_tail(path, AuditQuery())
    path.write_bytes(b"")
    assert read_tail(path, AuditQuery()).lines == []


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"who": "BO"}, ["t2"]),
        ({"what": "drain"}, ["t3"]),
        ({"topic": "T1"}, ["t1"]),
        ({"result": Result.REFUSED}, ["t4"]),
        ({"contains": "10.0.0.8"}, ["t4"]),
        ({"contains": "no_such_text"}, []),
        ({"who": "ann", "result": Result.OK}, ["t3", "t1"]),
        ({"since": "2026-12-01T16:00:03.000000Z"}, ["t4", "t3"]),
        ({"since": "2027-01-01T00:00:00.000000Z"}, []),
        ({"who": 'quoted"name'}, ["t5"]),
    ],
)
def test_filters(path: Path, query: dict[str, Any], found: list[str]) -> None:
    lines = [
        line(1),
        line(2, who=Who("bob", Means.HEADER, "10.0.0.9:1")),
        line(3, what="POST /drain"),
        line(4, who=Who(remote="10.0.0.8:1"), result=Result.REFUSED, error="TOKEN_REQUIRED"),
    ]
    if "quoted" in query.get("who", ""):
        lines.append(line(5, who=Who('a quoted"name', Means.HEADER)))
    path.write_bytes(b"".join(lines))
    assert topics(path, **query) == found


def test_what_is_no_line_is_left_out(path: Path) -> None:
    broken = [
        b"",
        b"\n\n\n",
        b"Dec  1 12:00:00 host something: else\n",
        b'{"time":"2026-12-01T16:00:00.250\n',
        b"[1,2]\n",
        b'{"time":1,"what":"x"}\n',
        b'{"time":"yesterday","what":"x"}\n',
        b'{"time":"2026-12-01T16:00:00.250000Z"}\n',
        b"[" * 5000 + b"\n",
        b"\xff\xfe\0\n",
        b"x" * (3 * _BLOCK) + b"\n",
        line(7)[:-1] + b" " * MAX_LINE + b"\n",
    ]
    path.write_bytes(line(1) + b"".join(broken) + line(2) + b'{"time":"2026-12-')
    assert topics(path) == ["t2", "t1"]


def test_only_what_a_line_can_have_is_shown(path: Path) -> None:
    known = json.loads(line(1))
    strange = {"password": "x", "who": {"a": 1}, "count": "many", "before": {"a": {"b": 1}}, "after": [1]}
    path.write_text(json.dumps({**known, **strange}) + "\n")
    [found] = read_tail(path, AuditQuery()).lines
    assert found.keys() == known.keys() - {"level", "who"}


def test_the_search_ends_after_so_many_bytes(path: Path) -> None:
    lines = [line(number) for number in range(1000)]
    path.write_bytes(b"".join(lines))
    tail = read_tail(path, AuditQuery(limit=1000), max_examined=len(b"".join(lines[-10:])) + 5)
    assert [each["on"]["topic"] for each in tail.lines] == [f"t{number}" for number in range(999, 989, -1)]
    assert not tail.complete


@given(st.lists(st.integers(0, 4 * MAX_LINE), max_size=40), st.booleans(), st.integers(1, 200_000))
def test_blocks_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], ends: bool, most: int
) -> None:
    """Lines of many lengths, and junk of any length between them: those that can be lines are found, in order."""
    path = tmp_path_factory.mktemp("reader") / "audit"
    content, expected, offsets = b"", [], []
    for number, size in enumerate(sizes):
        offsets.append(len(content))
        content += line(number) + b"j" * size + b"\n"
        expected.append(f"t{number}")
    path.write_bytes(content if ends else content[:-1])
    assert topics(path, limit=100) == expected[::-1]
    examined = len(path.read_bytes()) - most
    seen = [
        name for name, offset in zip(expected, offsets, strict=True) if offset > examined or examined <= 0
    ]
    found = [each["on"]["topic"] for each in read_tail(path, AuditQuery(limit=100), max_examined=most).lines]
    assert found == seen[::-1]


@given(st.binary(max_size=3000))
def test_any_bytes_are_no_trouble(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    path = tmp_path_factory.mktemp("reader") / "audit"
    path.write_bytes(line(1) + junk + b"\n" + line(2))
    assert topics(path) == ["t2", "t1"]


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("2026-12-01T16:00:00Z", "2026-12-01T16:00:00.000000Z"),
        ("2026-12-01T16:00:00.5+02:00", "2026-12-01T14:00:00.500000Z"),
        ("2026-12-01", "2026-12-01T00:00:00.000000Z"),
    ],
)
def test_times(text: str, normal: str) -> None:
    assert normal_time(text) == normal


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "0001-01-01T00:00:00+14:00", "9" * 400])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError):
        normal_time(text)
