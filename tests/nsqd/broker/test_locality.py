"""Consumers that are near come first, and those that are far get what is left."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqd.broker import Locality, Topology

from .harness import Consumer, Harness, conserved

HERE = Topology(region="eu", zone="eu-1")
ZONE, REGION, FAR = Topology("eu", "eu-1"), Topology("eu", "eu-2"), Topology("us", "us-1")


def preferring(**options: object) -> Harness:
    return Harness(topology=HERE, **options)


def counts(harness: Harness) -> tuple[int, int, int]:
    channel = harness.channel()
    return tuple(channel.deliveries_to(locality) for locality in Locality)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("here", "client", "locality"),
    [
        (HERE, ZONE, Locality.ZONE),
        (HERE, REGION, Locality.REGION),
        (HERE, FAR, Locality.REMOTE),
        (HERE, Topology("us", "eu-1"), Locality.ZONE),
        (HERE, Topology("", ""), Locality.REMOTE),
        (HERE, None, Locality.REMOTE),
        (Topology("", ""), Topology("", ""), Locality.ZONE),
        (Topology("", "z"), Topology("", ""), Locality.REGION),
        (Topology("", ""), None, Locality.REMOTE),
    ],
)
def test_localities_of_consumers(here: Topology, client: Topology | None, locality: Locality) -> None:
    assert here.locality_of(client) is locality


def test_the_nearest_with_room_gets_the_next_message() -> None:
    harness = preferring()
    far = harness.subscribe(rdy=10, topology=FAR)
    region = harness.subscribe(rdy=2, topology=REGION)
    zone = harness.subscribe(rdy=3, topology=ZONE)
    bodies = harness.publish_many(8)
    assert zone.bodies() == bodies[:3]
    assert region.bodies() == bodies[3:5]
    assert far.bodies() == bodies[5:]
    assert counts(harness) == (3, 2, 3)
    harness.finish(zone)
    harness.publish(b"again")
    assert zone.bodies() == [b"again"]


def test_alike_consumers_share() -> None:
    harness = preferring()
    zones = [harness.subscribe(rdy=100, topology=ZONE) for _ in range(4)]
    far = harness.subscribe(rdy=100, topology=FAR)
    harness.publish_many(100)
    assert [len(zone.bodies()) for zone in zones] == [25, 25, 25, 25]
    assert far.bodies() == []


def test_far_consumers_get_what_near_ones_have_no_room_for() -> None:
    harness = preferring()
    zone = harness.subscribe(rdy=1, topology=ZONE)
    others = [harness.subscribe(rdy=1, topology=topology) for topology in (REGION, FAR, None)]
    harness.publish_many(40)
    for _ in range(9):
        for consumer in (zone, *others):
            harness.finish(consumer)
    assert [len(consumer.received) for consumer in (zone, *others)] == [10, 10, 10, 10]


def test_a_near_consumer_that_reads_slowly_delays_no_other() -> None:
    harness = preferring()
    zone = harness.subscribe(rdy=1000, topology=ZONE, limit=100)
    zone.taking = False
    far = harness.subscribe(rdy=1000, topology=FAR)
    for seq in range(20):
        harness.publish(b"%020d" % seq)
    assert len(far.received) >= 15
    assert len(zone.unsent) + len(far.received) == 20


def test_requeued_and_old_messages_go_to_the_nearest_too() -> None:
    harness = preferring(mem_queue_size=0)
    harness.create()
    harness.publish_many(20)
    far = harness.subscribe(rdy=5, topology=FAR)
    assert len(far.bodies()) == 5
    zone = harness.subscribe(rdy=100, topology=ZONE)
    assert len(zone.bodies()) == 15
    harness.requeue(far, far.in_flight[0])
    assert (len(zone.bodies()), far.bodies()) == (1, [])


def test_deliveries_to_departed_consumers_still_count() -> None:
    harness = preferring()
    zone = harness.subscribe(rdy=3, topology=ZONE)
    harness.publish_many(3)
    harness.disconnect(zone)
    region = harness.subscribe(rdy=1, topology=REGION)
    harness.finish(region)
    assert counts(harness) == (3, 2, 0)
    harness.disconnect(region)
    assert counts(harness) == (3, 2, 0)
    assert harness.channel().counts.delivered == 5


def test_without_the_experiment_all_are_alike() -> None:
    harness = Harness()
    zone = harness.subscribe(rdy=100, topology=ZONE)
    far = harness.subscribe(rdy=100, topology=FAR)
    harness.publish_many(10)
    assert (len(zone.received), len(far.received)) == (5, 5)
    assert counts(harness) == (0, 0, 10)


@given(
    rdys=st.lists(st.tuples(st.sampled_from([ZONE, REGION, FAR, None]), st.integers(0, 5)), max_size=6),
    messages=st.integers(1, 30),
)
def test_a_message_goes_far_only_when_no_near_one_has_room(
    rdys: list[tuple[Topology | None, int]], messages: int
) -> None:
    harness = preferring()
    consumers: list[Consumer] = [harness.subscribe(rdy=rdy, topology=topology) for topology, rdy in rdys]
    harness.create()
    harness.publish_many(messages)
    left = messages
    for locality in Locality:
        alike = [c for c in consumers if c.subscription.locality is locality]
        room = sum(consumer.subscription.rdy for consumer in alike)
        assert sum(len(consumer.received) for consumer in alike) == min(left, room)
        left -= min(left, room)
    assert harness.channel().depth == left
    for consumer in itertools.islice(consumers, 3):
        harness.disconnect(consumer)
    assert conserved(harness.channel())
