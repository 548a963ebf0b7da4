"""What is left in a broker that is to be emptied, and why it does not go."""

from __future__ import annotations

import pytest

from nsqd.broker import Refused
from nsqd.stats.remaining import Remaining, remaining
from tests.nsqd.protocol_v2.harness import Machine, dpub, error, fin, mpub, pub, sub


def left(machine: Machine) -> list[Remaining]:
    return list(remaining(machine.broker))


def test_nothing_is_left_where_nothing_was() -> None:
    machine = Machine()
    machine.consumer()
    assert left(machine) == []


def test_each_place_with_its_reason() -> None:
    machine = Machine()
    producer = machine.client()
    producer.send(mpub(b"a", b"b", topic="lonely"))
    consumer = machine.consumer(rdy=1)
    producer.send(mpub(b"a", b"b", b"c"))
    assert left(machine) == [Remaining("lonely", "", 2, "no channel"), Remaining("t", "c", 3, "")]
    machine.broker.existing("t").pause_channel("c", True)
    assert left(machine)[1] == Remaining("t", "c", 3, "paused")
    machine.broker.existing("t").pause_channel("c", False)
    consumer.drop()
    assert left(machine)[1] == Remaining("t", "c", 3, "no consumer")
    machine.broker.existing("lonely").pause(True)
    assert left(machine)[0] == Remaining("lonely", "", 2, "paused")


def test_deferred_messages_remain_until_they_are_due() -> None:
    machine = Machine()
    consumer = machine.consumer(rdy=5)
    machine.client().send(dpub(b"later", 1000))
    assert left(machine) == [Remaining("t", "c", 1, "deferred")]
    machine.advance(1)
    (message,) = consumer.messages()
    assert left(machine) == [Remaining("t", "c", 1, "")]
    consumer.send(fin(message.id))
    assert left(machine) == []


@pytest.mark.parametrize("topic", ["t", "new", "e#ephemeral"])
def test_a_draining_broker_takes_nothing(topic: str) -> None:
    """And makes no topics for what it does not take; what it has goes on."""
    machine = Machine()
    consumer = machine.consumer(rdy=5)
    machine.client().send(pub(b"before"))
    machine.broker.refuse_publishing("drain", "draining")
    for name, command in (
        ("PUB", pub(b"x", topic)),
        ("MPUB", mpub(b"x", topic=topic)),
        ("DPUB", dpub(b"x", 1, topic)),
    ):
        client = machine.client().send(command)
        assert client.answers() == [error(f"E_{name}_FAILED {name} failed draining")]
        assert client.closed
    assert list(machine.broker.topics) == ["t"]
    (message,) = consumer.messages()
    consumer.send(fin(message.id))
    assert left(machine) == []
    with pytest.raises(Refused, match="draining"):
        machine.broker.context.refuse_publishing()


def test_consumers_may_still_come() -> None:
    machine = Machine()
    machine.client().send(mpub(b"a", b"b"))
    machine.broker.refuse_publishing("drain", "draining")
    consumer = machine.client().send(sub() + b"RDY 2\n")
    assert len(consumer.new()) == 3
