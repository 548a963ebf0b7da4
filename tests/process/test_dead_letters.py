"""kill -9 while messages go to the dead topic and come back: each of them is in one of the two topics, or in both."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.process.daemon import Daemon
from tests.process.raw import RawClient
from tests.process.test_kill import new_seed
from tests.process.waiting import wait_until

pytestmark = pytest.mark.process

TOPIC, CHANNEL, OTHER = "orders", "mail", "other"
DEAD = "orders.mail.dead"
WHERE = f"topic={TOPIC}&channel={CHANNEL}"
COUNT = 400
KILLS = 4


def ask(daemon: Daemon, method: str, target: str, body: bytes | None = None) -> Any:
    status, answer = daemon.request(method, target, body)
    assert status == 200, (target, status, answer)
    return json.loads(answer) if answer else None


def peeked(daemon: Daemon, target: str) -> list[dict[str, Any]]:
    """All messages of all pages."""
    found: list[dict[str, Any]] = []
    start: int | None = 0
    while start is not None:
        page = ask(daemon, "GET", f"{target}&limit=1000&from={start}")
        found += page["messages"]
        start = page["next"]
    return found


def requeue_for(daemon: Daemon, seconds: float) -> None:
    """REQ for whatever comes."""
    until = time.monotonic() + seconds
    with RawClient.connect(daemon.tcp_port) as client:
        client.sub(TOPIC, CHANNEL)
        client.rdy(50)
        while time.monotonic() < until:
            try:
                message = client.message(timeout_s=0.1)
            except TimeoutError:
                continue
            client.req(message.id, 0)


def consume(daemon: Daemon, topic: str, channel: str) -> list[bytes]:
    """Finish all there is; returns the bodies."""
    bodies: list[bytes] = []
    with RawClient.connect(daemon.tcp_port) as client:
        client.sub(topic, channel)
        client.rdy(50)
        while True:
            found = daemon.channel_stats(topic, channel)
            if not found["depth"] + found["in_flight_count"] + found["deferred_count"]:
                return bodies
            try:
                message = client.message(timeout_s=0.2)
            except TimeoutError:
                continue
            bodies.append(message.body)
            client.fin(message.id)


def is_quiet(daemon: Daemon) -> bool:
    found = daemon.channel_stats(TOPIC, CHANNEL)
    return not found["depth"] + found["in_flight_count"] + found.get("leaving_count", 0)


def test_kills_between_the_two_topics_lose_nothing(tmp_path: Path) -> None:
    chance = random.Random(new_seed())
    bodies = {b"message %d" % number for number in range(COUNT)}
    with Daemon(tmp_path, flags=["--msg-timeout=2s"]) as daemon:
        daemon.start()
        for channel in (CHANNEL, OTHER):
            daemon.create_channel(TOPIC, channel)
        ask(daemon, "POST", f"/channel/limits?{WHERE}", b'{"max_attempts": 2}')
        with RawClient.connect(daemon.tcp_port) as client:
            client.mpub(TOPIC, sorted(bodies))
        for _ in range(KILLS):
            try:
                requeue_for(daemon, chance.uniform(0.02, 0.2))
            finally:
                daemon.kill()
            daemon.start()
        requeue_for(daemon, 2.0)
        wait_until(lambda: is_quiet(daemon), 30.0, "all have left", describe=daemon.log_end)
        letters = peeked(daemon, f"/topic/peek?topic={DEAD}")
        assert {letter["body"].encode() for letter in letters} == bodies
        for letter in letters:
            origin = letter["origin"]
            assert (origin["topic"], origin["channel"], origin["cause"]) == (TOPIC, CHANNEL, "attempts")
            assert origin["attempts"] >= 2

        for _ in range(KILLS):
            ask(daemon, "POST", f"/channel/redrive?{WHERE}&rate=1000")
            time.sleep(chance.uniform(0.0, 0.2))
            daemon.kill()
            daemon.start()
        ask(daemon, "POST", f"/channel/redrive?{WHERE}")
        wait_until(
            lambda: ask(daemon, "GET", f"/channel/redrive?{WHERE}")["state"] == "done",
            30.0,
            "all were put back",
            describe=daemon.log_end,
        )
        assert daemon.channel_stats(DEAD, "redrive")["depth"] == 0
        assert {*consume(daemon, TOPIC, CHANNEL)} == bodies
        assert sorted(consume(daemon, TOPIC, OTHER)) == sorted(bodies), "and the other channel saw each once"
