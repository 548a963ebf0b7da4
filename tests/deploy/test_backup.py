"""What docs/operations.md says of copies of a data path: when one is whole, and how it is brought back."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.process.daemon import Daemon
from tests.process.raw import RawClient

pytestmark = pytest.mark.process

TOPIC, CHANNEL = "orders", "billing"


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_a_copy_of_a_data_path_brings_all_back(tmp_path: Path, how: str) -> None:
    """Of a daemon that was stopped; or of one moment, as a snapshot of a file system is."""
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

        (copy / "nsqd.ids").unlink()
        restored.start()
        publish(restored, range(200, 300))
        again = take(restored, 160)

    assert set(again.values()) == {b"%d" % number for number in (*range(40, 100), *range(200, 300))}
    new = {id_ for id_, body in again.items() if int(body) >= 200}
    assert len(new) == 100
    assert not new & {*before, *after}, "an id that consumers have seen stands for another message"


def copy_data_path(daemon: Daemon, copy: Path, how: str) -> None:
    """And let the daemon run on."""
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
