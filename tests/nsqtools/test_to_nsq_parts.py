"""Cutting stdin into records, and the throttle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqtools.common import Fatal
from nsqtools.to_nsq import Records, Throttle


def cut(data: bytes, delimiter: bytes = b"\n", piece: int = 1000) -> list[bytes]:
    """All records of a stream that comes in such pieces."""
    records, found = Records(delimiter), []
    for start in range(0, len(data), piece):
        found += records.feed(data[start : start + piece])
    return found + records.end()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\nccc", [b"a", b"ccc"]),
        (b"\n\na\n\n\nb\n\n", [b"a", b"b"]),
        (b"a", [b"a"]),
        (b"\r\n", [b"\r"]),
    ],
)
def test_records(data: bytes, expected: list[bytes]) -> None:
    """Empty ones are left out, the last one needs no delimiter."""
    assert cut(data) == expected


@given(st.lists(st.binary(max_size=6)), st.integers(1, 9), st.integers(0, 255))
def test_records_in_any_pieces(parts: list[bytes], piece: int, delimiter: int) -> None:
    """The pieces do not matter."""
    byte = bytes([delimiter])
    data = byte.join(parts)
    assert cut(data, byte, piece) == [part for part in data.split(byte) if part]


def test_record_without_end() -> None:
    """Memory has a bound."""
    records = Records(b"\n", longest=10)
    assert records.feed(b"12345\n1234567890") == [b"12345"]
    with pytest.raises(Fatal, match="more than 10 bytes"):
        records.feed(b"1")


def test_throttle_has_one_token_at_the_start() -> None:
    """Then they come evenly."""
    throttle = Throttle(10, 100.0)
    assert [throttle.take(100.0) for _ in range(3)] == pytest.approx([100.0, 100.1, 100.2])


def test_throttle_keeps_a_second_of_tokens() -> None:
    """Not more, however long nothing came."""
    throttle = Throttle(5, 0.0)
    times = [throttle.take(60.0) for _ in range(7)]
    assert times == pytest.approx([60.0] * 5 + [60.2, 60.4])


def test_throttle_over_time() -> None:
    """One who waits as told gets the rate, to the token."""
    throttle, now = Throttle(1000, 0.0), 0.0
    for _ in range(1001):
        now = throttle.take(now)
    assert now == pytest.approx(1.0)
