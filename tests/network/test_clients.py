"""Real client libraries on hosts of their own, which find the nsqds by the names that the registries give them:
pynsq, and this project's own."""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial

import attrs
import pytest

from tests.foreign.puppet import Puppet
from tests.network.cluster import HostCluster, HostDaemon
from tests.network.hosts import Host
from tests.network.traffic import Stream, Traffic
from tests.process.checker import ChannelBook, key_of
from tests.process.waiting import wait_until

pytestmark = [
    pytest.mark.network,
    pytest.mark.foreign,
    pytest.mark.timeout(180),
    pytest.mark.xdist_group("hosts"),
]

TOPIC = "orders"
CHANNELS = {"pynsq": "tests.foreign._pynsq_client", "ours": "tests.network._our_client"}
"""Each library consumes a channel of its own."""
FOUND_S = 5.0
BACK_S = {"pynsq": 16.0, "ours": FOUND_S}
"""Until it is connected again to an nsqd that is back; pynsq tries an address once in 10 s at most."""
MANY = 50
SETTLED_S = 0.3
"""Until what a consumer has read from a broker that ended is in the books."""


@attrs.define(eq=False)
class Scene:
    """Three streams, and the two libraries that consume them."""

    cluster: HostCluster
    traffic: Traffic
    puppets: dict[str, Puppet]
    ended_at_s: dict[str, list[float]] = attrs.field(factory=dict)
    """By the host of an nsqd."""

    def came(self, channel: str, nsqd: HostDaemon) -> int:
        """How many deliveries of this nsqd's messages the library has reported."""
        head = f"to.{nsqd.host.name}:".encode()
        return sum(each["body"].startswith(head) for each in self.puppets[channel].messages())

    def wait_for_more(self, nsqds: Sequence[HostDaemon], channels: Sequence[str], within_s: float) -> None:
        """Wait until more has come from each of these nsqds on each of these channels."""
        wanted = {
            (channel, nsqd.host.name): self.came(channel, nsqd) + MANY
            for channel in channels
            for nsqd in nsqds
        }
        for channel in channels:
            for nsqd in nsqds:
                wait_until(
                    partial(self._has_come, channel, nsqd, wanted[channel, nsqd.host.name]),
                    within_s,
                    f"{MANY} more from {nsqd.host.name} on {channel}",
                    describe=self.describe,
                )

    def note_end(self, nsqd: HostDaemon) -> None:
        """Call this when an nsqd has ended, before it is started again."""
        time.sleep(SETTLED_S)
        self.ended_at_s.setdefault(nsqd.host.name, []).append(time.monotonic())

    def finish(self) -> None:
        """Stop publishing, wait until all is consumed, and look whether anything was lost or came wrongly."""
        self.traffic.stop_publishing()
        assert not self.traffic.workers.errors, self.traffic.workers.errors
        for nsqd in self.cluster.nsqds:
            for channel in self.puppets:
                wait_until(
                    partial(_is_drained, nsqd, channel), 20.0, f"{channel} is drained", describe=self.describe
                )
        for channel in self.puppets:
            for stream in self.traffic.streams:
                report = self._book(channel, stream).report()
                assert report.ok, f"{stream.nsqd.host.name}: {report}"

    def describe(self) -> str:
        """What the libraries complained of, for an error message."""
        return "\n".join([*(puppet.trouble() for puppet in self.puppets.values()), self.cluster.describe()])

    def _has_come(self, channel: str, nsqd: HostDaemon, count: int) -> bool:
        return self.came(channel, nsqd) >= count

    def _book(self, channel: str, stream: Stream) -> ChannelBook:
        book = ChannelBook(channel, stream.publisher.ledger)
        ends = list(self.ended_at_s.get(stream.nsqd.host.name, ()))
        found = sorted(self.puppets[channel].all_messages(), key=lambda each: float(each["at_s"]))
        for each in found:
            key = key_of(each["body"])
            assert key is not None, each["body"][:40]
            if key[0] != stream.publisher.name:
                continue
            while ends and each["at_s"] >= ends[0]:
                book.crashed()
                ends.pop(0)
            entered = book.delivered(each["id"].encode(), 0, each["attempts"], each["body"], each["at_s"])
            if entered is not None and each["action"] == "finish":
                book.finished(entered)
        return book


@pytest.fixture
def scene(cluster: HostCluster, producer: Host, traffic_to_libraries: Traffic) -> Iterator[Scene]:
    """Everything flows, to both libraries."""
    with contextlib.ExitStack() as stack:
        puppets = {}
        for channel, module in CHANNELS.items():
            host = cluster.lan.add(f"{channel}-consumer")
            command = [*host.command(), sys.executable, "-W", "ignore", "-m", module]
            puppets[channel] = stack.enter_context(Puppet(command, [], cluster.lookupd_http_addresses))
            puppets[channel].consume(TOPIC, channel)
        scene = Scene(cluster, traffic_to_libraries, puppets)
        stack.callback(traffic_to_libraries.stop)
        for stream in traffic_to_libraries.streams:
            traffic_to_libraries.workers.start(stream.publisher.name, partial(stream.publish, producer))
        scene.wait_for_more(cluster.nsqds, list(CHANNELS), FOUND_S)
        yield scene


@pytest.fixture
def traffic_to_libraries(cluster: HostCluster, chance: random.Random) -> Traffic:
    """Streams that nobody reads yet."""
    cluster.create_channels(TOPIC, *CHANNELS)
    cluster.wait_listed(TOPIC, cluster.nsqds, FOUND_S)
    return Traffic.to(cluster.nsqds, TOPIC, (), chance)


def test_a_rolling_restart_under_load_loses_nothing(scene: Scene) -> None:
    """One nsqd after the other is stopped in good order and started again, as for an upgrade."""
    for nsqd in scene.cluster.nsqds:
        assert nsqd.terminate() == 0
        scene.note_end(nsqd)
        nsqd.start()
        scene.wait_for_more([nsqd], ["ours"], BACK_S["ours"])
    scene.wait_for_more(scene.cluster.nsqds, ["pynsq"], BACK_S["pynsq"])
    scene.finish()


def test_an_nsqd_that_comes_back_under_another_address_is_found(scene: Scene) -> None:
    """As a container does that is scheduled anew: consumers look its name up again."""
    nsqd, *others = scene.cluster.nsqds
    nsqd.kill()
    scene.note_end(nsqd)
    scene.cluster.lan.move(nsqd.host)
    nsqd.start()
    scene.wait_for_more([nsqd], ["ours"], BACK_S["ours"])
    scene.wait_for_more([nsqd], ["pynsq"], BACK_S["pynsq"])
    scene.wait_for_more(others, list(CHANNELS), FOUND_S)
    scene.finish()


def _is_drained(nsqd: HostDaemon, channel: str) -> bool:
    return nsqd.unfinished(TOPIC, channel) == 0
