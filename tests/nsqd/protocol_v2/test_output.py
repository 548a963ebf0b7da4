"""What leaves of a session's frames, however little the socket takes at a time."""

from __future__ import annotations

import socket
from typing import cast

import attrs
import pytest

from nsqd.protocol_v2 import output as output_module
from nsqd.protocol_v2.layers import Layers, Upgrade
from nsqd.protocol_v2.output import Output
from nsqkit.wire import OK
from nsqkit.wire.compression import DeflateDecoder
from nsqkit.wire.frames import message_frame
from tests.nsqd.protocol_v2.harness import Machine

MESSAGES = [message_frame(number, 1, b"body %d" % number) for number in range(3)]
FRAMES = [MESSAGES[0], OK, MESSAGES[1], OK, MESSAGES[2]]
SIZE = sum(map(len, FRAMES))


@attrs.define
class Socket:
    """Takes `room` bytes."""

    room: int
    taken: bytearray = attrs.field(factory=bytearray)

    def send(self, data: bytes | memoryview) -> int:
        count = min(self.room, len(data))
        self.room -= count
        self.taken += bytes(data[:count])
        if not count:
            raise BlockingIOError
        return count


def output_to(sock: Socket) -> Output:
    """That of a session with `FRAMES` in its outbox."""
    machine = Machine()
    session = machine.client().session
    session.outbox.put(list(FRAMES), SIZE)
    return Output(cast(socket.socket, sock), session)


def expected_after(sent: int) -> tuple[bytes, list[bytes]]:
    """What has left in the end, and what was withdrawn, when the first `sent` bytes had left before."""
    left, withdrawn, at = b"", [], 0
    for frame in FRAMES:
        if frame in MESSAGES and at >= sent:
            withdrawn.append(frame)
        else:
            left += frame
        at += len(frame)
    return left, withdrawn


@pytest.mark.parametrize("sent", range(SIZE + 1))
def test_messages_are_withdrawn_from_every_byte_on(sent: int) -> None:
    sock = Socket(sent)
    output = output_to(sock)
    output.send()
    left, withdrawn = expected_after(sent)
    assert output.withdraw_messages() == withdrawn
    sock.room = SIZE
    if output.waits:
        output.run_pending()
    assert sock.taken == left
    _is_empty(output)


@pytest.mark.parametrize("room", [0, 1, 30, 60, 100, 1000])
@pytest.mark.parametrize("piece", [1, 20, 40, 50, 90, 100, 1000])
def test_messages_are_withdrawn_from_what_is_not_encoded(
    room: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "PIECE", piece)
    sock = Socket(room)
    output = output_to(sock)
    output.layers = Layers(Upgrade(deflate_level=1), None)
    output.layers.compress()
    output.send()
    left, withdrawn = expected_after(output._taken if output.waits else SIZE)
    assert output.withdraw_messages() == withdrawn
    sock.room = 10 * SIZE
    while output.waits:
        output.run_pending()
    decoder = DeflateDecoder()
    decoder.feed(bytes(sock.taken))
    assert decoder.decode(10 * SIZE) == left
    _is_empty(output)


def test_messages_in_the_outbox_are_withdrawn() -> None:
    output = output_to(Socket(SIZE))
    assert output.withdraw_messages() == MESSAGES
    assert not output.send()
    _is_empty(output)


def _is_empty(output: Output) -> None:
    """Nothing waits, and nothing is counted as if it did."""
    assert not output.waits
    assert output._session.outbox.size == 0
    assert output._session.deadlines.blocked_since == float("inf")
    assert output._session.context.buffers.shares.total == 0
    assert output.abandon() == []
