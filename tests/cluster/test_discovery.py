"""Discovery converges: what lives is listed within moments, what is dead is gone, and no delivery depends on it."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, set_registries
from tests.cluster.conftest import OPEN_AND_CLOSED
from tests.process.daemon import HOST, Daemon
from tests.process.lookup import LookupDaemon
from tests.process.raw import RawClient
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = pytest.mark.process

TOPIC, CHANNEL = "orders", "audit"
STARTED_S = 2.0
"""A new nsqd, topic or registry in the list is known everywhere after so long, at most."""
FILLED_S = 3.0
"""A registry that came back knows everything after so long, at most."""
GONE_S = 1.0
"""A dead nsqd is listed for so long, at most."""


# What lives is listed.


def test_every_registry_lists_every_nsqd(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.start()
        cluster.wait_known(cluster.nsqds, STARTED_S)
        for registry in cluster.registries:
            shown = {node["tcp_port"]: node for node in registry.nodes()}
            for nsqd in cluster.nsqds:
                node = shown[nsqd.tcp_port]
                assert (node["broadcast_address"], node["http_port"]) == (HOST, nsqd.http_port)
                assert (node["topics"], node["tombstones"]) == ([], [])


def test_a_restarted_nsqd_is_listed_with_all_its_topics_and_channels(cluster: Cluster) -> None:
    first, *_ = cluster.nsqds
    first.create_channel(TOPIC, CHANNEL)
    first.create_channel(TOPIC, "billing")
    assert first.terminate() == 0
    cluster.wait_listed(TOPIC, [], GONE_S)
    late = cluster.add_nsqd()
    late.start()
    first.start()
    cluster.wait_known(cluster.nsqds, STARTED_S)
    cluster.wait_listed(TOPIC, [first], STARTED_S)
    for channel in (CHANNEL, "billing"):
        cluster.wait_registered(TOPIC, channel, [first], STARTED_S)


def test_an_nsqd_that_starts_before_its_registries(tmp_path: Path) -> None:
    """It serves without them, and they know it soon after they are there."""
    with Cluster(tmp_path) as cluster:
        cluster.start()
        for registry in cluster.registries:
            registry.kill()
        lonely = cluster.add_nsqd()
        lonely.start()
        with lonely.connect() as client:
            client.sub(TOPIC, CHANNEL)
            client.rdy(1)
            client.pub(TOPIC, b"nobody to ask")
            assert client.message(patience(GONE_S)).body == b"nobody to ask"
        for registry in cluster.registries:
            registry.start()
        cluster.wait_listed(TOPIC, [lonely], FILLED_S)
        cluster.wait_registered(TOPIC, CHANNEL, [lonely], FILLED_S)


# What is dead is gone.


def test_a_killed_nsqd_is_gone_at_once_and_back_soon(cluster: Cluster) -> None:
    """From `/lookup` and `/nodes` of both registries; the names of its topics and channels stay."""
    cluster.create_channel(TOPIC, CHANNEL)
    cluster.wait_listed(TOPIC, cluster.nsqds, STARTED_S)
    victim, *others = cluster.nsqds
    victim.create_channel("its.own", CHANNEL)
    cluster.wait_registered("its.own", CHANNEL, [victim], STARTED_S)
    victim.kill()
    killed_at_s = time.monotonic()
    cluster.wait_listed(TOPIC, others, GONE_S)
    cluster.wait_listed("its.own", [], GONE_S)
    cluster.wait_known(others, GONE_S)
    assert time.monotonic() - killed_at_s < patience(GONE_S)
    for registry in cluster.registries:
        assert registry.lookup("its.own") == {"channels": [CHANNEL], "producers": []}
    victim.start()
    cluster.wait_listed(TOPIC, cluster.nsqds, STARTED_S)
    cluster.wait_listed("its.own", [victim], STARTED_S)


@OPEN_AND_CLOSED
def test_a_killed_registry_is_filled_again(cluster: Cluster) -> None:
    """With what there is now, not with what there was; the other one is not disturbed meanwhile."""
    victim, other = cluster.registries
    first, second, third = cluster.nsqds
    cluster.create_channel(TOPIC, CHANNEL)
    first.create_channel("deleted.meanwhile", CHANNEL)
    cluster.wait_listed(TOPIC, cluster.nsqds, STARTED_S)
    connections = _remote_addresses(other)
    victim.kill()
    _post(first, "/topic/delete?topic=deleted.meanwhile")
    second.create_channel("made.meanwhile", "new")
    third.kill()
    cluster.wait_listed(TOPIC, [first, second], GONE_S)
    cluster.wait_listed("made.meanwhile", [second], STARTED_S)
    cluster.wait_listed("deleted.meanwhile", [], STARTED_S)
    victim.start()
    cluster.wait_listed(TOPIC, [first, second], FILLED_S, at=[victim])
    cluster.wait_listed("made.meanwhile", [second], FILLED_S, at=[victim])
    cluster.wait_registered("made.meanwhile", "new", [second], FILLED_S, at=[victim])
    assert victim.topics() == sorted([TOPIC, "made.meanwhile"])
    assert _remote_addresses(other) <= connections, "they connected anew for no reason"


def test_a_registry_that_was_held_lists_everyone_once(cluster: Cluster) -> None:
    """Held by SIGSTOP it answers nothing, so the nsqds try again and again; those connections leave no trace."""
    held, other = cluster.registries
    cluster.create_channel(TOPIC, CHANNEL)
    cluster.wait_listed(TOPIC, cluster.nsqds, STARTED_S)
    connections = _remote_addresses(held)
    with held.stop_cont():
        began_s = time.monotonic()
        cluster.create_channel("made.meanwhile", CHANNEL)
        cluster.wait_listed("made.meanwhile", cluster.nsqds, STARTED_S, at=[other])
        assert time.monotonic() - began_s < patience(STARTED_S)
        # By then each nsqd has given up the connection that it had, and tried another one.
        for nsqd in cluster.nsqds:
            wait_until(partial(_has_given_up, nsqd, held), 5.0, "given up", describe=nsqd.log_end)
    wait_until(lambda: not connections & _remote_addresses(held), FILLED_S, "the old connections are gone")
    for topic in (TOPIC, "made.meanwhile"):
        cluster.wait_listed(topic, cluster.nsqds, FILLED_S, at=[held])
    cluster.wait_known(cluster.nsqds, FILLED_S, at=[held])


def test_losing_all_registries_touches_no_delivery(cluster: Cluster) -> None:
    """Messages flow on while there is none, new topics start at once, and all is listed again afterwards."""
    cluster.create_channel(TOPIC, CHANNEL)
    cluster.wait_listed(TOPIC, cluster.nsqds, STARTED_S)
    clients = [nsqd.connect() for nsqd in cluster.nsqds]
    try:
        for client in clients:
            client.sub(TOPIC, CHANNEL)
            client.rdy(10)
        _round_trips(clients, "before", rounds=20, for_s=0.0)
        for registry in cluster.registries:
            registry.kill()
        # So long that the pauses between the attempts to connect have grown to their longest.
        _round_trips(clients, "without", rounds=20, for_s=3.5)
        for nsqd in cluster.nsqds:
            with nsqd.connect() as client:
                client.sub("made.meanwhile", CHANNEL)
                client.rdy(1)
                client.pub("made.meanwhile", b"at once")
                assert client.message(patience(1)).body == b"at once"
        for registry in cluster.registries:
            registry.start()
        cluster.wait_listed(TOPIC, cluster.nsqds, FILLED_S)
        cluster.wait_listed("made.meanwhile", cluster.nsqds, FILLED_S)
        _round_trips(clients, "after", rounds=20, for_s=0.0)
    finally:
        for client in clients:
            client.close()


# What comes and goes on an nsqd.


def test_topics_and_channels_come_and_go(cluster: Cluster) -> None:
    """In both registries. The name of a durable channel stays known there, without anyone who has it."""
    first, second, _ = cluster.nsqds
    for nsqd in (first, second):
        nsqd.create_channel(TOPIC, CHANNEL)
        nsqd.create_channel(TOPIC, "passing%23ephemeral")
    cluster.wait_listed(TOPIC, [first, second], STARTED_S)
    cluster.wait_channels(TOPIC, [CHANNEL, "passing#ephemeral"], STARTED_S)
    cluster.wait_registered(TOPIC, CHANNEL, [first, second], STARTED_S)

    _post(first, f"/channel/delete?topic={TOPIC}&channel={CHANNEL}")
    _post(first, f"/channel/delete?topic={TOPIC}&channel=passing%23ephemeral")
    cluster.wait_registered(TOPIC, CHANNEL, [second], STARTED_S)
    cluster.wait_channels(TOPIC, [CHANNEL, "passing#ephemeral"], STARTED_S)
    cluster.wait_listed(TOPIC, [first, second], STARTED_S)

    _post(second, f"/topic/delete?topic={TOPIC}")
    cluster.wait_listed(TOPIC, [first], STARTED_S)
    cluster.wait_registered(TOPIC, CHANNEL, [], STARTED_S)
    cluster.wait_channels(TOPIC, [CHANNEL], STARTED_S)

    _post(first, f"/topic/delete?topic={TOPIC}")
    cluster.wait_listed(TOPIC, [], STARTED_S)
    for registry in cluster.registries:
        assert registry.lookup(TOPIC) == {"channels": [CHANNEL], "producers": []}
        assert all(node["topics"] == [] for node in registry.nodes())


def test_topics_and_channels_that_clients_create_are_listed(cluster: Cluster) -> None:
    """PUB makes a topic, SUB a channel; an ephemeral one is gone with its last consumer."""
    nsqd, *_ = cluster.nsqds
    with nsqd.connect() as publisher:
        publisher.pub(TOPIC, b"one")
        cluster.wait_listed(TOPIC, [nsqd], STARTED_S)
        with nsqd.connect() as consumer:
            consumer.sub(TOPIC, "passing#ephemeral")
            cluster.wait_registered(TOPIC, "passing#ephemeral", [nsqd], STARTED_S)
    cluster.wait_channels(TOPIC, [], STARTED_S)
    cluster.wait_listed(TOPIC, [nsqd], STARTED_S)


def test_a_topic_that_a_console_removes_leaves_no_trace(cluster: Cluster) -> None:
    """First from the registries, then from every nsqd: nobody brings it back, an empty registry's refill included."""
    cluster.create_channel(TOPIC, CHANNEL)
    cluster.create_channel(TOPIC, "billing")
    for channel in (CHANNEL, "billing"):
        cluster.wait_registered(TOPIC, channel, cluster.nsqds, STARTED_S)
    for daemon in (*cluster.registries, *cluster.nsqds):
        _post(daemon, f"/channel/delete?topic={TOPIC}&channel={CHANNEL}")
    cluster.wait_registered(TOPIC, CHANNEL, [], STARTED_S)
    cluster.wait_channels(TOPIC, ["billing"], STARTED_S)
    for daemon in (*cluster.registries, *cluster.nsqds):
        _post(daemon, f"/topic/delete?topic={TOPIC}")
    cluster.create_channel("marker", CHANNEL)  # what is told after it was told after all of the above
    cluster.wait_listed("marker", cluster.nsqds, STARTED_S)
    assert [registry.topics() for registry in cluster.registries] == [["marker"], ["marker"]]
    cluster.registries[0].kill()
    cluster.registries[0].start()
    cluster.wait_listed("marker", cluster.nsqds, FILLED_S)
    assert cluster.registries[0].topics() == ["marker"]


def test_a_tombstone_is_per_registry_and_topic(cluster: Cluster) -> None:
    """It hides one nsqd from one topic's look-ups at the registry that was told, until that nsqd connects anew."""
    told, other = cluster.registries
    hidden, *shown = cluster.nsqds
    for topic in (TOPIC, "another"):
        cluster.create_channel(topic, CHANNEL)
        cluster.wait_listed(topic, cluster.nsqds, STARTED_S)
    _post(told, f"/topic/tombstone?topic={TOPIC}&node={HOST}:{hidden.http_port}")
    assert told.producers(TOPIC) == sorted(nsqd.tcp_address for nsqd in shown)
    cluster.wait_listed(TOPIC, cluster.nsqds, STARTED_S, at=[other])
    cluster.wait_listed("another", cluster.nsqds, STARTED_S)
    assert _tombstones(told, hidden) == {TOPIC: True, "another": False}
    assert _tombstones(other, hidden) == {TOPIC: False, "another": False}
    for nsqd in shown:
        assert _tombstones(told, nsqd) == {TOPIC: False, "another": False}
    # To register again, for a new channel, does not lift it. (Ephemeral: those never spread to other nsqds.)
    hidden.create_channel(TOPIC, "passing%23ephemeral")
    cluster.wait_registered(TOPIC, "passing#ephemeral", [hidden], STARTED_S)
    assert hidden.tcp_address not in told.producers(TOPIC)
    hidden.kill()
    hidden.start()
    cluster.wait_listed(TOPIC, cluster.nsqds, STARTED_S)


def test_a_topic_deleted_and_made_again_has_no_tombstone(cluster: Cluster) -> None:
    """As a console removes a topic from one node: tombstones everywhere, then the topic itself."""
    nsqd, *_ = cluster.nsqds
    nsqd.create_channel(TOPIC, CHANNEL)
    cluster.wait_listed(TOPIC, [nsqd], STARTED_S)
    for registry in cluster.registries:
        _post(registry, f"/topic/tombstone?topic={TOPIC}&node={HOST}:{nsqd.http_port}")
        assert registry.producers(TOPIC) == []
    _post(nsqd, f"/topic/delete?topic={TOPIC}")
    nsqd.create_channel(TOPIC, CHANNEL)
    cluster.wait_listed(TOPIC, [nsqd], STARTED_S)
    cluster.wait_registered(TOPIC, CHANNEL, [nsqd], STARTED_S)


# The list of registries, changed at run time.


def test_the_list_of_registries_changes_at_run_time(cluster: Cluster) -> None:
    first, second = cluster.registries
    nsqd = cluster.add_nsqd(registries=[first])
    nsqd.start()
    nsqd.create_channel(TOPIC, CHANNEL)
    cluster.wait_listed(TOPIC, [nsqd], STARTED_S, at=[first])
    assert second.lookup(TOPIC) is None
    [connection] = _remote_addresses(first, TOPIC)

    set_registries(nsqd, [first, second])
    cluster.wait_listed(TOPIC, [nsqd], STARTED_S)
    cluster.wait_registered(TOPIC, CHANNEL, [nsqd], STARTED_S)
    assert _remote_addresses(first, TOPIC) == {connection}, "it connected anew for no reason"

    set_registries(nsqd, [second])
    cluster.wait_listed(TOPIC, [], GONE_S, at=[first])
    nsqd.create_channel("later", CHANNEL)
    cluster.wait_listed("later", [nsqd], STARTED_S, at=[second])
    assert first.lookup("later") is None

    set_registries(nsqd, [])
    cluster.wait_known(cluster.nsqds[:3], GONE_S)
    set_registries(nsqd, [first])
    cluster.wait_listed("later", [nsqd], STARTED_S, at=[first])
    assert second.producers("later") == []


def test_a_list_that_is_none_changes_nothing(cluster: Cluster) -> None:
    nsqd, *_ = cluster.nsqds
    for body in (b"first:4160,second:4160", b'{"a":1}', b"[1]"):
        status, answer = nsqd.request("PUT", "/config/nsqlookupd_tcp_addresses", body)
        assert (status, json.loads(answer)) == (400, {"message": "INVALID_VALUE"})
    status, answer = nsqd.request("GET", "/config/nsqlookupd_tcp_addresses")
    assert json.loads(answer) == [registry.tcp_address for registry in cluster.registries]
    nsqd.create_channel(TOPIC, CHANNEL)
    cluster.wait_listed(TOPIC, [nsqd], STARTED_S)


# A topic that is new on one nsqd has channels elsewhere.


def test_the_first_messages_reach_the_channels_that_exist_elsewhere(cluster: Cluster) -> None:
    """Of all registries, also what only one of them knows; ephemeral channels are nobody else's."""
    first, second, third = cluster.nsqds
    first.create_channel(TOPIC, CHANNEL)
    first.create_channel(TOPIC, "passing%23ephemeral")
    cluster.wait_channels(TOPIC, [CHANNEL, "passing#ephemeral"], STARTED_S)
    _wait_until_started(first)
    for index, registry in enumerate(cluster.registries):
        _post(registry, f"/channel/create?topic={TOPIC}&channel=only{index}")
    channels = [CHANNEL, "only0", "only1"]
    for nsqd in (second, third):
        bodies = [b"%d" % number for number in range(50)]
        with nsqd.connect() as client:
            for body in bodies[:10]:
                client.pub(TOPIC, body)
            client.mpub(TOPIC, bodies[10:])
        wait_until(partial(_has_channels, nsqd, channels), STARTED_S, f"{channels} are there")
        for channel in channels:
            assert _all_messages(nsqd, TOPIC, channel, len(bodies)) == bodies
    cluster.wait_registered(TOPIC, "only1", [second, third], STARTED_S)


def test_a_registry_that_is_gone_hides_no_channel(cluster: Cluster) -> None:
    first, second, _ = cluster.nsqds
    first.create_channel(TOPIC, CHANNEL)
    cluster.wait_channels(TOPIC, [CHANNEL], STARTED_S)
    cluster.registries[0].kill()
    with second.connect() as client:
        client.pub(TOPIC, b"first")
    wait_until(lambda: _has_channels(second, [CHANNEL]), STARTED_S, "the channel is there")
    assert _all_messages(second, TOPIC, CHANNEL, 1) == [b"first"]


def test_a_registry_that_is_silent_hides_no_channel_and_delays_no_publisher(tmp_path: Path) -> None:
    """The new topic waits for it no longer than the time-outs say, and has what the other one knew."""
    timeout_s = 2.0
    timeouts = [f"--http-client-{what}-timeout={timeout_s}s" for what in ("connect", "request")]
    with Cluster(tmp_path, nsqd_flags=timeouts) as cluster:
        cluster.start()
        cluster.wait_known(cluster.nsqds, STARTED_S)
        first, second, _ = cluster.nsqds
        first.create_channel(TOPIC, CHANNEL)
        cluster.wait_channels(TOPIC, [CHANNEL], STARTED_S)
        with cluster.registries[0].stop_cont(), second.connect() as client:
            began_s = time.monotonic()
            for number in range(100):
                client.pub(TOPIC, b"%d" % number)
            assert time.monotonic() - began_s < timeout_s, "they waited for the registry"
            wait_until(
                lambda: _has_channels(second, [CHANNEL]) and second.unfinished(TOPIC, CHANNEL) == 100,
                timeout_s + STARTED_S,
                "the channel is there",
            )
            bodies = _all_messages(second, TOPIC, CHANNEL, 100)
        assert bodies == [b"%d" % number for number in range(100)]


# Inside.


def _round_trips(clients: list[RawClient], word: str, *, rounds: int, for_s: float) -> None:
    """Publish to each client's nsqd and get it back at once, so often and for so long, at least."""
    until_s = time.monotonic() + for_s
    number = 0
    while number < rounds or time.monotonic() < until_s:
        body = f"{word} {number}".encode()
        for client in clients:
            client.pub(TOPIC, body)
        for client in clients:
            message = client.message(patience(1))
            assert (message.body, message.attempts) == (body, 1)
            client.fin(message.id)
        number += 1
        time.sleep(0.01)  # a stream of messages, not a load


def _all_messages(nsqd: Daemon, topic: str, channel: str, count: int) -> list[bytes]:
    bodies = []
    with nsqd.connect() as client:
        client.sub(topic, channel)
        client.rdy(count)
        for _ in range(count):
            message = client.message()
            client.fin(message.id)
            bodies.append(message.body)
        client.cls()  # its answer says that the FINs were read
    return bodies


def _wait_until_started(nsqd: Daemon) -> None:
    """Until its own question about the new topic has been answered: what registries learn later is not for it."""
    with nsqd.connect() as client:
        client.pub(TOPIC, b"started?")
    wait_until(lambda: nsqd.channel_stats(TOPIC, CHANNEL)["depth"] == 1, STARTED_S, "started")


def _has_channels(nsqd: Daemon, channels: list[str]) -> bool:
    for found in nsqd.stats()["topics"]:
        if found["topic_name"] == TOPIC:
            return sorted(channel["channel_name"] for channel in found["channels"]) == channels
    return False


def _post(daemon: Daemon, target: str) -> None:
    status, body = daemon.request("POST", target)
    assert status == 200, (target, status, body)


def _remote_addresses(registry: LookupDaemon, topic: str = "") -> set[str]:
    """The nsqds' ends of the connections that the registry has now."""
    nodes = registry.nodes()
    return {node["remote_address"] for node in nodes if not topic or topic in node["topics"]}


def _tombstones(registry: LookupDaemon, nsqd: Daemon) -> dict[str, bool]:
    [node] = [node for node in registry.nodes() if node["tcp_port"] == nsqd.tcp_port]
    return dict(zip(node["topics"], node["tombstones"], strict=True))


def _has_given_up(nsqd: Daemon, registry: LookupDaemon) -> bool:
    return any(f"LOOKUPD({registry.tcp_address}): no answer" in line for line in nsqd.lines)
