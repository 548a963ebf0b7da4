"""Names of files."""

from __future__ import annotations

import time

import pytest

from nsqtools.nsq_to_file.names import format_time, host_identifier, name_template, with_revision

NOON = time.mktime((2026, 3, 5, 12, 4, 9, 0, 0, -1))


@pytest.mark.parametrize(
    ("datetime_format", "expected"),
    [
        ("%Y-%m-%d_%H", "2026-03-05_12"),
        ("%y%m%d %H%M%S", "260305 120409"),
        ("%I %p", "12 PM"),
        ("%B %b %A %a", "March Mar Thursday Thu"),
        ("100%%", "100%"),
        ("%%Y", "%Y"),
        ("%j %f %s", "%j %f %s"),
        ("%", "%"),
        ("plain", "plain"),
        ("%Z%z", time.strftime("%Z%z", time.localtime(NOON))),
    ],
)
def test_format_time(datetime_format: str, expected: str) -> None:
    """The sequences that are known are replaced, others stay as they are."""
    assert format_time(datetime_format, NOON) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "box"),
        ("me", "me"),
        ("<SHORT_HOST>-x", "box-x"),
        ("<HOSTNAME>", "box.example.org"),
        ("<HOSTNAME>/<SHORT_HOST>", "box.example.org/box"),
    ],
)
def test_host_identifier(text: str, expected: str) -> None:
    """Empty is the short name."""
    assert host_identifier(text, "box.example.org") == expected


def test_template() -> None:
    """All but the revision and the time is replaced."""
    name = name_template("<TOPIC>/<HOST>.<PID><REV>.<DATETIME>.log", topic="t", host="h", pid=7, gzip=False)
    assert name == "t/h.7<REV>.<DATETIME>.log"


@pytest.mark.parametrize(
    ("filename_format", "gzip", "expected"),
    [("a.log", True, "a.log.gz"), ("a.gz", True, "a.gz"), ("a.log", False, "a.log")],
)
def test_gz(filename_format: str, gzip: bool, expected: str) -> None:
    """The ending is there once."""
    assert name_template(filename_format, topic="t", host="h", pid=1, gzip=gzip) == expected


@pytest.mark.parametrize(
    ("topic", "expected"), [("..", "%2E%2E/x"), (".", "%2E/x"), (".a", ".a/x"), ("a..b", "a..b/x")]
)
def test_topics_of_dots_stay_in_the_folder(topic: str, expected: str) -> None:
    """`..` is a legal topic."""
    assert name_template("<TOPIC>/x", topic=topic, host="h", pid=1, gzip=False) == expected


def test_revision() -> None:
    """Six digits, or nothing."""
    assert with_revision("a<REV>.log", 3) == "a-000003.log"
    assert with_revision("a<REV>.log", None) == "a.log"
    assert with_revision("a<REV>.log", 1234567) == "a-1234567.log"
