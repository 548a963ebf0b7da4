"""Hosts with a network between them, all of it on this machine, and what can go wrong with a network.

    with Lan.made(tmp_path) as lan:
        broker, consumer = lan.add("nsqd1"), lan.add("consumer1")
        subprocess.Popen([*broker.command(), "nsqd", ...])
        with consumer.entered():
            RawClient.connect(4150, host=broker.address)
        lan.cut(broker, consumer)
        lan.heal()

Theory of operation. A host is a process that sleeps, in a network, a mount and a UTS namespace of its own: it
has an interface `eth0` and a loopback of its own, its own host name, and an `/etc/hosts` that all hosts share
and that stands for the DNS of this network. Each is plugged into a bridge, the switch, which has a namespace
too, so that nothing of all this is to be seen from outside. When the processes end, so does everything, in any
case with the process of the tests.

Faults are made with nftables in the host that receives (a packet is lost on its way) and with the interfaces:

- `cut` loses all packets between two hosts, `cut_one_way` those of one direction; nobody is told, connections
  just fall silent;
- `lossy` loses some of a host's packets by chance, `slow` narrows its line down in both directions;
- `unplug` takes a host's cable out: what was sent meanwhile is lost, and no goodbye of a dying process gets
  through;
- `move` gives a host another address, under the old name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import attrs

from tests.network.namespaces import entered
from tests.timing import patience

__all__ = ["Host", "Lan", "why_not"]

TOOLS: Final = ("ip", "nft", "nsenter", "setpriv", "tc", "unshare")
NETWORK: Final = "10.77"
FIRST_NUMBER: Final = 11
ROOT: Final = Path(__file__).resolve().parents[2]
TABLE: Final = "table inet faults { chain arriving { type filter hook input priority 0; }; }"


def why_not() -> str:
    """Why hosts cannot be made here; empty when they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces want root on Linux"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", "--net", "nft", TABLE], capture_output=True, text=True, check=False, timeout=patience(10)
    )
    return tried.stderr.strip() and f"no namespaces or no nftables: {tried.stderr.strip()[:200]}"


@attrs.define(eq=False)
class Host:
    """One host of a `Lan`."""

    name: str
    address: str
    process: subprocess.Popen[str]
    """It holds the namespaces."""

    def command(self) -> list[str]:
        """What to put before a command, so that it runs on this host, in the project's folder."""
        holder = str(self.process.pid)
        return ["nsenter", "-t", holder, "--net", "--mount", "--uts", f"--wd={ROOT}", "--"]

    def entered(self) -> AbstractContextManager[None]:
        """Be on this host, for the calling thread."""
        return entered(self.process.pid)

    def run(self, *command: str) -> None:
        """Run a command on it that sets something up."""
        _run(*self.command(), *command)


@attrs.define(eq=False)
class Lan:
    """A switch and the hosts that are plugged into it. Make it with `made`."""

    path: Path
    """A folder for the file of names."""
    hosts: list[Host] = attrs.field(factory=list)
    _addresses: Iterator[str] = attrs.field(
        factory=lambda: (f"{NETWORK}.{n // 256}.{n % 256}" for n in range(FIRST_NUMBER, 1 << 16))
    )
    """Those that none has had."""
    _switch: Host = attrs.field(init=False)
    _stack: contextlib.ExitStack = attrs.field(factory=contextlib.ExitStack)

    @classmethod
    @contextlib.contextmanager
    def made(cls, path: Path) -> Iterator[Lan]:
        """A network without hosts; with the block everything on it ends."""
        lan = cls(path)
        with lan._stack:
            lan._names().write_text("")
            lan._switch = Host("switch", "", lan._hold("switch"))
            lan._switch.run("ip", "link", "add", "lan", "up", "type", "bridge", "forward_delay", "0")
            yield lan

    def add(self, name: str) -> Host:
        """Plug in one more host, to be reached under this name."""
        host = Host(name, next(self._addresses), self._hold(name))
        self.hosts.append(host)
        peer = ("peer", "name", "eth0", "netns", str(host.process.pid))
        self._switch.run("ip", "link", "add", name, "master", "lan", "up", "type", "veth", *peer)
        host.run("ip", "link", "set", "eth0", "up")
        host.run("ip", "address", "add", f"{host.address}/16", "dev", "eth0")
        host.run("nft", TABLE)
        self._write_names()
        return host

    # What goes wrong.

    def cut(self, one: Host, other: Host) -> None:
        """Lose all packets between them."""
        self.cut_one_way(one, other)
        self.cut_one_way(other, one)

    def cut_one_way(self, sender: Host, receiver: Host) -> None:
        """Lose what the one sends to the other."""
        receiver.run("nft", f"add rule inet faults arriving ip saddr {sender.address} drop")

    def lossy(self, host: Host, percent: int) -> None:
        """Lose so many of the packets that come to it from others, and of those that it sends to them."""
        rule = f"add rule inet faults arriving {{}} numgen random mod 100 < {percent} drop"
        host.run("nft", rule.format("iifname eth0"))
        for other in self.hosts:
            if other is not host:
                other.run("nft", rule.format(f"ip saddr {host.address}"))

    def slow(self, host: Host, kilobits: int) -> None:
        """Let so many thousand bits a second through, in each direction; what waits for more than a second is lost."""
        shape = ("root", "tbf", "rate", f"{kilobits}kbit", "burst", "3000", "latency", "1s")
        host.run("tc", "qdisc", "replace", "dev", "eth0", *shape)
        self._switch.run("tc", "qdisc", "replace", "dev", host.name, *shape)

    def unplug(self, host: Host) -> None:
        """Take the cable out."""
        self._switch.run("ip", "link", "set", host.name, "down")

    def plug_in(self, host: Host) -> None:
        """Put the cable back."""
        self._switch.run("ip", "link", "set", host.name, "up")

    def move(self, host: Host) -> None:
        """Give it an address that none has had, and tell the name service."""
        old, host.address = host.address, next(self._addresses)
        host.run("ip", "address", "del", f"{old}/16", "dev", "eth0")
        host.run("ip", "address", "add", f"{host.address}/16", "dev", "eth0")
        self._write_names()

    def heal(self) -> None:
        """Undo all of that, but for moves."""
        for host in self.hosts:
            host.run("nft", "flush chain inet faults arriving")
            host.run("sh", "-c", "tc qdisc del dev eth0 root 2>/dev/null || :")
            self._switch.run("sh", "-c", f"tc qdisc del dev {host.name} root 2>/dev/null || :")
            self.plug_in(host)

    # Inside.

    def _names(self) -> Path:
        return self.path / "hosts"

    def _write_names(self) -> None:
        """In place: the file is mounted on each host."""
        lines = [f"{host.address} {host.name}\n" for host in self.hosts]
        self._names().write_text("".join(["127.0.0.1 localhost\n", *lines]))

    def _hold(self, name: str) -> subprocess.Popen[str]:
        """The process of a host that has nothing but a loopback interface and names."""
        script = (
            'printf %s "$1" >/proc/sys/kernel/hostname && mount --bind "$2" /etc/hosts && ip link set lo up'
            " && echo up && exec sleep infinity"
        )
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "--"),
                *("unshare", "--net", "--uts", "--mount", "--propagation", "private"),
                *("sh", "-c", script, "sh", name, str(self._names())),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(_end, process)
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "up\n", process.stderr.read()
        return process


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=patience(10))


def _run(*command: str) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=patience(20), check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
