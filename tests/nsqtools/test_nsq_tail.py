"""nsq_tail against a real nsqd."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from nsqkit.version import VERSION
from tests.nsqtools.broker import address, bodies, clients, fill, publish, wait_finished, wait_subscribed
from tests.nsqtools.tool import Tool, command, run_tool, run_with_full_stdout
from tests.process.daemon import Daemon
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = pytest.mark.process


def test_shows_n_messages(shared_nsqd: Daemon, topic: str) -> None:
    """Bytes as they are, and no more than asked for; those are finished, the others are still there."""
    nsqd = shared_nsqd
    nsqd.create_channel(topic, "c")
    sent = [b"one", b"tw\xffo\x00", b"three", b"four"]
    publish(nsqd, topic, sent)
    done = run_tool("nsq_tail", f"-topic={topic}", "-channel=c", "-n=3", address(nsqd))
    assert (done.returncode, done.stdout) == (0, b"one\ntw\xffo\x00\nthree\n")
    assert nsqd.unfinished(topic, "c") == 1
    assert f"INFO: Adding consumer for topic: {topic}".encode() in done.stderr
    done = run_tool("nsq_tail", f"-topic={topic}", "-channel=c", "-n=1", address(nsqd))
    assert (done.returncode, done.stdout) == (0, b"four\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_two_topics_until_a_signal(
    shared_nsqd: Daemon, topic: str, tmp_path: Path, number: signal.Signals
) -> None:
    """With the topic before each line; it introduces itself, and ends with 0."""
    nsqd, one, two = shared_nsqd, f"{topic}_1", f"{topic}_2"
    flags = [f"-topic={one}", f"-topic={two}", "-channel=c", "-print-topic", address(nsqd)]
    with Tool(tmp_path, "nsq_tail", *flags) as tail:
        for name in (one, two):
            wait_subscribed(nsqd, name, "c")
            publish(nsqd, name, [b"x"])
            tail.wait_for_output(f"{name} | x\n".encode())
        assert clients(nsqd, one, "c")[0]["user_agent"] == f"nsq_tail/{VERSION} nsqkit/{VERSION}"
        wait_finished(nsqd, one, "c")
        assert tail.terminate(number) == 0
    assert nsqd.unfinished(two, "c") == 0


def test_own_channel_goes_away(shared_nsqd: Daemon, topic: str, tmp_path: Path) -> None:
    """Without -channel it disturbs nobody, and leaves nothing behind."""

    def channels() -> list[str]:
        topics = shared_nsqd.stats()["topics"] or ()
        return [c["channel_name"] for t in topics if t["topic_name"] == topic for c in t["channels"] or ()]

    with Tool(tmp_path, "nsq_tail", f"-topic={topic}", address(shared_nsqd)) as tail:
        wait_until(lambda: len(channels()) == 1, 10.0, "a channel")
        assert channels()[0].endswith("#ephemeral")
        assert tail.terminate() == 0
    wait_until(lambda: channels() == [], 5.0, "no channel")


def test_waits_for_an_nsqd_that_comes_later(nsqd: Daemon, tmp_path: Path) -> None:
    """And for one that comes back; it can be stopped while nobody is there."""
    nsqd.kill()
    with Tool(tmp_path, "nsq_tail", "-topic=t", "-channel=c", address(nsqd)) as tail:
        tail.wait_for_log("cannot connect")
        for word in (b"first", b"second"):
            nsqd.start()
            publish(nsqd, "t", [word])
            tail.wait_for_output(word)
            nsqd.kill()
        assert tail.terminate() == 0


def test_stdout_that_cannot_be_written(shared_nsqd: Daemon, topic: str) -> None:
    """Exit code 1 with the reason, and the message is still there."""
    shared_nsqd.create_channel(topic, "c")
    publish(shared_nsqd, topic, [b"one"])
    flags = [f"-topic={topic}", "-channel=c", address(shared_nsqd)]
    done = run_with_full_stdout("nsq_tail", *flags)
    assert done.returncode == 1
    assert b"FATAL: failed to write to stdout - No space left on device" in done.stderr
    assert shared_nsqd.unfinished(topic, "c") == 1


def test_reader_that_sleeps(shared_nsqd: Daemon, topic: str) -> None:
    """It stops the messages, but neither the connection nor the end of the program."""
    shared_nsqd.create_channel(topic, "c")
    publish(shared_nsqd, topic, [b"x" * 50_000] * 20)
    flags = [f"-topic={topic}", "-channel=c", "-consumer-opt=stop_timeout,300ms", address(shared_nsqd)]
    with subprocess.Popen(
        command("nsq_tail", *flags), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_until(lambda: shared_nsqd.unfinished(topic, "c") < 20, 10.0, "some are shown")
            assert process.poll() is None
            process.terminate()
            assert process.wait(patience(10)) == 0
        finally:
            process.kill()
    assert shared_nsqd.unfinished(topic, "c") >= 18


def test_many_messages(shared_nsqd: Daemon, topic: str) -> None:
    """All of them, each once, in order."""
    shared_nsqd.create_channel(topic, "c")
    sent = bodies(0, 5000)
    publish(shared_nsqd, topic, sent)
    done = run_tool("nsq_tail", f"-topic={topic}", "-channel=c", "-n=5000", address(shared_nsqd))
    assert (done.returncode, done.stdout.splitlines()) == (0, sent)
    assert shared_nsqd.unfinished(topic, "c") == 0


def test_killed_in_mid_stream(nsqd: Daemon, tmp_path: Path) -> None:
    """kill -9 of the tool, twice, and of nsqd: every message is shown; at no time is one in neither place."""
    sent = bodies(0, 20_000)
    fill(nsqd, "t", "c", sent)
    in_mid_stream = 0
    flags = ["-consumer-opt=msg_timeout,1s", "-consumer-opt=max_reconnect_delay,200ms", "-max-in-flight=20"]
    with Tool(tmp_path, "nsq_tail", "-topic=t", "-channel=c", address(nsqd), *flags) as tail:
        for number in (1_000, 6_000):
            tail.wait_for_output(sent[number])
            tail.kill()
            in_mid_stream += sent[-1] not in tail.output
            assert len(set(tail.output.split())) + nsqd.unfinished("t", "c") >= len(sent)
            tail.start()
        tail.wait_for_output(sent[12_000])
        nsqd.kill()
        in_mid_stream += sent[-1] not in tail.output
        nsqd.start()
        wait_finished(nsqd, "t", "c")
        assert tail.terminate() == 0
    assert set(sent) <= set(tail.output.split())
    assert in_mid_stream
