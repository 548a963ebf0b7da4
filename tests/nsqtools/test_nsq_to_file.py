"""nsq_to_file against a real nsqd: nothing is finished before it is on disk, and nothing gets lost."""

from __future__ import annotations

import contextlib
import gzip
import signal
import zlib
from collections import Counter
from pathlib import Path

import pytest

from nsqkit.version import VERSION
from tests.nsqtools.broker import bodies, clients, fill, publish, wait_finished, wait_subscribed
from tests.nsqtools.tool import Tool, run_tool
from tests.process.daemon import HOST, Daemon
from tests.process.lookup import LookupDaemon
from tests.process.waiting import wait_until

pytestmark = pytest.mark.process

CHANNEL = "nsq_to_file"
NEVER = "-sync-interval=1h"
IN_FLIGHT = 20
WITHIN_S = 45.0  # a stream with few in flight syncs a thousand times, on whatever disk there is


def make_tool(tmp_path: Path, nsqd: Daemon, topic: str, *flags: str) -> Tool:
    """The tool, writing into `out`."""
    return Tool(
        tmp_path,
        "nsq_to_file",
        f"-topic={topic}",
        f"-nsqd-tcp-address={nsqd.tcp_address}",
        f"-output-dir={tmp_path}/out",
        "-datetime-format=%Y",  # so that the full hour disturbs no test
        *flags,
    )


def files(folder: Path) -> list[Path]:
    """All files below, by name."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def lines(folder: Path) -> list[bytes]:
    """The lines of all files below, in order of their names."""
    return [line for path in files(folder) for line in _text(path).splitlines()]


def _text(path: Path) -> bytes:
    """A compressed file up to where a killed process left it."""
    data = path.read_bytes()
    if path.suffix != ".gz":
        return data
    text = b""
    while data:
        member = zlib.decompressobj(31)
        text += member.decompress(data)
        data = member.unused_data if member.eof else b""
    return text


def wait_for_lines(folder: Path, count: int) -> None:
    """Wait until there are so many."""
    wait_until(
        lambda: len(lines(folder)) >= count,
        WITHIN_S,
        f"{count} lines",
        describe=lambda: str(len(lines(folder))),
    )


def test_finished_only_after_a_sync(shared_nsqd: Daemon, topic: str, tmp_path: Path) -> None:
    """Written at once, kept by nsqd; SIGHUP syncs and closes, the next message goes on in the same file."""
    nsqd = shared_nsqd
    with make_tool(tmp_path, nsqd, topic, NEVER) as tool:
        wait_subscribed(nsqd, topic, CHANNEL)
        assert clients(nsqd, topic, CHANNEL)[0]["user_agent"] == f"nsq_to_file/{VERSION} nsqkit/{VERSION}"
        publish(nsqd, topic, [b"one", b"two"])
        wait_for_lines(tmp_path / "out", 2)
        assert nsqd.channel_stats(topic, CHANNEL)["in_flight_count"] == 2
        tool.send(signal.SIGHUP)
        wait_finished(nsqd, topic, CHANNEL)
        publish(nsqd, topic, [b"three"])
        wait_for_lines(tmp_path / "out", 3)
        assert nsqd.unfinished(topic, CHANNEL) == 1
        assert tool.terminate() == 0
    assert nsqd.unfinished(topic, CHANNEL) == 0
    assert lines(tmp_path / "out") == [b"one", b"two", b"three"]
    assert len(files(tmp_path / "out")) == 1
    name = files(tmp_path / "out")[0].name
    assert name.startswith(f"{topic}.")
    assert "<" not in name


def test_syncs_at_the_interval(shared_nsqd: Daemon, topic: str, tmp_path: Path) -> None:
    """A topic without messages gets an empty file then."""
    nsqd = shared_nsqd
    with make_tool(tmp_path, nsqd, topic, "-sync-interval=300ms") as tool:
        wait_until(lambda: len(files(tmp_path / "out")) == 1, 10.0, "an empty file")
        publish(nsqd, topic, [b"one"])
        wait_for_lines(tmp_path / "out", 1)
        wait_finished(nsqd, topic, CHANNEL)
        assert tool.terminate(signal.SIGINT) == 0


def test_skips_empty_files(shared_nsqd: Daemon, topic: str, tmp_path: Path) -> None:
    """When asked to."""
    flags = ["-sync-interval=50ms", "-skip-empty-files", "-gzip"]
    with make_tool(tmp_path, shared_nsqd, topic, *flags) as tool:
        wait_subscribed(shared_nsqd, topic, CHANNEL)
        publish(shared_nsqd, topic, [b"one"])
        wait_finished(shared_nsqd, topic, CHANNEL)
        tool.send(signal.SIGHUP)
        wait_until(lambda: len(files(tmp_path / "out")) == 1, 5.0, "one file")
        assert tool.terminate() == 0
    assert lines(tmp_path / "out") == [b"one"]
    assert len(files(tmp_path / "out")) == 1


def test_syncs_when_no_more_may_be_in_flight(shared_nsqd: Daemon, topic: str, tmp_path: Path) -> None:
    """Messages flow without waiting for the interval."""
    nsqd = shared_nsqd
    nsqd.create_channel(topic, CHANNEL)
    publish(nsqd, topic, bodies(0, 1003))
    with make_tool(tmp_path, nsqd, topic, NEVER, "-max-in-flight=10") as tool:
        wait_for_lines(tmp_path / "out", 1003)
        assert nsqd.unfinished(topic, CHANNEL) < 10
        assert tool.terminate() == 0
    assert nsqd.unfinished(topic, CHANNEL) == 0
    assert lines(tmp_path / "out") == bodies(0, 1003)


def test_syncs_when_a_connection_is_full(
    shared_nsqd: Daemon, nsqd: Daemon, topic: str, tmp_path: Path
) -> None:
    """Of two nsqds only one has messages: its half of what may be in flight must not wait for the other's."""
    for broker in (shared_nsqd, nsqd):
        broker.create_channel(topic, CHANNEL)
    flags = [f"-nsqd-tcp-address={nsqd.tcp_address}", "-max-in-flight=20", NEVER]
    with make_tool(tmp_path, shared_nsqd, topic, *flags) as tool:
        for broker in (shared_nsqd, nsqd):
            wait_subscribed(broker, topic, CHANNEL)
        wait_until(
            lambda: clients(nsqd, topic, CHANNEL)[0]["ready_count"] == 10, 10.0, "both have their half"
        )
        publish(nsqd, topic, bodies(0, 105))
        wait_for_lines(tmp_path / "out", 105)
        assert tool.terminate() == 0
    assert nsqd.unfinished(topic, CHANNEL) == 0


def test_rotation_with_gzip(shared_nsqd: Daemon, topic: str, tmp_path: Path) -> None:
    """Every file is whole, and readable by anybody."""
    nsqd = shared_nsqd
    nsqd.create_channel(topic, CHANNEL)
    publish(nsqd, topic, bodies(0, 3000))
    with make_tool(tmp_path, nsqd, topic, "-gzip", "-rotate-size=10000", "-sync-interval=100ms") as tool:
        wait_finished(nsqd, topic, CHANNEL)
        assert tool.terminate() == 0
    found = files(tmp_path / "out")
    assert all(path.name.endswith(".log.gz") for path in found)
    assert len(found) == 5  # 16 bytes a line: 626 lines a file, and what is left
    everything = b"".join(gzip.decompress(path.read_bytes()) for path in found)
    assert everything.splitlines() == bodies(0, 3000)


def test_rotation_by_interval(shared_nsqd: Daemon, topic: str, tmp_path: Path) -> None:
    """Idle or not, a file is completed in time."""
    flags = ["-rotate-interval=200ms", "-sync-interval=100ms", "-skip-empty-files"]
    with make_tool(tmp_path, shared_nsqd, topic, f"-work-dir={tmp_path}/work", *flags) as tool:
        for number in range(3):
            publish(shared_nsqd, topic, [b"%d" % number])
            wait_for_lines(tmp_path / "out", number + 1)
        assert tool.terminate() == 0
    assert [path.read_bytes() for path in files(tmp_path / "out")] == [b"0\n", b"1\n", b"2\n"]
    assert files(tmp_path / "work") == []


def test_work_dir_and_hang_up(shared_nsqd: Daemon, topic: str, tmp_path: Path) -> None:
    """A hang-up moves the file; the next message begins a new one, the end moves that one, too."""
    name = "-filename-format=<TOPIC>/<DATETIME>/x<REV>"
    with make_tool(tmp_path, shared_nsqd, topic, f"-work-dir={tmp_path}/work", name, NEVER) as tool:
        for number in range(3):
            publish(shared_nsqd, topic, [b"%d" % number])
            wait_for_lines(tmp_path / "work", 1)
            assert len(files(tmp_path / "out")) == number
            if number < 2:
                tool.send(signal.SIGHUP)
                wait_for_lines(tmp_path / "out", number + 1)
                wait_until(lambda: files(tmp_path / "work") == [], 5.0, "moved")
        assert tool.terminate() == 0
    found = files(tmp_path / "out" / topic)
    assert [(path.name, path.read_bytes()) for path in found] == [
        ("x-000000", b"0\n"),
        ("x-000001", b"1\n"),
        ("x-000002", b"2\n"),
    ]
    assert files(tmp_path / "work") == []


def test_two_in_the_same_folders(shared_nsqd: Daemon, topic: str, tmp_path: Path) -> None:
    """Two processes, each with two topics, and one name for all: every message in one file, and all files moved."""
    topics = [topic, f"{topic}_other"]
    shared = [
        f"-topic={topics[1]}",
        f"-work-dir={tmp_path}/work",
        "-filename-format=x<REV>",
        "-rotate-size=1000",
    ]
    for name in topics:
        shared_nsqd.create_channel(name, CHANNEL)
    with contextlib.ExitStack() as stack:
        tools = []
        for place in "ab":
            (tmp_path / place).mkdir()
            flags = [f"-output-dir={tmp_path}/out", "-max-in-flight=10", *shared]
            tools.append(stack.enter_context(make_tool(tmp_path / place, shared_nsqd, topic, *flags)))
        wait_until(
            lambda: all(len(clients(shared_nsqd, name, CHANNEL)) == 2 for name in topics),
            10.0,
            "both are there",
        )
        for name in topics:
            publish(shared_nsqd, name, bodies(0, 500))
        wait_until(
            lambda: not any(shared_nsqd.channel_stats(name, CHANNEL)["depth"] for name in topics),
            10.0,
            "all are taken",
        )
        assert [tool.terminate() for tool in tools] == [0, 0]
    assert files(tmp_path / "work") == []
    assert Counter(lines(tmp_path / "out")) == Counter(2 * bodies(0, 500))
    assert len(files(tmp_path / "out")) > 8


def test_work_dir_of_a_killed_tool(shared_nsqd: Daemon, topic: str, tmp_path: Path) -> None:
    """Its lock has gone with it: the next one goes on in its file."""
    with make_tool(tmp_path, shared_nsqd, topic, f"-work-dir={tmp_path}/work", NEVER) as tool:
        publish(shared_nsqd, topic, [b"one"])
        wait_for_lines(tmp_path / "work", 1)
        tool.kill()
        tool.start()
        wait_for_lines(tmp_path / "work", 2)
        assert tool.terminate() == 0
    assert [path.read_bytes() for path in files(tmp_path / "out")] == [b"one\none\n"]
    assert files(tmp_path / "work") == []


def test_write_errors_end_nsq_to_file(shared_nsqd: Daemon, topic: str, tmp_path: Path) -> None:
    """Exit code 1 with the reason; nsqd keeps the messages."""
    shared_nsqd.create_channel(topic, CHANNEL)
    publish(shared_nsqd, topic, bodies(0, 50))
    done = run_tool(
        "nsq_to_file",
        f"-topic={topic}",
        f"-nsqd-tcp-address={shared_nsqd.tcp_address}",
        "-output-dir=/dev",
        "-filename-format=full",
    )
    assert done.returncode == 1
    assert b"FATAL: failed to write /dev/full - No space left on device" in done.stderr
    assert shared_nsqd.unfinished(topic, CHANNEL) == 50


@pytest.mark.parametrize("flags", [[], ["-gzip", "-rotate-size=30000"]])
def test_killed_in_mid_stream(nsqd: Daemon, tmp_path: Path, flags: list[str]) -> None:
    """kill -9, three times: every message is there in the end, and only messages are."""
    nsqd.create_channel("t", CHANNEL)
    sent = bodies(0, 18_000)
    publish(nsqd, "t", sent)
    in_mid_stream = 0
    # Few in flight: so that it takes its time, and there is a stream to be killed in.
    slow = ["-consumer-opt=msg_timeout,1s", f"-max-in-flight={IN_FLIGHT}"]
    with make_tool(tmp_path, nsqd, "t", *slow, *flags) as tool:
        for count in (1_000, 6_000, 11_000):
            wait_for_lines(tmp_path / "out", count)
            tool.kill()
            in_mid_stream += len(lines(tmp_path / "out")) < len(sent)
            nothing_lost(nsqd, sent, tmp_path / "out")
            tool.start()
        wait_for_lines(tmp_path / "out", len(sent))
        wait_until(lambda: nsqd.unfinished("t", CHANNEL) <= IN_FLIGHT, WITHIN_S, "few are left")
        assert tool.terminate() == 0
    wait_until(lambda: nsqd.channel_stats("t", CHANNEL)["in_flight_count"] == 0, 15.0, "nothing in flight")
    if left := nsqd.unfinished("t", CHANNEL):
        with make_tool(tmp_path, nsqd, "t", "-sync-interval=100ms", *flags) as tool:
            wait_finished(nsqd, "t", CHANNEL)
            assert tool.terminate() == 0, left
    found = Counter(lines(tmp_path / "out"))
    assert set(sent) <= set(found)
    assert sum(found.values()) - len(sent) <= 3 * 2 * IN_FLIGHT + 3, "more was written twice than in flight"
    assert in_mid_stream


def nothing_lost(nsqd: Daemon, sent: list[bytes], folder: Path) -> None:
    """What nsqd does not have any more is in the files."""
    assert len(set(sent) & set(lines(folder))) + nsqd.unfinished("t", CHANNEL) >= len(sent)


def test_nsqd_killed_in_mid_stream(nsqd: Daemon, tmp_path: Path) -> None:
    """kill -9 of nsqd, twice: the tool goes on by itself, and every message is there in the end."""
    nsqd.create_channel("t", CHANNEL)
    sent = bodies(0, 20_000)
    publish(nsqd, "t", sent)
    options = ["-consumer-opt=msg_timeout,1s", "-consumer-opt=max_reconnect_delay,200ms"]
    slow = ["-sync-interval=200ms", f"-max-in-flight={IN_FLIGHT}"]
    in_mid_stream = 0
    with make_tool(tmp_path, nsqd, "t", *slow, *options) as tool:
        for count in (1_000, 5_000):
            wait_for_lines(tmp_path / "out", count)
            nsqd.kill()
            in_mid_stream += len(lines(tmp_path / "out")) < len(sent)
            nsqd.start()
        wait_finished(nsqd, "t", CHANNEL)
        assert tool.terminate() == 0
    found = Counter(lines(tmp_path / "out"))
    assert set(found) == set(sent)
    assert in_mid_stream


def test_stop_under_load(nsqd: Daemon, tmp_path: Path) -> None:
    """SIGTERM in mid-stream: what is in the files is finished, and the other way round."""
    nsqd.create_channel("t", CHANNEL)
    sent = bodies(0, 20_000)
    publish(nsqd, "t", sent)
    with make_tool(tmp_path, nsqd, "t", f"-max-in-flight={IN_FLIGHT}") as tool:
        wait_for_lines(tmp_path / "out", 1_000)
        assert tool.terminate() == 0
    found = lines(tmp_path / "out")
    assert len(set(found)) == len(found)
    assert len(found) + nsqd.unfinished("t", CHANNEL) == len(sent)
    assert len(found) < len(sent)


def test_topics_of_the_registry(tmp_path: Path) -> None:
    """All that match, those that are there at the start at once, later ones at the next question."""
    (tmp_path / "nsqd").mkdir()
    with LookupDaemon() as lookupd, Daemon(tmp_path / "nsqd") as nsqd:
        lookupd.start()
        nsqd.flags = [f"--lookupd-tcp-address={lookupd.tcp_address}", f"--broadcast-address={HOST}"]
        nsqd.start()
        for topic in ("a_log", "a_trace"):
            publish(nsqd, topic, [b"from " + topic.encode()])
        wait_until(lambda: lookupd.topics() == ["a_log", "a_trace"], 10.0, "the topics are known")
        registry = f"-lookupd-http-address={HOST}:{lookupd.http_port}"
        flags = ["-topic-pattern=_log$", "-topic-refresh=200ms", f"-output-dir={tmp_path}/out", registry]
        with Tool(tmp_path, "nsq_to_file", *flags, "-sync-interval=100ms") as tool:
            wait_for_lines(tmp_path / "out", 1)
            publish(nsqd, "b_log", [b"from b_log"])
            wait_for_lines(tmp_path / "out", 2)
            assert tool.terminate() == 0
    assert lines(tmp_path / "out") == [b"from a_log", b"from b_log"]


def test_nothing_to_do(shared_nsqd: Daemon, topic: str, tmp_path: Path) -> None:
    """None of the topics matches: it says so, and waits for its end."""
    with make_tool(tmp_path, shared_nsqd, topic, "-topic-pattern=^other$") as tool:
        tool.wait_for_log("nothing to do")
        assert tool.terminate() == 0


def test_files_that_an_uploader_takes_away(nsqd: Daemon, tmp_path: Path) -> None:
    """What is finished was in a file when the uploader read it, or is in one now."""
    sent = bodies(0, 2000)
    fill(nsqd, "t", CHANNEL, sent[:1000])
    seen: set[bytes] = set()
    with make_tool(tmp_path, nsqd, "t", "-sync-interval=50ms", "-max-in-flight=50") as tool:
        for number in range(10):
            publish(nsqd, "t", sent[1000 + number * 100 :][:100])
            wait_for_lines(tmp_path / "out", 1)
            [path] = files(tmp_path / "out")
            path = path.rename(tmp_path / "uploading")
            seen |= set(path.read_bytes().splitlines())
            path.unlink()
        wait_finished(nsqd, "t", CHANNEL)
        assert tool.terminate() == 0
    assert seen | set(lines(tmp_path / "out")) == set(sent)


def test_warns_of_a_folder_for_everybody(shared_nsqd: Daemon, topic: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o1777)
    with make_tool(tmp_path, shared_nsqd, topic) as tool:
        tool.wait_for_log(f"every user can rename and remove files in {tmp_path}/out")
        wait_subscribed(shared_nsqd, topic, CHANNEL)
        assert tool.terminate() == 0
