"""Consumers in libraries written by others find every nsqd through the registries, and lose nothing when one is killed.

What each can do:

- pynsq, ansq and nsqjs ask one registry after the other, again and again, and connect to what they hear of; so a killed
  nsqd is found again when it is back. pynsq tries an address once in 10 s at most.
- asyncnsq asks one registry, chosen by chance, once when it subscribes; it finds all nsqds, but none that comes
  later, and never connects again. A new process takes over after the kill.
- ansq, when it loses a connection, throws away what it has read from all others and not handed out yet; such a
  message comes after its time-out, so that its first attempt may never be seen.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.streams import Stream, Streams
from tests.foreign.puppet import Puppet
from tests.process.daemon import Daemon
from tests.process.waiting import wait_until

pytestmark = [pytest.mark.process, pytest.mark.foreign]

TOPIC, CHANNEL = "orders", "audit"
FOUND_S = 5.0
DRAINED_S = 30.0
MANY = 50


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """An open one: these libraries show registries no token."""
    with Cluster(tmp_path) as cluster:
        cluster.start()
        cluster.wait_known(cluster.nsqds, within_s=2.0)
        yield cluster


def test_pynsq(cluster: Cluster) -> None:
    find_all_and_lose_nothing(cluster, _python("_pynsq_client"), back_within_s=16)


def test_ansq(cluster: Cluster) -> None:
    find_all_and_lose_nothing(cluster, _python("_ansq_client"), back_within_s=FOUND_S, drops_unseen=True)


def test_nsqjs(cluster: Cluster, nsqjs: list[str]) -> None:
    find_all_and_lose_nothing(cluster, nsqjs, back_within_s=FOUND_S)


def test_asyncnsq(cluster: Cluster) -> None:
    find_all_and_lose_nothing(cluster, _python("_asyncnsq_client"), back_within_s=None)


def find_all_and_lose_nothing(
    cluster: Cluster, command: Sequence[str], *, back_within_s: float | None, drops_unseen: bool = False
) -> None:
    """One consumer, three steady streams, one nsqd killed in mid-stream and started again.

    With None for a library that does not come back by itself: a new process takes over from the old one.
    """
    cluster.create_channel(TOPIC, CHANNEL)
    cluster.wait_listed(TOPIC, cluster.nsqds, within_s=2.0)
    streams = Streams.to(cluster.nsqds, TOPIC, CHANNEL)
    hit, *others = streams.streams.values()
    with contextlib.ExitStack() as stack:
        puppets = [stack.enter_context(Puppet(command, [], cluster.lookupd_http_addresses))]
        puppets[0].consume(TOPIC, CHANNEL)
        for nsqd in cluster.nsqds:
            wait_until(
                partial(_is_subscribed, nsqd), FOUND_S, "it found the nsqd", describe=puppets[0].trouble
            )
        stack.callback(streams.workers.stop.set)
        for stream in (hit, *others):
            streams.start(stream)
        _wait_for_many(puppets, [hit, *others])

        hit.nsqd.kill()
        _wait_for_many(puppets, others)
        hit.nsqd.start()
        hit.restarted_at_s = time.monotonic()
        if back_within_s is None:
            puppets.append(stack.enter_context(Puppet(command, [], cluster.lookupd_http_addresses)))
            puppets[1].consume(TOPIC, CHANNEL)
        streams.start(hit)
        wait_until(
            lambda: _is_subscribed(hit.nsqd),
            back_within_s or FOUND_S,
            "it came back",
            describe=puppets[0].trouble,
        )
        _wait_for_many(puppets, [hit, *others])

        streams.stop()
        for nsqd in cluster.nsqds:
            wait_until(partial(_is_drained, nsqd), DRAINED_S, "drained", describe=puppets[-1].trouble)
        _enter_all(streams, puppets)
    for report in streams.reports():
        if drops_unseen:
            report.attempts.clear()
        assert report.ok, str(report)


def _python(module: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", f"tests.foreign.{module}"]


def _is_subscribed(nsqd: Daemon) -> bool:
    return bool(nsqd.channel_stats(TOPIC, CHANNEL)["client_count"])


def _wait_for_many(puppets: Sequence[Puppet], streams: Sequence[Stream]) -> None:
    """Wait for that many more messages of each of these streams."""
    wanted = {stream.publisher.name: _received(puppets, stream) + MANY for stream in streams}
    for stream in streams:
        wait_until(
            partial(_has_received, puppets, stream, wanted[stream.publisher.name]),
            DRAINED_S,
            f"{MANY} more of {stream.publisher.name}",
            describe=lambda: "\n".join(puppet.trouble() for puppet in puppets),
        )


def _is_drained(nsqd: Daemon) -> bool:
    return nsqd.unfinished(TOPIC, CHANNEL) == 0


def _has_received(puppets: Sequence[Puppet], stream: Stream, count: int) -> bool:
    return _received(puppets, stream) >= count


def _received(puppets: Sequence[Puppet], stream: Stream) -> int:
    head = f"{stream.publisher.name}:".encode()
    return sum(report["body"].startswith(head) for puppet in puppets for report in puppet.messages())


def _enter_all(streams: Streams, puppets: Sequence[Puppet]) -> None:
    reports = [report for puppet in puppets for report in puppet.all_messages()]
    for report in sorted(reports, key=lambda report: report["at_s"]):
        streams.enter(
            report["id"].encode(),
            report["attempts"],
            report["body"],
            report["at_s"],
            finished=report["action"] == "finish",
        )
