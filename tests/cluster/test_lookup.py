"""Real daemons: an nsqd finds a real nsqlookupd, and is found through it."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.process.daemon import HOST, Daemon
from tests.process.lookup import LookupDaemon
from tests.process.raw import RawClient
from tests.process.waiting import wait_until

pytestmark = pytest.mark.process


def registry_daemon() -> LookupDaemon:
    return LookupDaemon(flags=[f"--broadcast-address={HOST}"])


def nsqd(path: Path, *registries: Daemon, request_timeout_s: int = 1) -> Daemon:
    path.mkdir()
    flags = [f"--broadcast-address={HOST}", f"--http-client-request-timeout={request_timeout_s}s"]
    return Daemon(
        path, [*flags, *(f"--lookupd-tcp-address={registry.tcp_address}" for registry in registries)]
    )


def lists(registry: LookupDaemon, topic: str, *daemons: Daemon, within_s: float = 5.0) -> None:
    """Wait until the registry has these producers of the topic, and no others."""
    addresses = sorted(daemon.tcp_address for daemon in daemons)
    wait_until(lambda: registry.producers(topic) == addresses, within_s, f"{topic} at {addresses}")


def test_found_lost_and_found_again(tmp_path: Path) -> None:
    """What comes and goes is listed within moments; a registry that restarts empty is told everything again."""
    with registry_daemon() as registry:
        registry.start()
        with nsqd(tmp_path / "one", registry) as one:
            one.start()
            one.create_channel("orders", "audit")
            lists(registry, "orders", one, within_s=2)
            wait_until(lambda: registry.channels("orders") == ["audit"], 2, "the channel is known")
            one.request("POST", "/channel/delete?topic=orders&channel=audit")
            one.request("POST", "/channel/create?topic=orders&channel=billing")
            registry.kill()
            with RawClient.connect(one.tcp_port) as client:
                client.pub("alone", b"nobody to ask")
            registry.start()
            lists(registry, "alone", one)
            lists(registry, "orders", one)
            assert registry.channels("orders") == ["billing"]
            one.request("POST", "/topic/delete?topic=alone")
            lists(registry, "alone", within_s=2)
            one.kill()
            lists(registry, "orders", within_s=2)
            one.start()
            lists(registry, "orders", one)
            assert one.terminate() == 0
            lists(registry, "orders", within_s=2)


def test_a_new_topic_has_its_channels_of_other_nsqds(tmp_path: Path) -> None:
    """They get what was published before any consumer came."""
    with registry_daemon() as registry:
        registry.start()
        with nsqd(tmp_path / "one", registry) as one, nsqd(tmp_path / "two", registry) as two:
            one.start()
            two.start()
            one.create_channel("orders", "audit")
            one.create_channel("orders", "billing")
            wait_until(lambda: registry.channels("orders") == ["audit", "billing"], 2, "both are known")
            wait_until(lambda: len(registry.nodes()) == 2, 2, "both nsqds are known")
            with RawClient.connect(two.tcp_port) as client:
                client.mpub("orders", [b"1", b"2"])
                client.pub("orders", b"3")
            for channel in ("audit", "billing"):
                wait_until(lambda: two.stats()["topics"][0]["depth"] == 0, 5, "the topic has started")
                with RawClient.connect(two.tcp_port) as client:
                    client.sub("orders", channel)
                    client.rdy(3)
                    assert [client.message().body for _ in range(3)] == [b"1", b"2", b"3"]
            lists(registry, "orders", one, two)


def test_a_registry_that_is_stopped_delays_no_publisher(tmp_path: Path) -> None:
    """Held by SIGSTOP it still takes connections, and answers nothing."""
    with registry_daemon() as registry:
        registry.start()
        with nsqd(tmp_path / "one", registry, request_timeout_s=3) as one:
            one.start()
            wait_until(lambda: len(registry.nodes()) == 1, 2, "the nsqd is known")
            with registry.stop_cont(), RawClient.connect(one.tcp_port) as client:
                began_s = time.monotonic()
                client.sub("orders", "audit")
                for number in range(100):
                    client.pub("orders", b"%d" % number)
                assert time.monotonic() - began_s < 3, "they waited for the registry"
                client.rdy(100)
                client.timeout_s = 10
                assert [client.message().body for _ in range(100)] == [
                    b"%d" % number for number in range(100)
                ]
                assert one.process is not None
                one.process.send_signal(signal.SIGTERM)
                assert one.wait() == 0


def test_the_list_of_registries_changes_at_run_time(tmp_path: Path) -> None:
    """PUT /config/nsqlookupd_tcp_addresses: new ones are told at once, others forgotten."""
    with registry_daemon() as first, registry_daemon() as second:
        first.start()
        second.start()
        with nsqd(tmp_path / "one", first) as one:
            one.start()
            one.create_channel("orders", "audit")
            lists(first, "orders", one, within_s=2)
            body = json.dumps([second.tcp_address]).encode()
            status, shown = one.request("PUT", "/config/nsqlookupd_tcp_addresses", body)
            assert (status, json.loads(shown)) == (200, [second.tcp_address])
            lists(second, "orders", one, within_s=2)
            lists(first, "orders", within_s=2)
