"""The hand-over of an adopted copy, with anything killed in the middle of it: in the end each message has one owner."""

from __future__ import annotations

import random
import time

import pytest

from tests.process.copies import adopt, copy_of, held, in_step, received
from tests.process.daemon import Daemon
from tests.process.raw import RawClient
from tests.process.test_kill import new_seed
from tests.process.waiting import wait_until

pytestmark = pytest.mark.process

TOPIC, CHANNEL = "orders", "audit"
BOTH = [b"both have %d" % number for number in range(300)]
FINISHED = 20
BARRIER = b"what was finished before is in the copy"
LEFT = [*BOTH[FINISHED:], BARRIER]
TAIL = [b"the leader alone has %d: %b" % (number, bytes(100_000)) for number in range(100)]
"""More than what is under way to a follower that does not read."""


@pytest.mark.parametrize("run", [0, *(pytest.param(run, marks=pytest.mark.soak) for run in range(1, 40))])
def test_each_message_has_one_owner_in_the_end(leader: Daemon, follower: Daemon, run: int) -> None:
    chance = random.Random(new_seed())
    follower.start()
    leader.start()
    leader.create_channel(TOPIC, CHANNEL)
    wait_until(lambda: in_step(leader), 10.0, "in step", describe=leader.log_end)
    life = held(follower)["life"]
    publish_and_finish(leader.tcp_port)
    with follower.stop_cont():
        with RawClient.connect(leader.tcp_port) as client:
            client.mpub(TOPIC, TAIL[:50])
            client.mpub(TOPIC, TAIL[50:])
        leader.kill()
    wait_until(lambda: not copy_of(life, follower)["connected"], 10.0, "the follower misses its leader")
    time.sleep(chance.choice((0.0, 0.0, 0.3)))
    if chance.random() < 0.5:
        leader.launch()  # at the same time
    status, body = follower.request("POST", f"/replicas/adopt?life={life}&force=true")
    assert status == 200, body
    for _ in range(chance.randrange(4)):
        time.sleep(chance.uniform(0.0, 1.5))
        if chance.random() < 0.3:
            follower.kill()
            follower.start()
        leader.kill()
        leader.launch()
    leader.kill()
    leader.start()
    told = f"{leader.log_end()}{follower.log_end()}"
    wait_until(
        lambda: len(follower.stats()["copies"]["held"]) == 2 and in_step(leader),
        20.0,
        "the leader has another life",
        describe=lambda: f"{told}\n{leader.log_end()}\n{follower.log_end()}",
    )
    wait_until(lambda: bool(copy_of(life, follower)["stand_in_port"]), 20.0, "there is a stand-in")
    count = leader.unfinished(TOPIC, CHANNEL)
    assert 0 < count <= len(TAIL)
    came = received(leader.tcp_port, TOPIC, CHANNEL, count)
    port = copy_of(life, follower)["stand_in_port"]
    came += received(port, TOPIC, CHANNEL, len(LEFT) + len(TAIL) - count)
    assert sorted(came) == sorted(LEFT + TAIL)
    wait_until(lambda: copy_of(life, follower) == {}, 20.0, "the stand-in is empty, and all of it is gone")
    assert leader.unfinished(TOPIC, CHANNEL) == 0


@pytest.mark.soak
def test_a_leader_that_was_stopped_until_its_copy_was_adopted(leader: Daemon, follower: Daemon) -> None:
    """It gives up what the stand-in has as soon as it goes on, and its own messages are another life's."""
    follower.start()
    leader.start()
    leader.create_channel(TOPIC, CHANNEL)
    wait_until(lambda: in_step(leader), 10.0, "in step", describe=leader.log_end)
    life = held(follower)["life"]
    publish_and_finish(leader.tcp_port)
    with leader.stop_cont():
        wait_until(lambda: not copy_of(life, follower)["connected"], 20.0, "the follower misses its leader")
        first = received(adopt(follower), TOPIC, CHANNEL, 100)
    wait_until(
        lambda: any("starting anew" in line for line in leader.lines),
        20.0,
        "it hears",
        describe=leader.log_end,
    )
    wait_until(lambda: len(follower.stats()["copies"]["held"]) == 2, 20.0, "it has another life")
    with RawClient.connect(leader.tcp_port) as client:
        client.pub(TOPIC, b"after")
    assert received(leader.tcp_port, TOPIC, CHANNEL, 1) == [b"after"]
    assert leader.unfinished(TOPIC, CHANNEL) == 0
    port = copy_of(life, follower)["stand_in_port"]
    rest = received(port, TOPIC, CHANNEL, len(LEFT) - len(first))
    assert sorted(first + rest) == sorted(LEFT)


def publish_and_finish(port: int) -> None:
    """What both have; the first ones are finished, for both."""
    with RawClient.connect(port) as client:
        client.mpub(TOPIC, BOTH)
        client.sub(TOPIC, CHANNEL)
        client.rdy(FINISHED)
        for body in BOTH[:FINISHED]:
            message = client.message()
            assert message.body == body
            client.fin(message.id)
        client.pub(TOPIC, BARRIER)
