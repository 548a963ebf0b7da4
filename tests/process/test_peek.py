"""A real nsqd that is looked into while messages flow: nothing is counted, moved, delayed or lost by it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.process.daemon import Daemon
from tests.process.raw import ErrorFrame, RawClient
from tests.process.waiting import wait_until
from tests.process.workload import Workers

pytestmark = pytest.mark.process

STATES = ["ready", "in_flight", "requeued", "deferred"]
SEGMENTS = ["--max-bytes-per-file=65536", "--mem-queue-size=100", "--mem-queue-bytes=65536"]
BATCH = [b'{"n":%d,"pad":"%s"}' % (number, b"x" * 80) for number in range(100)]
MESSAGES = 10_000


def peek(daemon: Daemon, more: str = "", channel: str = "c") -> dict[str, Any]:
    status, body = daemon.request("GET", f"/channel/peek?topic=t&channel={channel}{more}")
    assert status == 200, body
    page: dict[str, Any] = json.loads(body)
    return page


def all_pages(daemon: Daemon, more: str = "", channel: str = "c") -> list[dict[str, Any]]:
    messages, start = [], 0
    while start is not None:
        page = peek(daemon, f"&from={start}&limit=1000{more}", channel)
        messages += page["messages"]
        start = page["next"]
    return messages


@attrs.define(eq=False)
class Flow:
    """A publisher and a consumer. `attempts`: of every delivery."""

    port: int
    published: int = 0
    attempts: list[int] = attrs.field(factory=list)

    def publish(self, stop: threading.Event) -> None:
        with RawClient.connect(self.port) as client:
            while not stop.is_set() and self.published < MESSAGES:
                client.mpub("t", BATCH)
                self.published += len(BATCH)

    def consume(self, stop: threading.Event) -> None:
        with RawClient.connect(self.port) as client:
            client.sub("t", "c")
            client.rdy(50)
            while not stop.is_set() and len(self.attempts) < MESSAGES:
                message = client.message()
                self.attempts.append(message.attempts)
                client.fin(message.id)


def test_looks_while_messages_flow(tmp_path: Path) -> None:
    """Segments come and go under the looks; every message is delivered once, with its first attempt."""
    with Daemon(tmp_path, SEGMENTS) as daemon:
        daemon.start()
        daemon.create_channel("t", "c")
        daemon.create_channel("t", "idle")
        flow, workers = Flow(daemon.tcp_port), Workers()
        workers.start("publisher", flow.publish)
        workers.start("consumer", flow.consume)
        looks = 0
        while len(flow.attempts) < MESSAGES and not workers.errors:
            for state in STATES:
                for message in peek(daemon, f"&state={state}&limit=50")["messages"]:
                    assert json.loads(message["body"])["pad"]
            middle = flow.published // 2
            assert all(m["body"] for m in peek(daemon, f"&from={middle}&limit=20", "idle")["messages"])
            looks += 1
        workers.join(60)
        assert not workers.errors
        assert looks
        assert flow.attempts == [1] * MESSAGES
        wait_until(lambda: daemon.unfinished("t", "c") == 0, 5, "all are finished")
        stats = daemon.channel_stats("t", "c")
        assert (stats["message_count"], stats["requeue_count"], stats["timeout_count"]) == (MESSAGES, 0, 0)
        assert len({message["id"] for message in all_pages(daemon, channel="idle")}) == MESSAGES


def test_messages_that_stick(tmp_path: Path) -> None:
    """They are found after a kill, in segments without an index, and finished or requeued one by one."""
    with Daemon(tmp_path, SEGMENTS) as daemon:
        daemon.start()
        daemon.create_channel("t", "c")
        with RawClient.connect(daemon.tcp_port) as client:
            for _ in range(20):
                client.mpub("t", BATCH)
            client.dpub("t", 3_600_000, b"later")
        daemon.kill()
        daemon.start()
        (deferred,) = peek(daemon, "&state=deferred")["messages"]
        assert deferred["body"] == "later"
        found = peek(daemon, "&json:/n=42&examine=2000&limit=1000")
        assert (len(found["messages"]), found["examined"], found["count"]) == (20, 2000, 2000)
        with RawClient.connect(daemon.tcp_port) as client:
            client.identify(client_id="sticky", feature_negotiation=True)
            client.sub("t", "c")
            client.rdy(1)
            stuck = client.message()
            (in_flight,) = peek(daemon, "&state=in_flight")["messages"]
            assert (in_flight["id"], in_flight["consumer"]["client_id"]) == (stuck.id.decode(), "sticky")
            where = "topic=t&channel=c"
            assert daemon.request("POST", f"/message/finish?{where}&id={in_flight['id']}") == (200, b"")
            client.fin(stuck.id)
            with pytest.raises(ErrorFrame) as refused:
                client.response()
            assert refused.value.text == f"E_FIN_FAILED FIN {stuck.id.decode()} failed ID not in flight"
        assert daemon.request("POST", f"/message/requeue?{where}&id={deferred['id']}") == (200, b"")
        for message in found["messages"][1:]:
            assert daemon.request("POST", f"/message/finish?{where}&id={message['id']}") == (200, b"")
        wait_until(lambda: peek(daemon, "&state=in_flight")["count"] == 0, 5, "the client is gone")
        depth = daemon.channel_stats("t", "c")["depth"]
        daemon.kill()
        daemon.start()
        assert peek(daemon, "&state=deferred")["count"] == 0
        assert daemon.unfinished("t", "c") == depth == 2001 - 20
        assert peek(daemon, "&contains=%22n%22:42,&examine=2000")["messages"] == found["messages"][:1]
