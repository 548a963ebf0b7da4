"""A disk that lies and a disk that is full."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from tests.process.checker import make_body
from tests.process.daemon import Daemon
from tests.process.raw import Disconnected, ErrorFrame, Message, RawClient
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = pytest.mark.process

TOPIC, CHANNEL, OTHER = "orders", "watched", "invoices"
FRAME_HEAD = 4 + 4 + 8 + 2 + 16
"""Size, type, time stamp, attempts and id stand before a body, on the wire and on disk."""
BIG = 64_000
MIB = 1 << 20


@pytest.mark.parametrize("durability", ["os", "disk"])
def test_a_topic_s_folder_that_disappears_costs_that_topic(tmp_path: Path, durability: str) -> None:
    """It is named, and refused; the daemon goes on, stops in order, and starts again."""
    with Daemon(tmp_path, flags=[f"--durability={durability}"]) as daemon:
        daemon.start()
        with RawClient.connect(daemon.tcp_port) as client:
            for topic in (TOPIC, OTHER):
                client.pub(topic, b"before")
            shutil.rmtree(tmp_path / f"topic-{TOPIC}")
            client.pub(TOPIC, b"this is not known yet")
            named = b"OK - topic orders is refused: No such file or directory"
            wait_until(lambda: daemon.request("GET", "/ping") == (200, named), 10.0, "it is named")
            assert b"\nnsqd_failing_topics 1\n" in daemon.metrics()
            assert daemon.stats()["health"] == named.decode()
            client.pub(OTHER, b"after")
            with pytest.raises(ErrorFrame, match="E_PUB_FAILED PUB failed No such file or directory"):
                client.pub(TOPIC, b"refused")
        assert daemon.terminate() == 0
        daemon.start()
        assert daemon.request("GET", "/ping") == (200, b"OK")
        assert [topic["topic_name"] for topic in daemon.stats()["topics"]] == [OTHER]


@pytest.mark.parametrize("where", ["body", "frame", "record"])
def test_flipped_bit_in_the_middle(tmp_path: Path, where: str) -> None:
    """One damaged message is set aside and reported; all others, and other topics, are untouched."""
    bodies = [make_body("p", number, 120) for number in range(300)]
    others = [make_body("q", number, 120) for number in range(300)]
    victim = 150
    with Daemon(tmp_path) as daemon:
        daemon.start()
        for topic in (TOPIC, OTHER):
            daemon.create_channel(topic, CHANNEL)
        with RawClient.connect(daemon.tcp_port) as client:
            for body in bodies:  # each in a round, and so in a record, of its own
                client.pub(TOPIC, body)
            client.mpub(OTHER, others)
        assert daemon.terminate() == 0
        back = {"body": -5, "frame": FRAME_HEAD - 10, "record": FRAME_HEAD + 6}[where]
        _flip_before(tmp_path, bodies[victim], back)
        before = len(daemon.lines)
        daemon.start()
        arrived = _consume_all(daemon, TOPIC)
        assert arrived == [body for number, body in enumerate(bodies) if number != victim]
        assert _consume_all(daemon, OTHER) == others
        assert _reports_damage(daemon, before), daemon.log_end()

        daemon.kill()  # a second restart finds nothing more
        daemon.start()
        assert _consume_all(daemon, TOPIC) == []
        assert daemon.request("GET", "/ping")[0] == 200


def test_torn_tail_is_cut(tmp_path: Path) -> None:
    """Half a record at the end, as a crash leaves it, is cut; the daemon goes on from there."""
    bodies = [make_body("p", number, 120) for number in range(20)]
    with Daemon(tmp_path) as daemon:
        daemon.start()
        daemon.create_channel(TOPIC, CHANNEL)
        with RawClient.connect(daemon.tcp_port) as client:
            for body in bodies:
                client.pub(TOPIC, body)
        daemon.kill()
        log, offset = _find(tmp_path, bodies[-1])
        os.truncate(log, offset + 50)
        daemon.start()
        assert _consume_all(daemon, TOPIC) == bodies[:-1]
        with RawClient.connect(daemon.tcp_port) as client:
            client.pub(TOPIC, b"goes on")
        assert _consume_all(daemon, TOPIC) == [b"goes on"]


@pytest.mark.parametrize("left", [6 * MIB, 0], ids=["low", "none"])
def test_full_disk(small_disk: Path, left: int) -> None:
    """With little room or none, publishes are refused and consumers drain on; with room it heals."""
    data_path, filler = small_disk / "data", small_disk / "filler"
    data_path.mkdir()
    flags = [f"--min-free-space={8 * MIB}", f"--max-bytes-per-file={MIB}"]
    with Daemon(data_path, flags) as daemon:
        daemon.start()
        daemon.create_channel(TOPIC, CHANNEL)
        acknowledged = _publish_big(daemon, 0, 40)
        _fill(filler, left)
        if left:  # room enough for what comes here: only the limit can refuse it
            wait_until(
                lambda: daemon.request("GET", "/ping")[0] == 500, 3.0, "/ping says that it is not well"
            )
        refused = _publish_until_refused(daemon, acknowledged)
        assert not left or refused == acknowledged
        acknowledged = refused
        wait_until(lambda: daemon.request("GET", "/ping")[0] == 500, 3.0, "/ping says that it is not well")
        assert daemon.request("GET", "/ping")[1].startswith(b"NOK - ")
        assert daemon.stats()["health"].startswith("NOK - ")
        assert daemon.request("POST", f"/pub?topic={TOPIC}", b"x") == (503, b'{"message":"EXITING"}')

        drained = _consume_all(daemon, TOPIC, at_most=acknowledged // 2)
        assert drained == [_big(number) for number in range(acknowledged // 2)]

        filler.unlink()
        wait_until(
            lambda: daemon.request("GET", "/ping") == (200, b"OK"), 5.0, "healed", describe=daemon.log_end
        )
        # What was refused was refused for good: its number is not used again.
        after = range(refused + 1, refused + 11)
        with RawClient.connect(daemon.tcp_port) as client:
            for number in after:
                client.pub(TOPIC, _big(number))
        rest = _consume_all(daemon, TOPIC, at_most=acknowledged - acknowledged // 2 + 5)
        daemon.kill()
        daemon.start()
        rest += _consume_all(daemon, TOPIC)
    # The last FIN before the kill may not have been written yet: that message may come twice, nothing else.
    rest = [body for body, before in zip(rest, [None, *rest], strict=False) if body != before]
    assert rest == [_big(number) for number in (*range(acknowledged // 2, acknowledged), *after)]


def _big(number: int) -> bytes:
    return make_body("big", number, BIG)


def _publish_big(daemon: Daemon, first: int, count: int) -> int:
    """Publish so many large messages; gives the next number."""
    with RawClient.connect(daemon.tcp_port) as client:
        for number in range(first, first + count):
            client.pub(TOPIC, _big(number))
    return first + count


def _publish_until_refused(daemon: Daemon, number: int) -> int:
    """Publish, from this number on, until the daemon refuses one, and give its number."""
    deadline = time.monotonic() + patience(5)
    with RawClient.connect(daemon.tcp_port) as client:
        while time.monotonic() < deadline:
            try:
                client.pub(TOPIC, _big(number))
            except ErrorFrame as error:
                text = error.text
                break
            number += 1
        else:
            raise AssertionError(f"it still takes messages, {number} by now\n{daemon.log_end()}")
        assert text.startswith("E_PUB_FAILED PUB failed "), text
        with pytest.raises(Disconnected):
            client.read_frame()
    return number


def _fill(filler: Path, left: int) -> None:
    """Write until only so many bytes are left, or nothing more goes in."""
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while not left or shutil.disk_usage(filler.parent).free > left:
            file.write(bytes(65_536))


def _consume_all(daemon: Daemon, topic: str, *, at_most: int | None = None) -> list[bytes]:
    """Consume and finish one at a time, until nothing comes any more or there are enough."""
    bodies: list[bytes] = []
    with RawClient.connect(daemon.tcp_port) as client:
        client.sub(topic, CHANNEL)
        client.rdy(1)
        while at_most is None or len(bodies) < at_most:
            message = _message_or_none(client)
            if message is None:
                if daemon.unfinished(topic, CHANNEL):
                    continue  # the daemon is slow; pytest's time-out ends a hang
                break
            bodies.append(message.body)
            if len(bodies) == at_most:
                client.rdy(0)
            client.fin(message.id)
        assert at_most is None or len(bodies) == at_most
        # The last FIN has no answer: the channel says when it was taken.
        wait_until(lambda: daemon.channel_stats(topic, CHANNEL)["in_flight_count"] == 0, 2.0, "finished")
    return bodies


def _message_or_none(client: RawClient) -> Message | None:
    try:
        return client.message(0.5)
    except TimeoutError:
        return None


def _find(data_path: Path, body: bytes) -> tuple[Path, int]:
    """Find the log file of the topic that has this body, and where in it."""
    for log in sorted(data_path.rglob("*.log")):
        offset = log.read_bytes().find(body)
        if offset >= 0:
            return log, offset
    raise AssertionError(f"no log under {data_path} has the body as it was published")


def _flip_before(data_path: Path, body: bytes, back: int) -> None:
    """Flip one bit, `back` bytes before the body (negative: in it)."""
    log, offset = _find(data_path, body)
    with log.open("r+b") as file:
        file.seek(offset - back)
        (byte,) = file.read(1)
        file.seek(offset - back)
        file.write(bytes([byte ^ 0x10]))


def _reports_damage(daemon: Daemon, lines_before: int) -> bool:
    """Tell whether a log line since then, or a number that is not 0 in /stats, speaks of damage."""
    logged = any("damage" in line.lower() for line in list(daemon.lines)[lines_before:])
    return logged or re.search(r'"[^"]*damage[^"]*": [1-9]', json.dumps(daemon.stats())) is not None
