"""Real daemons: an nsqd finds a real nsqlookupd, and is found through it."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.process.daemon import HOST, Daemon
from tests.process.raw import RawClient
from tests.process.waiting import wait_until

pytestmark = pytest.mark.process


class Lookupd(Daemon):
    """One `nsqlookupd`, started and stopped as an nsqd is."""

    def __enter__(self) -> Lookupd:
        return self

    def command(self) -> list[str]:
        line = super().command()
        module = line.index("nsqd")
        return [
            *line[:module],
            "nsqlookupd",
            f"--tcp-address={HOST}:{self.tcp_port}",
            f"--http-address={HOST}:{self.http_port}",
            f"--broadcast-address={HOST}",
        ]

    def ask(self, target: str) -> dict[str, Any]:
        """What it answers; for a 404 an empty object."""
        status, body = self.request("GET", target)
        answer: dict[str, Any] = json.loads(body) if status == 200 else {}
        return answer

    def producers(self, topic: str) -> list[int]:
        """TCP ports of those who have the topic."""
        return sorted(found["tcp_port"] for found in self.ask(f"/lookup?topic={topic}").get("producers", []))

    def channels(self, topic: str) -> list[str]:
        return sorted(self.ask(f"/channels?topic={topic}")["channels"])


def nsqd(path: Path, *registries: Daemon) -> Daemon:
    path.mkdir()
    addresses = [f"--lookupd-tcp-address={registry.tcp_address}" for registry in registries]
    return Daemon(path, [f"--broadcast-address={HOST}", "--http-client-request-timeout=1s", *addresses])


def lists(registry: Lookupd, topic: str, *daemons: Daemon, within_s: float = 5.0) -> None:
    """Wait until the registry has these producers of the topic, and no others."""
    ports = sorted(daemon.tcp_port for daemon in daemons)
    wait_until(lambda: registry.producers(topic) == ports, within_s, f"{topic} at {ports}")


def test_found_lost_and_found_again(tmp_path: Path) -> None:
    """What comes and goes is listed within moments; a registry that restarts empty is told everything again."""
    with Lookupd(tmp_path) as registry:
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


def test_a_new_topic_has_the_channels_that_it_has_elsewhere(tmp_path: Path) -> None:
    """They get what was published before any consumer came."""
    with Lookupd(tmp_path) as registry:
        registry.start()
        with nsqd(tmp_path / "one", registry) as one, nsqd(tmp_path / "two", registry) as two:
            one.start()
            two.start()
            one.create_channel("orders", "audit")
            one.create_channel("orders", "billing")
            wait_until(lambda: registry.channels("orders") == ["audit", "billing"], 2, "both are known")
            wait_until(lambda: len(registry.ask("/nodes")["producers"]) == 2, 2, "both nsqds are known")
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
    with Lookupd(tmp_path) as registry:
        registry.start()
        with nsqd(tmp_path / "one", registry) as one:
            one.start()
            wait_until(lambda: len(registry.ask("/nodes")["producers"]) == 1, 2, "the nsqd is known")
            with registry.stop_cont(), RawClient.connect(one.tcp_port) as client:
                began_s = time.monotonic()
                client.sub("orders", "audit")
                for number in range(100):
                    client.pub("orders", b"%d" % number)
                assert time.monotonic() - began_s < 1
                client.rdy(100)
                client.timeout_s = 10
                assert [client.message().body for _ in range(100)] == [
                    b"%d" % number for number in range(100)
                ]
                assert one.process is not None
                one.process.send_signal(signal.SIGTERM)
                assert one.wait(3) == 0


def test_reconfigured_while_it_runs(tmp_path: Path) -> None:
    """PUT /config/nsqlookupd_tcp_addresses: new ones are told at once, others forgotten."""
    with Lookupd(tmp_path) as first, Lookupd(tmp_path) as second:
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
