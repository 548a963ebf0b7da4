"""A backlog of a gigabyte makes neither the end of a daemon nor its beginning slow."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path

import attrs
import pytest

from tests.process.daemon import Daemon
from tests.process.raw import RawClient
from tests.process.waiting import wait_until
from tests.process.workload import Workers
from tests.timing import patience

pytestmark = pytest.mark.process

TOPIC, CHANNEL = "orders", "archive"
BATCH = [bytes(1_000)] * 1_000
BATCHES = 1_000
STOPS_WITHIN_S = 5.0
LISTENS_WITHIN_S = 2.0


@attrs.define(eq=False)
class Load:
    """A publisher and a consumer, and what they know of their messages."""

    port: int
    published: int = 0  # at least
    finished: int = 0  # at most

    def publish(self, stop: threading.Event) -> None:
        with RawClient.connect(self.port) as client:
            while not stop.is_set():
                client.mpub(TOPIC, BATCH[:100])
                self.published += 100

    def consume(self, stop: threading.Event) -> None:
        with RawClient.connect(self.port) as client:
            client.sub(TOPIC, CHANNEL)
            client.rdy(500)
            while not stop.is_set():
                message = client.message()
                self.finished += 1
                client.fin(message.id)


def test_a_gigabyte_of_backlog(tmp_path: Path) -> None:
    """Under load nsqd stops within 5 s, after a stop and a kill it listens after 2 s of CPU, and nothing is lost."""
    with Daemon(tmp_path) as daemon:
        daemon.start()
        daemon.create_channel(TOPIC, CHANNEL)
        with RawClient.connect(daemon.tcp_port) as client:
            for _ in range(BATCHES):
                client.mpub(TOPIC, BATCH)
        backlog = len(BATCH) * BATCHES

        daemon.kill()
        _start(daemon)
        assert daemon.unfinished(TOPIC, CHANNEL) == backlog

        load, workers = Load(daemon.tcp_port), Workers()
        workers.start("publisher", load.publish)
        workers.start("consumer", load.consume)
        wait_until(
            lambda: min(load.published, load.finished) >= 1_000,
            10.0,
            "both are at work",
            describe=lambda: f"{workers.errors}",
        )
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.wait(STOPS_WITHIN_S) == 0
        workers.stop.set()
        workers.join()
        assert not workers.errors

        _start(daemon)
        assert daemon.unfinished(TOPIC, CHANNEL) >= backlog + load.published - load.finished

    shutil.rmtree(tmp_path)  # pytest would keep it for a while


def _start(daemon: Daemon) -> None:
    daemon.start()
    assert daemon.process is not None
    stat = Path(f"/proc/{daemon.process.pid}/stat").read_text()
    user, system = stat.rpartition(")")[2].split()[11:13]
    # Of its own time: the clock on the wall would count what else the machine has to do.
    assert (int(user) + int(system)) / os.sysconf("SC_CLK_TCK") < patience(LISTENS_WITHIN_S)
