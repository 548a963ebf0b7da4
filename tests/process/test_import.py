"""`nsqd --import`, as an operator runs it: what it says, how it exits, what the daemon has afterwards."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.foreign.puppet import Puppet
from tests.nsqd.importing.original import Ids, Message, write_metadata, write_queue
from tests.process.daemon import Daemon
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = pytest.mark.process

PYNSQ = [sys.executable, "-W", "ignore", "-m", "tests.foreign._pynsq_client"]


class Paths:
    """The original's folder with two topics, and a new one."""

    def __init__(self, folder: Path, topics: Sequence[str] = ("orders", "visits")) -> None:
        self.original, self.new = folder / "original", folder / "new"
        self.original.mkdir()
        self.new.mkdir()
        self.queues: dict[str, list[Message]] = {}
        for topic in topics:
            ids = Ids()
            for name, tries in ((topic, 0), (f"{topic}:archive", 0), (f"{topic}:mail", 3)):
                self.queues[name] = [ids.message(b"%d " % at + b"x" * 50, tries) for at in range(20)]
                write_queue(self.original, name, self.queues[name])
        write_metadata(self.original, {topic: ["archive", "mail"] for topic in topics}, ["visits"])

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "nsqd", f"--import={self.original}", f"--data-path={self.new}"]

    def bring(self, *flags: str) -> tuple[int, str]:
        """Import; exit code and what it said."""
        done = subprocess.run(
            [*self.command, *flags], capture_output=True, text=True, timeout=patience(60), check=False
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    def bring_and_stop(self, topics: int, number: signal.Signals) -> tuple[int, str]:
        """Import, and send a signal at the line of so many topics; exit code and what it logged after that.

        The pipe holds a few lines only: the import cannot be over before they are read.
        """
        with subprocess.Popen(self.command, stderr=subprocess.PIPE, pipesize=4096, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                topics -= "TOPIC(" in line
                if topics == 0:
                    break
            process.send_signal(number)
            said = process.stderr.read()
            return process.wait(patience(10)), said

    def start(self) -> Daemon:
        return Daemon(self.new)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path)


def test_import_then_consume_with_pynsq(paths: Paths) -> None:
    """Everything arrives once, with the attempts that it had and one more."""
    code, said = paths.bring()
    assert code == 0
    assert "CHANNEL(orders:mail): 20 messages, 1.6 kB, 20 of them delivered before" in said
    assert "TOPIC(visits): 20 messages" in said
    assert "imported 2 topics: 120 messages, " in said
    with paths.start() as daemon:
        daemon.start()
        expected = [(m.id.decode(), m.body, 4) for m in paths.queues["orders:mail"]]
        expected += [(m.id.decode(), m.body, 1) for m in paths.queues["orders"]]
        with Puppet(PYNSQ, [daemon.tcp_address]) as pynsq:
            pynsq.consume("orders", "mail")
            wait_until(lambda: daemon.unfinished("orders", "mail") == 0, 15.0, "all is finished")
            got = [(m["id"], m["body"], m["attempts"]) for m in pynsq.all_messages()]
        assert sorted(got) == sorted(expected)
        assert daemon.unfinished("orders", "archive") == 40
        assert daemon.unfinished("visits", "archive") == 40, "20 of its own, 20 that the paused topic keeps"


def test_an_import_continues_after_kills(tmp_path: Path) -> None:
    """A daemon does not start before it is complete; then everything is there, once."""
    topics = [f"topic-{number}" for number in range(400)]
    paths = Paths(tmp_path, topics)
    for count in (1, 3, 1, 5):
        assert paths.bring_and_stop(count, signal.SIGKILL)[0] == -signal.SIGKILL
    with paths.start() as daemon:
        daemon.launch()
        assert daemon.wait() == 1
        assert f"is not complete: finish it with --import={paths.original}" in daemon.log_end()
        code, said = paths.bring()
        assert code == 0, said
        assert "continuing: " in said
        daemon.start()
        found = {topic["topic_name"]: topic for topic in daemon.stats()["topics"]}
        assert sorted(found) == sorted(topics)
        assert {c["depth"] for topic in found.values() for c in topic["channels"]} == {40}


def test_control_c_says_how_to_go_on(tmp_path: Path) -> None:
    paths = Paths(tmp_path, [f"topic-{number}" for number in range(400)])
    code, said = paths.bring_and_stop(1, signal.SIGINT)
    assert code == 130
    assert said.endswith("WARNING: interrupted; the same command continues the import\n")
    assert paths.bring()[0] == 0


def test_once_is_enough(paths: Paths) -> None:
    assert paths.bring()[0] == 0
    code, said = paths.bring()
    assert (code, "was imported before: nothing to do" in said) == (0, True)


def test_damage_is_listed_and_shows_in_the_exit_code(paths: Paths) -> None:
    """At the end, and again each time it is asked."""
    path = paths.original / "orders:mail.diskqueue.000000.dat"
    path.write_bytes(path.read_bytes()[:-1])
    for _ in range(2):
        code, said = paths.bring()
        assert code == 2
        last = [line.partition("ERROR: ")[2] for line in said.splitlines()[-3:]]
        assert last[0] == f"data that could not be read, and remains in {paths.original}:"
        assert last[1].startswith("  orders:mail: orders:mail.diskqueue.000000.dat: 82 bytes at ")
    with paths.start() as daemon:
        daemon.start()
        assert daemon.unfinished("orders", "mail") == 39


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (
            ["--data-path=/nowhere/at/all"],
            "failed to lock data-path: /nowhere/at/all: No such file or directory",
        ),
        (["--import=/nowhere/at/all"], "/nowhere/at/all cannot be imported: No such file or directory"),
        (["--node-id=4096"], "--node-id must be [0,1024)"),
    ],
)
def test_a_refusal_is_one_line(paths: Paths, flags: list[str], reason: str) -> None:
    code, said = paths.bring(*flags)
    assert code == 1
    assert said.splitlines()[-1].endswith(f"FATAL: failed to instantiate nsqd - {reason}")


def test_the_same_folder_twice(paths: Paths) -> None:
    code, said = paths.bring(f"--data-path={paths.original}/.")
    assert code == 1
    assert "--import and --data-path are the same folder" in said


def test_a_daemon_on_the_data_path(paths: Paths) -> None:
    with paths.start() as daemon:
        daemon.start()
        code, said = paths.bring()
    assert code == 1
    assert "is in use, possibly by another nsqd" in said
