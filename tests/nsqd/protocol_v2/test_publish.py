"""PUB, MPUB and DPUB: sizes are judged before the body is there, batches are whole or nothing, failures are told."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsqd.testing.faulty_storage import Fail
from nsqkit.wire import OK
from tests.nsqd.protocol_v2.harness import Client, Machine, dpub, error, mpub, pub, size, sized, sub


def bodies_of(machine: Machine, topic: str = "t") -> list[bytes]:
    """What the channel of the topic gets, which is made now if it is not there."""
    client = machine.consumer(topic=topic)
    client.send(b"RDY 2500\n")
    return client.bodies()


# --- what arrives


def test_bodies_arrive_in_order_and_unchanged() -> None:
    """I2 and I11."""
    machine = Machine()
    client = machine.client().send(pub(b"\0\n\xff") + mpub(b"PUB t\n", b"b") + dpub(b"c", 0) + pub(b"d"))
    assert client.answers() == [OK] * 4
    assert bodies_of(machine) == [b"\0\n\xff", b"PUB t\n", b"b", b"c", b"d"]


def test_ids_differ_and_the_time_is_that_of_publishing() -> None:
    machine = Machine()
    machine.client().send(mpub(*(b"x" for _ in range(500))))
    then = machine.wall_ns
    machine.advance(5)
    consumer = machine.consumer()
    consumer.send(b"RDY 2500\n")
    messages = consumer.messages()
    assert len({message.id for message in messages}) == 500
    assert {message.timestamp_ns for message in messages} == {then}
    assert all(len(message.id) == 16 and message.id == message.id.lower() for message in messages)


def test_ids_of_a_batch_that_crosses_every_boundary_of_digits() -> None:
    machine = Machine()
    machine.client().send(sub() + b"CLS\n")  # makes the topic
    machine.broker.store.ids.next = (machine.broker.store.ids.next | 0xFFF) - 3
    first = machine.broker.store.ids.next
    machine.client().send(mpub(*(b"x" * (1 + number % 3) for number in range(10))))
    consumer = machine.consumer()
    consumer.send(b"RDY 2500\n")
    assert [message.id for message in consumer.messages()] == [b"%016x" % (first + n) for n in range(10)]


def test_a_deferred_message_comes_when_it_is_due() -> None:
    """I6."""
    machine = Machine()
    consumer = machine.consumer(rdy=5)
    machine.client().send(dpub(b"later", 1500) + pub(b"now"))
    assert consumer.bodies() == [b"now"]
    machine.advance(1.375)
    assert consumer.bodies() == []
    machine.advance(0.25)
    assert consumer.bodies() == [b"later"]


def test_a_subscribed_connection_may_publish_and_a_publishing_one_subscribe() -> None:
    machine = Machine()
    client = machine.client().send(pub(b"x") + sub() + pub(b"y", "u") + b"CLS\n" + pub(b"z", "u"))
    assert not client.closed
    assert bodies_of(machine, "u") == [b"y", b"z"]


# --- sizes


@pytest.mark.parametrize("limit", [1, 10, 1000])
def test_the_largest_message(limit: int) -> None:
    machine = Machine(max_msg_size=limit)
    body = b"x" * limit
    client = machine.client().send(pub(body) + dpub(body, 0) + mpub(body))
    assert client.answers() == [OK] * 3
    for data, name in [
        (pub(body + b"y"), "PUB"),
        (dpub(body + b"y", 0), "DPUB"),
        (mpub(b"x", body + b"y"), "MPUB"),
    ]:
        client = machine.client().send(data)
        assert client.answers() == [error(f"E_BAD_MESSAGE {name} message too big {limit + 1} > {limit}")]
        assert client.closed
    assert bodies_of(machine) == [body] * 3


@pytest.mark.parametrize("line", [b"PUB t\n", b"DPUB t 0\n"])
def test_a_size_is_judged_before_the_body_is_there(line: bytes) -> None:
    """I12."""
    machine = Machine(max_msg_size=100)
    client = machine.client().send(line + size(101))
    assert client.closed
    assert machine.context.buffered == 0


def test_a_bad_name_is_judged_before_the_body_is_there() -> None:
    for line in (b"PUB !\n", b"MPUB !\n", b"DPUB ! 0\n"):
        assert Machine().client().send(line).closed


def test_the_parts_of_a_batch_are_judged_as_they_come() -> None:
    machine = Machine(max_msg_size=100, max_body_size=1000)
    for head in (size(1001), size(9) + size(200), size(9) + size(2) + size(101)):
        client = machine.client().send(b"MPUB t\n" + head)
        assert client.closed
        assert len(client.answers()) == 1
    client = machine.client().send(b"MPUB t\n" + size(9) + size(2) + sized(b"x") + b"\0\0\0")
    assert not client.closed
    client.send(b"\x65")
    assert client.answers() == [error("E_BAD_MESSAGE MPUB message too big 101 > 100")]


# --- batches


@pytest.mark.parametrize("declared", [1, 4, 5, 21, 22, 23, 1000, 5242880])
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_the_inner_sizes_of_a_batch_rule(declared: int, piece: int) -> None:
    """The declared size is only checked for its range: a wrong one does not put the stream out of step."""
    machine = Machine()
    client = machine.client()
    client.send_in_pieces(mpub(b"one", b"two", b"xyz", declared=declared) + pub(b"after"), piece)
    assert client.answers() == [OK, OK]
    assert bodies_of(machine) == [b"one", b"two", b"xyz", b"after"]


@pytest.mark.parametrize("piece", [1, 7, 99, 1000])
def test_a_batch_that_grows_beyond_any_body_is_refused_as_it_grows(piece: int) -> None:
    """I12: the inner sizes rule, but not over the limit on bodies."""
    machine = Machine(max_body_size=300)
    client = machine.client().send_in_pieces(mpub(*[b"x" * 50] * 20, declared=100), piece)
    (frame,) = client.answers()
    assert frame[8:].startswith(b"E_BAD_BODY MPUB body too big")
    assert client.closed
    assert machine.context.buffered == 0
    assert bodies_of(machine) == []


def test_the_largest_batch() -> None:
    machine = Machine(max_body_size=400)
    assert machine.client().send(mpub(*[b"x"] * 79)).answers() == [OK]
    client = machine.client().send(mpub(*[b"x"] * 80, declared=400))
    assert client.answers() == [error("E_BAD_BODY MPUB invalid message count 80")]
    body = b"x" * 392
    assert machine.client().send(mpub(body)).answers() == [OK]
    assert machine.client().send(mpub(body + b"x", declared=400)).closed


@pytest.mark.parametrize("bad", [0, -1, 1048577])
@pytest.mark.parametrize("piece", [1, 5, 1000])
def test_all_or_nothing(bad: int, piece: int) -> None:
    """I10: a batch with one bad message publishes none."""
    machine = Machine()
    data = b"MPUB t\n" + size(50) + size(3) + sized(b"one") + sized(b"two") + size(bad)
    client = machine.client().send_in_pieces(data, piece)
    assert client.closed
    assert bodies_of(machine) == []


def test_a_batch_that_breaks_off_publishes_nothing() -> None:
    """I10; the topic is there all the same."""
    machine = Machine()
    data = mpub(b"one", b"two", b"three")
    for cut in range(8, len(data)):
        machine.client().send(data[:cut]).eof()
    assert bodies_of(machine) == []
    machine.client().send(b"MPUB other\n")
    assert "other" in machine.broker.topics


def test_a_topic_is_made_by_pub_when_the_body_is_there() -> None:
    machine = Machine()
    client = machine.client().send(b"PUB t\n" + size(1))
    assert "t" not in machine.broker.topics
    client.send(b"x")
    assert "t" in machine.broker.topics


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=20), st.data())
def test_any_batch_in_any_pieces(bodies: list[bytes], data: st.DataObject) -> None:
    machine = Machine()
    client = machine.client()
    stream = mpub(*bodies) + pub(b"end")
    position = 0
    while position < len(stream):
        piece = data.draw(st.integers(1, len(stream) - position))
        client.send(stream[position : position + piece])
        position += piece
    assert client.answers() == [OK, OK]
    assert bodies_of(machine) == [*bodies, b"end"]


# --- memory


def test_unfinished_bodies_count_against_a_limit_of_the_daemon() -> None:
    """I12: whoever goes beyond it is refused, what it held is free again, and the others go on."""
    machine = Machine(max_buffered_bytes=300_000)
    clients: list[Client] = []
    for _ in range(10):
        clients.append(machine.client().send(b"PUB t\n" + size(100_000) + b"x" * 60_000))
    refused = [client for client in clients if client.closed]
    assert 5 <= len(refused) <= 6
    for client in refused:
        assert client.answers()[0][8:].startswith(b"E_INVALID ")
    assert machine.context.buffered <= 300_000 + 60_020
    small = machine.client().send_in_pieces(pub(b"small" * 100), 5)
    assert small.answers() == [OK]
    for client in clients:
        if not client.closed:
            client.drop()
    assert machine.context.buffered == 0
    assert machine.client().send_in_pieces(pub(b"x" * 100_000), 50_000).answers() == [OK]


@pytest.mark.parametrize("number", [100, 2_000])
def test_buffered_bytes_are_given_back(number: int) -> None:
    machine = Machine()
    client = machine.client()
    for data in (pub(b"x" * number), mpub(b"x" * number, b"y"), dpub(b"x" * number, 1)):
        for piece in (1, 7, 64):
            client.send_in_pieces(data, piece)
            assert machine.context.buffered == 0
    assert client.answers() == [OK] * 9


# --- failures


@pytest.mark.parametrize(
    ("data", "name"),
    [(pub(b"x"), "PUB"), (mpub(b"x", b"y"), "MPUB"), (dpub(b"x", 0), "DPUB"), (dpub(b"x", 9), "DPUB")],
)
def test_a_failed_append_is_told_by_the_command_that_failed(data: bytes, name: str) -> None:
    """I15: never OK."""
    machine = Machine()
    machine.client().send(pub(b"before"))
    machine.fail_appends()
    client = machine.client().send(data)
    assert client.answers() == [error(f"E_{name}_FAILED {name} failed Input/output error")]
    assert client.closed
    machine.heal()
    assert machine.client().send(pub(b"after")).answers() == [OK]
    assert bodies_of(machine) == [b"before", b"after"]


@pytest.mark.parametrize(
    ("data", "name"), [(pub(b"x"), "PUB"), (mpub(b"x", b"y"), "MPUB"), (dpub(b"x", 0), "DPUB")]
)
@pytest.mark.parametrize("topic_is_there", [True, False])
def test_a_full_disk_is_told_by_the_command(data: bytes, name: str, topic_is_there: bool) -> None:
    machine = Machine()
    if topic_is_there:
        machine.client().send(pub(b"before"))
    machine.broker.store.space.full = "no space left on device"
    client = machine.client().send(data)
    assert client.answers() == [error(f"E_{name}_FAILED {name} failed no space left on device")]
    assert client.closed


@pytest.mark.parametrize(
    ("data", "name"),
    [(pub(b"x"), "PUB"), (mpub(b"x", b"y"), "MPUB"), (dpub(b"x", 0), "DPUB"), (dpub(b"x", 9), "DPUB")],
)
def test_a_limit_is_told_by_the_command(data: bytes, name: str) -> None:
    """What came before in the same round is published."""
    machine = Machine()
    machine.consumer(rdy=0)
    machine.broker.topics["t"].set_channel_limits("c", {"max_depth": 1})
    client = machine.client().send(pub(b"before") + data)
    reason = "max_depth of channel c is 1, and 1 messages wait"
    assert client.answers() == [OK, error(f"E_{name}_FAILED {name} failed {reason}")]
    assert client.closed
    assert machine.client().send(pub(b"elsewhere", topic="u")).answers() == [OK]
    assert bodies_of(machine) == [b"before"]


def test_a_sub_that_makes_a_topic_on_a_full_disk_gets_an_error() -> None:
    machine = Machine()
    machine.broker.store.space.full = "no space left on device"
    client = machine.client().send(sub())
    assert client.answers() == [error("E_SUB_FAILED SUB failed no space left on device")]
    assert client.closed


def test_no_ids_no_publish() -> None:
    machine = Machine()
    machine.client().send(pub(b"before"))
    machine.broker.store.ids._limit = machine.broker.store.ids.next
    machine.storage.fault = lambda _operation, path: Fail(errno.EIO) if "ids" in path else None
    client = machine.client().send(pub(b"x"))
    assert client.answers() == [error("E_PUB_FAILED PUB failed Input/output error")]


def test_failures_are_forgotten_once_they_are_answered() -> None:
    """I12: also those that nobody waits for (a FIN that could not be written)."""
    machine = Machine()
    consumer = machine.consumer(rdy=100)
    machine.client().send(mpub(*[b"x"] * 10))
    ids = [message.id for message in consumer.messages()]
    machine.fail_appends()
    for message_id in ids:
        consumer.send(b"FIN " + message_id + b"\n")
    assert machine.broker.failures == []
    assert machine.broker.topics["t"].failed == {}
