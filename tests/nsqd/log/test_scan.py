"""Reading forward over damage: what is whole is found, what is not is told."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqd.log.records import FLOWING, RECORD_HEAD_SIZE, Kind, encode_record
from nsqd.log.scan import Damaged, Record, scan
from tests.nsqd.log.samples import frames

SALT = 77
START = 64


def record(first: int, count: int = 1, salt: int = SALT) -> bytes:
    payload = b"".join(frames(first, count))
    return encode_record(Kind.MESSAGES, FLOWING, salt, first, count, payload) + payload


RECORDS = [record(0), record(1, 3), record(4), record(5, 2), record(7)]
FIRSTS = [0, 1, 4, 5, 7, 8]
OFFSETS = [START + sum(map(len, RECORDS[:at])) for at in range(len(RECORDS) + 1)]
DATA = bytes(START) + b"".join(RECORDS)


def reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, size: data[offset : offset + size]


def scanned(data: bytes, chunk: int = 1 << 20, first: int = 0) -> list[Record | Damaged]:
    return list(scan(reader(data), START, len(data), SALT, first, chunk=chunk))


def found(items: list[Record | Damaged]) -> list[int]:
    return [item.head.first for item in items if isinstance(item, Record)]


def damage(items: list[Record | Damaged]) -> list[Damaged]:
    return [item for item in items if isinstance(item, Damaged)]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def record_at(offset: int) -> int:
    """Which record holds this byte."""
    return next(at for at in range(len(RECORDS)) if OFFSETS[at] <= offset < OFFSETS[at + 1])


chunks = pytest.mark.parametrize("chunk", [1, 33, 100, 1 << 20])


@chunks
def test_whole_records(chunk: int) -> None:
    items = scanned(DATA, chunk)
    assert found(items) == FIRSTS[:-1]
    assert [item.offset for item in items] == OFFSETS[:-1]
    assert not damage(items)


def test_nothing_at_all() -> None:
    assert scanned(bytes(START)) == []


@chunks
def test_torn_at_every_byte(chunk: int) -> None:
    """I13: all that is whole before the cut is there, and nothing else."""
    for size in range(START, len(DATA)):
        items = scanned(DATA[:size], chunk)
        complete = sum(end <= size for end in OFFSETS[1:])
        assert found(items) == FIRSTS[:complete]
        if size == OFFSETS[complete]:
            assert not damage(items)
        else:
            (torn,) = damage(items)
            assert (torn.offset, torn.end, torn.next_first) == (OFFSETS[complete], size, None)
            assert torn.first == FIRSTS[complete]


@pytest.mark.parametrize("chunk", [40, 1 << 20])
def test_a_flipped_bit_costs_only_its_record(chunk: int) -> None:
    for bit in range(8 * START, 8 * len(DATA), 3):
        at = record_at(bit // 8)
        items = scanned(flipped(DATA, bit), chunk)
        assert found(items) == FIRSTS[:at] + FIRSTS[at + 1 : -1]
        (bad,) = damage(items)
        assert (bad.offset, bad.end) == (OFFSETS[at], OFFSETS[at + 1])
        last = at + 1 == len(RECORDS)
        assert (bad.first, bad.next_first) == (FIRSTS[at], None if last else FIRSTS[at + 1])
        assert not bad.zeros
        assert bad.reason


@given(st.integers(8 * START, 8 * len(DATA) - 1), st.integers(8 * START, 8 * len(DATA) - 1))
def test_two_damages(one: int, other: int) -> None:
    if one == other:
        return
    bad = {record_at(one // 8), record_at(other // 8)}
    items = scanned(flipped(flipped(DATA, one), other), 50)
    assert found(items) == [first for at, first in enumerate(FIRSTS[:-1]) if at not in bad]
    together = len(bad) == 1 or max(bad) - min(bad) == 1
    assert len(damage(items)) == (1 if together else 2)
    covered = {at for hole in damage(items) for at in range(5) if hole.offset <= OFFSETS[at] < hole.end}
    assert covered == bad


@given(st.binary(min_size=1, max_size=200), st.sampled_from([1, 64, 1000]))
def test_strange_bytes_in_the_middle(strange: bytes, chunk: int) -> None:
    cut = OFFSETS[2]
    items = scanned(DATA[:cut] + strange + DATA[cut:], chunk)
    assert found(items) == FIRSTS[:-1]
    (hole,) = damage(items)
    assert (hole.offset, hole.end, hole.next_first) == (cut, cut + len(strange), 4)


class TestZeros:
    @chunks
    @pytest.mark.parametrize("count", [1, 31, 32, 33, 500])
    def test_zeros_at_the_end_are_an_end(self, count: int, chunk: int) -> None:
        items = scanned(DATA + bytes(count), chunk)
        assert found(items) == FIRSTS[:-1]
        (tail,) = damage(items)
        assert tail.zeros
        assert (tail.offset, tail.end, tail.next_first) == (len(DATA), len(DATA) + count, None)

    @chunks
    def test_zeros_in_the_middle_are_damage(self, chunk: int) -> None:
        data = DATA[: OFFSETS[1]] + bytes(OFFSETS[3] - OFFSETS[1]) + DATA[OFFSETS[3] :]
        items = scanned(data, chunk)
        assert found(items) == [0, 5, 7]
        (hole,) = damage(items)
        assert not hole.zeros
        assert (hole.first, hole.next_first) == (1, 5)

    @chunks
    @pytest.mark.parametrize("at", [0, 1, 150, 299])
    def test_another_byte_among_zeros_is_reported(self, at: int, chunk: int) -> None:
        tail = bytearray(300)
        tail[at] = 1
        (hole,) = damage(scanned(DATA + bytes(tail), chunk))
        assert not hole.zeros


class TestHeadsThatProveNothing:
    def test_a_head_without_its_payload(self) -> None:
        lone = record(6, 2)[:RECORD_HEAD_SIZE]
        items = scanned(DATA[: OFFSETS[2]] + b"x" + lone + DATA[OFFSETS[2] :])
        assert found(items) == FIRSTS[:-1]

    def test_records_of_another_file(self) -> None:
        """Old bytes of a recycled disk block."""
        old = record(4, salt=SALT + 1) + record(5, salt=SALT + 1)
        items = scanned(DATA[: OFFSETS[2]] + old)
        assert found(items) == [0, 1]
        (tail,) = damage(items)
        assert tail.next_first is None

    def test_numbers_that_go_back(self) -> None:
        items = scanned(DATA[: OFFSETS[3]] + record(2) + DATA[OFFSETS[3] :])
        assert found(items) == FIRSTS[:-1]
        (hole,) = damage(items)
        assert hole.reason == "sequence number 2 after 5"

    def test_numbers_may_leap(self) -> None:
        """An append that failed has aborted its sequence numbers."""
        items = scanned(DATA + record(100))
        assert found(items) == [*FIRSTS[:-1], 100]

    def test_numbers_under_the_first_one(self) -> None:
        items = scanned(DATA, first=4)
        assert found(items) == [4, 5, 7]


def test_errors_of_the_system_come_through() -> None:
    """EIO is no damage."""

    def read(offset: int, size: int) -> bytes:
        raise OSError(errno.EIO, "input/output error")

    items: Iterator[Record | Damaged] = scan(read, START, len(DATA), SALT, 0)
    with pytest.raises(OSError, match="input/output"):
        next(items)


def test_a_file_that_shrinks_during_a_scan_ends_the_scan() -> None:
    items = list(scan(reader(DATA[: OFFSETS[2] + 40]), START, len(DATA), SALT, 0, chunk=16))
    assert found(items) == [0, 1]
    (tail,) = damage(items)
    assert tail.next_first is None
