"""The other brokers' protocols: right answers are counted wherever the reads cut them, wrong ones are noticed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from bench.link import LoadError
from bench.nats import Puller
from bench.redis import GroupReader, add_command
from bench.rows import QUICK, ROWS
from bench.runner import run_row
from bench.scripted import ScriptedNats, ScriptedRedis, cut, read_all
from bench.server import DAEMONS, Broker, beanstalkd, nats, nsqd, redis

BODY = b"x" * 20
TINY = attrs.evolve(
    QUICK, seconds=0.05, single_messages=1600, latency_samples=5, drain_messages=1600, queued_messages=1600
)


def entries(*ids: bytes) -> bytes:
    each = [b"*2\r\n$%d\r\n%s\r\n*2\r\n$1\r\nm\r\n$20\r\n%s\r\n" % (len(one), one, BODY) for one in ids]
    return b"*1\r\n*2\r\n$5\r\nbench\r\n*%d\r\n%s" % (len(each), b"".join(each))


def message(number: int, body: bytes = BODY) -> bytes:
    subject = b"$JS.ACK.bench.ch.1.%d.%d.1.0" % (number, number)
    return b"MSG inbox.answer 1 %s %d\r\n%s\r\n" % (subject, len(body), body)


def test_redis_commands_are_arrays_of_bulk_strings() -> None:
    assert add_command("s", b"\r\n") == b"*5\r\n$4\r\nXADD\r\n$1\r\ns\r\n$1\r\n*\r\n$1\r\nm\r\n$2\r\n\r\n\r\n"


@pytest.mark.parametrize("size", range(1, 60))
def test_redis_ids_are_counted(size: int) -> None:
    link = ScriptedRedis()
    assert sum(link.count_replies(part) for part in cut(b"$4\r\n17-0\r\n$5\r\n17-12\r\n", size)) == 2
    assert not link.rest


@pytest.mark.parametrize("size", [*range(1, 120), 1000])
def test_redis_entries_are_read_and_acknowledged(size: int) -> None:
    link = ScriptedRedis()
    reader = GroupReader(link, "bench", "c", BODY, budget=3, depth=2)
    reader.start()
    replies = (entries(b"1-0", b"1-1"), b":2\r\n" + entries(b"2-0"), b":1\r\n")
    link.incoming = [part for reply in replies for part in cut(reply, size)]
    read_all(reader, link)
    assert reader.acknowledged == 3
    assert reader.budget == 0
    assert link.sent.count(b"XREADGROUP") == 2
    assert link.sent.count(b"XACK") == 2


@pytest.mark.parametrize(
    "wrong", [b"-OOM command not allowed\r\n", entries(b"1-0").replace(b"x", b"y"), b"*-1\r\n" * 60]
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_wrong_redis_answer_is_noticed(wrong: bytes, size: int) -> None:
    link = ScriptedRedis()
    reader = GroupReader(link, "bench", "c", BODY, budget=2)
    link.incoming = cut(wrong + b"*" * 300, size)
    with pytest.raises(LoadError):
        read_all(reader, link)


def test_redis_must_acknowledge_all_that_was_read() -> None:
    link = ScriptedRedis()
    reader = GroupReader(link, "bench", "c", BODY, budget=2, depth=2)
    link.incoming = [entries(b"1-0", b"1-1"), b":1\r\n"]
    with pytest.raises(LoadError, match="1 of 2"):
        read_all(reader, link)


@pytest.mark.parametrize("size", range(1, 90))
def test_nats_acknowledgements_are_counted_and_pings_answered(size: int) -> None:
    link = ScriptedNats()
    answers = [b'{"stream":"bench", "seq":%d}' % number for number in (9, 10)]
    frames = [b"MSG inbox.answer 1 %d\r\n%s\r\n" % (len(answer), answer) for answer in answers]
    assert sum(link.count_replies(part) for part in cut(b"PING\r\n".join(frames), size)) == 2
    assert link.sent == b"PONG\r\n"
    assert not link.rest


@pytest.mark.parametrize("size", range(1, 60))
def test_nats_questions_are_answered_with_pings_in_between(size: int) -> None:
    link = ScriptedNats()
    link.incoming = cut(b"PING\r\n" + b'MSG inbox.answer 1 12\r\n{"state": 1}\r\n', size)
    assert link.ask("$JS.API.INFO") == {"state": 1}
    assert link.sent.endswith(b"PONG\r\n")
    link.incoming = cut(b'MSG inbox.answer 1 12\r\n{"error": 1}\r\n', size)
    with pytest.raises(LoadError):
        link.ask("$JS.API.INFO")


@pytest.mark.parametrize("size", [*range(1, 120), 1000])
def test_nats_messages_are_pulled_and_acknowledged(size: int) -> None:
    link = ScriptedNats()
    puller = Puller(link, "bench", BODY, budget=3, depth=2)
    puller.start()
    link.incoming = cut(message(1) + b"PING\r\n" + message(2) + message(3), size)
    read_all(puller, link)
    assert puller.received == 3
    assert link.sent.count(b"$JS.ACK") == 3
    assert link.sent.count(b"PONG\r\n") == 1


@pytest.mark.parametrize("wrong", [b"-ERR 'Unknown'\r\n", message(1, b"y" * 20) + message(2) * 10])
def test_a_wrong_nats_answer_is_noticed(wrong: bytes) -> None:
    link = ScriptedNats()
    puller = Puller(link, "bench", BODY, budget=2)
    link.incoming = [wrong]
    with pytest.raises(LoadError):
        puller.readable()
    with pytest.raises(LoadError):
        ScriptedNats().count_replies(b'MSG inbox.answer 1 40\r\n{"error":{"code":503},"stream":"bench"}\r\n')


@pytest.mark.process
@pytest.mark.parametrize(
    ("program", "make"),
    [
        ("nsqd", lambda: nsqd(sys.executable)),
        ("beanstalkd", beanstalkd),
        ("redis-server", redis),
        ("nats-server", nats),
    ],
)
@pytest.mark.parametrize("name", ["sub-1", "drain", "latency", "disk", "memory"])
def test_a_row_runs_against_the_broker_itself(
    program: str, make: Callable[[], Broker], name: str, tmp_path: Path
) -> None:
    if program != "nsqd" and shutil.which(program, path=DAEMONS) is None:
        pytest.skip(f"{program} is not installed")
    row = next(row for row in ROWS if row.name == name)
    broker = make()
    for cell in run_row(row, [broker], TINY, tmp_path, lambda _: None):
        assert not cell.failed
        if cell.skipped:
            assert broker.no_disk
        else:
            assert cell.measurements[0].messages > 0
    assert not list(tmp_path.iterdir())
