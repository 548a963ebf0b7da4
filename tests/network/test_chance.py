"""Faults of every kind, one upon the other, as chance wills: at the end nothing is lost and everybody knows
everybody.

A run prints its seed; NSQ_TEST_SEED repeats its faults (their effects depend on the clock too). The long run
takes NSQ_SOAK_S seconds, 300 if that is not set.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import attrs
import pytest

from tests.network.cluster import HostCluster
from tests.network.conftest import TOPIC
from tests.network.hosts import Host
from tests.network.traffic import Traffic

SOAK_S = float(os.environ.get("NSQ_SOAK_S") or 300)

pytestmark = [
    pytest.mark.network,
    pytest.mark.timeout(SOAK_S + 180),
    pytest.mark.xdist_group("hosts"),
]

FOUND_S = 10.0


@attrs.define(eq=False)
class Trouble:
    """Who makes it."""

    cluster: HostCluster
    chance: random.Random
    told: list[str] = attrs.field(factory=list)
    """What was done, for an error message."""

    def for_seconds(self, seconds: float) -> None:
        """Make trouble of one kind after the other; about every third time all is healed."""
        kinds = [
            self.cut,
            self.cut_one_way,
            self.unplug,
            self.narrow,
            self.kill,
            self.restart,
            self.forget,
            self.move,
        ]
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            kind: Callable[[], str] = self.chance.choice(kinds)
            self.told.append(f"{kind.__name__}: {kind()}")
            time.sleep(self.chance.choice((0.0, 0.2, 1.0, 3.0)))
            if self.chance.random() < 0.3:
                self.cluster.lan.heal()
                self.told.append("healed")
                time.sleep(self.chance.uniform(0.0, 2.0))

    # Kinds of trouble; each says whom it hit.

    def cut(self) -> str:
        one, other = self._two_hosts()
        self.cluster.lan.cut(one, other)
        return f"{one.name} and {other.name}"

    def cut_one_way(self) -> str:
        one, other = self._two_hosts()
        self.cluster.lan.cut_one_way(one, other)
        return f"{one.name} to {other.name}"

    def unplug(self) -> str:
        host = self.chance.choice(self.cluster.lan.hosts)
        self.cluster.lan.unplug(host)
        return host.name

    def narrow(self) -> str:
        host = self.chance.choice(self.cluster.lan.hosts)
        self.cluster.lan.slow(host, self.chance.choice((500, 5_000)))
        self.cluster.lan.lossy(host, self.chance.choice((1, 10, 30)))
        return host.name

    def kill(self) -> str:
        nsqd = self.chance.choice(self.cluster.nsqds)
        nsqd.kill()
        nsqd.start()
        return nsqd.host.name

    def restart(self) -> str:
        nsqd = self.chance.choice(self.cluster.nsqds)
        assert nsqd.terminate() == 0, nsqd.log_end()
        nsqd.start()
        return nsqd.host.name

    def forget(self) -> str:
        registry = self.chance.choice(self.cluster.registries)
        registry.kill()
        registry.start()
        return registry.host.name

    def move(self) -> str:
        nsqd = self.chance.choice(self.cluster.nsqds)
        nsqd.kill()
        self.cluster.lan.move(nsqd.host)
        nsqd.start()
        return nsqd.host.name

    def _two_hosts(self) -> tuple[Host, Host]:
        one, other = self.chance.sample(self.cluster.lan.hosts, 2)
        return one, other


@pytest.mark.parametrize("seconds", [15.0, pytest.param(SOAK_S, marks=pytest.mark.soak)])
def test_faults_at_random(
    cluster: HostCluster, traffic: Traffic, chance: random.Random, seconds: float
) -> None:
    """Whatever happened: all that was acknowledged comes, and nothing that was finished for good comes again."""
    trouble = Trouble(cluster, chance)
    try:
        trouble.for_seconds(seconds)
        cluster.lan.heal()
        cluster.wait_listed(TOPIC, cluster.nsqds, FOUND_S)
        traffic.wait_for_more(within_s=20.0)
        traffic.finish()
        traffic.check()
    except AssertionError as error:
        raise AssertionError(f"{error}\nwhat was done:\n" + "\n".join(trouble.told)) from None
