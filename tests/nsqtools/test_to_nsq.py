"""to_nsq against real nsqds."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from nsqkit.wire.frames import encode_response
from tests.nsqtools.broker import address, bodies
from tests.nsqtools.tool import WITHIN_S, Tool, run_tool
from tests.process.daemon import Daemon
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = pytest.mark.process


def published(nsqd: Daemon, topic: str) -> list[bytes]:
    """What the topic holds, in order; shown by the other tool."""
    held = _held(nsqd, topic)
    if not held:
        return []
    done = run_tool("nsq_tail", f"-topic={topic}", "-channel=c", f"-n={held}", address(nsqd))
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("flags", "stdin", "expected"),
    [
        ([], b"a\n\nbb\nccc", [b"a", b"bb", b"ccc"]),
        (["-delimiter=,"], b"a,b,c,", [b"a", b"b", b"c"]),
        ([], b"", []),
    ],
)
def test_records(
    shared_nsqd: Daemon, topic: str, flags: list[str], stdin: bytes, expected: list[bytes]
) -> None:
    """Each a message, the last one whole."""
    done = run_tool("to_nsq", f"-topic={topic}", address(shared_nsqd), *flags, stdin=stdin)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert published(shared_nsqd, topic) == expected


def test_every_nsqd_gets_everything(shared_nsqd: Daemon, nsqd: Daemon, topic: str) -> None:
    """In the same order."""
    sent = bodies(0, 500)
    stdin = b"\n".join(sent)
    done = run_tool("to_nsq", f"-topic={topic}", address(shared_nsqd), address(nsqd), stdin=stdin)
    assert done.returncode == 0, done.stderr
    assert published(shared_nsqd, topic) == published(nsqd, topic) == sent


def test_rate(shared_nsqd: Daemon, topic: str) -> None:
    """One at once, and the others evenly."""
    began = time.monotonic()
    stdin = b"\n".join(bodies(0, 21))
    done = run_tool("to_nsq", f"-topic={topic}", address(shared_nsqd), "-rate=20", stdin=stdin)
    assert done.returncode == 0
    assert time.monotonic() - began >= 1.0
    assert b"Throttling messages rate to max:20/second" in done.stderr
    assert len(published(shared_nsqd, topic)) == 21


def test_an_unreachable_nsqd_is_fatal(nsqd: Daemon) -> None:
    """Exit code 1, and which nsqd it was."""
    nsqd.kill()
    done = run_tool("to_nsq", "-topic=t", address(nsqd), "-producer-opt=publish_timeout,300ms", stdin=b"a\n")
    assert done.returncode == 1
    assert f"FATAL: failed to publish to {nsqd.tcp_address} - PUB: no answer within".encode() in done.stderr


@pytest.mark.parametrize("word", [b"x" * 2_000_000])
def test_refused_message(shared_nsqd: Daemon, topic: str, word: bytes) -> None:
    """What nsqd says is what the user reads; what came before is published."""
    stdin = b"a\n" + word + b"\nb\n"
    done = run_tool("to_nsq", f"-topic={topic}", address(shared_nsqd), stdin=stdin)
    assert done.returncode == 1
    assert b"E_BAD_MESSAGE" in done.stderr
    assert published(shared_nsqd, topic) == [b"a"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals(shared_nsqd: Daemon, topic: str, tmp_path: Path, number: signal.Signals) -> None:
    """Exit code 0, though stdin is still open."""
    with Tool(tmp_path, "to_nsq", f"-topic={topic}", address(shared_nsqd), stdin=subprocess.PIPE) as tool:
        _feed(tool, b"a\nb")
        wait_until(lambda: _held(shared_nsqd, topic) == 1, 10.0, "a message")
        assert tool.terminate(number) == 0
        assert tool.log == ""


def test_second_signal_waits_for_nothing(tmp_path: Path) -> None:
    """The first one lets the record that is being published come to its end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        flags = ["-topic=t", f"-nsqd-tcp-address=127.0.0.1:{listener.getsockname()[1]}"]
        with Tool(
            tmp_path, "to_nsq", *flags, "-producer-opt=publish_timeout,1h", stdin=subprocess.PIPE
        ) as tool:
            _feed(tool, b"a\n")
            with _takes_one_record(listener):
                tool.send(signal.SIGTERM)
                with pytest.raises(subprocess.TimeoutExpired):
                    tool.running.wait(0.3)
                assert tool.terminate() == 0


def test_nsqd_dies_for_good(nsqd: Daemon, tmp_path: Path) -> None:
    """In mid-stream: exit code 1."""
    flags = ["-topic=t", address(nsqd), "-producer-opt=publish_timeout,500ms"]
    with Tool(tmp_path, "to_nsq", *flags, stdin=subprocess.PIPE) as tool:
        _feed(tool, b"a\n")
        wait_until(lambda: _held(nsqd, "t") == 1, 10.0, "a message")
        nsqd.kill()
        _feed(tool, b"b\n")
        assert tool.wait() == 1


def test_nsqd_comes_back(nsqd: Daemon, tmp_path: Path) -> None:
    """Within the time-out: nothing is missing."""
    sent = bodies(0, 3000)
    flags = ["-topic=t", address(nsqd), "-producer-opt=publish_timeout,100s"]
    with Tool(tmp_path, "to_nsq", *flags, stdin=subprocess.PIPE) as tool:
        _feed(tool, b"\n".join(sent[:1500]) + b"\n")
        wait_until(lambda: _held(nsqd, "t") > 100, 10.0, "some messages")
        nsqd.kill()
        nsqd.start()
        _feed(tool, b"\n".join(sent[1500:]))
        assert tool.running.stdin is not None
        tool.running.stdin.close()
        assert tool.wait() == 0, tool.log
    found = published(nsqd, "t")
    assert set(found) == set(sent)
    assert list(dict.fromkeys(found)) == sent


def test_killed_in_mid_stream(nsqd: Daemon, tmp_path: Path) -> None:
    """kill -9: what is published is the beginning of the stream, without a hole and each record once."""
    sent = bodies(0, 20_000)
    (tmp_path / "stream").write_bytes(b"\n".join(sent))
    with (tmp_path / "stream").open("rb") as stream:
        with Tool(tmp_path, "to_nsq", "-topic=t", address(nsqd), stdin=stream.fileno()) as tool:
            wait_until(lambda: _held(nsqd, "t") > 200, 10.0, "some messages")
            tool.kill()
        count = _held(nsqd, "t")
        assert count < len(sent)
        assert published(nsqd, "t") == sent[:count]


def test_introduces_itself(shared_nsqd: Daemon, topic: str, tmp_path: Path) -> None:
    """As the tool that it is."""
    with Tool(tmp_path, "to_nsq", f"-topic={topic}", address(shared_nsqd), stdin=subprocess.PIPE) as tool:
        _feed(tool, b"a\n")
        wait_until(lambda: _held(shared_nsqd, topic) == 1, 10.0, "a message")
        _, answer = shared_nsqd.request("GET", "/stats?format=json")
        assert b'"user_agent":"to_nsq/' in answer.replace(b'": "', b'":"')


def _feed(tool: Tool, data: bytes) -> None:
    stdin = tool.running.stdin
    assert stdin is not None
    stdin.write(data)
    stdin.flush()


@contextlib.contextmanager
def _takes_one_record(listener: socket.socket) -> Iterator[None]:
    """Be an nsqd that has received a record and never responds to it."""
    listener.settimeout(patience(WITHIN_S))
    connection, _ = listener.accept()
    connection.settimeout(patience(WITHIN_S))
    with connection, connection.makefile("rb") as received:
        _read_past(received, b"IDENTIFY\n")
        connection.sendall(encode_response(b"OK"))
        _read_past(received, b"PUB t\n")
        yield


def _read_past(received: BinaryIO, wanted: bytes) -> None:
    while not (line := received.readline()).endswith(wanted):
        assert line, f"the connection ended before {wanted!r}"


def _held(nsqd: Daemon, topic: str) -> int:
    """The messages of a topic that has no channel."""
    topics = nsqd.stats()["topics"] or ()
    return sum(int(found["depth"]) for found in topics if found["topic_name"] == topic)
