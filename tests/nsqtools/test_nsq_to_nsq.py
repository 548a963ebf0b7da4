"""nsq_to_nsq between real nsqds: nothing is finished before its destination has it."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import attrs
import pytest

from nsqkit.version import VERSION
from tests.nsqtools.broker import bodies, clients, fill, publish, wait_finished, wait_subscribed
from tests.nsqtools.tool import Tool, run_tool
from tests.process.daemon import HOST, Daemon
from tests.process.lookup import LookupDaemon
from tests.process.waiting import wait_until

pytestmark = pytest.mark.process

CHANNEL = "nsq_to_nsq"
AT_ONCE = ["-consumer-opt=default_requeue_delay,100ms", "-consumer-opt=backoff_multiplier,10ms"]
"""So that no test waits 90 s for a second try."""


@pytest.fixture(scope="module")
def destination(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Another nsqd for the tests of this module; nobody hurts it."""
    with Daemon(tmp_path_factory.mktemp("destination")) as daemon:
        daemon.start()
        yield daemon


@attrs.define
class Pair:
    """A source and a destination to be hurt."""

    source: Daemon
    destination: Daemon


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Both running."""
    with ExitStack() as stack:
        daemons = []
        for name in ("source", "destination"):
            (tmp_path / name).mkdir()
            daemons.append(stack.enter_context(Daemon(tmp_path / name)))
            daemons[-1].start()
        yield Pair(*daemons)


def make_tool(tmp_path: Path, source: Daemon, topic: str, to: list[Daemon], *flags: str) -> Tool:
    """The tool, from one nsqd to others."""
    where = [f"-destination-nsqd-tcp-address={nsqd.tcp_address}" for nsqd in to]
    return Tool(
        tmp_path,
        "nsq_to_nsq",
        f"-topic={topic}",
        f"-nsqd-tcp-address={source.tcp_address}",
        *where,
        *AT_ONCE,
        *flags,
    )


def held(nsqd: Daemon, topic: str) -> int:
    """The messages of a topic that has no channel."""
    topics = nsqd.stats()["topics"] or ()
    return sum(int(found["depth"]) for found in topics if found["topic_name"] == topic)


def wait_held(nsqd: Daemon, topic: str, count: int) -> None:
    """Wait until it has so many."""
    wait_until(
        lambda: held(nsqd, topic) >= count, 30.0, f"{count} messages", describe=lambda: str(held(nsqd, topic))
    )


def contents(nsqd: Daemon, topic: str) -> list[bytes]:
    """What the topic holds."""
    count = held(nsqd, topic)
    if not count:
        return []
    flags = [f"-topic={topic}", "-channel=c", f"-n={count}", f"-nsqd-tcp-address={nsqd.tcp_address}"]
    return run_tool("nsq_tail", *flags).stdout.splitlines()


def test_topics_byte_for_byte(shared_nsqd: Daemon, destination: Daemon, topic: str, tmp_path: Path) -> None:
    """Several topics keep their names, and messages their bytes; it introduces itself on both sides."""
    one, two = f"{topic}_1", f"{topic}_2"
    sent = [b"\x00\xff", b'{ "a" : 1.0 }', *bodies(0, 300)]
    fill(shared_nsqd, one, CHANNEL, sent)
    fill(shared_nsqd, two, CHANNEL, [b"x"])
    with make_tool(tmp_path, shared_nsqd, one, [destination], f"-topic={two}", "-status-every=10") as tool:
        for name in (one, two):
            wait_finished(shared_nsqd, name, CHANNEL)
        agent = f"nsq_to_nsq/{VERSION} nsqkit/{VERSION}"
        assert clients(shared_nsqd, one, CHANNEL)[0]["user_agent"] == agent
        assert agent.encode() in destination.request("GET", "/stats?format=json")[1]
        assert tool.terminate() == 0
        assert "[aggregate]: finished 10 - 99th: " in tool.log
        assert "messages  " not in tool.log, "no progress line in a file"
    assert Counter(contents(destination, one)) == Counter(sent)
    assert contents(destination, two) == [b"x"]


def test_destination_topic_and_json(
    shared_nsqd: Daemon, destination: Daemon, topic: str, tmp_path: Path
) -> None:
    """What passes is written anew; what does not is finished; what is no JSON is told of."""
    sent = [
        b'{"id":9007199254740993,"kind":"a","x":1}',
        b'{"id":1.5,"kind":"b"}',
        b"x",
        b'{"id":"<","kind":"a"}',
        b'{"kind":"a","id":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ]
    fill(shared_nsqd, topic, CHANNEL, sent)
    rules = ["-require-json-field=kind", "-require-json-value=a", "-whitelist-json-field=id"]
    other = f"{topic}_other"
    with make_tool(
        tmp_path, shared_nsqd, topic, [destination], f"-destination-topic={other}", *rules
    ) as tool:
        wait_finished(shared_nsqd, topic, CHANNEL)
        assert tool.terminate() == 0
        assert "ERROR: <Message " in tool.log
        assert "is dropped - not JSON" in tool.log
    assert shared_nsqd.channel_stats(topic, CHANNEL)["requeue_count"] == 0
    assert sorted(contents(destination, other)) == [b'{"id":"\\u003c"}', b'{"id":9007199254740993}']
    assert held(destination, topic) == 0


def test_missing_field_is_not_dropped(
    shared_nsqd: Daemon, destination: Daemon, topic: str, tmp_path: Path
) -> None:
    """It stays in its channel."""
    fill(shared_nsqd, topic, CHANNEL, [b"{}"])
    rules = ["-require-json-field=kind", "-require-json-value=a"]
    with make_tool(tmp_path, shared_nsqd, topic, [destination], *rules) as tool:
        tool.wait_for_log("is requeued - there is no field 'kind' to check the value of")
        assert tool.terminate() == 0
    assert shared_nsqd.unfinished(topic, CHANNEL) == 1


@pytest.mark.parametrize("mode", ["round-robin", "hostpool", "epsilon-greedy"])
def test_several_destinations(
    shared_nsqd: Daemon, destination: Daemon, nsqd: Daemon, topic: str, tmp_path: Path, mode: str
) -> None:
    """Each gets a share, and a third one that is not there disturbs nobody."""
    with Daemon(tmp_path) as absent:
        fill(shared_nsqd, topic, CHANNEL, bodies(0, 500))
        to = [absent, destination, nsqd]
        with make_tool(tmp_path, shared_nsqd, topic, to, f"-mode={mode}", "-status-every=100") as tool:
            wait_finished(shared_nsqd, topic, CHANNEL)
            assert tool.terminate() == 0
            assert "is requeued" not in tool.log
    shares = [held(daemon, topic) for daemon in (destination, nsqd)]
    assert sum(shares) == 500
    assert min(shares) > 100 if mode != "epsilon-greedy" else min(shares) > 0


NO_TIMEOUT = ["-producer-opt=publish_timeout,10m", "-consumer-opt=msg_timeout,15m"]
"""So that a message that waits for a dead destination waits for longer than the test."""


def test_first_destination_that_connects_is_used(
    shared_nsqd: Daemon, nsqd: Daemon, topic: str, tmp_path: Path
) -> None:
    """Nothing waits for one that is not there, nor for one that accepts a connection and does not answer."""
    fill(shared_nsqd, topic, CHANNEL, bodies(0, 300))
    with ExitStack() as stack, ExitStack() as stopped:
        absent = stack.enter_context(Daemon(tmp_path))
        mute = stack.enter_context(socket.create_server((HOST, 0)))
        silent = f"-destination-nsqd-tcp-address={HOST}:{mute.getsockname()[1]}"
        stopped.enter_context(nsqd.stop_cont())
        tool = make_tool(tmp_path, shared_nsqd, topic, [absent, nsqd], silent, *NO_TIMEOUT)
        stack.enter_context(tool)
        tool.wait_for_log("cannot connect")
        wait_until(lambda: shared_nsqd.channel_stats(topic, CHANNEL)["in_flight_count"] > 0, 10.0, "messages")
        stopped.close()
        wait_finished(shared_nsqd, topic, CHANNEL)
        assert tool.terminate() == 0
    assert set(contents(nsqd, topic)) == set(bodies(0, 300))


def send_one(nsqd: Daemon, topic: str) -> bool:
    """Publish one more message, for a destination to get."""
    publish(nsqd, topic, [b"one more"])
    return True


def test_destination_that_falls_silent_holds_up_its_batches_only(
    shared_nsqd: Daemon, destination: Daemon, nsqd: Daemon, topic: str, tmp_path: Path
) -> None:
    """Everything else goes to the other one; when the silent one is killed, its batches do, too."""
    shared_nsqd.create_channel(topic, CHANNEL)
    in_batches = 2 * 50  # two, each of max_in_flight / (2 * destinations)
    with make_tool(tmp_path, shared_nsqd, topic, [destination, nsqd], *NO_TIMEOUT) as tool:
        wait_until(lambda: send_one(shared_nsqd, topic) and held(nsqd, topic) > 0, 10.0, "the second one")
        wait_until(lambda: send_one(shared_nsqd, topic) and held(destination, topic) > 0, 10.0, "the first")
        wait_finished(shared_nsqd, topic, CHANNEL)
        before = held(destination, topic)
        with nsqd.stop_cont():
            for number in range(20):
                publish(shared_nsqd, topic, bodies(number * 100, number * 100 + 100))
            wait_held(destination, topic, before + 2000 - in_batches)
        nsqd.kill()
        wait_finished(shared_nsqd, topic, CHANNEL)
        assert tool.terminate() == 0
    nsqd.start()
    assert set(contents(nsqd, topic)) | set(contents(destination, topic)) >= set(bodies(0, 2000))


def test_refused_messages_stay(shared_nsqd: Daemon, nsqd: Daemon, topic: str, tmp_path: Path) -> None:
    """What the destination will not take is requeued, again and again; the others pass."""
    nsqd.terminate()
    nsqd.flags = ["--max-msg-size=1000"]
    nsqd.start()
    fill(shared_nsqd, topic, CHANNEL, [b"y" * 2000, *bodies(0, 20)])
    fast = ["-consumer-opt=default_requeue_delay,10ms", "-consumer-opt=max_backoff_duration,0"]
    with make_tool(tmp_path, shared_nsqd, topic, [nsqd], *fast) as tool:
        wait_held(nsqd, topic, 20)
        tool.wait_for_log("is requeued - E_BAD_MESSAGE")
        wait_until(
            lambda: shared_nsqd.channel_stats(topic, CHANNEL)["requeue_count"] > 7,
            20.0,
            "more than five attempts",
        )
        assert tool.terminate() == 0
    assert shared_nsqd.unfinished(topic, CHANNEL) == 1
    assert set(contents(nsqd, topic)) == set(bodies(0, 20))


def test_batches_that_are_too_big(shared_nsqd: Daemon, nsqd: Daemon, topic: str, tmp_path: Path) -> None:
    """For the destination: their messages go one by one, and none of them waits for a second try."""
    nsqd.terminate()
    nsqd.flags = ["--max-body-size=500"]
    nsqd.start()
    fill(shared_nsqd, topic, CHANNEL, bodies(0, 200))
    with make_tool(tmp_path, shared_nsqd, topic, [nsqd]) as tool:
        wait_finished(shared_nsqd, topic, CHANNEL)
        assert tool.terminate() == 0
        assert "is requeued" not in tool.log
    assert set(contents(nsqd, topic)) == set(bodies(0, 200))


def test_destination_that_comes_later(shared_nsqd: Daemon, nsqd: Daemon, topic: str, tmp_path: Path) -> None:
    """It is waited for; what takes too long is requeued and comes again."""
    nsqd.kill()
    fill(shared_nsqd, topic, CHANNEL, bodies(0, 50))
    with make_tool(tmp_path, shared_nsqd, topic, [nsqd], "-producer-opt=publish_timeout,300ms") as tool:
        tool.wait_for_log("is requeued - no destination is connected after 0.3 s")
        assert shared_nsqd.unfinished(topic, CHANNEL) == 50
        nsqd.start()
        wait_finished(shared_nsqd, topic, CHANNEL)
        assert tool.terminate() == 0
    assert set(contents(nsqd, topic)) == set(bodies(0, 50))


def test_stop_without_a_destination(shared_nsqd: Daemon, nsqd: Daemon, topic: str, tmp_path: Path) -> None:
    """Has an end, and the messages go back at once."""
    nsqd.kill()
    fill(shared_nsqd, topic, CHANNEL, bodies(0, 50))
    with make_tool(tmp_path, shared_nsqd, topic, [nsqd], "-consumer-opt=stop_timeout,300ms") as tool:
        tool.wait_for_log("cannot connect")
        wait_subscribed(shared_nsqd, topic, CHANNEL)
        assert tool.terminate() == 0
    found = shared_nsqd.channel_stats(topic, CHANNEL)
    assert (found["depth"], found["in_flight_count"]) == (50, 0)


def test_stop_under_load(pair: Pair, tmp_path: Path) -> None:
    """SIGTERM in mid-stream: what was published is finished, what is not is still there, nothing is both."""
    fill(pair.source, "t", CHANNEL, bodies(0, 20_000))
    with make_tool(tmp_path, pair.source, "t", [pair.destination], "-max-in-flight=50") as tool:
        wait_held(pair.destination, "t", 500)
        assert tool.terminate() == 0
    count = held(pair.destination, "t")
    assert count + pair.source.unfinished("t", CHANNEL) == 20_000
    assert count < 20_000


def test_through_the_registry(destination: Daemon, topic: str, tmp_path: Path) -> None:
    """From every nsqd that has the topic."""
    (tmp_path / "nsqd").mkdir()
    with LookupDaemon() as lookupd, Daemon(tmp_path / "nsqd") as nsqd:
        lookupd.start()
        nsqd.flags = [f"--lookupd-tcp-address={lookupd.tcp_address}", f"--broadcast-address={HOST}"]
        nsqd.start()
        publish(nsqd, topic, bodies(0, 10))
        wait_until(lambda: lookupd.topics() == [topic], 10.0, "the topic is known")
        flags = [
            f"-topic={topic}",
            f"-lookupd-http-address={HOST}:{lookupd.http_port}",
            f"-destination-nsqd-tcp-address={destination.tcp_address}",
        ]
        with Tool(tmp_path, "nsq_to_nsq", *flags) as tool:
            wait_held(destination, topic, 10)
            assert tool.terminate() == 0


def test_killed_in_mid_stream(pair: Pair, tmp_path: Path) -> None:
    """kill -9 of the tool, three times: every message arrives; at no time is one in neither place."""
    sent = bodies(0, 20_000)
    fill(pair.source, "t", CHANNEL, sent)
    in_mid_stream = 0
    flags = ["-consumer-opt=msg_timeout,1s", "-max-in-flight=20"]
    with make_tool(tmp_path, pair.source, "t", [pair.destination], *flags) as tool:
        for count in (1_000, 6_000, 11_000):
            wait_held(pair.destination, "t", count)
            tool.kill()
            in_mid_stream += held(pair.destination, "t") < len(sent)
            assert held(pair.destination, "t") + pair.source.unfinished("t", CHANNEL) >= len(sent)
            tool.start()
        wait_finished(pair.source, "t", CHANNEL)
        assert tool.terminate() == 0
    found = Counter(contents(pair.destination, "t"))
    assert set(found) == set(sent)
    assert sum(found.values()) - len(sent) <= 3 * 20, "more was published twice than was in flight"
    assert in_mid_stream


def test_nsqds_killed_in_mid_stream(pair: Pair, tmp_path: Path) -> None:
    """kill -9 of the source, then of the destination, twice each: the tool goes on by itself, nothing is lost."""
    sent = bodies(0, 30_000)
    fill(pair.source, "t", CHANNEL, sent)
    again = [f"-{kind}-opt=max_reconnect_delay,200ms" for kind in ("consumer", "producer")]
    flags = ["-max-in-flight=20", "-consumer-opt=msg_timeout,2s", *again]
    in_mid_stream = 0
    with make_tool(tmp_path, pair.source, "t", [pair.destination], *flags) as tool:
        for count, victim in zip(
            (1_000, 4_000, 7_000, 10_000), (pair.source, pair.destination) * 2, strict=True
        ):
            wait_held(pair.destination, "t", count)
            in_mid_stream += held(pair.destination, "t") < len(sent)
            victim.kill()
            victim.start()
        wait_finished(pair.source, "t", CHANNEL)
        assert tool.terminate() == 0
    assert set(contents(pair.destination, "t")) == set(sent)
    assert in_mid_stream
