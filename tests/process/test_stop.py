"""Stopping a daemon, and holding it: SIGTERM keeps everything, SIGSTOP loses nothing."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.process.daemon import Daemon, DaemonError
from tests.process.raw import Disconnected, Message, RawClient, dpub_command, pub_command
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = pytest.mark.process

TOPIC, CHANNEL = "orders", "watched"
LATE_S = 1.0
"""How late a deferred message may be on a quiet machine."""


def test_sigterm_keeps_everything(tmp_path: Path) -> None:
    """All kinds of messages outlive a clean stop with their attempts and due times."""
    with Daemon(tmp_path) as daemon:
        daemon.start()
        daemon.create_channel(TOPIC, CHANNEL)
        with RawClient.connect(daemon.tcp_port) as client:
            client.mpub(TOPIC, [b"one", b"two", b"three", b"four", b"five"])
            client.sub(TOPIC, CHANNEL)
            client.rdy(3)
            first = {message.body: message for message in (client.message() for _ in range(3))}
            assert set(first) == {b"one", b"two", b"three"}
            client.rdy(0)
            requeued_at_s = time.monotonic()
            client.req(first[b"one"].id, 2_000)
            deferred_at_s = time.monotonic()
            client.dpub(TOPIC, 2_500, b"deferred")
            assert daemon.terminate() == 0
            with pytest.raises(Disconnected):
                client.read_frame()
        daemon.start()
        ready_at_s = time.monotonic()
        after = _consume(daemon, 6)

    assert sorted(message.body for message, _ in after) == sorted(
        [b"one", b"two", b"three", b"four", b"five", b"deferred"]
    )
    came = {message.body: (message, at_s) for message, at_s in after}
    assert {body: message.attempts for body, (message, _) in came.items()} == {
        b"one": 2,  # delivered once before, and requeued
        b"two": 2,  # in flight when the daemon stopped
        b"three": 2,
        b"four": 1,
        b"five": 1,
        b"deferred": 1,
    }
    for body, message in first.items():
        assert (came[body][0].id, came[body][0].timestamp_ns) == (message.id, message.timestamp_ns)
    for body, due_at_s in ((b"one", requeued_at_s + 2.0), (b"deferred", deferred_at_s + 2.5)):
        assert due_at_s <= came[body][1] <= max(due_at_s, ready_at_s) + patience(LATE_S)


def test_finished_stays_finished_over_sigterm(tmp_path: Path) -> None:
    """What was finished before a clean stop, even a moment before, does not come again."""
    with Daemon(tmp_path) as daemon:
        daemon.start()
        daemon.create_channel(TOPIC, CHANNEL)
        with RawClient.connect(daemon.tcp_port) as client:
            client.mpub(TOPIC, [b"%d" % number for number in range(100)])
            client.sub(TOPIC, CHANNEL)
            client.rdy(100)
            for message in [client.message() for _ in range(100)]:
                if int(message.body) % 2 == 0:
                    client.fin(message.id)
            client.pub(TOPIC, b"100")  # its OK: the FINs before it were taken
            assert daemon.terminate() == 0
        daemon.start()
        bodies = {int(message.body) for message, _ in _consume(daemon, 51)}
    assert bodies == {*range(1, 100, 2), 100}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_under_load_ends_nsqd_in_order(tmp_path: Path, number: signal.Signals) -> None:
    """It ends with 0 and soon, though a client keeps publishing and another reads nothing."""
    with Daemon(tmp_path) as daemon:
        daemon.start()
        with (
            RawClient.connect(daemon.tcp_port) as publisher,
            RawClient.connect(daemon.tcp_port) as deaf,
        ):
            deaf.sub(TOPIC, CHANNEL)
            deaf.rdy(2_500)
            for _ in range(50):
                publisher.send(pub_command(TOPIC, bytes(100_000)))
            assert daemon.process is not None
            daemon.process.send_signal(number)
            assert daemon.wait(5.0) == 0


def test_second_daemon_refused(tmp_path: Path) -> None:
    """One daemon a data path: the second says so and ends with 1, the first does not notice."""
    with Daemon(tmp_path) as first, Daemon(tmp_path) as second:
        first.start()
        with RawClient.connect(first.tcp_port) as client:
            client.pub(TOPIC, b"before")
            with pytest.raises(DaemonError, match="exit code 1"):
                second.start()
            assert str(tmp_path) in second.log_end()
            assert "FATAL" in second.log_end()
            client.pub(TOPIC, b"after")
        first.kill()
        second.start()  # the lock went with the process
        assert [message.body for message, _ in _consume(second, 2)] == [b"before", b"after"]


def test_sigstop(tmp_path: Path) -> None:
    """Held for longer than the message time-out: what clients sent meanwhile counts first."""
    with Daemon(tmp_path) as daemon:
        daemon.start()
        daemon.create_channel(TOPIC, CHANNEL)
        with (
            RawClient.connect(daemon.tcp_port) as publisher,
            RawClient.connect(daemon.tcp_port) as consumer,
        ):
            consumer.identify(msg_timeout=1_000)
            consumer.sub(TOPIC, CHANNEL)
            consumer.rdy(10)
            publisher.mpub(TOPIC, [b"%d" % number for number in range(10)])
            messages = [consumer.message() for _ in range(10)]
            with daemon.stop_cont():
                for message in messages:
                    consumer.fin(message.id)
                publisher.send(pub_command(TOPIC, b"sent while it was held"))
                time.sleep(1.5)
            assert publisher.response() == b"OK"
            late = consumer.message()
            assert (late.body, late.attempts) == (b"sent while it was held", 1)
            consumer.fin(late.id)
            wait_until(lambda: daemon.unfinished(TOPIC, CHANNEL) == 0, 2.0, "all finished")
            consumer.no_message(0.3)
        assert daemon.channel_stats(TOPIC, CHANNEL)["timeout_count"] == 0


def test_deferred_is_kept_over_kill(tmp_path: Path) -> None:
    """A deferred publish is due when it was due, though the daemon was killed."""
    with Daemon(tmp_path) as daemon:
        daemon.start()
        daemon.create_channel(TOPIC, CHANNEL)
        with RawClient.connect(daemon.tcp_port) as client:
            sent_at_s = time.monotonic()
            client.ask_ok(dpub_command(TOPIC, 100, b"soon"))
            client.ask_ok(dpub_command(TOPIC, 2_500, b"later"))
        daemon.kill()
        time.sleep(0.1)
        daemon.start()
        ready_at_s = time.monotonic()
        (soon, _), (later, later_at_s) = _consume(daemon, 2)
    assert (soon.body, later.body) == (b"soon", b"later")
    assert sent_at_s + 2.5 <= later_at_s <= max(sent_at_s + 2.5, ready_at_s) + patience(LATE_S)


def _consume(daemon: Daemon, count: int) -> list[tuple[Message, float]]:
    """Consume and finish so many messages, and see that no more come; each with the time when it came."""
    got = []
    with RawClient.connect(daemon.tcp_port) as client:
        client.sub(TOPIC, CHANNEL)
        client.rdy(100)
        for _ in range(count):
            message = client.message()
            got.append((message, time.monotonic()))
            client.fin(message.id)
        client.no_message(0.2)
    return got
