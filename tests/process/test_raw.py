"""The raw client of these tests does what it says; the daemon's side is a socket in the test's hand."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from tests.process.raw import (
    Disconnected,
    ErrorFrame,
    Frame,
    Message,
    RawClient,
    dpub_command,
    mpub_command,
    pub_command,
)


def frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">ii", len(payload) + 4, kind) + payload


def message_frame(body: bytes, attempts: int = 1) -> bytes:
    return frame(2, struct.pack(">qH16s", 1_700_000_000_000_000_000, attempts, b"0123456789abcdef") + body)


OK = frame(0, b"OK")


@pytest.fixture
def pair() -> Iterator[tuple[RawClient, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(2)
    with RawClient(ours, timeout_s=2) as client, theirs:
        yield client, theirs


def test_commands_have_the_bytes_of_the_protocol() -> None:
    assert pub_command("t", b"hello") == b"PUB t\n\0\0\0\5hello"
    assert dpub_command("t", 250, b"x") == b"DPUB t 250\n\0\0\0\1x"
    assert mpub_command("t", [b"ab", b"c"]) == b"MPUB t\n\0\0\0\x0f\0\0\0\2\0\0\0\2ab\0\0\0\1c"


def test_messages_before_an_answer_are_kept_in_order(pair: tuple[RawClient, socket.socket]) -> None:
    client, daemon = pair
    daemon.sendall(message_frame(b"one") + message_frame(b"two", 3) + OK + message_frame(b"three"))
    assert client.response() == b"OK"
    got = [client.message() for _ in range(3)]
    assert [message.body for message in got] == [b"one", b"two", b"three"]
    assert got[1] == Message(1_700_000_000_000_000_000, 3, b"0123456789abcdef", b"two")


def test_heartbeats_are_answered_and_not_shown(pair: tuple[RawClient, socket.socket]) -> None:
    client, daemon = pair
    daemon.sendall(frame(0, b"_heartbeat_") + OK)
    assert client.read_frame() == Frame(0, b"OK")
    assert daemon.recv(100) == b"NOP\n"


def test_a_frame_in_single_bytes(pair: tuple[RawClient, socket.socket]) -> None:
    client, daemon = pair
    for byte in message_frame(b"slow")[:-1]:
        daemon.sendall(bytes([byte]))
        with pytest.raises(TimeoutError):
            client.message(0.001)
    daemon.sendall(b"w")
    assert client.message().body == b"slow"


def test_an_error_frame_is_raised_with_its_code(pair: tuple[RawClient, socket.socket]) -> None:
    client, daemon = pair
    daemon.sendall(frame(1, b"E_BAD_TOPIC PUB topic name is not valid"))
    with pytest.raises(ErrorFrame) as caught:
        client.pub("?", b"x")
    assert (caught.value.code, caught.value.text[-9:]) == ("E_BAD_TOPIC", "not valid")
    assert daemon.recv(100) == pub_command("?", b"x")


def test_the_end_of_a_connection_comes_after_its_last_frame(pair: tuple[RawClient, socket.socket]) -> None:
    client, daemon = pair
    daemon.sendall(message_frame(b"last"))
    daemon.close()
    assert client.message().body == b"last"
    with pytest.raises(Disconnected):
        client.message()
    with pytest.raises(Disconnected):
        client.send(b"NOP\n")


def test_silence_is_a_timeout_and_is_what_no_message_wants(pair: tuple[RawClient, socket.socket]) -> None:
    client, daemon = pair
    with pytest.raises(TimeoutError):
        client.response(0.01)
    client.no_message(0.01)
    daemon.sendall(message_frame(b"surprise"))
    with pytest.raises(AssertionError, match="surprise"):
        client.no_message(1)


def test_identify_gives_the_settings_or_none(pair: tuple[RawClient, socket.socket]) -> None:
    client, daemon = pair
    daemon.sendall(OK + frame(0, b'{"max_rdy_count":2500}'))
    assert client.identify() is None
    assert client.identify(feature_negotiation=True) == {"max_rdy_count": 2500}
    assert daemon.recv(100) == b'IDENTIFY\n\0\0\0\2{}IDENTIFY\n\0\0\0\x1d{"feature_negotiation": true}'


def test_a_stream_out_of_step_is_noticed(pair: tuple[RawClient, socket.socket]) -> None:
    client, daemon = pair
    daemon.sendall(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(AssertionError, match="out of step"):
        client.read_frame()
