"""Followers that are stuck, full or hostile, and strangers on the replication port: what the others notice of it.

A bad follower costs one time-out and bounded memory, and no delivery; a stranger costs nothing.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from nsqd.replication import wire
from tests.process.copies import MUCH, held, in_step, memory, received, the_copy
from tests.process.daemon import HOST, Daemon
from tests.process.raw import RawClient
from tests.process.test_kill import new_seed
from tests.process.waiting import wait_until
from tests.process.workload import Workers
from tests.timing import patience

pytestmark = pytest.mark.process

TOPIC, CHANNEL = "orders", "audit"
MIB = 1 << 20
MANY = 300
BODY = bytes(2_000)


@attrs.define(eq=False)
class Flow:
    """A publisher and a consumer of the leader, at work while the block runs."""

    port: int
    published: int = 0
    consumed: int = 0
    workers: Workers = attrs.field(factory=Workers)

    @contextlib.contextmanager
    def flowing(self) -> Iterator[Flow]:
        """At its end everything is consumed."""
        for work in (self._publish, self._consume):
            self.workers.start(work.__name__, work)
        try:
            yield self
        finally:
            self.workers.stop.set()
            self.workers.join()
        assert self.workers.errors == [], self.workers.errors
        assert self.consumed == self.published

    def wait_for_more(self, count: int = MANY, *, describe: Callable[[], str] = str) -> None:
        """Wait until so many more were published and came."""
        published, consumed = self.published + count, self.consumed + count
        wait_until(
            lambda: self.published >= published and self.consumed >= consumed,
            10.0,
            f"{count} more messages",
            describe=lambda: f"{self.workers.errors}\n{describe()}",
        )

    def _publish(self, stop: threading.Event) -> None:
        with RawClient.connect(self.port) as client:
            while not stop.wait(0.001):
                client.pub(TOPIC, BODY)
                self.published += 1

    def _consume(self, stop: threading.Event) -> None:
        with RawClient.connect(self.port) as client:
            client.sub(TOPIC, CHANNEL)
            client.rdy(50)
            while not stop.is_set() or self.consumed < self.published:
                with contextlib.suppress(TimeoutError):
                    client.fin(client.message(0.1).id)
                    self.consumed += 1


@pytest.fixture
def pair(leader: Daemon, follower: Daemon) -> tuple[Daemon, Daemon]:
    """Leader and follower, started and in step."""
    follower.start()
    leader.start()
    leader.create_channel(TOPIC, CHANNEL)
    wait_until(lambda: in_step(leader), 10.0, "in step", describe=leader.log_end)
    return leader, follower


@pytest.mark.parametrize("seconds", [1.0, pytest.param(30.0, marks=pytest.mark.soak)])
def test_a_follower_that_is_stuck_and_goes_on(pair: tuple[Daemon, Daemon], seconds: float) -> None:
    leader, follower = pair
    before = memory(leader)
    with Flow(leader.tcp_port).flowing() as flow:
        flow.wait_for_more()
        with follower.stop_cont():
            wait_until(lambda: not in_step(leader), 10.0, "it is out of step", describe=leader.log_end)
            assert leader.request("GET", "/ping") == (200, b"OK - 1 of 2 copies")
            flow.wait_for_more()
            time.sleep(seconds)
            flow.wait_for_more()
            assert memory(leader) < before + MUCH
        wait_until(lambda: in_step(leader), 20.0, "it has caught up", describe=leader.log_end)
        flow.wait_for_more()
    assert leader.request("GET", "/ping") == (200, b"OK")


def test_a_follower_that_is_full(leader: Daemon, follower: Daemon) -> None:
    """It keeps its own room; the leader goes on with one copy, and says why; with room it is in step again."""
    flags = follower.flags
    room = 4 * MIB
    follower.flags = (*flags, f"--replica-max-bytes={room}")
    follower.start()
    leader.start()
    bodies = [bytes(100_000)] * 10
    for _ in range(20):
        with RawClient.connect(leader.tcp_port) as client:
            client.mpub(TOPIC, bodies)
    wait_until(
        lambda: any("refused: full" in line for line in leader.lines),
        10.0,
        "it is refused",
        describe=leader.log_end,
    )
    assert size_of(the_copy(follower)) < room + 2 * MIB
    assert leader.request("GET", "/ping") == (200, b"OK - 1 of 2 copies")
    (standing,) = leader.stats()["copies"]["followers"]
    assert "full" in standing["state"]
    assert follower.request("POST", "/pub?topic=own", b"of the follower itself")[0] == 200


@pytest.mark.soak
def test_a_follower_whose_disk_is_full(leader: Daemon, follower: Daemon, small_disk: Path) -> None:
    """Its own publishes go on. When consumers have finished what fills it, it is in step again, by itself."""
    follower.data_path = small_disk
    follower.flags = (*follower.flags, f"--min-free-space={MIB}")
    follower.start()
    leader.start()
    leader.create_channel(TOPIC, CHANNEL)
    for _ in range(40):
        with RawClient.connect(leader.tcp_port) as client:
            client.mpub(TOPIC, [bytes(100_000)] * 10)
    wait_until(
        lambda: any("refused: full" in line for line in leader.lines),
        10.0,
        "it is refused",
        describe=leader.log_end,
    )
    assert leader.request("GET", "/ping") == (200, b"OK - 1 of 2 copies")
    for _ in range(10):
        assert follower.request("POST", "/pub?topic=own", bytes(1_000))[0] == 200
    assert follower.request("GET", "/ping") == (200, b"OK")
    received(leader.tcp_port, TOPIC, CHANNEL, 400)
    wait_until(lambda: in_step(leader), 60.0, "in step again", describe=leader.log_end)
    assert held(follower)["bytes"] < MIB


def test_strangers_on_the_replication_port(pair: tuple[Daemon, Daemon], port: int) -> None:
    """Many that say nothing, chance bytes, frames of any size, and one that does not know the secret."""
    leader, follower = pair
    chance = random.Random(new_seed())
    memory_before, files_before = memory(follower), open_files(follower)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection((HOST, port))) for _ in range(100)]
        for _ in range(8):
            send_and_see_it_closed(port, chance.randbytes(chance.randrange(8, 100_000)))
            send_and_see_it_closed(
                port, wire.GREETING + struct.pack(">IB", chance.randrange(8193, 1 << 32), 2)
            )
            send_and_see_it_closed(port, wire.GREETING + wire.encode(wire.Data(bytes(8_000))))
        hello = wire.Hello(bytes(16), 1, bytes(16), bytes(16), bytes(32), "stranger", False)
        send_and_see_it_closed(port, wire.GREETING + wire.encode(hello))
        assert memory(follower) < memory_before + MUCH
        assert open_files(follower) < files_before + 50
        leader.request("POST", f"/pub?topic={TOPIC}", b"among strangers")
        assert in_step(leader)
        assert leader.terminate() == 0
        leader.start()
        wait_until(lambda: in_step(leader), 10.0, "one more leader", describe=follower.log_end)
        del silent
    assert [copy["name"] for copy in follower.stats()["copies"]["held"]] == [held(follower)["name"]]


class Impostor:
    """What listens where the follower should; each connection is treated in another way."""

    def __init__(self, port: int, chance: random.Random) -> None:
        self._port, self._chance = port, chance
        self.treated: Counter[str] = Counter()

    def run(self, stop: threading.Event) -> None:
        """Accept until told to stop."""
        kinds = [
            self._chance_bytes,
            self._huge_frame,
            self._no_proof,
            self._too_much_acknowledged,
            self._silent,
        ]
        with socket.create_server((HOST, self._port)) as listener, contextlib.ExitStack() as stack:
            listener.settimeout(0.1)
            while not stop.is_set():
                with contextlib.suppress(TimeoutError, ConnectionError):
                    connection = stack.enter_context(listener.accept()[0])
                    connection.settimeout(patience(5))
                    kind = kinds[self.treated.total() % len(kinds)]
                    kind(connection)
                    self.treated[kind.__name__] += 1

    def _chance_bytes(self, connection: socket.socket) -> None:
        connection.sendall(self._chance.randbytes(100_000))

    def _huge_frame(self, connection: socket.socket) -> None:
        connection.sendall(wire.GREETING + struct.pack(">IB", (1 << 32) - 1, 1) + bytes(100_000))

    def _silent(self, connection: socket.socket) -> None:
        connection.recv(100)

    def _no_proof(self, connection: socket.socket) -> None:
        frames = self._greeted(connection)
        assert isinstance(frames, wire.Hello)
        connection.sendall(wire.encode(wire.Welcome(bytes(32), bytes(16))))

    def _too_much_acknowledged(self, connection: socket.socket) -> None:
        hello = self._greeted(connection)
        shown = wire.proof(b"", "follower", bytes(16), hello.nonce, bytes(16))
        for frame in (wire.Welcome(shown, bytes(16)), wire.AllHeld(), wire.Ack(1 << 60)):
            connection.sendall(wire.encode(frame))
        while connection.recv(1 << 16):
            pass

    def _greeted(self, connection: socket.socket) -> wire.Hello:
        connection.sendall(wire.GREETING + wire.encode(wire.Challenge(bytes(16))))
        frames = wire.Frames()
        while (frame := frames.take()) is None:
            frames.feed(connection.recv(1 << 16))
        assert isinstance(frame, wire.Hello)
        return frame


def test_a_hostile_follower(leader: Daemon, port: int) -> None:
    """It is never in step, and nobody waits for it."""
    impostor, workers = Impostor(port, random.Random(new_seed())), Workers()
    leader.start()
    leader.create_channel(TOPIC, CHANNEL)
    before = memory(leader)
    workers.start("impostor", impostor.run)
    try:
        with Flow(leader.tcp_port).flowing() as flow:
            wait_until(
                lambda: len(impostor.treated) == 5,
                30.0,
                "it was hostile in all ways",
                describe=leader.log_end,
            )
            flow.wait_for_more(describe=leader.log_end)
            assert leader.request("GET", "/ping") == (200, b"OK - 1 of 2 copies")
            assert not in_step(leader)
    finally:
        workers.stop.set()
        workers.join()
    assert workers.errors == []
    assert memory(leader) < before + MUCH


def send_and_see_it_closed(port: int, data: bytes) -> None:
    """Send this to the replication port, and read up to the end of the connection."""
    with (
        socket.create_connection((HOST, port), timeout=patience(10)) as stranger,
        contextlib.suppress(ConnectionError),
    ):
        stranger.sendall(data)
        while stranger.recv(1 << 16):
            pass


def open_files(daemon: Daemon) -> int:
    assert daemon.process is not None
    return len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))


def size_of(path: Path) -> int:
    """Bytes of all files below it."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
