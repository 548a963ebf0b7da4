"""The snapshot of a user who is limited to some topics."""

from __future__ import annotations

from msgspec.structs import replace

from nsqadmin.auth import ALL_TOPICS, Topics
from nsqadmin.cluster.selection import Selections, select
from nsqadmin.model import Copies, Draining, StuckPlace
from tests.nsqadmin.pages.cluster import NODE, channel, node, problem, snapshot, topic

ORDERS = Topics(("orders.*",))
TOPICS = [
    topic("orders.new", [channel("orders.new", "mail", depth=3, client_count=2)], depth=1, message_count=10),
    topic("orders.old", message_count=5, in_rate=2.0),
    topic("payments", [channel("payments", "mail", depth=100)], message_count=1000, in_rate=50.0),
]
STUCK = (StuckPlace("orders.new", "mail", 3, "paused"), StuckPlace("payments", "mail", 100, "paused"))


async def test_it_has_these_topics_and_the_sums_over_them() -> None:
    found = await select(snapshot(*TOPICS, problems=[problem()]), ORDERS)
    assert list(found.topics) == ["orders.new", "orders.old"]
    assert found.totals.topics == 2
    assert found.totals.channels == 1
    assert (found.totals.depth, found.totals.message_count, found.totals.clients) == (4, 15, 2)
    assert found.totals.in_rate == 2.0
    assert found.totals.nodes == 1
    assert found.problems == (problem(),)


async def test_a_node_has_these_topics_and_the_figures_of_all() -> None:
    whole = node(
        NODE,
        TOPICS,
        health="NOK - payments is broken",
        copies=Copies(2, 1),
        draining=Draining(1, 9, STUCK, 4),
    )
    found = (await select(snapshot(*TOPICS, nodes=[whole]), ORDERS)).nodes[NODE]
    assert list(found.topics) == [each.topic for each in found.node.topics] == ["orders.new", "orders.old"]
    assert (found.depth, found.message_count) == (whole.depth, whole.message_count) == (104, 1015)
    assert (found.health, found.copies) == ("NOK", None)
    assert found.draining == Draining(1, 9, STUCK[:1], 5)
    assert len(whole.topics) == 3, "the snapshot itself is not changed"


async def test_rates_that_are_unknown_stay_unknown() -> None:
    before = snapshot(topic("orders.new", in_rate=None, out_rate=None))
    unknown = replace(before, totals=replace(before.totals, in_rate=None, out_rate=None))
    assert (await select(unknown, ORDERS)).totals.in_rate is None


async def test_a_selection_is_made_once_for_each_snapshot() -> None:
    selections, shown = Selections(), snapshot(*TOPICS)
    assert await selections.of(shown, ALL_TOPICS) is shown
    first = await selections.of(shown, ORDERS)
    assert await selections.of(shown, Topics(("orders.*",))) is first
    assert await selections.of(snapshot(*TOPICS), ORDERS) is not first


async def test_only_so_many_are_kept() -> None:
    selections, shown = Selections(), snapshot(*TOPICS)
    for number in range(250):
        await selections.of(shown, Topics((f"t{number}",)))
    assert len(selections._by_topics) <= 100
