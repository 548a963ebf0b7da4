"""Where a dead letter is from, as it stands in the log."""

from __future__ import annotations

import attrs
import msgpack
import pytest

from nsqd.log.origin import Origin
from nsqd.log.records import FormatError

ORIGIN = Origin(
    topic="orders",
    channel="mail",
    generation=3,
    seq=1 << 40,
    cause="attempts",
    attempts=5,
    first_ns=1_700_000_000_000_000_000,
    last_ns=1_800_000_000_000_000_000,
)


def test_round_trip() -> None:
    assert Origin.decode(ORIGIN.encode()) == ORIGIN


def test_what_a_later_version_adds_is_ignored() -> None:
    known = {**attrs.asdict(ORIGIN), "key": "added later"}
    assert Origin.decode(msgpack.packb(known)) == ORIGIN


@pytest.mark.parametrize("field", [field.name for field in attrs.fields(Origin)])
def test_a_field_that_is_missing_or_of_another_type(field: str) -> None:
    known = attrs.asdict(ORIGIN)
    with pytest.raises(FormatError):
        Origin.decode(msgpack.packb({name: value for name, value in known.items() if name != field}))
    with pytest.raises(FormatError, match=f"whose {field} is"):
        Origin.decode(msgpack.packb({**known, field: None}))


@pytest.mark.parametrize("data", [b"", b"\xc1", msgpack.packb([1]), msgpack.packb({}) + b"x", b"\x81"])
def test_bytes_that_are_none(data: bytes) -> None:
    with pytest.raises(FormatError):
        Origin.decode(data)
