"""The daemons of a cluster, each on a host of its own, configured by the files that administrators are given.

    with HostCluster.started(tmp_path) as cluster:
        cluster.lan.cut(cluster.nsqds[0].host, cluster.registries[0].host)
        cluster.wait_listed("orders", cluster.nsqds)

Every daemon announces itself under its host's name, which is its default, and finds the registries by theirs.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.deploy.configuration import Setting, configuration
from tests.network.hosts import Host, Lan
from tests.process.daemon import Daemon
from tests.process.waiting import wait_until

__all__ = ["FORGOTTEN_S", "HostCluster", "HostDaemon"]

NSQDS = 3
REGISTRIES = 2
REPLICATION_PORT = 4159
FORGOTTEN_S = 20
"""Until a registry no longer shows an nsqd that fell silent; nsqds report every 15 s."""


@attrs.define(eq=False, kw_only=True)
class HostDaemon(Daemon):
    """A daemon on a host. What `Daemon` says of starting and killing holds here too; its ports are NSQ's own."""

    host: Host
    program: str
    config: Path

    @property
    def address(self) -> str:
        """Where others reach it now, `host:port`, the host as a number."""
        return f"{self.host.address}:{self.tcp_port}"

    @property
    def announced(self) -> str:
        """Where registries say that it is."""
        return f"{self.host.name}:{self.tcp_port}"

    def command(self) -> list[str]:
        """Give the command line of the next start."""
        command = Daemon.command(self)
        options = command.index("-m")
        interpreter = options - 1
        words = ["-m", self.program, f"--config={self.config}"]
        return [*command[:interpreter], *self.host.command(), command[interpreter], *words]

    def request(
        self, method: str, target: str, body: bytes | None = None, *, within_s: float = 5.0
    ) -> tuple[int, bytes]:
        """Make one HTTP request, on its own host: it is answered whatever the network is like."""
        with self.host.entered():
            return Daemon.request(self, method, target, body, within_s=within_s)

    def ask(self, target: str) -> dict[str, Any]:
        """GET; the JSON of the answer, empty when there is no such thing."""
        status, body = self.request("GET", target)
        assert status in (200, 404), (target, status, body)
        answer: dict[str, Any] = json.loads(body) if status == 200 else {}
        return answer

    def listed(self, topic: str) -> list[str]:
        """Of a registry: where the topic is, sorted."""
        return _addresses(self.ask(f"/lookup?topic={topic}"))

    def nodes(self) -> list[str]:
        """Of a registry: every nsqd that it knows, sorted."""
        return _addresses(self.ask("/nodes"))


@attrs.define(eq=False)
class HostCluster:
    """Three nsqds, two registries, or more, and the network. Make it with `started`."""

    lan: Lan
    path: Path
    ring: bool = False
    """Each nsqd is copied to the next one."""
    nsqd_count: int = NSQDS
    registry_count: int = REGISTRIES
    settings: dict[str, Setting] = attrs.field(factory=dict)
    """Of every nsqd, beside those that make a cluster of them."""
    nsqds: list[HostDaemon] = attrs.field(factory=list)
    registries: list[HostDaemon] = attrs.field(factory=list)
    _stack: contextlib.ExitStack = attrs.field(factory=contextlib.ExitStack)

    @classmethod
    @contextlib.contextmanager
    def started(
        cls,
        path: Path,
        *,
        ring: bool = False,
        nsqds: int = NSQDS,
        registries: int = REGISTRIES,
        **settings: Setting,
    ) -> Iterator[HostCluster]:
        """Everything runs, and everybody knows everybody."""
        with Lan.made(path) as lan:
            cluster = cls(lan, path, ring, nsqds, registries, settings)
            with cluster._stack:
                cluster._start()
                yield cluster

    @property
    def lookupd_http_addresses(self) -> list[str]:
        """Where consumers ask, by name."""
        return [f"{registry.host.name}:{registry.http_port}" for registry in self.registries]

    def follower_of(self, nsqd: HostDaemon) -> HostDaemon:
        """Of a ring: who keeps its copy."""
        return self.nsqds[(self.nsqds.index(nsqd) + 1) % len(self.nsqds)]

    def create_channels(self, topic: str, *channels: str) -> None:
        """On every nsqd."""
        for nsqd in self.nsqds:
            for channel in channels:
                nsqd.create_channel(topic, channel)

    def wait_known(
        self, nsqds: Sequence[HostDaemon], within_s: float, *, at: Sequence[HostDaemon] = ()
    ) -> None:
        """Wait until all registries, or those given, know exactly these."""
        wanted = sorted(nsqd.announced for nsqd in nsqds)
        asked = at or self.registries
        what = f"{[each.host.name for each in asked]} know {wanted}"
        wait_until(
            lambda: all(each.nodes() == wanted for each in asked), within_s, what, describe=self.describe
        )

    def wait_listed(
        self, topic: str, nsqds: Sequence[HostDaemon], within_s: float, *, at: Sequence[HostDaemon] = ()
    ) -> None:
        """Wait until all registries, or those given, say that the topic is at exactly these."""
        wanted = sorted(nsqd.announced for nsqd in nsqds)
        asked = at or self.registries
        what = f"{[each.host.name for each in asked]} have {topic} at {wanted}"
        wait_until(
            lambda: all(each.listed(topic) == wanted for each in asked),
            within_s,
            what,
            describe=self.describe,
        )

    def describe(self) -> str:
        """What the registries know, and the end of every log, for an error message."""
        texts = [f"{each.host.name} knows {each.nodes()}" for each in self.registries if each.process]
        for daemon in (*self.registries, *self.nsqds):
            texts.append(f"log of {daemon.host.name}:\n{daemon.log_end(12)}")
        return "\n".join(texts)

    # Inside.

    def _start(self) -> None:
        self.registries = [self._make_registry(number) for number in range(1, self.registry_count + 1)]
        self.nsqds = [self._make_nsqd(number) for number in range(1, self.nsqd_count + 1)]
        for daemon in (*self.registries, *self.nsqds):
            daemon.start()
        self.wait_known(self.nsqds, 10.0)

    def _make_registry(self, number: int) -> HostDaemon:
        text = configuration("nsqlookupd", inactive_producer_timeout=f"{FORGOTTEN_S}s")
        return self._make("nsqlookupd", number, text, 4160)

    def _make_nsqd(self, number: int) -> HostDaemon:
        folder = self.path / f"data{number}"
        folder.mkdir()
        registries = [f"{registry.host.name}:4160" for registry in self.registries]
        text = configuration(
            "nsqd",
            id=number,
            data_path=str(folder),
            nsqlookupd_tcp_addresses=registries,
            broadcast_address=f"nsqd{number}",
            **(self._in_a_ring(number) if self.ring else {}),
            **self.settings,
        )
        nsqd = self._make("nsqd", number, text, 4150)
        nsqd.data_path = folder
        return nsqd

    def _in_a_ring(self, number: int) -> dict[str, Setting]:
        secret = self.path / "secret"
        secret.write_text("known to all of the ring")
        return {
            "replicate_to": [f"nsqd{number % self.nsqd_count + 1}:{REPLICATION_PORT}"],
            "replication_address": f":{REPLICATION_PORT}",
            "replication_secret_file": str(secret),
        }

    def _make(self, program: str, number: int, text: str, port: int) -> HostDaemon:
        host = self.lan.add(f"{program}{number}")
        config = self.path / f"{host.name}.toml"
        config.write_text(text)
        daemon = HostDaemon(
            data_path=self.path, tcp_port=port, http_port=port + 1, host=host, program=program, config=config
        )
        self._stack.callback(daemon.kill)
        return daemon


def _addresses(answer: dict[str, Any]) -> list[str]:
    found = answer.get("producers", [])
    return sorted(f"{each['broadcast_address']}:{each['tcp_port']}" for each in found)
