"""Frames: exact bytes, and whatever was encoded comes apart again."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsqkit.wire import (
    CLOSE_WAIT,
    HEARTBEAT,
    OK,
    FrameType,
    Message,
    decode_message,
    encode_error,
    encode_message,
    encode_response,
    split_frames,
    with_attempts,
)
from nsqkit.wire.frames import BODY, ID, MAX_ATTEMPTS

MESSAGE_ID = b"18a44d08ff290000"
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
ATTEMPTS = st.integers(0, MAX_ATTEMPTS)
IDS = st.binary(min_size=16, max_size=16)
PIECES = st.tuples(st.sampled_from([FrameType.RESPONSE, FrameType.ERROR]), st.binary(max_size=40))


@pytest.mark.parametrize(
    ("frame", "data"),
    [
        (OK, "00000006 00000000 4f4b"),
        (CLOSE_WAIT, "0000000e 00000000 434c4f53455f57414954"),
        (HEARTBEAT, "0000000f 00000000 5f6865617274626561745f"),
        (encode_response(b""), "00000004 00000000"),
        (encode_error(b"E_BAD_PROTOCOL"), "00000012 00000001 455f4241445f50524f544f434f4c"),
        (
            encode_message(0x18EA5C1264C621B7, 1, MESSAGE_ID, b"hello"),
            "00000023 00000002 18ea5c1264c621b7 0001 31386134346430386666323930303030 68656c6c6f",
        ),
    ],
)
def test_exact_bytes(frame: bytes, data: str) -> None:
    assert frame == bytes.fromhex(data)


@settings(deadline=None)
@given(INT64, ATTEMPTS, IDS, st.binary())
def test_a_message_comes_apart_again(
    timestamp_ns: int, attempts: int, message_id: bytes, body: bytes
) -> None:
    frame = encode_message(timestamp_ns, attempts, message_id, body)
    assert decode_message(frame) == Message(timestamp_ns, attempts, message_id, body)
    assert frame[ID] == message_id
    assert frame[BODY:] == body


@settings(deadline=None)
@given(INT64, ATTEMPTS, IDS, st.binary(), st.integers(0, 1 << 20))
def test_attempts_are_all_that_changes(
    timestamp_ns: int, attempts: int, message_id: bytes, body: bytes, again: int
) -> None:
    """I2 and I5: another delivery has the same bytes, and a count that saturates."""
    frame = with_attempts(encode_message(timestamp_ns, attempts, message_id, body), again)
    assert frame == encode_message(timestamp_ns, min(again, 65535), message_id, body)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        encode_message(1, 1, MESSAGE_ID, b"x")[:33],
        encode_message(1, 1, MESSAGE_ID, b"xy")[:-1],
        encode_message(1, 1, MESSAGE_ID, b"x") + b"y",
        encode_response(bytes(40)),
        encode_error(bytes(40)),
    ],
    ids=["nothing", "half a head", "short", "long", "response", "error"],
)
def test_no_message(frame: bytes) -> None:
    with pytest.raises(ValueError, match="message frame"):
        decode_message(frame)


@settings(deadline=None)
@given(st.lists(PIECES), st.data())
def test_whole_frames_come_out_of_any_cut(pieces: list[tuple[FrameType, bytes]], data: st.DataObject) -> None:
    encode = {FrameType.RESPONSE: encode_response, FrameType.ERROR: encode_error}
    frames = [encode[kind](payload) for kind, payload in pieces]
    buffer = b"".join(frames)
    cut = data.draw(st.integers(0, len(buffer)))
    whole, size = 0, 0
    while whole < len(frames) and size + len(frames[whole]) <= cut:
        size += len(frames[whole])
        whole += 1
    assert list(split_frames(buffer[:cut])) == pieces[:whole]


def test_a_message_is_split_off_whole() -> None:
    frame = encode_message(1, 1, MESSAGE_ID, b"body")
    assert list(split_frames(OK + frame)) == [(FrameType.RESPONSE, b"OK"), (FrameType.MESSAGE, frame[8:])]


@pytest.mark.parametrize("size", [-1, 0, 3, 101, 0x48545450])
def test_a_size_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="out of range 4-100"):
        list(split_frames(struct.pack(">ii", size, 0) + bytes(200), max_size=100))


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match="3"):
        list(split_frames(struct.pack(">ii", 4, 3)))
