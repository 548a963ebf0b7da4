"""Which bodies a filter lets through."""

from __future__ import annotations

import pytest

from nsqd.http.message_filter import MessageFilter
from nsqkit.service.http import HttpError

BODY = rb'{"id":42,"name":"J\u00fcrgen","tags":["a","b"],"a/b":{"~":true},"none":null,"big":1e3,"":0}'


@pytest.mark.parametrize(
    ("name", "value", "matches"),
    [
        ("contains", "", True),
        ("contains", '"id":42', True),
        ("contains", "43", False),
        ("json:/id", "42", True),
        ("json:/id", "42.0", True),
        ("json:/id", "043", False),
        ("json:/id", "true", False),
        ("json:/name", "Jürgen", True),
        ("json:/name", '"Jürgen"', False),
        ("json:/tags/1", "b", True),
        ("json:/tags/2", "b", False),
        ("json:/tags/01", "b", False),
        ("json:/tags/-", "b", False),
        ("json:/tags", '["a", "b"]', True),
        ("json:/a~1b/~0", "true", True),
        ("json:/a~1b/~0", "1", False),
        ("json:/none", "null", True),
        ("json:/missing", "null", False),
        ("json:/id/deeper", "42", False),
        ("json:/big", "1000", True),
        ("json:/", "0", True),
    ],
)
def test_one_condition(name: str, value: str, matches: bool) -> None:
    filter_ = MessageFilter.of({name: value, "topic": "t"})
    assert filter_.matches(BODY) is matches
    assert bool(filter_) is (name != "contains" or value != "")


def test_all_conditions_must_hold() -> None:
    filter_ = MessageFilter.of({"contains": "tags", "json:/id": "42", "json:/name": "Jürgen"})
    assert filter_.matches(BODY)
    assert not filter_.matches(BODY.replace(b"42", b"43"))
    assert not filter_.matches(BODY.replace(b"tags", b"flags"))


def test_the_whole_body_may_be_compared() -> None:
    filter_ = MessageFilter.of({"json:": "[1, 2]"})
    assert filter_.matches(b"[1,2]")
    assert not filter_.matches(b"[1,2,3]")


@pytest.mark.parametrize("body", [b"", b"\xff", b"{", b"[" * 100_000, b"plain text"])
def test_what_is_no_json_has_no_values(body: bytes) -> None:
    assert not MessageFilter.of({"json:/id": "42"}).matches(body)
    assert MessageFilter.of({}).matches(body)


def test_a_path_that_is_none_is_refused() -> None:
    with pytest.raises(HttpError, match="400 INVALID_ARG_JSON"):
        MessageFilter.of({"json:id": "42"})
