"""The load generator must notice every wrong answer, and count every right one, wherever the reads cut it."""

from __future__ import annotations

import os
import re
import shlex
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs
import pytest

from bench import load, procfs
from bench.beanstalk import Worker
from bench.curves import CURVES
from bench.link import Link, LoadError
from bench.machine import Facts, measure_sync
from bench.meter import Measurement
from bench.nsq import Consumer, count_distinct
from bench.report import Drawn, Point, Results, to_markdown
from bench.rows import FULL, QUICK, ROWS, TAILS, Scale
from bench.runner import Cell, run_row
from bench.scripted import ScriptedBeanstalk, ScriptedHttp, ScriptedNsq, cut, read_all
from bench.server import Broker, Server, ServerError, peer

BODY = b"x" * 20
OK = b"\x00\x00\x00\x06\x00\x00\x00\x00OK"
HEARTBEAT = struct.pack(">ii", 15, 0) + b"_heartbeat_"
REPLY = b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 2\r\n\r\nOK"


def error_frame(text: bytes) -> bytes:
    return struct.pack(">ii", 4 + len(text), 1) + text


def message_frame(number: int, body: bytes = BODY) -> bytes:
    return struct.pack(">iiqH16s", 30 + len(body), 2, 1, 1, b"%016x" % number) + body


def fins(*numbers: int) -> bytes:
    return b"".join(b"FIN %016x\n" % number for number in numbers)


@pytest.mark.parametrize("size", range(1, 60))
def test_replies_are_counted_wherever_the_reads_cut_them(size: int) -> None:
    link = ScriptedNsq()
    assert sum(link.count_replies(part) for part in cut(OK * 3 + HEARTBEAT + OK * 2, size)) == 5
    assert link.sent == b"NOP\n"
    assert not link.rest


@pytest.mark.parametrize("size", range(1, 60))
@pytest.mark.parametrize(
    "wrong", [error_frame(b"E_PUB_FAILED PUB failed disk"), message_frame(1), b"HTTP/1.1 400 Bad Request"]
)
def test_a_wrong_reply_is_noticed(wrong: bytes, size: int) -> None:
    link = ScriptedNsq()
    with pytest.raises(LoadError):
        list(map(link.count_replies, cut(OK + wrong, size)))


@pytest.mark.parametrize("size", [*range(1, 120), 1000])
def test_messages_are_finished_wherever_the_reads_cut_them(size: int) -> None:
    link = ScriptedNsq()
    consumer = Consumer(link, BODY)
    frames = [message_frame(number) for number in range(5)]
    data = b"".join(frames[:3]) + HEARTBEAT + b"".join(frames[3:])
    link.incoming = cut(data, size)
    read_all(consumer, link)
    assert link.sent.replace(b"NOP\n", b"") == fins(*range(5))
    assert consumer.received == count_distinct([consumer]) == 5


@pytest.mark.parametrize("size", [*range(1, 120), 1000])
@pytest.mark.parametrize(
    "wrong",
    [error_frame(b"E_FIN_FAILED FIN failed"), message_frame(7, b"y" * 20), message_frame(7, b"x" * 19), OK],
)
def test_a_wrong_message_is_noticed(wrong: bytes, size: int) -> None:
    link = ScriptedNsq()
    consumer = Consumer(link, BODY)
    link.incoming = cut(message_frame(1) + wrong, size)
    with pytest.raises(LoadError):
        read_all(consumer, link)


def test_a_message_that_comes_twice_is_counted_once() -> None:
    link = ScriptedNsq()
    consumer = Consumer(link, BODY)
    link.incoming = [message_frame(1) + message_frame(2) + message_frame(1)]
    consumer.readable()
    assert (consumer.received, count_distinct([consumer])) == (3, 2)


@pytest.mark.parametrize("size", range(1, 60))
def test_http_replies(size: int) -> None:
    link = ScriptedHttp()
    counts = [link.count_replies(part) for _ in range(3) for part in cut(REPLY, size)]
    assert sum(counts) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        REPLY.replace(b"200", b"503"),
        REPLY.replace(b"OK", b"KO"),
        REPLY.replace(b"Content-Length", b"Length"),
        REPLY + b"more",
    ],
)
def test_a_wrong_http_reply_is_noticed(wrong: bytes) -> None:
    link = ScriptedHttp()
    assert link.count_replies(REPLY) == 1
    with pytest.raises(LoadError):
        link.count_replies(wrong)


@pytest.mark.parametrize("size", range(1, 40))
def test_jobs_are_put_reserved_and_deleted(size: int) -> None:
    link = ScriptedBeanstalk()
    assert sum(link.count_replies(part) for part in cut(b"INSERTED 9\r\nINSERTED 10\r\n", size)) == 2
    worker = Worker(link, BODY, budget=2)
    worker.start()
    job = b"RESERVED %d 20\r\n" + BODY + b"\r\n"
    link.incoming = cut(job % 9 + b"DELETED\r\n" + job % 10 + b"DELETED\r\n", size)
    read_all(worker, link)
    assert worker.deleted == 2
    assert link.sent == b"reserve\r\ndelete 9\r\nreserve\r\ndelete 10\r\n"


@pytest.mark.parametrize("wrong", [b"OUT_OF_MEMORY\r\n", b"BURIED 3\r\n"])
def test_a_wrong_beanstalkd_reply_is_noticed(wrong: bytes) -> None:
    link = ScriptedBeanstalk()
    with pytest.raises(LoadError):
        link.count_replies(b"INSERTED 1\r\n" + wrong)
    link.rest = b""
    worker = Worker(link, BODY, budget=2)
    link.incoming = [b"DELETED\r\n" + wrong]
    with pytest.raises(LoadError):
        worker.readable()


@contextmanager
def serving(answer: Callable[[bytes], bytes]) -> Iterator[int]:
    """A server on a port: each chunk that comes in on any connection gets `answer(chunk)`; b"" closes."""

    def talk(connection: socket.socket) -> None:
        with connection, suppress(ConnectionError):
            while (data := connection.recv(1 << 16)) and (reply := answer(data)):
                connection.sendall(reply)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def run_load(*arguments: str) -> int:
    return load.main([*arguments, "--seconds=0.05", f"--pids={os.getpid()}"])


def test_a_load_counts_its_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(lambda _: OK) as port:
        assert run_load("pub", str(port), "--conns=1") == 0
    measurement = Measurement.from_json(capsys.readouterr().out)
    assert measurement.messages > 10
    assert measurement.seconds >= 0.05
    assert measurement.rss_bytes > 1 << 20


def test_an_http_load_counts_its_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(lambda _: REPLY) as port:
        assert run_load("http-pub", str(port), "--conns=4") == 0
    assert Measurement.from_json(capsys.readouterr().out).messages > 10


@pytest.mark.parametrize("kind", ["pub", "mpub", "both", "sub", "latency"])
@pytest.mark.parametrize(
    ("answer", "text"),
    [(error_frame(b"E_PUB_FAILED no room"), "E_PUB_FAILED no room"), (b"", "closed|reset|Broken pipe")],
)
def test_an_error_frame_or_a_close_fails_the_load(
    kind: str, answer: bytes, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda data: OK if b"IDENTIFY" in data or b"SUB" in data else answer) as port:
        assert run_load(kind, str(port), "--conns=1") == 1
    assert re.search(text, capsys.readouterr().err)


def test_process_figures() -> None:
    me = [os.getpid()]
    before = procfs.cpu_seconds(me)
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert 0.03 <= procfs.cpu_seconds(me) - before < 5
    assert procfs.rss_bytes(me) > 1 << 20
    assert procfs.machine_cpu_seconds() >= procfs.cpu_seconds(me) > before
    assert os.getpid() in procfs.group_members(os.getpgrp())
    assert procfs.rss_bytes([1 << 30]) == procfs.cpu_seconds([1 << 30]) == 0


LISTENER = """
import socket, sys, time
if {port}: time.sleep(0.05)
tcp, http = socket.create_server(("127.0.0.1", {port})), socket.create_server(("127.0.0.1", 0))
print("[nsqd] x INFO: TCP: listening on 127.0.0.1:%d" % tcp.getsockname()[1], file=sys.stderr)
print("[nsqd] x INFO: HTTP: listening on 127.0.0.1:%d" % http.getsockname()[1], file=sys.stderr, flush=True)
time.sleep(60)
"""


def python_command(script: str) -> str:
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(script)}"


@pytest.mark.process
@pytest.mark.parametrize("reports_ports", [True, False])
def test_a_broker_is_started_known_ready_and_ended(reports_ports: bool, tmp_path: Path) -> None:
    script = LISTENER.replace("{port}", "0") if reports_ports else LISTENER
    broker = Broker("b", python_command(script), reports_ports=reports_ports, shell=not reports_ports)
    with Server(broker, tmp_path) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5):
            pass
        assert bool(server.http_port) == reports_ports
        assert 0 < server.start_seconds < 10
        assert procfs.rss_bytes(server.pids) > 1 << 20
        assert len(list(tmp_path.iterdir())) == 1
    assert not procfs.rss_bytes(server.pids)
    assert not list(tmp_path.iterdir())


@pytest.mark.process
def test_a_broker_that_ends_says_why(tmp_path: Path) -> None:
    broker = peer("b", python_command("raise SystemExit('no such flag')"))
    with pytest.raises(ServerError, match=r"ended with code 1\n    no such flag"), Server(broker, tmp_path):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.process
def test_a_restart_has_the_patience_of_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here less than that of a first start; there is data to be read, so it is more."""
    listens_once = "import pathlib, sys, time; path = pathlib.Path(sys.argv[1], 'x')\n"
    listens_once += f"if path.exists(): time.sleep(60)\npath.touch()\n{LISTENER}"
    broker = peer("b", f"{python_command(listens_once)} {{data_path}}")
    monkeypatch.setattr("bench.server.RESTART_SECONDS", 0.2)
    with (
        Server(broker, tmp_path) as running,
        pytest.raises(ServerError, match=r"does not listen after 0\.2 s"),
    ):
        running.restart_cold()


@pytest.mark.process
def test_a_row_that_fails_shows_its_reason(tmp_path: Path) -> None:
    """The listener accepts but never answers IDENTIFY properly: it is killed while the load waits."""
    script = LISTENER.replace(
        "time.sleep(60)", "tcp.accept()[0].close(); tcp.accept()[0].close(); time.sleep(60)"
    )
    row = next(row for row in ROWS if row.name == "pub-1")
    missing = Broker("gone", "", missing="not installed")
    cells = run_row(row, [peer("b", python_command(script)), missing], QUICK, tmp_path, lambda _: None)
    assert "closed" in cells[0].failed or "reset" in cells[0].failed
    assert cells[1].skipped == "not installed"
    text = to_markdown(Results(FACTS, QUICK, [cell.broker for cell in cells], [cells], 1.0))
    assert "FAILED: " in text
    assert "skipped: not installed" in text


FACTS = Facts("d", "c", 2, 1, "k", 0.0, "/usr/bin/python3", "cpython 3", {}, "abc", "ext4")


def test_the_table_has_medians_and_ratios() -> None:
    row = next(row for row in ROWS if row.name == "pub-16")
    tested, other = Broker("mine", "", tested=True), Broker("theirs", "")
    cells = [
        Cell(row, tested, [Measurement(n, 1.0, n * 5e-6, 0.5, 1 << 20) for n in (100_000, 300_000, 200_000)]),
        Cell(row, other, [Measurement(100_000, 1.0, 1.0, 0.99, 2 << 20)]),
    ]
    lines = to_markdown(Results(FACTS, FULL, [tested, other], [cells], 1.0)).splitlines()
    mine, theirs = (next(line for line in lines if f"| {name} |" in line) for name in ("mine", "theirs"))
    assert "| 200,000/s | 100,000 to 300,000 | 5.00 us | 1 MiB | 50% |" in mine
    assert theirs.endswith("| 100,000/s |  | 10.00 us | 2 MiB | 99% | 2.00 | 2.00 |")
    assert '"rate": 200000.0' in Results(FACTS, FULL, [tested, other], [cells], 1.0).to_json()


def test_each_interpreter_has_ratios_of_its_own() -> None:
    row = next(row for row in ROWS if row.name == "pub-16")
    brokers = [
        Broker("nsqd, a", "", tested=True, interpreter="a"),
        Broker("nsqd, b", "", tested=True, interpreter="b"),
        Broker("peer 1, a", "", interpreter="a"),
        Broker("peer 1, b", "", interpreter="b"),
        Broker("other", ""),
    ]
    cells = [
        Cell(row, broker, [Measurement(rate, 1.0, rate * cpu_us / 1e6, 0.5, 1 << 20)])
        for broker, rate, cpu_us in zip(brokers, (100, 50, 200, 20, 400), (4, 8, 2, 16, 1), strict=True)
    ]
    lines = to_markdown(Results(FACTS, FULL, brokers, [cells], 1.0)).splitlines()
    assert f"| {row.title} | peer 1 | 0.50 | 0.50 | 2.50 | 2.00 |" in lines
    assert f"| {row.title} | other | 0.25 | 0.25 | 0.12 | 0.12 |" in lines


def test_a_curve_says_how_its_cost_grows() -> None:
    curve = next(curve for curve in CURVES if curve.name == "many-deferred")
    broker, points = Broker("nsqd", "", tested=True), []
    for x, series, row in curve.points(quick=True, large=False):
        cell = Cell(row, broker, [Measurement(1000, 1.0, 1e-6 * x, 0.5, 1 << 20)])
        points.append(Point(x, series, cell))
    lines = to_markdown(Results(FACTS, FULL, [broker], [], 1.0, (), [Drawn(curve, points)])).splitlines()
    costs = [line.split(" | ")[4:6] for line in lines if line.startswith(("| 1,000 |", "| 100,000 |"))]
    assert costs == [["1.00 us", "1.00"]] * 3 + [["100.00 us", "100.00"]] * 3


def test_other_processes_are_mentioned() -> None:
    row = next(row for row in ROWS if row.name == "pub-16")
    broker = Broker("mine", "")
    disturbed = Measurement(1000, 2.0, 1.0, 1.0, 1 << 20, machine_cpu_seconds=3.0)
    text = to_markdown(Results(FACTS, FULL, [broker], [[Cell(row, broker, [disturbed])]], 1.0))
    assert "up to 50% of a core" in text
    quiet = attrs.evolve(disturbed, machine_cpu_seconds=2.1)
    assert "of a core" not in to_markdown(Results(FACTS, FULL, [broker], [[Cell(row, broker, [quiet])]], 1.0))


def test_a_load_without_cpu_left_is_marked() -> None:
    row = next(row for row in ROWS if row.name == "pub-16")
    broker = Broker("mine", "")
    cells = [Cell(row, broker, [Measurement(1000, 1.0, 0.5, 0.99, 1 << 20)])]
    assert "99% (!)" in to_markdown(Results(FACTS, FULL, [broker], [cells], 1.0))


@pytest.mark.parametrize("scale", [FULL, QUICK])
def test_every_row_names_a_load_that_exists(scale: Scale) -> None:
    curves = [row for curve in CURVES for _, _, row in curve.points(quick=scale is QUICK, large=True)]
    for row in (*ROWS, *TAILS, *curves):
        loads = [*row.loads.values(), *row.before.values(), row.beside]
        for arguments in filter(None, loads):
            kind, *options = arguments.format(**attrs.asdict(scale)).split()
            assert load._parse([kind, "1", *options]).kind == kind


def test_a_sync_takes_time(tmp_path: Path) -> None:
    sync = measure_sync(tmp_path, 5)
    assert 0 < sync.p50_ms <= sync.p99_ms


def test_a_link_that_is_refused_is_an_os_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="refused"):
            Link(unused.getsockname()[1])
