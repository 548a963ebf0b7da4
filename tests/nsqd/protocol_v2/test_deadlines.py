"""Heartbeats and time limits, with a clock that is moved by hand."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from nsqd.protocol_v2.deadlines import UNFINISHED_TIMEOUT
from nsqd.protocol_v2.session import CLOSE_TIMEOUT, MAGIC_TIMEOUT
from nsqkit.wire import HEARTBEAT, OK
from tests.nsqd.protocol_v2.harness import Machine, error, fin, identify, mpub, pub, sized, sub
from tests.nsqd.protocol_v2.serving import serving

SECOND = identify(heartbeat_interval=1000)


def test_the_default_interval_is_thirty_seconds() -> None:
    machine = Machine()
    client = machine.client()
    machine.advance(29.875)
    assert client.answers() == []
    machine.advance(0.125)
    assert client.answers() == [HEARTBEAT]
    client.send(b"NOP\n")
    machine.advance(30)
    assert client.answers() == [HEARTBEAT]


def test_identify_begins_a_new_interval() -> None:
    machine = Machine()
    client = machine.client()
    machine.advance(20)
    client.send(identify(heartbeat_interval=15_000))
    client.answers()
    machine.advance(14.875)
    assert client.answers() == []
    machine.advance(0.125)
    assert client.answers() == [HEARTBEAT]


@pytest.mark.parametrize("subscribed", [False, True])
def test_ticks_come_beside_other_frames(subscribed: bool) -> None:
    machine = Machine()
    client = machine.client().send(SECOND + (sub() if subscribed else b""))
    client.answers()
    for _ in range(20):
        client.send(pub(b"x"))
        machine.advance(0.25)
    assert client.answers().count(HEARTBEAT) == 5


def test_a_silent_client_gets_two_ticks_and_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """Heartbeats at 1.0 and 2.0 s, the end at 2.0 s, without an error frame."""
    caplog.set_level("INFO")
    machine = Machine()
    client = machine.client().send(SECOND)
    assert client.answers() == [OK]
    machine.advance(1)
    assert client.answers() == [HEARTBEAT]
    machine.advance(0.875)
    assert not client.closed
    machine.advance(0.125)
    assert client.closed
    assert client.answers() == [HEARTBEAT]
    assert "closing: no command within two heartbeat intervals (2 s)" in caplog.text


@pytest.mark.parametrize("command", [b"NOP\n", pub(b"x"), b"RDY 1\n", fin(b"0" * 16)])
def test_any_whole_command_is_a_sign_of_life(command: bytes) -> None:
    machine = Machine()
    client = machine.client().send(SECOND + sub())
    for _ in range(5):
        machine.advance(1.875)
        client.send(command)
    assert not client.closed
    machine.advance(2)
    assert client.closed


@pytest.mark.parametrize("piece", [b"N", b"PUB t\n\0\0\1\0x"])
def test_a_part_of_a_command_is_none(piece: bytes) -> None:
    machine = Machine()
    client = machine.client().send(SECOND)
    machine.advance(1.5)
    client.send(piece)
    machine.advance(0.5)
    assert client.closed
    assert machine.context.buffered == 0


def test_a_body_that_trickles_in_ends_at_the_deadline() -> None:
    machine = Machine()
    client = machine.client().send(SECOND + b"PUB t\n\0\0\1\0")
    for _ in range(16):
        client.send(b"x")
        machine.advance(0.125)
    assert client.closed


def test_the_time_for_the_magic_is_limited(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    machine = Machine()
    client = machine.client(b"  V")
    machine.advance(MAGIC_TIMEOUT - 0.125)
    assert not client.closed
    machine.advance(0.125)
    assert client.closed
    assert client.output == b""
    assert "closing: no protocol version within 10 s" in caplog.text


OFF = identify(heartbeat_interval=-1)


@pytest.mark.parametrize("pieces", [[b"N"], [b"PUB t\n\0\0\1\0x"], [b"PUB t\n\0\0\1\0"] + [b"x"] * 100])
def test_without_heartbeats_a_command_must_be_complete_in_time(
    pieces: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """Also when it trickles in: otherwise strangers could keep our memory in use for ever (I12)."""
    caplog.set_level("INFO")
    machine = Machine()
    client = machine.client().send(OFF)
    machine.advance(200)
    for number in range(len(pieces)):
        client.send(pieces[number])
        machine.advance(0.5)
    machine.advance(UNFINISHED_TIMEOUT - len(pieces) * 0.5 - 0.125)
    assert not client.closed
    machine.advance(0.125)
    assert client.closed
    assert machine.context.buffered == 0
    assert "closing: incomplete command after 60 s" in caplog.text


def test_without_heartbeats_each_command_has_its_own_time() -> None:
    machine = Machine()
    client = machine.client().send(OFF + b"NO")
    for _ in range(5):
        machine.advance(UNFINISHED_TIMEOUT - 1)
        client.send(b"P\nNO")
    assert not client.closed
    client.send(b"P\n")
    machine.advance(10 * UNFINISHED_TIMEOUT)
    assert not client.closed


def test_without_heartbeats_the_socket_must_take_something_in_time() -> None:
    machine = Machine()
    client = machine.client().send(OFF)
    client.taking = False
    client.send(pub(b"x"))
    machine.advance(UNFINISHED_TIMEOUT - 0.125)
    assert not client.closed
    machine.advance(0.125)
    assert client.closed


def test_without_heartbeats_a_client_that_is_not_read_is_not_late() -> None:
    """The rest of a command that is in its socket is not read while too much waits for that."""
    machine = Machine()
    client = machine.client().send(OFF)
    client.taking = False
    client.send(identify(feature_negotiation=True, heartbeat_interval=-1) * 4000 + b"NO")
    assert not client.session.wants_input
    for _ in range(10):
        machine.advance(UNFINISHED_TIMEOUT / 2)
        client.session.blocked(True)
    assert not client.closed
    client.take()
    client.send(b"P\n")
    machine.advance(10 * UNFINISHED_TIMEOUT)
    assert not client.closed


def test_no_heartbeats_no_deadlines_no_subscription() -> None:
    machine = Machine()
    client = machine.client().send(OFF)
    assert client.answers() == [OK]
    machine.advance(300)
    assert client.answers() == []
    assert not client.closed
    client.send(sub())
    assert client.answers() == [error("E_INVALID cannot SUB with heartbeats disabled")]


# --- the write side


def test_a_client_that_takes_nothing_is_dropped_after_one_interval(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its messages go back (I4), and the channel goes on without it (I7)."""
    caplog.set_level("INFO")
    machine = Machine()
    client = machine.consumer(rdy=10, heartbeat_interval=4000)
    client.taking = False
    machine.client().send(mpub(b"one", b"two"))
    for _ in range(3):
        machine.advance(1)
        client.send(b"NOP\n")  # it is alive otherwise
    machine.advance(0.875)
    assert not client.closed
    machine.advance(0.125)
    assert client.closed
    other = machine.consumer()
    other.send(b"RDY 10\n")
    assert [(m.body, m.attempts) for m in other.messages()] == [(b"one", 1), (b"two", 1)]
    assert "closing: write stalled for longer than the heartbeat interval (4 s)" in caplog.text


def test_any_part_that_is_taken_is_progress() -> None:
    machine = Machine()
    client = machine.consumer(rdy=10, heartbeat_interval=4000)
    client.taking = False
    machine.client().send(pub(b"x" * 5000))
    for _ in range(5):
        machine.advance(3)
        client.send(b"NOP\n")
        client.session.blocked(True)
    assert not client.closed
    machine.advance(4)
    assert client.closed


def test_a_client_that_takes_again_is_not_dropped() -> None:
    machine = Machine()
    client = machine.consumer(rdy=10, heartbeat_interval=4000)
    client.taking = False
    machine.client().send(pub(b"x"))
    machine.advance(3.5)
    client.take()
    assert client.bodies() == [b"x"]
    client.send(b"NOP\n")
    machine.advance(7.875)
    assert not client.closed


@pytest.mark.parametrize("heartbeat", [-1, 1000, 60_000])
@pytest.mark.parametrize("by_error", [False, True])
def test_the_last_answers_do_not_wait_for_ever(heartbeat: int, by_error: bool) -> None:
    """A client that ends, by an error or by itself, and never takes what is left, is dropped all the same (I12)."""
    machine = Machine()
    client = machine.client().send(identify(heartbeat_interval=heartbeat))
    client.taking = False
    client.send(pub(b"x"))
    if by_error:
        client.send(b"what\n")
    else:
        client.eof()
    assert not client.closed
    machine.advance(CLOSE_TIMEOUT)
    assert client.closed


def test_a_client_that_is_not_read_is_not_silent() -> None:
    """While too much waits for its socket nothing is read from it: that must not count as silence."""
    machine = Machine(max_msg_size=4 << 20)
    client = machine.consumer(rdy=1, heartbeat_interval=1000)
    client.taking = False
    machine.client().send(b"PUB t\n" + sized(b"x" * (3 << 20)))
    assert not client.session.wants_input
    for _ in range(40):  # the socket takes a little all the time
        machine.advance(0.125)
        client.session.blocked(True)
    assert not client.closed
    client.take()
    assert client.session.wants_input
    client.send(b"NOP\n")
    assert not client.closed


def test_timers_go_with_their_sessions() -> None:
    """Connections that came and went leave nothing behind (I12)."""
    machine = Machine()
    for _ in range(50):
        machine.client().drop()
    machine.advance(61)
    assert len(machine.broker.timers._heap) < 5
    assert not machine.sessions


@pytest.mark.timeout(20)
def test_a_heartbeat_that_is_due_after_a_fatal_error_is_due_once() -> None:
    """It is not sent any more; its moment, once passed, must not come again and again within one round."""
    machine = Machine()
    client = machine.client().send(identify(heartbeat_interval=1000))
    assert client.answers() == [OK]
    client.taking = False
    client.send(b"BOGUS\n")
    machine.advance(0.875)
    client.session.blocked(True)  # the socket took a part
    machine.advance(0.25)
    assert not client.closed
    assert machine.broker.timers.next() > machine.now
    client.take()
    assert client.answers() == [error("E_INVALID invalid command BOGUS")]
    assert client.closed


@pytest.mark.timeout(20)
async def test_a_client_that_stays_connected_after_a_fatal_error_delays_no_other(
    autojump_clock: object,
) -> None:
    """It has got a fatal error shortly before, and does not close its side."""
    async with serving("plain") as server:
        lingering, other = await server.connect(), await server.connect()
        await lingering.send(identify(heartbeat_interval=1000))
        await lingering.frames(1)
        await trio.sleep(0.9)
        await lingering.send(b"BOGUS\n")
        await lingering.frames(1)
        await trio.sleep(0.5)
        await other.send(pub(b"x"))
        assert await other.frames(1) == [OK]
