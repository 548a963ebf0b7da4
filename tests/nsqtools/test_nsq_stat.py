"""nsq_stat: the columns, to the blank, and against real daemons."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsqkit.service.http import Request, Response, json_body, text
from nsqtools.nsq_stat import HEADER, Sample, line
from tests.nsqkit.http_target import Target
from tests.nsqtools.broker import bodies, fill, publish
from tests.nsqtools.tool import Tool, command, run_tool, run_with_full_stdout
from tests.process.daemon import HOST, Daemon
from tests.process.lookup import LookupDaemon
from tests.process.waiting import wait_until
from tests.timing import patience

FAST = "-interval=50ms"


def test_columns() -> None:
    """As the original prints them: scripts cut them."""
    before = Sample(depth=10, message_count=100)
    now = Sample(
        depth=20,
        backend_depth=5,
        in_flight_count=3,
        deferred_count=4,
        requeue_count=6,
        timeout_count=7,
        message_count=151,
        client_count=2,
    )
    assert line({"a": before}, {"a": now}, 2.0) == (
        "     25      20 |      20      15       5     3     4 |       6       7          151       2\n"
    )
    assert HEADER == (
        "------rate------+----------------depth----------------+--------------metadata---------------\n"
        "ingress  egress |   total     mem    disk inflt   def |     req     t-o         msgs clients\n"
    )


def rates(before: dict[str, Sample], now: dict[str, Sample]) -> list[int]:
    return [int(word) for word in line(before, now, 2.0).partition("|")[0].split()]


def test_rates_are_cut_towards_zero() -> None:
    assert rates({"a": Sample(message_count=0)}, {"a": Sample(message_count=3)}) == [1, 1]


def test_rates_over_a_restart() -> None:
    """The counters of the one began anew; those of the other count as ever."""
    before = {"a": Sample(message_count=5000, depth=100), "b": Sample(message_count=1000)}
    now = {"a": Sample(message_count=40, depth=60), "b": Sample(message_count=1020)}
    assert rates(before, now) == [30, 50]


def test_rates_are_never_negative() -> None:
    """What was in flight or deferred becomes ready, which is no traffic."""
    assert rates({"a": Sample(message_count=9)}, {"a": Sample(message_count=9, depth=50)}) == [0, 0]
    now = {"a": Sample(depth=50), "b": Sample(message_count=20)}
    assert rates({"a": Sample(message_count=9), "b": Sample()}, now) == [10, 10]


def test_rates_are_of_nsqds_in_both_samples() -> None:
    """One that joins brings its past, and one that leaves takes it along: neither is traffic."""
    old, new = {"a": Sample(message_count=9), "b": Sample(message_count=70)}, {"a": Sample(message_count=19)}
    assert rates(old, new) == [5, 5]
    assert rates({"a": old["a"]}, old) == [0, 0]


def test_wide_figures_move_the_line() -> None:
    """Nothing is cut off."""
    assert "123456789" in line({"a": Sample()}, {"a": Sample(depth=123456789)}, 1.0)


def test_sums() -> None:
    """What an nsqd does not say counts as 0."""
    one = Sample.from_json({"depth": 1, "client_count": 2, "clients": [], "paused": True})
    assert one + Sample(depth=10, message_count=3) == Sample(depth=11, client_count=2, message_count=3)


# --- against a made-up nsqd ---------------------------------------------------------------------------------


def made_up(target: Target, stats: object) -> None:
    """The server is an nsqd of these statistics."""

    def answer(request: Request) -> Response:
        if request.path == "/info":
            return json_body({"broadcast_address": HOST, "http_port": target.port})
        return json_body(stats)

    target.answer = answer


@pytest.fixture
def target() -> Iterator[Target]:
    """A server to be made an nsqd."""
    with Target() as target:
        yield target


def stat(*flags: str) -> tuple[int, str, str]:
    """Run it: exit code, stdout, and stderr without the date."""
    done = run_tool("nsq_stat", *flags)
    err = done.stderr.decode()
    assert not err or re.match(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d ", err), err
    return done.returncode, done.stdout.decode(), err[20:]


@pytest.mark.process
def test_header_again_after_25_samples(target: Target) -> None:
    """A sample more than lines; the same nsqd named twice counts once."""
    made_up(target, {"topics": [{"topic_name": "t", "channels": [{"channel_name": "c", "depth": 7}]}]})
    where = f"-nsqd-http-address={HOST}:{target.port}"
    also = f"-nsqd-http-address=localhost:{target.port}"
    code, out, err = stat("-topic=t", "-channel=c", "-interval=5ms", "-count=51", where, also)
    assert (code, err) == (0, "")
    row = "      0       0 |       7       7       0     0     0 |       0       0            0       0\n"
    assert out == HEADER + 24 * row + HEADER + 25 * row + HEADER + 2 * row
    asked = {request.target for request in target.requests}
    assert asked == {
        b"/stats?format=json&topic=t&include_clients=false",
        b"/info",
        b"/stats?format=json&topic=t&channel=c&include_clients=false",
    }


@pytest.mark.process
def test_strange_answers(target: Target) -> None:
    """Are errors, not tracebacks."""
    where = f"-nsqd-http-address={HOST}:{target.port}"
    for answer in (
        text("no", 500),
        text("x"),
        json_body([]),
        json_body({"topics": 1}),
        json_body({"topics": [1]}),
    ):
        target.answer = lambda request, answer=answer: answer
        code, out, err = stat("-topic=t", "-channel=c", where)
        assert (code, out) == (1, "")
        assert err.startswith("ERROR: failed to get "), err
        assert err.count("\n") == 1


# --- against real daemons -----------------------------------------------------------------------------------


def address(nsqd: Daemon) -> str:
    """The flag."""
    return f"-nsqd-http-address={HOST}:{nsqd.http_port}"


@pytest.mark.process
def test_real_nsqd(shared_nsqd: Daemon, topic: str, tmp_path: Path) -> None:
    """What is published shows as a rate, and in the depth."""
    local = Daemon(tmp_path, flags=[f"--broadcast-address={HOST}"])
    with local:
        local.start()
        local.create_channel(topic, "c")
        with Tool(tmp_path, "nsq_stat", f"-topic={topic}", "-channel=c", FAST, address(local)) as tool:
            tool.wait_for_output(b"|       0       0       0 ")
            publish(local, topic, bodies(0, 10))
            tool.wait_for_output(b"    200       0 |      10      10")
            tool.wait_for_output(
                b"      0       0 |      10      10       0     0     0 |       0       0           10"
            )
            assert tool.terminate() == 0
            assert tool.log == ""


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_signals(target: Target, tmp_path: Path, number: signal.Signals) -> None:
    """All three end it with 0, at once."""
    made_up(target, {"topics": [{"topic_name": "t", "channels": [{"channel_name": "c"}]}]})
    flags = ["-topic=t", "-channel=c", "-interval=1h", f"-nsqd-http-address={HOST}:{target.port}"]
    with Tool(tmp_path, "nsq_stat", *flags) as tool:
        tool.wait_for_output(HEADER.encode())
        assert tool.terminate(number) == 0


@pytest.mark.process
def test_stdout_that_cannot_be_written(target: Target) -> None:
    """Is an error; a reader who sleeps is not, and does not keep it from ending."""
    made_up(target, {"topics": [{"topic_name": "t", "channels": [{"channel_name": "c"}]}]})
    flags = ["-topic=t", "-channel=c", "-interval=1ms", f"-nsqd-http-address={HOST}:{target.port}"]
    done = run_with_full_stdout("nsq_stat", *flags)
    assert done.returncode == 1
    assert b"ERROR: failed to write to stdout - No space left on device" in done.stderr
    reading, writing = os.pipe()
    os.write(writing, b"x" * fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096))
    made_before = len(target.requests)
    with subprocess.Popen(command("nsq_stat", *flags), stdout=writing) as process:
        try:
            os.close(writing)
            wait_until(lambda: len(target.requests) >= made_before + 3, 10.0, "a sample")
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            process.terminate()
            assert process.wait(patience(10)) == 0
        finally:
            process.kill()
            os.close(reading)


@pytest.mark.process
def test_errors(shared_nsqd: Daemon, nsqd: Daemon, topic: str) -> None:
    """One line each, exit code 1; a part that fails is a failure."""
    fill(shared_nsqd, topic, "c", [b"x"])
    alive, dead = address(shared_nsqd), address(nsqd)
    nsqd.kill()
    flags = [f"-topic={topic}", "-channel=c", FAST, "-count=1"]
    code, _, err = stat(*flags, dead)
    assert code == 1
    assert err.startswith(
        "ERROR: failed to get topic producers - failed to query any nsqd: http://127.0.0.1:"
    )
    code, _, err = stat(*flags, dead, alive)
    assert code == 1
    assert err.startswith("ERROR: failed to get topic producers - http://127.0.0.1:")
    code, _, err = stat("-topic=other", "-channel=c", FAST, alive)
    assert (code, err) == (1, "ERROR: failed to get nsqd stats - failed to query any nsqd: \n")


@pytest.mark.process
def test_channel_that_is_not_there(tmp_path: Path, topic: str) -> None:
    """Is named, with its topic."""
    with Daemon(tmp_path, flags=[f"--broadcast-address={HOST}"]) as nsqd:
        nsqd.start()
        fill(nsqd, topic, "c", [b"x"])
        code, _, err = stat(f"-topic={topic}", "-channel=d", FAST, address(nsqd))
    assert (code, err) == (
        1,
        f"ERROR: failed to find channel(d) in stats metadata for topic({topic})\n",
    )


@pytest.mark.process
def test_cluster(tmp_path: Path) -> None:
    """Two nsqds through two registries: the sum; when one of them goes, the end."""
    folders = [tmp_path / name for name in ("1", "2")]
    with (
        LookupDaemon() as first,
        LookupDaemon() as second,
        Daemon(folders[0]) as one,
        Daemon(folders[1]) as two,
    ):
        registries = [first, second]
        for registry in registries:
            registry.start()
        for nsqd, folder, count in zip((one, two), folders, (3, 4), strict=True):
            folder.mkdir()
            nsqd.flags = [f"--lookupd-tcp-address={registry.tcp_address}" for registry in registries]
            nsqd.flags += [f"--broadcast-address={HOST}"]
            nsqd.start()
            fill(nsqd, "t", "c", bodies(0, count))
        for registry in registries:
            wait_until(lambda registry=registry: len(registry.producers("t")) == 2, 10.0, "both are known")  # type: ignore[misc]
        where = [f"-lookupd-http-address={HOST}:{registry.http_port}" for registry in registries]
        code, out, err = stat("-topic=t", "-channel=c", FAST, "-count=2", *where)
        assert (code, err) == (0, "")
        row = "      0       0 |       7       7       0     0     0 |       0       0            7       0\n"
        assert out == HEADER + 2 * row
        code, _, err = stat("-topic=u", "-channel=c", FAST, "-count=2", *where)
        assert code == 1
        assert err.startswith("ERROR: failed to get topic producers - failed to query any nsqlookupd: ")
        assert err.count('got response 404 Not Found "{\\"message\\":\\"TOPIC_NOT_FOUND\\"}"') == 2
        limit_s = patience(0.3)  # the others answer within it
        with two.stop_cont():
            code, _, err = stat("-topic=t", "-channel=c", f"-http-client-request-timeout={limit_s}s", *where)
        assert code == 1
        assert err.startswith(f"ERROR: failed to get nsqd stats - http://{HOST}:{two.http_port}/stats?"), err
        assert err.endswith(f"no answer within {limit_s:g} s\n")
        second.kill()
        code, _, err = stat("-topic=t", "-channel=c", FAST, "-count=1", *where)
        assert code == 1
        assert err.startswith("ERROR: failed to get topic producers - http://127.0.0.1:")
