"""What docs/operations.md says of backups of a data path: when one is consistent, and how it is restored."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from tests.process.daemon import HOST, Daemon
from tests.process.ports import free_port
from tests.process.raw import RawClient
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = pytest.mark.process

TOPIC, CHANNEL = "orders", "billing"


@pytest.mark.parametrize("how", ["running", "stopped", "frozen"])
def test_a_backup_brings_all_back(tmp_path: Path, how: str) -> None:
    """By `nsqd-log`; of a daemon that was stopped; of one moment, as a snapshot of a file system is."""
    data, copy = tmp_path / "data", tmp_path / "copy"
    data.mkdir()
    with Daemon(data) as daemon, Daemon(copy) as restored:
        daemon.start()
        daemon.create_channel(TOPIC, CHANNEL)
        publish(daemon, range(100))
        before = take(daemon, 40)
        copy_data_path(daemon, copy, how)
        publish(daemon, range(100, 200))
        after = take(daemon, 160)

        for name in ("nsqd.ids", "nsqd.life"):
            (copy / name).unlink(missing_ok=True)
        restored.start()
        publish(restored, range(200, 300))
        again = take(restored, 160)

    assert set(again.values()) == {b"%d" % number for number in (*range(40, 100), *range(200, 300))}
    new = {id_ for id_, body in again.items() if int(body) >= 200}
    assert len(new) == 100
    assert not new & {*before, *after}, "an id that consumers have seen stands for another message"


def copy_data_path(daemon: Daemon, copy: Path, how: str) -> None:
    """And let the daemon run on."""
    if how == "running":
        backup = copy.with_name("backup")
        nsqd_log("backup", daemon.data_path, backup)
        nsqd_log("verify", backup)
        shutil.copytree(backup, copy)
        return
    if how == "stopped":
        assert daemon.terminate() == 0
        shutil.copytree(daemon.data_path, copy)
        daemon.start()
        return
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        shutil.copytree(daemon.data_path, copy)
    finally:
        daemon.process.send_signal(signal.SIGCONT)


def publish(daemon: Daemon, numbers: range) -> None:
    with RawClient.connect(daemon.tcp_port) as client:
        client.mpub(TOPIC, [b"%d" % number for number in numbers])


def take(daemon: Daemon, count: int) -> dict[bytes, bytes]:
    """Take and finish so many, and make sure that this is written. Bodies by id."""
    found: dict[bytes, bytes] = {}
    with RawClient.connect(daemon.tcp_port) as client:
        client.sub(TOPIC, CHANNEL)
        client.rdy(1)
        while len(found) < count:
            message = client.message()
            found[message.id] = message.body
            if len(found) == count:
                client.rdy(0)
            client.fin(message.id)
        client.pub("barrier", b"its OK says that the finishes are written")
    return found


def nsqd_log(*arguments: object) -> str:
    """Run `nsqd-log`, which must succeed; returns the last line of its output."""
    command = [sys.executable, "-m", "nsqd.log_tool", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(30.0))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@attrs.define
class Traffic:
    """Numbers that are published and finished all the time. Those that are a multiple of `KEPT` are not finished."""

    KEPT = 50
    acknowledged: set[int] = attrs.field(factory=set)
    finished: set[int] = attrs.field(factory=set)
    """Before the command is sent."""
    errors: list[BaseException] = attrs.field(factory=list)
    _publishing: bool = True
    _finishing: bool = True

    @contextmanager
    def run(self, daemon: Daemon) -> Iterator[None]:
        publisher = threading.Thread(target=self._do, args=(self._publish, daemon))
        consumer = threading.Thread(target=self._do, args=(self._finish, daemon))
        publisher.start()
        consumer.start()
        try:
            yield
        finally:
            self._finishing = False  # first, as it waits for messages
            consumer.join()
            self._publishing = False
            publisher.join()
        assert not self.errors

    def wait_until_finished(self, count: int) -> None:
        wait_until(lambda: len(self.finished) > count or bool(self.errors), 20.0, "there is traffic")

    def _do(self, work: Callable[[RawClient], None], daemon: Daemon) -> None:
        try:
            with RawClient.connect(daemon.tcp_port) as client:
                work(client)
        except BaseException as error:
            self.errors.append(error)

    def _publish(self, client: RawClient) -> None:
        first = 0
        while self._publishing:
            numbers = range(first, first + 20)
            client.mpub(TOPIC, [b"%d" % number + bytes(200) for number in numbers])
            self.acknowledged.update(numbers)
            first += 20

    def _finish(self, client: RawClient) -> None:
        client.sub(TOPIC, CHANNEL)
        client.rdy(2000)
        while self._finishing:
            message = client.message()
            number = int(message.body.rstrip(b"\0"))
            if number % self.KEPT:
                self.finished.add(number)
                client.fin(message.id)


def test_a_backup_under_traffic(tmp_path: Path) -> None:
    """Segments and snapshots come and go meanwhile. Each backup has what must be in it, and no damage."""
    data = tmp_path / "data"
    data.mkdir()
    traffic = Traffic()
    wanted: list[set[int]] = []
    with Daemon(data, ("--max-bytes-per-file=20000",)) as daemon:
        daemon.start()
        daemon.create_channel(TOPIC, CHANNEL)
        with traffic.run(daemon):
            for at in range(3):
                traffic.wait_until_finished(2000 * (at + 1))
                before = traffic.acknowledged.copy()
                nsqd_log("backup", data, tmp_path / f"backup-{at}")
                wanted.append(before - traffic.finished)
    for at, numbers in enumerate(wanted):
        assert nsqd_log("verify", tmp_path / f"backup-{at}").endswith("no damage")
        with Daemon(tmp_path / f"backup-{at}") as restored:
            restored.start()
            assert not [line for line in restored.lines if "recovery:" in line]
            assert numbers <= received(restored, numbers)


def received(daemon: Daemon, numbers: set[int]) -> set[int]:
    """What a daemon delivers until it has delivered these."""
    found: set[int] = set()
    with RawClient.connect(daemon.tcp_port) as client:
        client.sub(TOPIC, CHANNEL)
        client.rdy(100)
        while not numbers <= found:
            message = client.message()
            found.add(int(message.body.rstrip(b"\0")))
            client.fin(message.id)
    return found


def test_a_backup_of_a_copy_while_its_leader_writes(tmp_path: Path) -> None:
    port = free_port()
    for name in ("leader", "follower"):
        (tmp_path / name).mkdir()
    traffic = Traffic()
    with (
        Daemon(tmp_path / "follower", (f"--replication-address={HOST}:{port}",)) as follower,
        Daemon(
            tmp_path / "leader",
            (f"--replicate-to={HOST}:{port}", "--ack-copies=2", "--max-bytes-per-file=20000"),
        ) as leader,
    ):
        follower.start()
        leader.start()
        leader.create_channel(TOPIC, CHANNEL)
        wait_until(lambda: leader.stats()["copies"]["in_step"] == 2, 10.0, "the follower is in step")
        with traffic.run(leader):
            traffic.wait_until_finished(1000)
            before = traffic.acknowledged.copy()
            (copy,) = (tmp_path / "follower/copies").iterdir()
            nsqd_log("backup", copy, tmp_path / "backup")
            numbers = before - traffic.finished
    assert nsqd_log("verify", tmp_path / "backup").endswith("no damage")
    with Daemon(tmp_path / "backup") as restored:
        restored.start()
        assert numbers <= received(restored, numbers)
