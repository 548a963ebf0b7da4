"""A network that breaks between the nodes of a cluster: what users are promised all the same.

Each test breaks it, looks at who must not notice, heals it, lets everything be consumed, and checks the books:
no acknowledged message is lost (I1), none comes again once it was finished for good (I3), all come in time
(I4), those who are not concerned go on (I7), and the registries find the truth again (I14).
"""

from __future__ import annotations

import random
import time
from functools import partial

import pytest

from tests.network.cluster import FORGOTTEN_S, HostCluster, HostDaemon
from tests.network.conftest import AUDIT, BILLING, TOPIC
from tests.network.hosts import Host
from tests.network.traffic import Traffic
from tests.process.raw import RawClient
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = [pytest.mark.network, pytest.mark.timeout(180), pytest.mark.xdist_group("hosts")]

SOON_S = 5.0
NOTICED_S = 4.0
"""Longer than it takes either side to give up a silent connection."""


def test_an_nsqd_cut_off_from_one_registry(cluster: HostCluster, traffic: Traffic) -> None:
    """Nobody who publishes or consumes notices; the other registry is told of new topics at once, this one later."""
    nsqd, (lost, other) = cluster.nsqds[0], cluster.registries
    cluster.lan.cut(nsqd.host, lost.host)
    began_s = time.monotonic()
    with nsqd.host.entered(), RawClient.connect(nsqd.tcp_port) as client:
        client.pub("new", b"first")
    assert time.monotonic() - began_s < patience(1)
    cluster.wait_listed("new", [nsqd], SOON_S, at=[other])
    traffic.wait_for_more()
    assert lost.listed("new") == []
    cluster.lan.heal()
    cluster.wait_listed("new", [nsqd], SOON_S)
    finish(traffic)


def test_nsqds_that_fall_silent(cluster: HostCluster, traffic: Traffic) -> None:
    """One is cut off from the registries and goes on delivering, another's host dies without a goodbye.

    Both are forgotten in the time that is set, and known again at once when they are back, with their messages.
    """
    cut_off, dead, well = traffic.streams
    for registry in cluster.registries:
        cluster.lan.cut(cut_off.nsqd.host, registry.host)
    cluster.lan.unplug(dead.nsqd.host)
    dead.nsqd.kill()
    traffic.wait_for_more(streams=[cut_off, well])
    cluster.wait_listed(TOPIC, [well.nsqd], FORGOTTEN_S + SOON_S)
    traffic.wait_for_more(streams=[cut_off, well])
    cluster.lan.heal()
    dead.nsqd.start()
    cluster.wait_listed(TOPIC, cluster.nsqds, SOON_S)
    traffic.wait_for_more()
    finish(traffic)


def test_a_consumer_cut_off(cluster: HostCluster, traffic: Traffic, consumers: dict[str, Host]) -> None:
    """From one nsqd altogether, from the others one way or the other; then it gets all that it missed.

    The other channel and the publishers go on meanwhile.
    """
    lan, consumer = cluster.lan, consumers[AUDIT]
    altogether, unheard, deaf = (nsqd.host for nsqd in cluster.nsqds)
    lan.cut(altogether, consumer)
    lan.cut_one_way(unheard, consumer)
    lan.cut_one_way(consumer, deaf)
    time.sleep(NOTICED_S)
    traffic.wait_for_more(channels=[BILLING])
    for nsqd in cluster.nsqds:
        wait_until(partial(has_no_consumer, nsqd), SOON_S, "it gave the consumer up")
        assert nsqd.unfinished(TOPIC, AUDIT) > 0
    lan.heal()
    traffic.wait_for_more()
    finish(traffic)


def test_a_producer_cut_off_one_way(cluster: HostCluster, traffic: Traffic, producer: Host) -> None:
    """What was acknowledged is there; what was not may be, once for each attempt."""
    hit, *others = traffic.streams
    cluster.lan.cut_one_way(hit.nsqd.host, producer)
    time.sleep(NOTICED_S)
    traffic.wait_for_more(streams=others)
    cluster.lan.heal()
    traffic.wait_for_more()
    finish(traffic)


def test_a_link_that_flaps(cluster: HostCluster, traffic: Traffic, chance: random.Random) -> None:
    """Up and down, for moments and for seconds."""
    hit, *others = traffic.streams
    for _ in range(6):
        cluster.lan.unplug(hit.nsqd.host)
        time.sleep(chance.choice((0.05, 0.3, 0.6, 2.5)))
        cluster.lan.plug_in(hit.nsqd.host)
        time.sleep(chance.uniform(0.1, 0.8))
    traffic.wait_for_more(streams=others)
    traffic.wait_for_more()
    finish(traffic)
    cluster.wait_listed(TOPIC, cluster.nsqds, SOON_S)


def test_a_slow_and_lossy_link(cluster: HostCluster, traffic: Traffic) -> None:
    """A narrow line that loses one packet in twenty: slower, and nothing else."""
    hit, *others = traffic.streams
    cluster.lan.slow(hit.nsqd.host, kilobits=2000)
    cluster.lan.lossy(hit.nsqd.host, percent=5)
    traffic.wait_for_more(200, streams=others)
    traffic.wait_for_more(100, 30.0, streams=[hit])
    cluster.lan.heal()
    finish(traffic)
    cluster.wait_listed(TOPIC, cluster.nsqds, SOON_S)


def test_hosts_that_come_back_under_other_addresses(cluster: HostCluster, traffic: Traffic) -> None:
    """As containers do: an nsqd, then a registry. Their names are what counts."""
    hit = traffic.streams[0]
    hit.nsqd.kill()
    cluster.lan.move(hit.nsqd.host)
    hit.nsqd.start()
    cluster.wait_listed(TOPIC, cluster.nsqds, SOON_S)
    traffic.wait_for_more()
    registry = cluster.registries[0]
    registry.kill()
    cluster.lan.move(registry.host)
    registry.start()
    cluster.wait_listed(TOPIC, cluster.nsqds, SOON_S)
    traffic.wait_for_more()
    finish(traffic)


def test_all_hosts_cut_off_from_one_another(cluster: HostCluster, traffic: Traffic) -> None:
    """A switch that fails: everything stands still, and goes on where it was."""
    for host in cluster.lan.hosts:
        cluster.lan.unplug(host)
    time.sleep(NOTICED_S)
    cluster.lan.heal()
    cluster.wait_listed(TOPIC, cluster.nsqds, SOON_S)
    traffic.wait_for_more()
    finish(traffic)


def has_no_consumer(nsqd: HostDaemon) -> bool:
    return int(nsqd.channel_stats(TOPIC, AUDIT)["client_count"]) == 0


def finish(traffic: Traffic) -> None:
    """All is consumed, and the books are right."""
    traffic.finish()
    traffic.check()
