"""SUB, RDY, FIN, REQ, TOUCH, CLS: what a consumer sees."""

from __future__ import annotations

from typing import Any

import pytest

from nsqd.protocol_v2.client_stats import Timings, client_stats
from nsqd.protocol_v2.identify import IdentifyLimits
from nsqd.protocol_v2.session import OUTBOX_LIMIT
from nsqkit.wire import CLOSE_WAIT, OK, decode_message
from tests.nsqd.protocol_v2.harness import (
    Client,
    Machine,
    error,
    fin,
    identify,
    is_message,
    mpub,
    pub,
    sized,
    sub,
)


def machine_with(count: int, **options: Any) -> Machine:
    """A channel `c` on `t` with messages `m0`, `m1`, ..."""
    machine = Machine(**options)
    machine.consumer().drop()
    if count:
        machine.client().send(mpub(*(b"m%d" % number for number in range(count))))
    return machine


def failed(command: str, message_id: bytes, reason: str) -> bytes:
    return error(f"E_{command}_FAILED {command} {message_id.decode()} failed {reason}")


def test_timings_in_the_statistics() -> None:
    machine = machine_with(3)
    client = machine.consumer()
    client.send(b"RDY 2\n")
    assert client_stats(client.session).timings is None
    machine.advance(1)
    assert client.session.subscription is not None
    client.send(fin(next(iter(client.session.subscription.in_flight))))
    machine.advance(2)
    assert client_stats(client.session, machine.now).timings == Timings(2.0, 1.0, 3.0)
    assert client_stats(machine.client().session, machine.now).timings is None


NOT_IN_FLIGHT = "ID not in flight"
NOT_OWNER = "client does not own message"


# --- SUB


def test_sub_and_rdy_in_one_segment() -> None:
    machine = machine_with(1)
    ok, message = machine.client().send(sub() + b"RDY 1\n").new()
    assert ok == OK
    assert decode_message(message).body == b"m0"


def test_the_first_window_is_shut() -> None:
    machine = machine_with(1)
    assert machine.client().send(sub()).new() == [OK]


def test_sub_makes_topic_and_channel() -> None:
    machine = Machine()
    machine.client().send(b"SUB a b#ephemeral\n")
    assert machine.broker.topics.keys() == {"a"}
    assert machine.broker.topics["a"].channels.keys() == {"b#ephemeral"}


def test_too_many_consumers() -> None:
    machine = Machine(max_channel_consumers=2)
    first = machine.consumer()
    machine.consumer()
    client = machine.client().send(sub())
    assert client.answers() == [error("E_SUB_FAILED SUB failed consumers for t:c exceeds limit of 2")]
    assert client.closed
    first.drop()
    assert machine.client().send(sub()).answers() == [OK]


@pytest.mark.parametrize("what", ["channel", "topic"])
def test_a_deleted_channel_closes_its_clients_without_a_frame(what: str) -> None:
    machine = machine_with(3)
    client = machine.consumer()
    client.send(b"RDY 1\n")
    assert len(client.messages()) == 1
    machine.rounds.begin()
    if what == "channel":
        machine.broker.topics["t"].delete_channel("c")
    else:
        machine.broker.delete_topic("t")
    machine.settle()
    assert client.closed
    assert client.new() == []
    assert machine.client().send(sub()).answers() == [OK]


# --- RDY


def test_rdy_is_a_window() -> None:
    """I8: a FIN or REQ frees a place, and delivery goes on without another RDY."""
    machine = machine_with(10)
    client = machine.consumer()
    client.send(b"RDY 3\n")
    first = client.messages()
    assert [message.body for message in first] == [b"m0", b"m1", b"m2"]
    client.send(fin(first[0].id))
    assert client.bodies() == [b"m3"]
    client.send(fin(first[1].id, first[2].id))
    assert client.bodies() == [b"m4", b"m5"]


@pytest.mark.parametrize("rdy", [1, 2, 5])
def test_in_flight_never_passes_the_window(rdy: int) -> None:
    """I8."""
    machine = machine_with(50)
    client = machine.consumer()
    client.send(b"RDY %d\n" % rdy)
    seen = 0
    while messages := client.messages():
        assert len(client.session.subscription.in_flight) <= rdy  # type: ignore[union-attr]
        seen += len(messages)
        client.send(fin(messages[-1].id, *(message.id for message in messages[:-1])))
    assert seen == 50


def test_rdy_zero_stops_and_a_smaller_window_waits_for_room() -> None:
    machine = machine_with(10)
    client = machine.consumer()
    client.send(b"RDY 4\n")
    ids = [message.id for message in client.messages()]
    client.send(b"RDY 2\n" + fin(ids[0], ids[1]))
    assert client.bodies() == []
    client.send(fin(ids[2]))
    assert client.bodies() == [b"m4"]
    client.send(b"RDY 0\n" + fin(ids[3]))
    assert client.bodies() == []


def test_a_paused_channel_delivers_nothing() -> None:
    """I8."""
    machine = machine_with(2)
    client = machine.consumer()
    machine.broker.topics["t"].pause_channel("c", True)
    client.send(b"RDY 5\n")
    assert client.bodies() == []
    machine.broker.topics["t"].pause_channel("c", False)
    machine.settle()
    assert client.bodies() == [b"m0", b"m1"]


def test_one_consumer_gets_all_messages_beyond_the_size_of_its_outbox() -> None:
    """A window wider than the outbox: what the socket took makes room, and the next follow without any input."""
    machine = machine_with(0)
    machine.client().send(mpub(*[b"x" * 1000] * 1000))
    client = machine.consumer()
    client.send(b"RDY 2500\n")
    assert len(client.messages()) == 1000


def test_messages_of_a_connection_that_ends_go_to_another_at_once() -> None:
    """I4."""
    machine = machine_with(5)
    one, two = machine.consumer(), machine.consumer()
    one.send(b"RDY 5\n")
    assert len(one.bodies()) == 5
    two.send(b"RDY 5\n")
    one.eof()
    assert [(m.body, m.attempts) for m in two.messages()] == [(b"m%d" % number, 2) for number in range(5)]


# --- FIN


@pytest.mark.parametrize("piece", [1, 20, 21, 22, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b" x\n"])
def test_a_run_of_fins(piece: int, end: bytes) -> None:
    machine = machine_with(20)
    client = machine.consumer()
    client.send(b"RDY 20\n")
    ids = [message.id for message in client.messages()]
    client.send_in_pieces(b"".join(b"FIN " + message_id + end for message_id in ids), piece)
    assert client.answers() == []
    channel = machine.channel()
    assert (channel.counts.finished, channel.in_flight_count, channel.depth) == (20, 0, 0)


def test_fin_twice() -> None:
    machine = machine_with(3)
    client = machine.consumer()
    client.send(b"RDY 3\n")
    one, two, three = (message.id for message in client.messages())
    client.send(fin(one) + fin(one, two, one, three, two))
    assert client.answers() == [failed("FIN", message_id, NOT_IN_FLIGHT) for message_id in (one, one, two)]
    assert not client.closed
    assert machine.channel().counts.finished == 3


def test_fin_of_anothers() -> None:
    machine = machine_with(1)
    one, two = machine.consumer(), machine.consumer()
    one.send(b"RDY 1\n")
    (message,) = one.messages()
    for command in ("FIN", "TOUCH"):
        two.send(f"{command} {message.id.decode()}\n".encode())
        assert two.answers() == [failed(command, message.id, NOT_OWNER)]
    two.send(b"REQ " + message.id + b" 0\n")
    assert two.answers() == [failed("REQ", message.id, NOT_OWNER)]
    one.send(fin(message.id))
    two.send(fin(message.id))
    assert two.answers() == [failed("FIN", message.id, NOT_IN_FLIGHT)]
    assert not two.closed


def test_fin_on_another_channel_is_not_in_flight() -> None:
    machine = machine_with(0)
    one, two = machine.consumer(channel="c"), machine.consumer(channel="d")
    machine.client().send(pub(b"x"))
    one.send(b"RDY 1\n")
    (message,) = one.messages()
    two.send(fin(message.id))
    assert two.answers() == [failed("FIN", message.id, NOT_IN_FLIGHT)]


def test_errors_between_messages() -> None:
    """An error that is not fatal stands in line with the messages, and delivery goes on."""
    machine = machine_with(4)
    client = machine.consumer()
    client.send(b"RDY 1\n")
    for _ in range(3):
        (message,) = client.messages()
        client.send(b"TOUCH %016d\n" % 0 + fin(message.id))
        first, second = client.new()
        assert first == failed("TOUCH", b"0" * 16, NOT_IN_FLIGHT)
        assert is_message(second)
        client._read -= len(second)
    assert not client.closed


def test_fin_after_the_time_out() -> None:
    machine = machine_with(1)
    client = machine.consumer(msg_timeout=1000)
    client.send(b"RDY 1\n")
    (message,) = client.messages()
    client.send(b"RDY 0\n")
    machine.advance(1)
    client.send(fin(message.id))
    assert client.answers() == [failed("FIN", message.id, NOT_IN_FLIGHT)]
    client.send(b"RDY 1\n")
    (again,) = client.messages()
    assert (again.id, again.body, again.attempts) == (message.id, message.body, 2)


# --- REQ


def test_req_at_once_and_later() -> None:
    """I5 and I6."""
    machine = machine_with(1)
    client = machine.consumer()
    client.send(b"RDY 1\n")
    (message,) = client.messages()
    client.send(b"REQ " + message.id + b" 0\n")
    (message,) = client.messages()
    assert message.attempts == 2
    client.send(b"REQ " + message.id + b" 1000\n")
    machine.advance(0.875)
    assert client.messages() == []
    machine.advance(0.125)
    (message,) = client.messages()
    assert message.attempts == 3
    client.send(b"REQ " + message.id + b" \n")
    (message,) = client.messages()
    assert message.attempts == 4


@pytest.mark.parametrize("delay", [b"5001", b"99999999999999", b"9" * 30, b"9" * 500])
def test_a_delay_beyond_the_limit_is_the_limit(delay: bytes) -> None:
    machine = machine_with(1, max_req_timeout_ms=5000)
    client = machine.consumer()
    client.send(b"RDY 1\n")
    (message,) = client.messages()
    client.send(b"REQ " + message.id + b" " + delay + b"\n")
    assert client.messages() == []
    machine.advance(4.875)
    assert client.messages() == []
    machine.advance(0.125)
    assert len(client.messages()) == 1


def test_req_twice() -> None:
    machine = machine_with(1)
    client = machine.consumer()
    client.send(b"RDY 1\n")
    (message,) = client.messages()
    client.send(b"REQ " + message.id + b" 1000\n" + b"REQ " + message.id + b" 1000\n" + fin(message.id))
    assert client.answers() == [
        failed("REQ", message.id, NOT_IN_FLIGHT),
        failed("FIN", message.id, NOT_IN_FLIGHT),
    ]
    assert not client.closed


# --- TOUCH


def test_touch_begins_the_time_out_anew() -> None:
    machine = machine_with(1)
    client = machine.consumer(msg_timeout=1000)
    client.send(b"RDY 1\n")
    (message,) = client.messages()
    for _ in range(4):
        machine.advance(0.75)
        client.send(b"TOUCH " + message.id + b"\n")
    assert client.answers() == []
    machine.advance(1)
    (again,) = client.messages()
    assert again.attempts == 2


def test_the_time_out_of_identify_rules() -> None:
    """I4."""
    machine = machine_with(1, limits=IdentifyLimits(msg_timeout=5000))
    client = machine.consumer(msg_timeout=2000)
    client.send(b"RDY 1\n")
    assert len(client.messages()) == 1
    machine.advance(1.875)
    assert client.messages() == []
    machine.advance(0.125)
    assert len(client.messages()) == 1


def test_a_client_without_identify_has_the_time_out_of_the_options() -> None:
    """I4. As everybody who asks for none has."""
    machine = machine_with(2, limits=IdentifyLimits(msg_timeout=5000))
    for client in (machine.consumer(), machine.consumer(client_id="x")):
        assert len(client.send(b"RDY 1\n").messages()) == 1
    machine.advance(4.875)
    channel = machine.channel()
    assert (channel.counts.timed_out, channel.in_flight_count) == (0, 2)
    machine.advance(0.125)
    assert channel.counts.timed_out == 2


# --- CLS


def test_cls() -> None:
    """I8: nothing more is delivered; what is in flight may still be answered."""
    machine = machine_with(5)
    client = machine.consumer()
    client.send(b"RDY 3\n")
    one, two, three = (message.id for message in client.messages())
    client.send(b"CLS\n")
    assert client.answers() == [CLOSE_WAIT]
    client.send(fin(one) + b"TOUCH " + two + b"\n" + b"REQ " + two + b" 0\n" + b"RDY 5\n" + pub(b"y", "u"))
    assert client.answers() == [OK]
    assert not client.closed
    other = machine.consumer()
    other.send(b"RDY 9\n")
    assert sorted(other.bodies()) == [b"m1", b"m3", b"m4"]
    client.send(b"CLS\n")
    assert client.answers() == [error("E_INVALID cannot CLS in current state")]
    assert client.closed
    assert [message.id for message in other.messages()] == [three]


# --- the end


@pytest.mark.parametrize("end", ["error", "eof"])
def test_a_connection_that_is_ending_gets_no_more_messages(end: str) -> None:
    """I8; or its end would wait for the whole window."""
    machine = machine_with(100)
    client = machine.consumer()
    machine.rounds.begin()
    client.session.feed(b"RDY 50\n" + (b"what\n" if end == "error" else b""))
    if end == "eof":
        client.session.eof()
    machine.settle()
    assert client.closed
    assert not any(map(is_message, client.new()))
    assert machine.channel().depth == 100


def test_frames_that_the_socket_never_took_go_back_without_an_attempt() -> None:
    """I5: it was never delivered."""
    machine = machine_with(3)
    client = machine.consumer()
    client.taking = False
    client.send(b"RDY 2\n")
    client.drop()
    other = machine.consumer()
    other.send(b"RDY 9\n")
    assert sorted((m.body, m.attempts) for m in other.messages()) == [(b"m0", 1), (b"m1", 1), (b"m2", 1)]


def test_a_client_that_takes_nothing_gets_no_more_than_its_outbox_holds() -> None:
    """I12: RDY alone is no bound; and I7: another consumer goes on."""
    machine = machine_with(0)
    stuck, other = machine.consumer(), machine.consumer()
    stuck.taking = False
    stuck.send(b"RDY 2500\n")
    producer = machine.client()
    for _ in range(20):
        producer.send(b"PUB t\n" + sized(bytes(1 << 20)))
    assert stuck.session.outbox.size <= OUTBOX_LIMIT + (1 << 20) + 34
    other.send(b"RDY 2500\n")
    assert len(other.messages()) == 20 - len(stuck.session.outbox.items)
    assert producer.answers() == [OK] * 20


def test_a_client_that_does_not_take_its_answers_is_not_read_for_ever() -> None:
    """I12."""
    machine = machine_with(0)
    client = machine.consumer()
    client.taking = False
    for _ in range(1000):
        if not client.session.wants_input:
            break
        client.send(fin(b"0" * 16) * 1000)
    else:
        raise AssertionError("it is still read")
    assert client.session.outbox.size < 2 << 20
    client.take()
    assert client.session.wants_input


def test_a_crowded_daemon_reads_less() -> None:
    """I12: with much waiting for slow sockets, a connection with a full outbox is read no further."""
    machine = machine_with(0, max_buffered_bytes=1000)
    client = machine.consumer()
    client.taking = False
    while client.session.outbox.size < OUTBOX_LIMIT:
        client.send(fin(b"0" * 16) * 1000)
    assert client.session.wants_input
    machine.hold(501)
    assert not client.session.wants_input


def test_sampling_discards() -> None:
    machine = machine_with(0)
    client = machine.consumer(rdy=2500, sample_rate=10)
    machine.client().send(mpub(*[b"x"] * 2000))
    count = len(client.messages())
    assert 100 < count < 400
    channel = machine.channel()
    assert (channel.depth, channel.in_flight_count, channel.counts.dropped) == (0, count, 2000 - count)


def test_two_identities_on_one_channel() -> None:
    machine = machine_with(4)
    clients: list[Client] = [machine.client().send(identify(client_id=str(n)) + sub()) for n in range(2)]
    for client in clients:
        client.new()
        client.send(b"RDY 2\n")
    assert sorted(clients[0].bodies() + clients[1].bodies()) == [b"m0", b"m1", b"m2", b"m3"]


def test_sampled_out_messages_leave_no_redelivery_marks() -> None:
    """I12: those, too, that had lost a connection before."""
    machine = Machine()
    machine.consumer()  # keeps the channel
    machine.client().send(mpub(*[b"x"] * 1000))
    machine.consumer().send(b"RDY 2500\n").drop()
    machine.consumer(sample_rate=1).send(b"RDY 2500\n")
    channel = machine.channel()
    assert channel.counts.dropped > 800
    assert len(channel._lost_connections) == channel.in_flight_count
