"""A ring of three nsqds, each copied to the next one, and machines that die, are cut off, or are restarted.

A run prints its seed, and how often what came again, by its cause; NSQ_TEST_SEED repeats its choices. The long runs
lose NSQ_SOAK_RUNS machines at each durability level, 25 if that is not set.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network.cluster import HostCluster, HostDaemon
from tests.network.conftest import AUDIT, TOPIC
from tests.network.hosts import Host, why_not
from tests.network.takeover import Loss, adopt, copies_of
from tests.network.traffic import Traffic
from tests.process.copies import MUCH, in_step, memory, received
from tests.process.raw import RawClient
from tests.process.waiting import wait_until

pytestmark = [pytest.mark.network, pytest.mark.timeout(180), pytest.mark.xdist_group("hosts")]

RUNS = int(os.environ.get("NSQ_SOAK_RUNS") or 25)
SOON_S = 10.0
long = [pytest.mark.soak, pytest.mark.timeout(7200)]


@pytest.fixture
def durability() -> str:
    return "os"


@pytest.fixture
def cluster(tmp_path: Path, durability: str) -> Iterator[HostCluster]:
    """The ring, and two registries, on five hosts; an OK takes two copies."""
    if reason := why_not():
        pytest.skip(reason)
    with HostCluster.started(
        tmp_path, ring=True, ack_copies=2, replica_timeout="2s", durability=durability
    ) as cluster:
        yield cluster


@pytest.mark.parametrize(
    ("durability", "runs"),
    [("os", 1), *(pytest.param(level, RUNS, marks=long) for level in ("os", "disk"))],
)
def test_the_machine_and_the_disk_are_gone(
    cluster: HostCluster, producer: Host, chance: random.Random, runs: int
) -> None:
    """Everything that was acknowledged and not finished comes from the stand-in; the machine is replaced."""
    consumer = cluster.lan.add("consumer")
    total: Counter[str] = Counter()
    for run in range(runs):
        victim = chance.choice(cluster.nsqds)
        loss = Loss.of(cluster, victim, producer, consumer, f"orders{run}", chance)
        loss.load(chance.uniform(0.3, 1.5), unplug=runs > 1 and chance.random() < 0.3)
        loss.wipe()
        loss.adopt()
        loss.publish_again()
        loss.drain()
        total += loss.check()
        victim.start()
    print(f"{runs} machines lost: {dict(total)}")


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("durability", ["os", "disk"])
def test_the_machine_comes_back_with_its_disk(
    cluster: HostCluster, producer: Host, chance: random.Random
) -> None:
    """It gives up what its stand-in has: nothing is lost, and nothing is delivered by both."""
    consumer = cluster.lan.add("consumer")
    total: Counter[str] = Counter()
    for run in range(RUNS):
        victim = chance.choice(cluster.nsqds)
        loss = Loss.of(cluster, victim, producer, consumer, f"orders{run}", chance)
        loss.load(chance.uniform(0.3, 1.5), unplug=chance.random() < 0.3)
        loss.adopt()
        victim.start()
        loss.publish_again()
        loss.drain(victim)
        total += loss.check()
    print(f"{RUNS} machines came back: {dict(total)}")


@pytest.mark.soak
def test_the_machine_of_a_stand_in_is_gone_too(cluster: HostCluster, producer: Host) -> None:
    """A stand-in is copied as any nsqd is: the third one serves what was the first one's, and what was the second's."""
    first, second, third = cluster.nsqds
    cluster.create_channels(TOPIC, AUDIT)
    bodies = {
        nsqd: [b"%b %d" % (nsqd.host.name.encode(), number) for number in range(200)]
        for nsqd in (first, second)
    }
    wait_until(lambda: all(map(in_step, cluster.nsqds)), SOON_S, "in step", describe=cluster.describe)
    for nsqd in (first, second):
        with producer.entered(), RawClient.connect(nsqd.tcp_port, host=nsqd.host.address) as client:
            for body in bodies[nsqd]:
                client.pub(TOPIC, body)
    lose(first)
    adopt(copies_of(first, second)[0]["life"], second, cluster, TOPIC)
    wait_until(
        lambda: [copy["complete"] for copy in third.stats()["copies"]["held"]] == [True, True],
        2 * SOON_S,
        "the stand-in is copied",
        describe=cluster.describe,
    )
    lose(second)
    came: list[bytes] = []
    for copy in third.stats()["copies"]["held"]:
        adopt(copy["life"], third, cluster, TOPIC)
    for copy in third.stats()["copies"]["held"]:
        with producer.entered():
            came += received(copy["stand_in_port"], TOPIC, AUDIT, 200, host=third.host.address)
    assert sorted(came) == sorted(bodies[first] + bodies[second])


def test_a_rolling_restart_adopts_nothing(cluster: HostCluster, traffic: Traffic) -> None:
    """Each in turn is stopped in good order under load; only those who talk to it notice."""
    for nsqd in cluster.nsqds:
        wait_until(lambda: all(map(in_step, cluster.nsqds)), SOON_S, "in step", describe=cluster.describe)
        broken = {stream.nsqd: stream.broken for stream in traffic.streams}
        assert nsqd.terminate() == 0
        nsqd.start()
        traffic.wait_for_more()
        assert [each.nsqd for each in traffic.streams if each.broken > broken[each.nsqd]] == [nsqd]
    traffic.finish()
    traffic.check()
    for nsqd in cluster.nsqds:
        assert not any(held["adopted"] for held in nsqd.stats()["copies"]["held"])


@pytest.mark.parametrize("heard", ["the leader", "the follower"])
def test_a_leader_and_its_follower_cut_off_one_way(cluster: HostCluster, producer: Host, heard: str) -> None:
    """Publishes and deliveries go on, with one copy; nothing is adopted; then the copy is the same again."""
    leader = cluster.nsqds[0]
    follower = cluster.follower_of(leader)
    cluster.create_channels(TOPIC, AUDIT)
    wait_until(lambda: in_step(leader), SOON_S, "in step", describe=cluster.describe)
    with producer.entered():
        client = RawClient.connect(leader.tcp_port, host=leader.host.address)
    with client:
        client.identify(feature_negotiation=True, heartbeat_interval=60_000)  # nothing is read while we wait
        client.sub(TOPIC, AUDIT)
        client.rdy(1)
        pass_messages(client, "before")
        unheard, deaf = (follower, leader) if heard == "the leader" else (leader, follower)
        cluster.lan.cut_one_way(unheard.host, deaf.host)
        (copy,) = copies_of(leader, follower)
        status, body = follower.request("POST", f"/replicas/adopt?life={copy['life']}")
        assert (status, b"is connected" in body) == (409, True), body
        pass_messages(client, "with one copy")
        assert leader.request("GET", "/ping") == (200, b"OK - 1 of 2 copies")
        wait_until(
            lambda: not copies_of(leader, follower)[0]["connected"], 2 * SOON_S, "given up on both sides"
        )
        pass_messages(client, "apart")
        cluster.lan.heal()
        wait_until(lambda: in_step(leader), 2 * SOON_S, "in step again", describe=cluster.describe)
        pass_messages(client, "after")
    (copy,) = copies_of(leader, follower)
    assert not copy["adopted"]
    theirs = follower.data_path / "copies" / copy["life"]
    wait_until(lambda: _same(leader.data_path, theirs), SOON_S, "the same bytes")


def test_a_follower_behind_a_narrow_line(cluster: HostCluster, producer: Host) -> None:
    """What it cannot take in time is waited for once; then it is out of step, until it has everything."""
    leader = cluster.nsqds[0]
    follower = cluster.follower_of(leader)
    batch = [bytes(10_000)] * 100
    cluster.create_channels(TOPIC, AUDIT)
    wait_until(lambda: in_step(leader), SOON_S, "in step", describe=cluster.describe)
    before = memory(leader)
    cluster.lan.slow(follower.host, kilobits=500)
    with producer.entered():
        client = RawClient.connect(leader.tcp_port, host=leader.host.address)
    with client:
        client.mpub(TOPIC, batch)
        assert leader.request("GET", "/ping") == (200, b"OK - 1 of 2 copies")
        for _ in range(20):
            client.mpub(TOPIC, batch)
    assert not in_step(leader)
    assert memory(leader) < before + MUCH
    cluster.lan.heal()
    wait_until(lambda: in_step(leader), 2 * SOON_S, "in step again", describe=cluster.describe)
    (copy,) = copies_of(leader, follower)
    theirs = follower.data_path / "copies" / copy["life"]
    wait_until(lambda: _same(leader.data_path, theirs), SOON_S, "the same bytes")


def lose(nsqd: HostDaemon) -> None:
    """Its machine, and its disk."""
    nsqd.kill()
    shutil.rmtree(nsqd.data_path)


def pass_messages(client: RawClient, name: str) -> None:
    """Publish some messages, which come at once."""
    for number in range(20):
        body = f"{name} {number}".encode()
        client.pub(TOPIC, body)
        message = client.message()
        assert message.body == body
        client.fin(message.id)


def _same(path: Path, other: Path) -> bool:
    """Whether two data paths have the same topics, byte for byte."""
    with contextlib.suppress(FileNotFoundError):  # removed while it was read
        return _topics(path) == _topics(other)
    return False


def _topics(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.glob("topic-*/[!.]*")}
