"""A cluster on hosts of its own, and traffic; where hosts cannot be made, the tests say why and are skipped."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network.cluster import HostCluster
from tests.network.hosts import Host, why_not
from tests.network.traffic import Traffic
from tests.process.test_kill import new_seed

TOPIC = "orders"
AUDIT, BILLING = "audit", "billing"


@pytest.fixture
def chance() -> random.Random:
    """Whatever a test leaves to chance. The seed is printed."""
    return random.Random(new_seed())


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[HostCluster]:
    """Three nsqds and two registries on five hosts, which all know one another."""
    if reason := why_not():
        pytest.skip(reason)
    with HostCluster.started(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def producer(cluster: HostCluster) -> Host:
    """The host that publishes."""
    return cluster.lan.add("producer")


@pytest.fixture
def consumers(cluster: HostCluster) -> dict[str, Host]:
    """The hosts that consume, by channel."""
    return {channel: cluster.lan.add(channel) for channel in (AUDIT, BILLING)}


@pytest.fixture
def traffic(
    cluster: HostCluster, producer: Host, consumers: dict[str, Host], chance: random.Random
) -> Iterator[Traffic]:
    """A stream to each nsqd, consumed on both channels, already flowing."""
    cluster.create_channels(TOPIC, AUDIT, BILLING)
    traffic = Traffic.to(cluster.nsqds, TOPIC, (AUDIT, BILLING), chance)
    try:
        traffic.start(producer, consumers)
        traffic.wait_for_more()
        yield traffic
    finally:
        traffic.stop()
