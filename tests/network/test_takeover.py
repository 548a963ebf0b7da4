"""A ring of five nsqds that are adopted by themselves, with three registries as witnesses, and no operator.

A run prints its seed; NSQ_TEST_SEED repeats its choices. Most run with --soak only; the long one lasts
NSQ_SOAK_MINUTES, 120 if that is not set.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network.cluster import HostCluster, HostDaemon
from tests.network.conftest import AUDIT, TOPIC
from tests.network.hosts import Host, why_not
from tests.network.takeover import Loss, copies_of, wait_adopted
from tests.network.traffic import Traffic
from tests.process.copies import copy_of, in_step, received
from tests.process.raw import ErrorFrame, RawClient
from tests.process.waiting import wait_until

pytestmark = [pytest.mark.network, pytest.mark.timeout(240), pytest.mark.xdist_group("hosts")]

MINUTES = float(os.environ.get("NSQ_SOAK_MINUTES") or 120)
ADOPT_AFTER_S = 3.0
SILENT_S = 10.0
"""Until a connection on which nothing is heard has ended."""
SOON_S = 20.0


@pytest.fixture
def fence() -> str:
    return "off"


@pytest.fixture
def cluster(tmp_path: Path, fence: str) -> Iterator[HostCluster]:
    if reason := why_not():
        pytest.skip(reason)
    settings = {
        "ack_copies": 2,
        "replica_timeout": "2s",
        "adopt": "auto",
        "adopt_after": f"{ADOPT_AFTER_S:g}s",
    }
    with HostCluster.started(
        tmp_path, ring=True, nsqds=5, registries=3, restart_grace="60s", fence=fence, **settings
    ) as cluster:
        wait_until(lambda: all(map(in_step, cluster.nsqds)), SOON_S, "in step", describe=cluster.describe)
        yield cluster


def test_a_machine_is_gone_and_nobody_is_woken(
    cluster: HostCluster, producer: Host, chance: random.Random
) -> None:
    """Everything that was acknowledged and not finished comes from the stand-in."""
    victim = chance.choice(cluster.nsqds)
    loss = Loss.of(cluster, victim, producer, cluster.lan.add("consumer"), "orders", chance)
    loss.load(1.0)
    loss.wipe()
    loss.wait_adopted(ADOPT_AFTER_S + SOON_S)
    loss.publish_again()
    loss.drain()
    print(loss.check())


@pytest.mark.soak
@pytest.mark.parametrize("ways", ["both", "in", "out"])
@pytest.mark.parametrize("fence", ["off", "on"])
def test_a_leader_that_is_cut_off(cluster: HostCluster, producer: Host, fence: str, ways: str) -> None:
    """It is adopted; with the fence it has stopped before. When it is back, each message has one owner."""
    leader = cluster.nsqds[0]
    follower = cluster.follower_of(leader)
    cluster.create_channels(TOPIC, AUDIT)
    (copy,) = copies_of(leader, follower)
    with producer.entered(), RawClient.connect(leader.tcp_port, host=leader.host.address) as client:
        client.mpub(TOPIC, [b"%d" % number for number in range(100)])
    apart = [*cluster.nsqds[1:], *cluster.registries]
    for other in apart:
        if ways in ("in", "both"):
            cluster.lan.cut_one_way(other.host, leader.host)
        if ways in ("out", "both"):
            cluster.lan.cut_one_way(leader.host, other.host)
    if fence == "on":
        wait_until(
            lambda: leader.request("GET", "/ping")[1].startswith(b"NOK - cut off"),
            ADOPT_AFTER_S + SOON_S,
            "the fence is closed",
            describe=cluster.describe,
        )
        assert not copies_of(leader, follower)[0]["adopted"]
        with producer.entered():
            client = RawClient.connect(leader.tcp_port, host=leader.host.address)
        with client, pytest.raises(ErrorFrame, match=r"E_PUB_FAILED.*cut off"):
            client.pub(TOPIC, b"apart")
    with producer.entered(), RawClient.connect(leader.tcp_port, host=leader.host.address) as client:
        client.identify(feature_negotiation=True, heartbeat_interval=60_000)
        wait_adopted(copy["life"], follower, cluster, TOPIC, SILENT_S + ADOPT_AFTER_S + SOON_S)
        client.sub(TOPIC, AUDIT)
        client.rdy(10)
        if fence == "on":
            client.no_message(for_s=2.0)
        else:
            assert client.message(timeout_s=5.0).body  # availability first: others may get it, too
    cluster.lan.heal()
    wait_handed_over(leader, cluster)
    port = copy_of(copy["life"], follower)["stand_in_port"]
    with producer.entered():
        came = received(port, TOPIC, AUDIT, 100, host=follower.host.address)
    assert sorted(came) == sorted(b"%d" % number for number in range(100))


@pytest.mark.soak
def test_half_of_the_nodes_are_gone_at_once(cluster: HostCluster) -> None:
    """That is the network, or a roll-out: nothing is adopted, and it is said why."""
    for victim in cluster.nsqds[1:4]:
        victim.kill()
    last, (lost,) = cluster.nsqds[4], copies_of(cluster.nsqds[3], cluster.nsqds[4])
    wait_until(
        lambda: "nodes are silent" in copy_of(lost["life"], last)["undecided"],
        ADOPT_AFTER_S + SOON_S,
        "nothing is adopted",
        describe=cluster.describe,
    )
    time.sleep(2 * ADOPT_AFTER_S)
    assert not copy_of(lost["life"], last)["adopted"]
    for victim in cluster.nsqds[1:4]:
        victim.start()
    wait_until(lambda: all(map(in_step, cluster.nsqds)), SOON_S, "in step", describe=cluster.describe)
    assert adoptions(cluster) == 0


@pytest.mark.soak
def test_r15_all_registries_are_killed_and_wiped(
    cluster: HostCluster, producer: Host, traffic: Traffic
) -> None:
    """Publishing and delivering need none of them; nothing is adopted before they have watched for long enough."""
    for registry in cluster.registries:
        registry.kill()
    traffic.wait_for_more()
    victim = cluster.nsqds[0]
    follower = cluster.follower_of(victim)
    (copy,) = copies_of(victim, follower)
    victim.kill()
    time.sleep(2 * ADOPT_AFTER_S)
    for registry in cluster.registries:
        registry.start()
    wait_until(
        lambda: "has not announced itself" in copy_of(copy["life"], follower)["undecided"],
        ADOPT_AFTER_S + SOON_S,
        "they know of nothing",
        describe=cluster.describe,
    )
    assert not copy_of(copy["life"], follower)["adopted"]
    victim.start()
    traffic.finish()
    traffic.check()
    assert adoptions(cluster) == 0


@pytest.mark.soak
def test_a_leader_that_is_stopped_for_long(cluster: HostCluster, producer: Host) -> None:
    """SIGSTOP, until it was adopted: then it gives up what its stand-in has."""
    leader = cluster.nsqds[2]
    follower = cluster.follower_of(leader)
    cluster.create_channels(TOPIC, AUDIT)
    (copy,) = copies_of(leader, follower)
    with producer.entered(), RawClient.connect(leader.tcp_port, host=leader.host.address) as client:
        client.mpub(TOPIC, [b"%d" % number for number in range(50)])
    assert leader.process is not None
    os.kill(leader.process.pid, signal.SIGSTOP)
    try:
        wait_adopted(copy["life"], follower, cluster, TOPIC, SILENT_S + ADOPT_AFTER_S + SOON_S)
    finally:
        os.kill(leader.process.pid, signal.SIGCONT)
    wait_handed_over(leader, cluster)
    port = copy_of(copy["life"], follower)["stand_in_port"]
    with producer.entered():
        came = received(port, TOPIC, AUDIT, 50, host=follower.host.address)
    assert sorted(came) == sorted(b"%d" % number for number in range(50))


@pytest.mark.soak
def test_r16_a_rolling_restart_adopts_nothing(cluster: HostCluster, traffic: Traffic) -> None:
    """One after the other, each away for longer than a silent one may be."""
    for nsqd in cluster.nsqds:
        wait_until(lambda: all(map(in_step, cluster.nsqds)), SOON_S, "in step", describe=cluster.describe)
        assert nsqd.terminate() == 0
        time.sleep(2 * ADOPT_AFTER_S)
        nsqd.start()
        traffic.wait_for_more()
    traffic.finish()
    traffic.check()
    assert adoptions(cluster) == 0


@pytest.mark.soak
@pytest.mark.parametrize("registry_restarts", [False, True])
def test_links_that_flap(
    cluster: HostCluster, traffic: Traffic, chance: random.Random, registry_restarts: bool
) -> None:
    """A connection that comes back is one; a registry that was restarted says no for a while."""
    leader = cluster.nsqds[0]
    others = [cluster.follower_of(leader), *cluster.registries]
    ends = time.monotonic() + 5 * ADOPT_AFTER_S
    while time.monotonic() < ends:
        other = chance.choice(others)
        cluster.lan.cut(leader.host, other.host)
        time.sleep(chance.uniform(0.1, ADOPT_AFTER_S / 2))
        cluster.lan.heal()
        if registry_restarts:
            registry = chance.choice(cluster.registries)
            registry.kill()
            registry.start()
        time.sleep(chance.uniform(0.1, 0.5))
    traffic.finish()
    traffic.check()
    assert adoptions(cluster) == 0


@pytest.mark.soak
@pytest.mark.timeout(int(60 * MINUTES) + 1800)
def test_hours_of_it(cluster: HostCluster, producer: Host, chance: random.Random) -> None:
    """Machines are killed, wiped, cut off, or stopped, one after the other, at random."""
    consumer = cluster.lan.add("consumer")
    total: Counter[str] = Counter()
    ends, losses = time.monotonic() + 60 * MINUTES, 0
    while time.monotonic() < ends:
        victim = chance.choice(cluster.nsqds)
        wiped, unplugged = chance.random() < 0.6, chance.random() < 0.3
        loss = Loss.of(cluster, victim, producer, consumer, f"orders{losses}", chance)
        loss.load(chance.uniform(0.3, 1.5), unplug=unplugged)
        if chance.random() < 0.3:
            registry = chance.choice(cluster.registries[1:])
            registry.kill()
            time.sleep(chance.uniform(0, ADOPT_AFTER_S))
            registry.start()
        if wiped:
            loss.wipe()
        loss.wait_adopted(SILENT_S + 2 * ADOPT_AFTER_S + SOON_S)
        if not wiped:
            victim.start()
        loss.publish_again()
        loss.drain(*([] if wiped else [victim]))
        total += loss.check()
        if wiped:
            victim.start()
        losses += 1
    print(f"{losses} machines lost in {MINUTES:g} minutes: {dict(total)}")


def wait_handed_over(leader: HostDaemon, cluster: HostCluster) -> None:
    """It is started anew meanwhile."""

    def has_nothing() -> bool:
        with contextlib.suppress(OSError):
            return leader.unfinished(TOPIC, AUDIT) == 0
        return False

    wait_until(has_nothing, SOON_S, "handed over", describe=cluster.describe)


def adoptions(cluster: HostCluster) -> int:
    """Since the start of each."""
    return sum(_adoptions(nsqd) for nsqd in cluster.nsqds)


def _adoptions(nsqd: HostDaemon) -> int:
    return int(nsqd.stats()["copies"]["adoptions"])
