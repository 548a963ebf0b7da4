"""The bytes of the log: what goes in comes out, and nothing else passes a decoder."""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Callable
from pathlib import Path

import attrs
import msgpack
import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from nsqd.log.records import (
    FILE_HEADER_SIZE,
    FLOWING,
    RECORD_HEAD_SIZE,
    VERSION,
    FileHeader,
    FileKind,
    FormatError,
    Kind,
    NewerFormat,
    RecordHead,
    decode_changes,
    decode_deferred,
    decode_directed,
    decode_letters,
    decode_moved,
    encode_changes,
    encode_deferred,
    encode_directed,
    encode_letters,
    encode_moved,
    encode_record,
    find_moved,
    find_record,
    frames_of,
    moved_of,
    origins_of,
    split_messages,
)
from nsqd.log.state import Code
from tests.nsqd.log.samples import frame, frames

U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
SALT = 0xC0FFEE
HEADER = FileHeader(FileKind.SEGMENT, SALT, 3, 4096, 17, 1_700_000_000_000_000_000)
PAYLOAD = b"".join(frames(17, 2))
HEAD = encode_record(Kind.MESSAGES, FLOWING, SALT, 17, 2, PAYLOAD)

items = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


def every_flip(data: bytes) -> list[bytes]:
    out = []
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        out.append(bytes(changed))
    return out


def with_crc(head: bytes) -> bytes:
    return head + struct.pack(">I", crc32c(head))


class TestFileHeader:
    @given(st.sampled_from(FileKind), U32, U64, U64, U64, U64)
    def test_round_trip(self, kind: FileKind, salt: int, a: int, b: int, c: int, d: int) -> None:
        header = FileHeader(kind, salt, a, b, c, d)
        data = header.encode()
        assert len(data) == FILE_HEADER_SIZE
        assert FileHeader.decode(data + b"what follows") == header

    @pytest.mark.parametrize("size", range(FILE_HEADER_SIZE))
    def test_cut_short(self, size: int) -> None:
        with pytest.raises(FormatError):
            FileHeader.decode(HEADER.encode()[:size])

    def test_every_flipped_bit_is_noticed(self) -> None:
        for changed in every_flip(HEADER.encode())[: 8 * 52]:
            with pytest.raises(FormatError):
                FileHeader.decode(changed)

    def test_a_flipped_bit_is_never_taken_for_a_newer_version(self) -> None:
        for changed in every_flip(HEADER.encode()):
            try:
                FileHeader.decode(changed)
            except NewerFormat:
                pytest.fail("damage was taken for another version")
            except FormatError:
                pass

    def test_the_padding_means_nothing(self) -> None:
        for changed in every_flip(HEADER.encode())[8 * 52 :]:
            assert FileHeader.decode(changed) == HEADER

    @pytest.mark.parametrize("version", [VERSION + 1, 0xFFFF])
    def test_a_newer_version(self, version: int) -> None:
        head = struct.pack(">8sHHIQQQQ", b"nsqd.log", version, 0, SALT, 1, 2, 3, 4)
        with pytest.raises(NewerFormat, match=f"version {version}; this program reads up to {VERSION}"):
            FileHeader.decode(with_crc(head) + bytes(12))

    def test_another_kind_of_file(self) -> None:
        head = struct.pack(">8sHHIQQQQ", b"whatever", VERSION, 0, SALT, 1, 2, 3, 4)
        with pytest.raises(FormatError, match="whatever"):
            FileHeader.decode(with_crc(head) + bytes(12))


class TestRecordHead:
    @given(st.sampled_from(Kind), st.integers(0, 255), U32, U64, st.integers(1, 2**32 - 1), st.binary())
    def test_round_trip(
        self, kind: Kind, flags: int, salt: int, first: int, count: int, payload: bytes
    ) -> None:
        data = b"before" + encode_record(kind, flags, salt, first, count, payload) + payload
        head = RecordHead.decode(data, 6, salt)
        assert (head.kind, head.flags, head.first, head.count) == (kind, flags, first, count)
        assert head.length == len(payload)
        assert head.size == RECORD_HEAD_SIZE + len(payload)
        assert head.flowing == bool(flags & FLOWING)
        head.check(payload)

    def test_only_messages_have_numbers(self) -> None:
        ends = {kind: RecordHead.decode(encode_record(kind, 0, 1, 10, 5, b""), 0, 1).end for kind in Kind}
        own = {Kind.MESSAGES, Kind.DEFERRED, Kind.LETTERS, Kind.DIRECTED}
        assert ends == {kind: 15 if kind in own else 10 for kind in Kind}

    @pytest.mark.parametrize("size", range(RECORD_HEAD_SIZE))
    def test_cut_short(self, size: int) -> None:
        with pytest.raises(FormatError):
            RecordHead.decode(HEAD[:size], 0, SALT)

    def test_every_flipped_bit_is_noticed(self) -> None:
        for changed in every_flip(HEAD):
            with pytest.raises(FormatError):
                RecordHead.decode(changed, 0, SALT)

    def test_every_flipped_bit_of_the_payload_is_noticed(self) -> None:
        head = RecordHead.decode(HEAD, 0, SALT)
        for changed in every_flip(PAYLOAD):
            with pytest.raises(FormatError):
                head.check(changed)

    def test_a_record_of_another_file(self) -> None:
        with pytest.raises(FormatError, match="another file"):
            RecordHead.decode(HEAD, 0, SALT + 1)

    @pytest.mark.parametrize("kind", [0, 9, 255])
    def test_unknown_kinds(self, kind: int) -> None:
        head = with_crc(struct.pack(">2sBBIIQII", b"\xa7Q", kind, 0, SALT, 0, 0, 1, 0))
        with pytest.raises(FormatError, match=f"unknown kind {kind}"):
            RecordHead.decode(head, 0, SALT)

    def test_a_length_beyond_all_bounds(self) -> None:
        head = with_crc(struct.pack(">2sBBIIQII", b"\xa7Q", 1, 0, SALT, 1 << 31, 0, 1, 0))
        with pytest.raises(FormatError, match="bytes"):
            RecordHead.decode(head, 0, SALT)

    def test_zeros_are_no_record(self) -> None:
        with pytest.raises(FormatError):
            RecordHead.decode(bytes(64), 0, 0)


class TestFindRecord:
    @given(st.binary(max_size=100))
    def test_a_record_is_found_after_any_bytes(self, before: bytes) -> None:
        hit = find_record(before + HEAD, 0, SALT, 0)
        assert hit is not None
        assert hit[0] == len(before)

    def test_skips_lower_numbers_and_other_files(self) -> None:
        other = encode_record(Kind.MESSAGES, 0, SALT + 1, 99, 1, b"")
        low = encode_record(Kind.MESSAGES, 0, SALT, 3, 1, b"")
        hit = find_record(other + low + HEAD, 0, SALT, 17)
        assert hit is not None
        assert hit[0] == 2 * RECORD_HEAD_SIZE
        assert find_record(other + low, 0, SALT, 17) is None

    def test_markers_everywhere(self) -> None:
        hit = find_record(b"\xa7Q\xa7\xa7Q" + HEAD, 0, SALT, 0)
        assert hit is not None
        assert hit[0] == 5


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8))
def test_messages_round_trip(bodies: list[bytes]) -> None:
    sent = [frame(seq, body) for seq, body in enumerate(bodies)]
    assert split_messages(b"".join(sent), len(sent)) == sent


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=50), U64), max_size=8))
def test_deferred_messages_round_trip(sent: list[tuple[bytes, int]]) -> None:
    wire = [frame(seq, body) for seq, (body, _) in enumerate(sent)]
    delays = [delay for _, delay in sent]
    assert decode_deferred(encode_deferred(wire, delays), len(sent)) == (wire, delays)


def test_deferred_messages_need_a_delay_each() -> None:
    with pytest.raises(ValueError):
        encode_deferred(frames(0, 2), [1])


@given(st.lists(st.lists(items, min_size=1, max_size=5), max_size=5))
def test_changes_round_trip(changes: list[list[object]]) -> None:
    assert decode_changes(encode_changes(changes), len(changes)) == changes


@pytest.mark.parametrize(
    ("decode", "payload", "count"),
    [
        (split_messages, PAYLOAD, 2),
        (decode_deferred, encode_deferred(frames(0, 2), [5, 6]), 2),
        (decode_changes, encode_changes([[1, True], [2, 300, 4], [16, 1, "a name", 7]]), 3),
    ],
    ids=["messages", "deferred", "changes"],
)
class TestDamagedPayloads:
    """A payload's checksum stands before its decoder; the decoder must not rely on it all the same."""

    def test_cut_short(self, decode: Callable[[bytes, int], object], payload: bytes, count: int) -> None:
        for size in range(len(payload)):
            with pytest.raises(FormatError):
                decode(payload[:size], count)

    def test_too_long(self, decode: Callable[[bytes, int], object], payload: bytes, count: int) -> None:
        for rest in (b"\0", b"\x93", b"\x01", payload):
            with pytest.raises(FormatError):
                decode(payload + rest, count)

    @pytest.mark.parametrize("off", [-1, 1, 1000])
    def test_another_count(
        self, decode: Callable[[bytes, int], object], payload: bytes, count: int, off: int
    ) -> None:
        with pytest.raises(FormatError):
            decode(payload, count + off)

    def test_a_flipped_bit_raises_nothing_but_format_errors(
        self, decode: Callable[[bytes, int], object], payload: bytes, count: int
    ) -> None:
        refused = 0
        for changed in every_flip(payload):
            try:
                decode(changed, count)
            except FormatError:
                refused += 1
        assert refused > 0


@given(st.binary(max_size=60), st.integers(0, 4))
def test_any_bytes_as_changes(data: bytes, count: int) -> None:
    try:
        changes = decode_changes(data, count)
    except FormatError:
        return
    assert len(changes) == count
    assert all(isinstance(change, list) for change in changes)


@pytest.mark.parametrize("data", [msgpack.packb(5), msgpack.packb({1: 2}), msgpack.packb("x"), b"\x90"])
def test_a_change_is_an_array_with_a_code(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_changes(data, 1)


FRAMES = [frame(seq, b"b" * (seq % 3 + 1)) for seq in range(4)]
ORIGINS = [b"", b"o", b"from", b"x" * 300]
PAYLOADS = {
    Kind.MESSAGES: b"".join(FRAMES),
    Kind.DEFERRED: encode_deferred(FRAMES, [1, 2, 3, 4]),
    Kind.LETTERS: encode_letters(FRAMES, ORIGINS),
    Kind.DIRECTED: encode_directed(FRAMES, 9),
}
MOVED = {
    Kind.MOVED: encode_moved(FRAMES, [7, 9, 2, 4]),
    Kind.MOVED_LETTERS: encode_moved(FRAMES, [7, 9, 2, 4], dict(zip([7, 9, 2, 4], ORIGINS, strict=True))),
}


class TestKinds:
    """Payloads of each kind of record with messages."""

    @pytest.mark.parametrize("kind", PAYLOADS)
    def test_each_frame_is_where_it_is_said_to_be(self, kind: Kind) -> None:
        payload, at = PAYLOADS[kind], 0
        found, before = frames_of(kind, 4, payload)
        assert found == FRAMES
        for each, gap in zip(found, before, strict=False):
            at += gap
            assert payload[at : at + len(each)] == each
            at += len(each)
        assert at == len(payload)

    @pytest.mark.parametrize("kind", MOVED)
    def test_moved_messages_have_their_numbers(self, kind: Kind) -> None:
        payload = MOVED[kind]
        assert moved_of(kind, 4, payload) == (FRAMES, [7, 9, 2, 4])
        assert find_moved(kind, payload, 4, {9, 4, 5}) == {9: FRAMES[1], 4: FRAMES[3]}

    def test_only_letters_have_origins(self) -> None:
        by_seq = dict(enumerate(ORIGINS, 20))
        for kind, payload in PAYLOADS.items():
            assert origins_of(kind, 20, 4, payload) == (by_seq if kind is Kind.LETTERS else {})
        moved = dict(zip([7, 9, 2, 4], ORIGINS, strict=True))
        for kind, payload in MOVED.items():
            assert origins_of(kind, 20, 4, payload) == (moved if kind is Kind.MOVED_LETTERS else {})

    @pytest.mark.parametrize("kind", [*PAYLOADS, *MOVED])
    def test_payloads_that_do_not_add_up(self, kind: Kind) -> None:
        read = moved_of if kind in MOVED else frames_of
        payload = (PAYLOADS | MOVED)[kind]
        for size in range(len(payload)):
            with pytest.raises(FormatError):
                read(kind, 4, payload[:size])
        for wrong, count in ((payload + b"x", 4), (payload, 5), (payload, 3)):
            with pytest.raises(FormatError):
                read(kind, count, wrong)


class TestFixedBytes:
    """The format as it is on people's disks. These bytes never change; `docs/format.md` describes them."""

    def test_file_header_of_version_1(self) -> None:
        header = attrs.evolve(HEADER, version=1)
        data = bytes.fromhex(
            "6e7371642e6c6f67 0001 0000 00c0ffee 0000000000000003 0000000000001000 0000000000000011"
            "17979cfe362a0000 63687acd 000000000000000000000000"
        )
        assert FileHeader.decode(data) == header
        assert header.encode() == data

    def test_file_header_of_version_2(self) -> None:
        header = attrs.evolve(HEADER, version=2)
        data = bytes.fromhex(
            "6e7371642e6c6f67 0002 0000 00c0ffee 0000000000000003 0000000000001000 0000000000000011"
            "17979cfe362a0000 026a794f 000000000000000000000000"
        )
        assert FileHeader.decode(data) == header
        assert header.encode() == data

    def test_file_header(self) -> None:
        assert HEADER.encode() == bytes.fromhex(
            "6e7371642e6c6f67 0003 0000 00c0ffee 0000000000000003 0000000000001000 0000000000000011"
            "17979cfe362a0000 22947831 000000000000000000000000"
        )

    def test_moved(self) -> None:
        payload = encode_moved([frame(17, b"hi", timestamp_ns=5)], [17])
        assert payload == bytes.fromhex(
            "0000000000000011 00000020 00000002 0000000000000005 000130303030303030303030303030303131 6869"
        )
        assert decode_moved(payload, 1) == ([frame(17, b"hi", timestamp_ns=5)], [17])

    def test_letters(self) -> None:
        payload = encode_letters([frame(17, b"hi", timestamp_ns=5)], [b"here"])
        assert payload == bytes.fromhex(
            "00000004 6865726500000020 00000002 0000000000000005 000130303030303030303030303030303131 6869"
        )
        assert decode_letters(payload, 1) == ([frame(17, b"hi", timestamp_ns=5)], [b"here"])

    def test_moved_letters(self) -> None:
        payload = encode_moved([frame(17, b"hi", timestamp_ns=5)], [17], {17: b"here"})
        assert payload == bytes.fromhex(
            "0000000000000011 00000004 68657265"
            "00000020 00000002 0000000000000005 000130303030303030303030303030303131 6869"
        )
        assert moved_of(Kind.MOVED_LETTERS, 1, payload) == ([frame(17, b"hi", timestamp_ns=5)], [17])
        assert origins_of(Kind.MOVED_LETTERS, 99, 1, payload) == {17: b"here"}

    def test_directed(self) -> None:
        payload = encode_directed([frame(17, b"hi", timestamp_ns=5)], 3)
        assert payload == bytes.fromhex(
            "000000000000000300000020 00000002 0000000000000005 000130303030303030303030303030303131 6869"
        )
        assert decode_directed(payload, 1) == ([frame(17, b"hi", timestamp_ns=5)], 3)

    def test_record(self) -> None:
        payload = encode_deferred([frame(17, b"hi", timestamp_ns=5)], [1000])
        assert encode_record(Kind.DEFERRED, FLOWING, SALT, 17, 1, payload) == bytes.fromhex(
            "a751 02 01 00c0ffee 0000002c 0000000000000011 00000001 73214440 ca68da5f"
        )
        assert payload == bytes.fromhex(
            "00000000000003e8 00000020 00000002 0000000000000005 000130303030303030303030303030303131 6869"
        )

    def test_changes(self) -> None:
        changes = [(Code.CHANNEL_CREATED, 1, "ch", 7), (Code.MARK, 300, 2**40), (Code.TOPIC_PAUSED, True)]
        assert encode_changes(changes) == bytes.fromhex(
            "94 10 01 a26368 07   93 02 cd012c cf0000010000000000   92 01 c3"
        )

    def test_settings(self) -> None:
        changes = [(Code.TOPIC_SETTINGS, {}), (Code.CHANNEL_SETTINGS, 1, {"retain": (None, 7)})]
        assert encode_changes(changes) == bytes.fromhex("92 09 80   93 16 01 81 a672657461696e 92 c0 07")

    @pytest.mark.parametrize("kind", [Code, Kind])
    def test_the_documentation_names_every_number(self, kind: type[enum.IntEnum]) -> None:
        text = Path(__file__).parents[3].joinpath("docs/format.md").read_text()
        table = text.split(f"| {kind.__name__.lower()} | name |")[1].split("\n\n")[0]
        rows = dict(re.findall(r"^\| (\d+) \| `([A-Z_]+)` \|", table, re.MULTILINE))
        assert rows == {str(member.value): member.name for member in kind}
