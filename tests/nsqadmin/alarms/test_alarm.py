"""Alarms: what identifies them, and that the documentation has every kind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nsqadmin.alarms.alarm import Alarm, Kind, Subject

DOCUMENTATION = Path(__file__).parents[3] / "docs/nsqadmin.md"


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (Subject(topic="t"), ("silent:t", "t", "/topics/t")),
        (
            Subject(topic="..", channel="c#ephemeral"),
            ("silent:../c#ephemeral", ".. / c#ephemeral", "/topics/~../c%23ephemeral"),
        ),
        (Subject(node="[::1]:4151"), ("silent:[::1]:4151", "[::1]:4151", "/nodes/%5B%3A%3A1%5D%3A4151")),
        (Subject(registry="a:1"), ("silent:nsqlookupd:a:1", "nsqlookupd a:1", "/lookup")),
    ],
)
def test_a_subject_has_a_name_and_a_page(subject: Subject, expected: tuple[str, str, str]) -> None:
    alarm = Alarm(kind=Kind.SILENT, subject=subject, since=0, text="", advice="")
    assert (alarm.id, subject.text, subject.path) == expected


def test_the_documentation_lists_every_kind_in_the_order_of_harm() -> None:
    section = DOCUMENTATION.read_text().partition("\n## Alarms\n")[2].partition("\n## ")[0]
    listed = re.findall(r"(?m)^\| `([a-z-]+)` \| (\w+) \|", section)
    assert listed == [(kind.value, kind.severity.value) for kind in Kind]
