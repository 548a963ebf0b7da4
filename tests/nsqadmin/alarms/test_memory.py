"""The memory: nodes that disappeared, and nodes that came back."""

from __future__ import annotations

from nsqadmin.alarms.alarm import Kind
from nsqadmin.alarms.memory import Memory
from nsqadmin.model import Draining
from tests.nsqadmin.alarms.looking import kinds, look
from tests.nsqadmin.pages.cluster import NODE, NOW, channel, node, snapshot, topic

OTHER = "10.0.0.2:4151"
HOUR = 3600.0


def gone(memory: Memory) -> list[str]:
    return [each.address for each in memory.gone_nodes]


def test_a_node_that_no_registry_lists_any_more_is_missed() -> None:
    memory = Memory(HOUR)
    held = topic("t", [channel("t", "c", client_count=1, depth=5)])
    look(snapshot(held, nodes=[node(NODE, [held]), node(OTHER)]), memory=memory)
    [alarm] = look(snapshot(nodes=[node(OTHER)], at=NOW + 5), memory=memory)
    assert (alarm.kind, alarm.subject.node, alarm.since) == (Kind.SILENT, NODE, NOW)
    assert alarm.text == "no registry lists it any more, 5 messages out of reach"


def test_it_is_missed_until_it_is_back_or_forgotten() -> None:
    memory = Memory(HOUR)
    for at, nodes, expected in (
        (NOW, [node(NODE), node(OTHER)], []),
        (NOW + 5, [], [Kind.SILENT, Kind.SILENT]),
        (NOW + 10, [node(NODE)], [Kind.SILENT]),
        (NOW + HOUR - 1, [node(NODE)], [Kind.SILENT]),
        (NOW + HOUR, [node(NODE)], []),
    ):
        assert kinds(look(snapshot(nodes=nodes, at=at), memory=memory)) == expected


def test_a_node_at_another_address_is_the_same_if_name_and_port_are() -> None:
    memory = Memory(HOUR)
    memory.note(snapshot(nodes=[node(NODE, hostname="n1"), node(OTHER, hostname="n2")]))
    memory.note(snapshot(nodes=[node("10.0.0.9:4151", hostname="n1")]))
    assert gone(memory) == [OTHER]


def test_a_drained_node_is_not_missed() -> None:
    memory = Memory(HOUR)
    memory.note(snapshot(nodes=[node(NODE, draining=Draining())]))
    memory.note(snapshot())
    assert gone(memory) == []


def test_nodes_that_are_gone_are_bounded() -> None:
    memory = Memory(HOUR)
    memory.note(snapshot(nodes=[node(f"10.0.{n // 256}.{n % 256}:4151") for n in range(1_200)]))
    memory.note(snapshot())
    assert len(gone(memory)) == 1_000


def test_the_losses_of_a_deleted_channel_are_forgotten() -> None:
    memory = Memory(HOUR)
    held = channel("t", "c", damaged_count=1)
    memory.note(snapshot(topic("t", [held])))
    memory.note_channel(held)
    assert memory.loss("t", "c") is not None
    memory.note(snapshot(topic("t")))
    assert memory.loss("t", "c") is None
