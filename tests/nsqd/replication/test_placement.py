"""Which followers are chosen, and when they are exchanged."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from hypothesis import given
from hypothesis import strategies as st

from nsqd.replication.placement import MAX_DISMISSED, Node, Placed, Placement
from nsqd.testing.memory_storage import MemoryStorage

AFTER = 600.0


def node(number: int, zone: str = "", machine: str = "") -> Node:
    """`machine`: one of its own, if none is named."""
    return Node(
        f"{number:032x}",
        f"10.0.0.{number}:4159",
        frozenset({machine or f"m{number}", f"10.0.0.{number}"}),
        zone,
    )


@attrs.define
class Setting:
    """A leader, `nodes` that are known, and those of them that are `away`."""

    us: Node
    nodes: list[Node]
    count: int = 1
    placed: Placed = attrs.field(factory=Placed)
    away: set[str] = attrs.field(factory=set)
    now: float = 0.0
    placement: Placement = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.placement = Placement(self.us, self.count, AFTER)

    def look(self, after: float = 0.0) -> list[Node]:
        self.now += after
        present = {each.life for each in self.placed.followers} - self.away
        self.placed = self.placement.look(self.placed, self.nodes, present, self.now)
        return list(self.placed.followers)

    def rest(self) -> list[Node]:
        """When nothing has changed for long."""
        for _ in range(20):
            self.look(AFTER / 2)
        return self.look()


def fresh(us: Node, nodes: Sequence[Node], count: int) -> list[Node]:
    return Setting(us, list(nodes), count).look()


# --- properties

numbers = st.integers(1, 12)
zones = st.sampled_from(["", "a", "b", "c"])
machines = st.sampled_from(["", "", "", "x", "y"])
clusters = st.lists(st.builds(node, numbers, zones, machines), unique_by=lambda each: each.life, min_size=1)
counts = st.integers(1, 4)


def zones_of(nodes: Sequence[Node]) -> set[str]:
    return {each.zone for each in nodes} - {""}


@given(clusters, counts)
def test_never_this_node_nor_its_machine_nor_two_on_one(nodes: list[Node], count: int) -> None:
    us = nodes[0]
    chosen = fresh(us, nodes, count)
    holders = [us, *chosen]
    assert len(chosen) <= count
    assert len({each.life for each in holders}) == len(holders)
    assert not any(a.shares_machine(b) for a in holders for b in holders if a is not b)
    if len(chosen) < count:  # then everybody else is on a machine that has a copy
        assert all(any(each.shares_machine(holder) for holder in holders) for each in nodes)


@given(clusters, counts)
def test_another_zone_first(nodes: list[Node], count: int) -> None:
    us, holders = nodes[0], [nodes[0]]
    for follower in fresh(us, nodes, count):
        if follower.zone in zones_of(holders) or not follower.zone:
            free = [each for each in nodes if not any(each.shares_machine(holder) for holder in holders)]
            assert zones_of(free) <= zones_of(holders)
        holders.append(follower)


@given(clusters, counts, st.data())
def test_a_node_more_or_less_moves_one_choice_at_most(
    nodes: list[Node], count: int, data: st.DataObject
) -> None:
    """On machines of their own: one more may be the second on a machine, and stand for both of them."""
    nodes = [attrs.evolve(each, machine=frozenset({each.life})) for each in nodes]
    us, gone = nodes[0], data.draw(st.sampled_from(nodes))
    before, after = fresh(us, nodes, count), fresh(us, [each for each in nodes if each is not gone], count)
    if gone is us or gone not in before:
        assert after == before
    else:
        assert len(set(after) - set(before)) <= 1
        assert set(before) - set(after) == {gone}


@given(clusters, counts, st.data())
def test_who_joins_or_is_not_chosen_moves_nothing(nodes: list[Node], count: int, data: st.DataObject) -> None:
    """Also who leaves and comes back in time, in whatever order."""
    setting = Setting(nodes[0], nodes, count)
    before = setting.rest()
    for _ in range(5):
        setting.away = set(data.draw(st.lists(st.sampled_from([each.life for each in nodes]))))
        setting.nodes = data.draw(st.lists(st.sampled_from(nodes)))
        assert setting.look(AFTER / 6)[: len(before)] == before
        setting.away, setting.nodes = set(), nodes
        assert setting.look() == before


@given(clusters, clusters, counts)
def test_followers_come_to_rest_where_they_would_be_without_a_past(
    nodes: list[Node], others: list[Node], count: int
) -> None:
    """Whatever was chosen before, none is needlessly in a worse zone; and none of them is away."""
    setting = Setting(nodes[0], [*nodes, *others], count)
    setting.look()
    setting.nodes = nodes
    setting.away = {each.life for each in others} - {each.life for each in nodes}
    at_rest = setting.rest()
    assert setting.rest() == at_rest
    best = fresh(nodes[0], nodes, count)
    if len(best) == count == 1:
        assert not {each.life for each in at_rest} & setting.away
        elsewhere = [bool(zones_of(chosen) - zones_of(nodes[:1])) for chosen in (at_rest, best)]
        assert elsewhere[0] is elsewhere[1]


def test_choices_are_spread_over_all_and_a_new_node_takes_no_more_than_its_share() -> None:
    nodes = [node(number) for number in range(1, 41)]
    chosen = {us.life: fresh(us, nodes, 1)[0] for us in nodes[:40]}
    loads = [list(chosen.values()).count(each) for each in nodes]
    assert max(loads) <= 5
    joined = [*nodes, node(99)]
    moved = [us for us in nodes if fresh(us, joined, 1) != [chosen[us.life]]]
    assert len(moved) <= 4
    assert all(fresh(us, joined, 1) == [node(99)] for us in moved)


# --- exchanges


def test_a_follower_is_exchanged_when_it_was_away_for_long_and_somebody_else_is_there() -> None:
    setting = Setting(node(1), [node(1), node(2)])
    assert setting.look() == [node(2)]
    setting.away.add(node(2).life)
    setting.nodes = [node(1)]
    assert setting.look(10 * AFTER) == [node(2)]
    setting.nodes = [node(1), node(3)]
    assert setting.look(AFTER) == [node(3)]
    assert setting.placed.dismissed == (node(2),)


def test_one_that_was_back_meanwhile_stays() -> None:
    setting = Setting(node(1), [node(1), node(2)])
    setting.look()
    setting.nodes.append(node(3))
    for _ in range(5):
        setting.away.add(node(2).life)
        assert setting.look(AFTER * 0.6) == [node(2)]
        setting.away.clear()
        assert setting.look(AFTER * 0.6) == [node(2)]


def test_one_whose_registries_are_gone_stays_as_long_as_it_keeps_its_copy_up() -> None:
    setting = Setting(node(1), [node(1), node(2)])
    setting.look()
    setting.nodes = [node(3)]
    assert setting.look(10 * AFTER) == [node(2)]


def test_a_better_zone_is_taken_when_it_has_lasted() -> None:
    us, same, other = node(1, "a"), node(2, "a"), node(3, "b")
    setting = Setting(us, [us, same])
    assert setting.look() == [same]
    setting.nodes = [us, same, other]
    assert setting.look() == [same]
    setting.nodes = [us, same]
    assert setting.look(AFTER) == [same]
    setting.nodes = [us, same, other]
    assert setting.look() == [same]
    assert setting.look(AFTER) == [other]
    assert setting.placed.dismissed == (same,)


def test_a_follower_that_has_moved_to_this_machine_is_exchanged() -> None:
    setting = Setting(node(1), [node(1), node(2)])
    setting.look()
    setting.nodes = [node(1), attrs.evolve(node(2), machine=node(1).machine), node(3)]
    assert setting.look() != [node(3)]
    assert setting.look(AFTER) == [node(3)]


def test_one_whose_disk_was_wiped_is_another_life_at_once_and_nothing_is_left_to_dismiss() -> None:
    setting = Setting(node(1), [node(1), node(2)])
    setting.look()
    wiped = attrs.evolve(node(2), life="f" * 32)
    setting.away.add(node(2).life)
    setting.nodes = [node(1), wiped, node(3)]
    assert setting.look() == [wiped]
    assert setting.placed.dismissed == ()


def test_one_that_was_dismissed_and_wiped_is_not_dismissed_any_more() -> None:
    setting = Setting(node(1), [node(1), node(3)], placed=Placed((node(3),), (node(2),)))
    setting.look()
    assert setting.placed.dismissed == (node(2),)
    setting.nodes.append(attrs.evolve(node(2), life="f" * 32))
    setting.look()
    assert setting.placed == Placed((node(3),))


def test_two_are_never_at_one_address() -> None:
    """Of one of them nothing has been heard of for long, whatever a registry says."""
    same = attrs.evolve(node(4), address=node(2).address)
    setting = Setting(node(1), [node(1), node(2), same], count=2)
    assert len(setting.look()) == 1
    setting = Setting(node(1), [node(1), node(2)], placed=Placed((), (same,)))
    assert setting.look() == [node(2)]
    assert setting.placed.dismissed == ()


def test_one_that_has_moved_is_known_by_its_life() -> None:
    setting = Setting(node(1), [node(1), node(2), node(4)], placed=Placed((node(2),), (node(4),)))
    moved = attrs.evolve(node(2), address="10.9.9.9:4159")
    setting.nodes = [node(1), moved, attrs.evolve(node(4), address="10.9.9.8:4159")]
    assert setting.look() == [moved]
    assert setting.placed.dismissed[0].address == "10.9.9.8:4159"


def test_one_that_was_dismissed_is_chosen_again_when_nobody_else_is_left() -> None:
    """It may be known and not be reached; as may its successor."""
    setting = Setting(node(1), [node(1), node(2)])
    setting.look()
    setting.nodes = [node(1), node(2), node(3), node(4)]
    seen = []
    for _ in range(3):
        setting.away = {each.life for each in setting.nodes}
        seen += setting.look(AFTER)
        setting.look()
    assert len(set(seen)) == 3
    assert setting.placed.followers[0] not in setting.placed.dismissed
    setting.look(AFTER)
    assert len({*setting.placed.followers, *setting.placed.dismissed}) == 3


def test_the_list_of_the_dismissed_is_bounded() -> None:
    many = tuple(node(number) for number in range(20, 60))
    setting = Setting(node(1), [node(1), node(2)], placed=Placed((), many))
    setting.look()
    assert setting.placed.dismissed == many[-MAX_DISMISSED:]


def test_too_few_are_explained() -> None:
    setting = Setting(node(1), [node(1), node(2), attrs.evolve(node(3), machine=node(2).machine)], count=2)
    setting.look()
    said = setting.placement.too_few(setting.placed, setting.nodes)
    assert said == "1 of 2 followers: 2 other nsqds keep copies, no more of them on other hosts"
    setting.nodes.append(node(4))
    setting.look()
    assert setting.placement.too_few(setting.placed, setting.nodes) == ""


# --- over restarts


def test_the_choice_survives_a_restart() -> None:
    storage = MemoryStorage()
    assert Placed.read(storage) == Placed()
    placed = Placed((node(2, "b"), node(3)), (node(4),))
    placed.write(storage)
    assert Placed.read(storage.crash()) == placed
    assert placed.without(node(4).life) == Placed(placed.followers)


@given(st.binary(max_size=60) | st.sampled_from([b"{}", b"[]", b'{"followers":[1],"dismissed":[]}', b"7"]))
def test_a_damaged_note_is_an_empty_one(data: bytes) -> None:
    storage = MemoryStorage()
    storage.replace("nsqd.followers", data)
    assert Placed.read(storage) == Placed()
