"""nsq_to_http against real nsqds and a real HTTP server: nothing is finished before it was taken."""

from __future__ import annotations

import random
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest

from nsqkit.service.http import Request, Response, text
from nsqkit.version import VERSION
from tests.nsqkit.http_target import Target, late, never
from tests.nsqtools.broker import bodies, clients, fill, publish, wait_finished, wait_subscribed
from tests.nsqtools.tool import Tool
from tests.process.daemon import HOST, Daemon
from tests.process.lookup import LookupDaemon
from tests.process.waiting import wait_until

pytestmark = pytest.mark.process

CHANNEL = "nsq_to_http"
AT_ONCE = ["-consumer-opt=default_requeue_delay,100ms", "-consumer-opt=backoff_multiplier,10ms"]
"""So that no test waits 90 s for a second try."""


@pytest.fixture
def target() -> Iterator[Target]:
    """A server that says yes."""
    with Target() as target:
        yield target


def make_tool(tmp_path: Path, nsqd: Daemon, topic: str, *flags: str) -> Tool:
    """The tool, without a destination."""
    source = f"-nsqd-tcp-address={nsqd.tcp_address}"
    return Tool(tmp_path, "nsq_to_http", f"-topic={topic}", source, *AT_ONCE, *flags)


def wait_for_bodies(target: Target, count: int, within_s: float = 30.0) -> None:
    """Wait until so many different ones were taken."""
    wait_until(
        lambda: len(set(target.bodies)) >= count,
        within_s,
        f"{count} messages",
        describe=lambda: str(len(set(target.bodies))),
    )


def refuse_each_once(refusal: Response) -> tuple[list[bytes], object]:
    """An answer that says no to the first try of each message; and what it has said no to."""
    refused: list[bytes] = []

    def answer(request: Request) -> Response:
        if request.body in refused:
            return text("OK")
        refused.append(request.body)
        return refusal

    return refused, answer


def test_post(shared_nsqd: Daemon, topic: str, tmp_path: Path, target: Target) -> None:
    """Each message once, with the headers that were asked for; the tool introduces itself on both sides."""
    flags = [f"-post={target.url('/in')}", "-content-type=text/x", "-header=X-A: b:c", "-header=x-a: d"]
    with make_tool(tmp_path, shared_nsqd, topic, *flags, "-status-every=10") as tool:
        wait_subscribed(shared_nsqd, topic, CHANNEL)
        assert (
            clients(shared_nsqd, topic, CHANNEL)[0]["user_agent"] == f"nsq_to_http/{VERSION} nsqkit/{VERSION}"
        )
        publish(shared_nsqd, topic, bodies(0, 300))
        wait_finished(shared_nsqd, topic, CHANNEL)
        assert tool.terminate() == 0
        assert "[aggregate]: finished 10 - 99th: " in tool.log
        assert target.url() not in tool.log
        assert "messages  " not in tool.log, "no progress line in a file"
    assert Counter(target.bodies) == Counter(bodies(0, 300))
    request = target.requests[0]
    assert (request.method, request.target) == ("POST", b"/in")
    assert request.header(b"user-agent") == f"nsq_to_http v{VERSION}".encode()
    assert (request.header(b"content-type"), request.header(b"x-a")) == (b"text/x", b"d")
    assert len({request.remote for request in target.requests}) <= 100


def test_get(shared_nsqd: Daemon, topic: str, tmp_path: Path, target: Target) -> None:
    """Each message in a URL."""
    sent = [b"a b", b"\xff&=", b"c/d"]
    fill(shared_nsqd, topic, CHANNEL, sent)
    with make_tool(tmp_path, shared_nsqd, topic, f"-get={target.url('/?m=%s')}") as tool:
        wait_until(lambda: len(target.requests) == 3, 10.0, "three requests")
        wait_finished(shared_nsqd, topic, CHANNEL)
        assert tool.terminate(signal.SIGINT) == 0
    found = [request.query_string.removeprefix(b"m=").replace(b"+", b" ") for request in target.requests]
    assert sorted(map(unquote_to_bytes, found)) == sorted(sent)


def test_get_of_a_message_too_long_for_a_url(
    shared_nsqd: Daemon, topic: str, tmp_path: Path, target: Target
) -> None:
    """It is kept, and said why; no server is to blame for it, and no other message waits for it."""
    fill(shared_nsqd, topic, CHANNEL, [b"x" * 70_000, b"1", b"2"])
    flags = [f"-get={target.url('/?m=%s')}", "-n=1", "-consumer-opt=default_requeue_delay,1h"]
    with make_tool(tmp_path, shared_nsqd, topic, *flags) as tool:
        wait_until(lambda: shared_nsqd.unfinished(topic, CHANNEL) == 1, 10.0, "the others are finished")
        assert tool.terminate() == 0
        assert "70000 bytes> is requeued - " in tool.log
        assert f"{target.url('/')}: this message makes no URL: URL too long" in tool.log
        assert "backing off" not in tool.log
    assert [request.query_string for request in target.requests] == [b"m=1", b"m=2"]
    assert shared_nsqd.channel_stats(topic, CHANNEL)["requeue_count"] == 1


@pytest.mark.parametrize("status", [500, 304, 404])
def test_refused_messages_come_again(
    shared_nsqd: Daemon, topic: str, tmp_path: Path, target: Target, status: int
) -> None:
    """And each is finished only when it was taken."""
    refused, target.answer = refuse_each_once(Response(status))  # type: ignore[assignment]
    sent = bodies(0, 10)
    fill(shared_nsqd, topic, CHANNEL, sent)
    with make_tool(tmp_path, shared_nsqd, topic, f"-post={target.url()}") as tool:
        wait_for_bodies(target, len(sent))
        wait_finished(shared_nsqd, topic, CHANNEL)
        assert tool.terminate() == 0
        assert f"is requeued - {target.url()}: got status code {status}" in tool.log
        assert "Traceback" not in tool.log
    assert Counter(target.bodies) == Counter(refused) == Counter(sent)
    assert shared_nsqd.channel_stats(topic, CHANNEL)["requeue_count"] == len(sent)


def test_slow_answers_are_waited_for(shared_nsqd: Daemon, topic: str, tmp_path: Path, target: Target) -> None:
    """Also those that take longer than nsqd waits: each message is sent once."""
    target.answer = late(2.5)
    fill(shared_nsqd, topic, CHANNEL, bodies(0, 50))
    with make_tool(tmp_path, shared_nsqd, topic, f"-post={target.url()}", "-consumer-opt=msg_timeout,1s"):
        wait_for_bodies(target, 50)
        wait_finished(shared_nsqd, topic, CHANNEL)
    assert len(target.requests) == 50
    assert shared_nsqd.channel_stats(topic, CHANNEL)["timeout_count"] == 0


def test_no_answer_within_the_time_out(
    shared_nsqd: Daemon, topic: str, tmp_path: Path, target: Target
) -> None:
    """Is a failure; nothing is lost."""
    target.answer = never
    fill(shared_nsqd, topic, CHANNEL, [b"x"])
    flags = [f"-post={target.url()}", "-http-client-request-timeout=300ms"]
    with make_tool(tmp_path, shared_nsqd, topic, *flags) as tool:
        tool.wait_for_log("no answer within 0.3 s")
        assert shared_nsqd.unfinished(topic, CHANNEL) == 1
        target.answer = lambda request: text("OK")
        wait_for_bodies(target, 1)
        wait_finished(shared_nsqd, topic, CHANNEL)


def test_more_attempts_than_five(shared_nsqd: Daemon, topic: str, tmp_path: Path, target: Target) -> None:
    """A message is not dropped, however often it fails."""
    target.answer = lambda request: text("no", 503) if len(target.requests) < 9 else text("OK")
    fill(shared_nsqd, topic, CHANNEL, [b"x"])
    fast = ["-consumer-opt=default_requeue_delay,10ms", "-consumer-opt=max_backoff_duration,0"]
    with make_tool(tmp_path, shared_nsqd, topic, f"-post={target.url()}", *fast):
        wait_for_bodies(target, 1)
        wait_finished(shared_nsqd, topic, CHANNEL)
    assert len(target.requests) == 9


@pytest.mark.parametrize("mode", ["hostpool", "epsilon-greedy"])
def test_dead_host_is_left_alone(
    shared_nsqd: Daemon, topic: str, tmp_path: Path, target: Target, mode: str
) -> None:
    """The others get everything; only what met it once was tried twice."""
    with Target(answer=lambda request: text("no", 500)) as broken:
        flags = [f"-post={broken.url()}", f"-post={target.url()}", f"-mode={mode}", "-n=1"]
        fill(shared_nsqd, topic, CHANNEL, bodies(0, 100))
        with make_tool(tmp_path, shared_nsqd, topic, *flags):
            wait_for_bodies(target, 100)
            wait_finished(shared_nsqd, topic, CHANNEL)
        assert len(broken.requests) <= 1


def test_round_robin(shared_nsqd: Daemon, topic: str, tmp_path: Path, target: Target) -> None:
    """Half each; with several servers each has status lines of its own."""
    with Target() as other:
        flags = [f"-post={target.url()}", f"-post={other.url()}", "-mode=round-robin", "-status-every=10"]
        fill(shared_nsqd, topic, CHANNEL, bodies(0, 100))
        with make_tool(tmp_path, shared_nsqd, topic, *flags) as tool:
            wait_finished(shared_nsqd, topic, CHANNEL)
            assert tool.terminate() == 0
            for name in ("aggregate", target.url(), other.url()):
                assert f"[{name}]: finished 10 - 99th: " in tool.log
        assert len(target.bodies) == len(other.bodies) == 50


def test_multicast(shared_nsqd: Daemon, topic: str, tmp_path: Path, target: Target) -> None:
    """Every server gets every message; a failure of one brings it to all of them again."""
    refused, answer = refuse_each_once(text("no", 500))
    with Target(answer=answer) as other:  # type: ignore[arg-type]
        flags = [f"-post={target.url()}", f"-post={other.url()}", "-mode=multicast"]
        sent = bodies(0, 10)
        fill(shared_nsqd, topic, CHANNEL, sent)
        with make_tool(tmp_path, shared_nsqd, topic, *flags):
            wait_finished(shared_nsqd, topic, CHANNEL)
        assert Counter(other.bodies) == Counter(refused) == Counter(sent)
        assert Counter(target.bodies) == Counter(sent * 2)


@pytest.mark.parametrize(("sample", "low", "high"), [("0", 0, 0), ("0.5", 350, 650), ("1", 1000, 1000)])
def test_sample(
    shared_nsqd: Daemon, topic: str, tmp_path: Path, target: Target, sample: str, low: int, high: int
) -> None:
    """Some of the messages, by chance; all are finished."""
    fill(shared_nsqd, topic, CHANNEL, bodies(0, 1000))
    with make_tool(tmp_path, shared_nsqd, topic, f"-post={target.url()}", f"-sample={sample}"):
        wait_finished(shared_nsqd, topic, CHANNEL)
    assert low <= len(target.bodies) <= high


def test_stop_waits_for_requests(shared_nsqd: Daemon, topic: str, tmp_path: Path, target: Target) -> None:
    """SIGTERM: what is on its way is finished, what is not goes back, and nothing is both."""
    target.answer = late(0.5)
    fill(shared_nsqd, topic, CHANNEL, bodies(0, 20))
    with make_tool(
        tmp_path, shared_nsqd, topic, f"-post={target.url()}", "-n=10", "-max-in-flight=10"
    ) as tool:
        wait_until(lambda: len(target.requests) == 10, 10.0, "requests")
        assert tool.terminate() == 0
    assert len(target.bodies) + shared_nsqd.unfinished(topic, CHANNEL) == 20
    assert len(target.bodies) >= 10


@pytest.mark.parametrize(("stop_timeout", "signals"), [("300ms", 1), ("1h", 2)])
def test_stop_with_a_server_that_is_silent(
    shared_nsqd: Daemon, topic: str, tmp_path: Path, target: Target, stop_timeout: str, signals: int
) -> None:
    """Has an end, after a time or at a second signal, and gives the message back at once."""
    target.answer = never
    fill(shared_nsqd, topic, CHANNEL, [b"x"])
    flags = [f"-post={target.url()}", f"-consumer-opt=stop_timeout,{stop_timeout}"]
    with make_tool(tmp_path, shared_nsqd, topic, *flags) as tool:
        wait_until(lambda: len(target.requests) == 1, 10.0, "a request")
        if signals == 2:
            tool.send(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                tool.running.wait(0.5)
        assert tool.terminate() == 0
    found = shared_nsqd.channel_stats(topic, CHANNEL)
    assert (found["depth"], found["in_flight_count"]) == (1, 0)


def test_through_the_registry(tmp_path: Path, target: Target) -> None:
    """From every nsqd that has the topic."""
    (tmp_path / "nsqd").mkdir()
    with LookupDaemon() as lookupd, Daemon(tmp_path / "nsqd") as nsqd:
        lookupd.start()
        nsqd.flags = [f"--lookupd-tcp-address={lookupd.tcp_address}", f"--broadcast-address={HOST}"]
        nsqd.start()
        publish(nsqd, "t", bodies(0, 10))
        wait_until(lambda: lookupd.topics() == ["t"], 10.0, "the topic is known")
        flags = ["-topic=t", f"-lookupd-http-address={HOST}:{lookupd.http_port}", f"-post={target.url()}"]
        with Tool(tmp_path, "nsq_to_http", *flags) as tool:
            wait_for_bodies(target, 10)
            assert tool.terminate() == 0


def test_killed_in_mid_stream(nsqd: Daemon, tmp_path: Path, target: Target) -> None:
    """kill -9, three times: every message was taken in the end; at no time is one in neither place."""
    sent = bodies(0, 4000)
    fill(nsqd, "t", CHANNEL, sent)
    in_mid_stream = 0
    flags = [f"-post={target.url()}", "-consumer-opt=msg_timeout,1s", "-max-in-flight=20", "-n=5"]
    with make_tool(tmp_path, nsqd, "t", *flags) as tool:
        for count in (300, 1200, 2400):
            wait_for_bodies(target, count)
            tool.kill()
            in_mid_stream += len(set(target.bodies)) < len(sent)
            assert len(set(target.bodies)) + nsqd.unfinished("t", CHANNEL) >= len(sent)
            tool.start()
        wait_for_bodies(target, len(sent))
        wait_finished(nsqd, "t", CHANNEL)
        assert tool.terminate() == 0
    found = Counter(target.bodies)
    assert set(found) == set(sent)
    assert sum(found.values()) - len(sent) <= 3 * 20, "more was sent twice than was in flight"
    assert in_mid_stream


def test_nsqd_and_server_killed_in_mid_stream(nsqd: Daemon, tmp_path: Path, target: Target) -> None:
    """The tool goes on by itself, and nothing is lost."""
    sent = bodies(0, 4000)
    fill(nsqd, "t", CHANNEL, sent)
    again = ["-consumer-opt=max_reconnect_delay,200ms", "-consumer-opt=msg_timeout,2s"]
    flags = [f"-post={target.url()}", "-max-in-flight=20", "-n=5", *again]
    with make_tool(tmp_path, nsqd, "t", *flags) as tool:
        wait_for_bodies(target, 300)
        nsqd.kill()
        nsqd.start()
        wait_for_bodies(target, 1200)
        target.stop()
        assert len(set(target.bodies)) < len(sent)
        target.start()
        wait_for_bodies(target, len(sent))
        wait_finished(nsqd, "t", CHANNEL)
        assert tool.terminate() == 0
    assert set(target.bodies) == set(sent)


def test_shaky_server_and_random_kills(nsqd: Daemon, tmp_path: Path, target: Target) -> None:
    """A server that answers badly by chance, and a tool that dies at any moment."""
    chance = random.Random(7)

    def answer(request: Request) -> Response:
        return text("OK") if chance.random() < 0.95 else text("no", chance.choice([400, 500, 503]))

    target.answer = answer
    sent = bodies(0, 2000)
    fill(nsqd, "t", CHANNEL, sent)
    flags = [f"-post={target.url()}", "-consumer-opt=msg_timeout,1s", "-consumer-opt=max_backoff_duration,0"]
    with make_tool(tmp_path, nsqd, "t", *flags, "-n=5") as tool:
        for _ in range(3):
            count = len(set(target.bodies)) + chance.randrange(1, 300)
            wait_for_bodies(target, count)
            tool.kill()
            assert len(set(target.bodies)) + nsqd.unfinished("t", CHANNEL) >= len(sent)
            tool.start()
        wait_for_bodies(target, len(sent))
        wait_finished(nsqd, "t", CHANNEL)
        assert tool.terminate() == 0
    assert set(target.bodies) == set(sent)
