"""Frames byte by byte, and everything that is no frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqd.replication.wire import (
    GREETING,
    MAX_DATA,
    MAX_FILES,
    MAX_FIRST_FRAME,
    MAX_FRAME,
    MAX_OWNED,
    Ack,
    AllHeld,
    Ask,
    Beat,
    Bye,
    Challenge,
    Check,
    Checked,
    Data,
    Dismissed,
    Echo,
    Ended,
    Fetch,
    FileFrame,
    Finished,
    FolderHeld,
    Found,
    Frame,
    Frames,
    Hello,
    MakeFolder,
    NewFile,
    Others,
    Pass,
    Refused,
    Remove,
    RemoveFolder,
    Sealed,
    Ticket,
    Welcome,
    Whole,
    WireError,
    encode,
    proof,
)

SEGMENT = "00000000000000000000.log"
PATH = f"topic-t/{SEGMENT}"
FRAMES: list[Frame] = [
    Challenge(b"n" * 16),
    Hello(b"l" * 16, 3, b"s" * 16, b"n" * 16, b"p" * 32, "host:4150", True, ["other:4159"], 3, b"f" * 16),
    Welcome(b"p" * 32, b"l" * 16),
    FolderHeld("topic-t", 1 << 63, [[SEGMENT, 64, 0, (1 << 32) - 1]]),
    FolderHeld("", 0, [["nsqd.ids", 64, 0, 0]]),
    AllHeld(),
    FileFrame(PATH, 64),
    NewFile("topic-t/manifest", 0),
    Data(b"data"),
    Whole("nsqd.ids", 20),
    MakeFolder("topic-t"),
    Remove(PATH),
    RemoveFolder("topic-t"),
    Pass(False),
    Ticket(7),
    Ack(7),
    Beat(1, 250, 1_700_000_000_000),
    Echo(1),
    Refused("full"),
    Bye(False),
    Sealed([[1 << 63, 0, 12]]),
    Fetch(PATH, 5, 10),
    Ask(b"l" * 16, b"n" * 16, b"p" * 32, "host:4150", True),
    Found(True, False, True, "ab" * 16),
    Finished(1 << 63, "archive", [[0, 5], [7, 8]]),
    Ended(b"l" * 16),
    Others(["other:4159"]),
    Dismissed(),
    Check(PATH, 64, 1 << 20),
    Checked(PATH, 64, 1 << 20, (1 << 32) - 1),
]
NUMBERS = st.integers(0, (1 << 64) - 1)


def frame_bytes(kind: int, content: bytes) -> bytes:
    return (len(content) + 1).to_bytes(4) + bytes([kind]) + content


def decoded(data: bytes, max_frame: int = MAX_FRAME) -> list[Frame]:
    frames = Frames(max_frame)
    frames.feed(GREETING + data)
    return list(iter(frames.take, None))


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_a_frame_is_the_same_after_the_way(frame: Frame) -> None:
    assert decoded(encode(frame)) == [frame]


def test_the_bytes_are_those_of_the_documentation() -> None:
    assert GREETING == b"nsqr\0\0\0\1"
    assert encode(Data(b"abc")) == b"\0\0\0\4\10abc"
    assert encode(Ticket(5)) == b"\0\0\0\3\16\x91\5"
    assert encode(Ack(300)) == b"\0\0\0\5\17\x91\xcd\1\x2c"
    assert encode(AllHeld()) == b"\0\0\0\2\5\x90"
    assert encode(Pass(True)) == b"\0\0\0\3\15\x91\xc3"
    assert encode(MakeFolder("topic-t")) == b"\0\0\0\12\12\x91\xa7topic-t"
    assert encode(FileFrame("nsqd.ids", 1)) == b"\0\0\0\14\6\x92\xa8nsqd.ids\1"


def test_each_type_of_frame_is_tried() -> None:
    assert {frame.TYPE for frame in FRAMES} == set(range(1, 30))


@given(frames=st.lists(st.sampled_from(FRAMES)), cuts=st.lists(st.integers(1, 40), min_size=1))
def test_frames_arrive_whole_however_the_bytes_are_cut(frames: list[Frame], cuts: list[int]) -> None:
    data = GREETING + b"".join(map(encode, frames))
    reader, found, at = Frames(), [], 0
    for number in range(len(data)):
        size = cuts[number % len(cuts)]
        reader.feed(data[at : at + size])
        at += size
        found += list(iter(reader.take, None))
    assert found == frames


@given(ticket=NUMBERS, size=NUMBERS, name=st.text(max_size=200), flag=st.booleans())
def test_any_value_that_is_allowed_goes_both_ways(ticket: int, size: int, name: str, flag: bool) -> None:
    frames = [
        Ticket(ticket),
        Whole(PATH, size),
        Refused(name),
        Hello(b"l" * 16, ticket, b"s" * 16, b"n" * 16, b"p" * 32, name, flag),
        Sealed([[ticket, size, size]]),
        FolderHeld("topic-t", ticket, [[SEGMENT, size, 0, ticket]]),
    ]
    assert decoded(b"".join(map(encode, frames))) == frames


@given(data=st.binary(max_size=300), greeted=st.booleans())
def test_random_bytes_are_frames_or_a_wire_error(data: bytes, greeted: bool) -> None:
    frames = Frames()
    frames.feed((GREETING if greeted else b"") + data)
    try:
        while frames.take() is not None:
            pass
    except WireError:
        pass


@given(kind=st.integers(1, 20), fields=st.recursive(st.none() | NUMBERS | st.binary() | st.text(), st.lists))
def test_random_fields_are_a_frame_or_a_wire_error(kind: int, fields: object) -> None:
    data = frame_bytes(kind, msgpack.packb(fields))
    try:
        frames = decoded(data)
    except WireError:
        return
    # What was accepted would be written as it was read.
    assert kind == Data.TYPE or [encode(frame) for frame in frames] == [data]


WRONG: dict[type[Any], list[object]] = {
    bytes: [None, 1, "n" * 16, b"", b"n" * 15, b"n" * 33, [b"n" * 16]],
    int: [None, "1", b"1", 1.5, True, -1, [1]],
    bool: [None, 0, 1, "true", b"", [True]],
    str: [None, 1, b"text", ["text"], "x" * 1001],
    list: [None, 1, "text", b"text", True],
}


def wrong_fields() -> Iterator[Any]:
    for frame in FRAMES:
        if isinstance(frame, Data):
            continue
        fields = msgpack.unpackb(encode(frame)[5:])
        for at, field in enumerate(fields):
            for wrong in WRONG[type(field)]:
                yield pytest.param(
                    frame_bytes(frame.TYPE, msgpack.packb([*fields[:at], wrong, *fields[at + 1 :]])),
                    id=f"{type(frame).__name__}-{at}-{wrong!r:.12}",
                )
        yield pytest.param(
            frame_bytes(frame.TYPE, msgpack.packb([*fields, 0])), id=f"{type(frame).__name__}-one-too-many"
        )
        if fields:
            yield pytest.param(
                frame_bytes(frame.TYPE, msgpack.packb(fields[:-1])), id=f"{type(frame).__name__}-one-too-few"
            )


@pytest.mark.parametrize("data", list(wrong_fields()))
def test_a_field_of_another_type_or_size_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decoded(data)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x91",  # an array that is cut off
        b"\x91\1\1",  # something behind it
        b"\x81\1\1",  # a map
        b"\xc1",  # what msgpack never uses
        b"\x91\xd4\1\1",  # an extension
        b"\x91" * 4000,  # nested too deeply
        b"\xdd\xff\xff\xff\xff",  # an array of 4 thousand million
        b"\x91\xa1\xff",  # a text that is no UTF-8
    ],
)
def test_content_that_cannot_be_read_is_refused(content: bytes) -> None:
    with pytest.raises(WireError):
        decoded(frame_bytes(Ticket.TYPE, content))


@pytest.mark.parametrize("kind", [0, 30, 255])
def test_an_unknown_type_is_refused(kind: int) -> None:
    with pytest.raises(WireError, match="unknown type"):
        decoded(frame_bytes(kind, b"\x90"))


@pytest.mark.parametrize("size", [0, MAX_FRAME + 1, 0xFFFFFFFF])
def test_a_size_that_no_frame_has_is_refused_before_the_content_is_there(size: int) -> None:
    with pytest.raises(WireError, match=str(MAX_FRAME)):
        decoded(size.to_bytes(4) + b"\x08")


def test_the_largest_piece_of_data_is_accepted() -> None:
    (frame,) = decoded(encode(Data(b"x" * MAX_DATA)))
    assert frame == Data(b"x" * MAX_DATA)


def test_a_stranger_may_send_short_frames_only() -> None:
    """A megabyte of msgpack is a million objects, and a twentieth of a second, for who has proved nothing."""
    hello = Hello(b"l" * 16, 1 << 63, b"s" * 16, b"n" * 16, b"p" * 32, "\U0001f40d" * 1000, True)
    assert decoded(encode(hello), MAX_FIRST_FRAME) == [hello]
    with pytest.raises(WireError, match=str(MAX_FIRST_FRAME)):
        decoded(MAX_FRAME.to_bytes(4) + b"\x02", MAX_FIRST_FRAME)


@pytest.mark.parametrize(
    "greeting", [b"  V2PUB", b"GET / HT", b"nsqr\0\0\0\2", b"nsqr\1\0\0\1", b"\x16\x03\1\0"]
)
def test_another_protocol_or_version_is_refused(greeting: bytes) -> None:
    frames = Frames()
    frames.feed(greeting)
    with pytest.raises(WireError):
        frames.take()


def test_nothing_is_taken_before_the_greeting_is_whole() -> None:
    frames = Frames()
    for byte in GREETING:
        assert frames.take() is None
        frames.feed(bytes([byte]))
    assert frames.take() is None
    frames.feed(encode(AllHeld()))
    assert frames.take() == AllHeld()


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/nsqd.ids",
        "nsqd.life",
        "nsqd.clean",
        "nsqd.copy",
        "nsqd.seal",
        "../nsqd.ids",
        "topic-t",
        "topic-t/",
        f"topic-/{SEGMENT}",
        f"topic-t/../{SEGMENT}",
        f"../topic-t/{SEGMENT}",
        f"topic-../../{SEGMENT}",
        f"topic-a b/{SEGMENT}",
        f"topic-{'x' * 65}/{SEGMENT}",
        f"topic-t\n/{SEGMENT}",
        f"topic-t/{SEGMENT}\n",
        "topic-t/0.log",
        "topic-t/.manifest.new",
        f"topic-t/{SEGMENT}.part",
        f"topic-t/{SEGMENT}.damaged",
        "topic-t/\uff100000000000000000000.log",
        "trash-1/manifest",
        "topic-t/manifest\0",
    ],
)
def test_a_name_that_no_file_of_a_copy_has_is_refused(path: str) -> None:
    for kind in (FileFrame, NewFile, Whole):
        with pytest.raises(WireError):
            kind(path, 0)
    with pytest.raises(WireError):
        Remove(path)


@pytest.mark.parametrize(
    ("folder", "name"),
    [("", "nsqd.life"), ("", "/nsqd.ids"), ("topic-t", "x.log"), ("topic-t", "a/manifest"), ("topic-t", 7)],
)
def test_a_follower_may_not_have_files_that_no_copy_has(folder: str, name: object) -> None:
    """Their names are taken for positions, and are sent back in orders to remove them."""
    with pytest.raises(WireError):
        FolderHeld(folder, 0, [[name, 0, 0, 0]])


@pytest.mark.parametrize("folder", ["topic-", "t", "..", "topic-a/b", "topic-a\n", "trash-1", "copies"])
def test_a_name_that_no_folder_of_a_copy_has_is_refused(folder: str) -> None:
    for kind in (MakeFolder, RemoveFolder):
        with pytest.raises(WireError):
            kind(folder)
    with pytest.raises(WireError):
        FolderHeld(folder, 0, [])


def test_a_topic_of_dots_stays_below_its_own_folder() -> None:
    assert MakeFolder("topic-..").folder == "topic-.."


@pytest.mark.parametrize(
    "files",
    [
        [[SEGMENT, 1, 2]],
        [[SEGMENT, 1, 2, 3, 4]],
        [[1, 1, 1, 1]],
        [SEGMENT],
        [[SEGMENT, -1, 0, 0]],
        [[SEGMENT, 1, 0, "x"]],
    ],
)
def test_a_list_of_files_with_wrong_rows_is_refused(files: list[list[Any]]) -> None:
    with pytest.raises(WireError):
        FolderHeld("topic-t", 0, files)


def test_lists_are_bounded_and_the_longest_fit_into_a_frame() -> None:
    files = [[SEGMENT, (1 << 64) - 1, (1 << 64) - 1, (1 << 32) - 1]] * MAX_FILES
    owned = [[(1 << 64) - 1] * 3] * MAX_OWNED
    assert len(encode(FolderHeld("topic-" + "t" * 64, 0, files))) < MAX_FRAME
    assert len(encode(Sealed(owned))) < MAX_FRAME
    with pytest.raises(WireError):
        FolderHeld("topic-t", 0, files + files[:1])
    with pytest.raises(WireError):
        Sealed(owned + owned[:1])


def test_a_proof_is_for_one_side_and_one_connection() -> None:
    proofs = {
        proof(secret, side, first, second, b"life", number)
        for secret in (b"secret", b"")
        for side in ("leader", "follower")
        for first, second in ((b"a" * 16, b"b" * 16), (b"b" * 16, b"a" * 16))
        for number in (1, 2)
    }
    assert len(proofs) == 16
    assert {len(found) for found in proofs} == {32}
