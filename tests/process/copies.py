"""What tests of copies ask a leader and its follower, and wait for."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from tests.process.closed import Closed
from tests.process.daemon import HOST, Daemon
from tests.process.ports import free_port
from tests.process.raw import RawClient
from tests.process.waiting import wait_until

__all__ = [
    "MUCH",
    "adopt",
    "copy_of",
    "held",
    "in_step",
    "listening",
    "make_follower",
    "make_leader",
    "memory",
    "received",
    "runs",
    "stand_in_pids",
    "the_copy",
]

MUCH = 48 << 20
"""More bytes than a daemon's memory may grow by for the sake of a bad peer."""


def make_follower(path: Path, port: int, closed: Closed | None = None) -> Daemon:
    """Not started. `path`: a folder for its data path. `port`: of replication. `closed`: what closes it."""
    folder = path / "follower"
    folder.mkdir()
    ports = f"{free_port()}-{free_port()}"
    flags = (f"--replication-address={HOST}:{port}", f"--stand-in-ports={ports}")
    return Daemon(folder, flags, closed=closed)


def make_leader(path: Path, port: int, closed: Closed | None = None) -> Daemon:
    """As `make_follower`; an OK takes both."""
    folder = path / "leader"
    folder.mkdir()
    flags = (f"--replicate-to={HOST}:{port}", "--ack-copies=2", "--replica-timeout=1s")
    return Daemon(folder, flags, closed=closed)


def in_step(leader: Daemon) -> bool:
    """Whether all of its copies are."""
    copies = leader.stats()["copies"]
    return bool(copies["in_step"] == copies["wanted"])


def the_copy(follower: Daemon) -> Path:
    """The data path of the only copy that it has."""
    (found,) = (follower.data_path / "copies").iterdir()
    return found


def received(port: int, topic: str, channel: str, count: int, *, host: str = HOST) -> list[bytes]:
    """Consume so many messages; their bodies, in the order in which they came."""
    bodies: list[bytes] = []
    with RawClient.connect(port, host=host) as client:
        client.sub(topic, channel)
        client.rdy(100)
        while len(bodies) < count:
            message = client.message()
            client.fin(message.id)
            bodies.append(message.body)
    return bodies


def held(follower: Daemon) -> dict[str, Any]:
    """The first copy that it has."""
    return dict(follower.stats()["copies"]["held"][0])


def copy_of(life: str, follower: Daemon) -> dict[str, Any]:
    """What the follower says of the copy of this life; empty when it has none."""
    return next((dict(copy) for copy in follower.stats()["copies"]["held"] if copy["life"] == life), {})


def adopt(follower: Daemon) -> int:
    """Adopt the copy; returns the TCP port of the stand-in when it listens."""
    status, body = follower.request("POST", f"/replicas/adopt?life={held(follower)['life']}")
    assert status == 200, body
    return listening(follower)


def listening(follower: Daemon) -> int:
    """The TCP port of the stand-in, when it listens."""
    wait_until(lambda: bool(held(follower)["stand_in_port"]), 10.0, "a stand-in")
    port = int(held(follower)["stand_in_port"])
    wait_until(lambda: _listens(port), 10.0, "it listens")
    return port


def memory(daemon: Daemon) -> int:
    """Bytes of memory that it uses."""
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def stand_in_pids(follower: Daemon) -> list[int]:
    """The processes that it has started."""
    assert follower.process is not None
    tasks = Path(f"/proc/{follower.process.pid}/task")
    return [int(pid) for children in tasks.glob("*/children") for pid in children.read_text().split()]


def runs(pid: int) -> bool:
    """Whether it is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
