"""How soon a stand-in serves a large copy: from the command to the first message."""

from __future__ import annotations

import shutil
import time

import pytest

from tests.process.copies import adopt, held, in_step
from tests.process.daemon import Daemon
from tests.process.raw import RawClient
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = [pytest.mark.process, pytest.mark.soak, pytest.mark.timeout(1200)]

TOPIC, CHANNEL = "orders", "archive"
BATCH = [bytes(100)] * 10_000
BATCHES = 500
FIRST_WITHIN_S = 3.0


@pytest.mark.parametrize("finished", ["none", "here and there"])
def test_a_stand_in_for_five_million_messages(leader: Daemon, follower: Daemon, finished: str) -> None:
    leader.flags = (*leader.flags, "--max-rdy-count=10000")
    follower.start()
    leader.start()
    leader.create_channel(TOPIC, CHANNEL)
    wait_until(lambda: in_step(leader), 10.0, "the copy is in step", describe=leader.log_end)
    with RawClient.connect(leader.tcp_port, timeout_s=60) as client:
        for _ in range(BATCHES):
            client.mpub(TOPIC, BATCH)
    backlog = len(BATCH) * BATCHES
    if finished == "here and there":
        backlog -= finish_every_other(leader, 100_000)
    wait_until(lambda: in_step(leader), 60.0, "the copy is in step", describe=leader.log_end)
    leader.kill()
    shutil.rmtree(leader.data_path)
    wait_until(lambda: not held(follower)["connected"], 10.0, "the follower misses its leader")
    began_s = time.monotonic()
    with RawClient.connect(adopt(follower), timeout_s=60) as client:
        client.sub(TOPIC, CHANNEL)
        client.rdy(1)
        client.message()
    took_s = time.monotonic() - began_s
    print(f"the first of {backlog} messages came {took_s:.2f} s after the command")
    assert took_s < patience(FIRST_WITHIN_S)


def finish_every_other(daemon: Daemon, count: int) -> int:
    """Of the next so many messages finish every other one: how many those are."""
    with RawClient.connect(daemon.tcp_port, timeout_s=60) as client:
        client.sub(TOPIC, CHANNEL)
        client.rdy(10_000)
        held_back = 0
        for number in range(count):
            message = client.message()
            if number % 2:
                client.fin(message.id)
            else:
                client.req(message.id, 3_600_000)
                held_back += 1
        client.pub(TOPIC, b"a barrier")
    return count - held_back
