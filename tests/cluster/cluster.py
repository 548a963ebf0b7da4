"""A whole cluster for a test: three `nsqd`, and two `nsqlookupd` to which all of them announce themselves.

    with Cluster(tmp_path) as cluster:
        cluster.start()
        first, *_ = cluster.nsqds
        first.create_channel("orders", "audit")
        cluster.wait_listed("orders", [first], within_s=2)
        first.kill()
        first.start()  # the same ports, the same data path

Rules:

- Members are `Daemon` and `LookupDaemon`: start, kill and restart each as it is described there. A registry
  that was killed comes back with the same ports and knows nothing.
- Everything is on the loopback interface, and every member announces itself with that address.
- What has to become true in the registries is waited for with a limit, by asking over HTTP; the error shows what
  each of them says. Without `at`, all registries that run are asked.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import attrs

from nsqkit.discovery import Discovery
from nsqkit.tls import client_context
from tests.process.closed import Closed
from tests.process.daemon import HOST, Daemon
from tests.process.lookup import LookupDaemon
from tests.process.waiting import wait_until

__all__ = ["Cluster", "addresses_of", "set_registries"]

NSQDS = 3
REGISTRIES = 2


@attrs.define(eq=False)
class Cluster:
    """Its members, none of which runs before `start`. Leaving the `with` block kills them all."""

    path: Path
    """Where each nsqd gets a folder for its data."""
    nsqd_flags: Sequence[str] = ()
    registry_flags: Sequence[str] = ()
    closed: Closed | None = None
    """What closes all members; None: they are open to everybody."""
    nsqds: list[Daemon] = attrs.field(factory=list, init=False)
    registries: list[LookupDaemon] = attrs.field(factory=list, init=False)
    _stack: contextlib.ExitStack = attrs.field(factory=contextlib.ExitStack, init=False)
    _numbers: Iterator[int] = attrs.field(factory=itertools.count, init=False)

    def __enter__(self) -> Cluster:
        """Start nothing; only promise that nothing is left behind."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill all that runs."""
        self._stack.close()

    # Its life.

    def start(self) -> None:
        """Start the registries, then the nsqds; each is ready, and nothing is promised about who knows whom."""
        for _ in range(REGISTRIES):
            registry = LookupDaemon(
                flags=[f"--broadcast-address={HOST}", *self.registry_flags], closed=self.closed
            )
            self.registries.append(registry)
            self._stack.callback(registry.kill)
            registry.start()
        for _ in range(NSQDS):
            self.add_nsqd().start()

    def add_nsqd(self, *, registries: Iterable[LookupDaemon] | None = None) -> Daemon:
        """Make one more nsqd, not started yet, that announces itself to these registries; without any: to all."""
        number = next(self._numbers)
        folder = self.path / f"nsqd{number}"
        folder.mkdir()
        known = self.registries if registries is None else registries
        flags = [f"--broadcast-address={HOST}", f"--node-id={number}", *self.nsqd_flags]
        flags += [f"--lookupd-tcp-address={each.tcp_address}" for each in known]
        nsqd = Daemon(folder, flags, closed=self.closed)
        self.nsqds.append(nsqd)
        self._stack.callback(nsqd.kill)
        return nsqd

    def create_channel(self, topic: str, channel: str) -> None:
        """Create topic and channel on every nsqd that runs."""
        for nsqd in self.running_nsqds:
            nsqd.create_channel(topic, channel)

    @property
    def running_nsqds(self) -> list[Daemon]:
        """Give the nsqds that were started and not killed."""
        return [nsqd for nsqd in self.nsqds if nsqd.process is not None]

    @property
    def running_registries(self) -> list[LookupDaemon]:
        """Give the registries that were started and not killed."""
        return [registry for registry in self.registries if registry.process is not None]

    @property
    def lookupd_http_addresses(self) -> list[str]:
        """Give where consumers ask, of all registries."""
        return [registry.lookup_address for registry in self.registries]

    @property
    def client_options(self) -> dict[str, Any]:
        """Give what nsqkit's consumers and producers need."""
        return self.closed.client_options if self.closed is not None else {}

    def discovery(self, interval_s: float) -> Discovery:
        """Give a client of all registries."""
        if self.closed is None:
            return Discovery(self.lookupd_http_addresses, interval=interval_s)
        trusting = partial(client_context, root_ca_file=self.closed.certificates.root_ca_file)
        bearer = self.closed.token
        return Discovery(self.lookupd_http_addresses, interval=interval_s, tls=trusting, bearer=bearer)

    # What the registries know.

    def wait_known(
        self, nsqds: Sequence[Daemon], within_s: float, *, at: Sequence[LookupDaemon] = ()
    ) -> None:
        """Wait until `/nodes` shows exactly these nsqds, each once."""
        wanted = addresses_of(nsqds)
        self._wait(lambda each: _node_addresses(each) == wanted, at, within_s, f"/nodes shows {wanted}")

    def wait_listed(
        self, topic: str, nsqds: Sequence[Daemon], within_s: float, *, at: Sequence[LookupDaemon] = ()
    ) -> None:
        """Wait until `/lookup` gives exactly these nsqds for the topic, each once."""
        wanted = addresses_of(nsqds)
        self._wait(lambda each: each.producers(topic) == wanted, at, within_s, f"{topic} is at {wanted}")

    def wait_channels(
        self, topic: str, channels: Sequence[str], within_s: float, *, at: Sequence[LookupDaemon] = ()
    ) -> None:
        """Wait until `/channels` gives exactly these."""
        wanted = sorted(channels)
        self._wait(lambda each: each.channels(topic) == wanted, at, within_s, f"{topic} has {wanted}")

    def wait_registered(
        self,
        topic: str,
        channel: str,
        nsqds: Sequence[Daemon],
        within_s: float,
        *,
        at: Sequence[LookupDaemon] = (),
    ) -> None:
        """Wait until exactly these nsqds are registered for the channel. Only `/debug` tells."""
        wanted = addresses_of(nsqds)
        self._wait(
            lambda each: _registered(each, f"channel:{topic}:{channel}") == wanted,
            at,
            within_s,
            f"{topic}/{channel} is at {wanted}",
        )

    def describe(self) -> str:
        """Give what every registry that runs knows, and the end of every log, for an error message."""
        texts = [f"{each.tcp_address}: {_registrations(each)}" for each in self.running_registries]
        for daemon in (*self.registries, *self.nsqds):
            texts.append(f"log of {daemon.tcp_address}:\n{daemon.log_end(15)}")
        return "\n".join(texts)

    def _wait(
        self,
        holds: Callable[[LookupDaemon], bool],
        at: Sequence[LookupDaemon],
        within_s: float,
        what: str,
    ) -> None:
        asked = at or self.running_registries
        assert asked, "no registry runs"
        wait_until(lambda: all(holds(each) for each in asked), within_s, what, describe=self.describe)


def addresses_of(nsqds: Iterable[Daemon]) -> list[str]:
    """Give their TCP addresses, sorted, as the registries show them."""
    return sorted(nsqd.tcp_address for nsqd in nsqds)


def set_registries(nsqd: Daemon, registries: Sequence[LookupDaemon]) -> None:
    """Change the list of registries of an nsqd that runs."""
    addresses = [registry.tcp_address for registry in registries]
    status, body = nsqd.request("PUT", "/config/nsqlookupd_tcp_addresses", json.dumps(addresses).encode())
    assert (status, json.loads(body)) == (200, addresses)


def _node_addresses(registry: LookupDaemon) -> list[str]:
    return _addresses(registry.nodes())


def _registered(registry: LookupDaemon, key: str) -> list[str]:
    return _registrations(registry).get(key, [])


def _registrations(registry: LookupDaemon) -> dict[str, list[str]]:
    return {key: _addresses(producers) for key, producers in _get(registry, "/debug").items()}


def _addresses(producers: Iterable[dict[str, Any]]) -> list[str]:
    return sorted(f"{found['broadcast_address']}:{found['tcp_port']}" for found in producers)


def _get(registry: LookupDaemon, target: str) -> dict[str, Any]:
    status, body = registry.request("GET", target)
    assert status == 200, (target, status, body)
    answer: dict[str, Any] = json.loads(body)
    return answer
