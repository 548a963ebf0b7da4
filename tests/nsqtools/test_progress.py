"""The line at the foot of the terminal: there when somebody looks, nowhere else."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from nsqtools.progress import Figures, Progress, Rate
from tests.nsqkit.http_target import Target
from tests.nsqtools.broker import bodies, fill, publish
from tests.nsqtools.tool import command
from tests.process.daemon import Daemon
from tests.timing import patience

WITHIN_S = 15.0


def test_rate_over_the_last_seconds() -> None:
    """It forgets what was before, and needs two samples."""
    rate = Rate(over_s=2.0)
    assert rate.update(0.0, 0) == 0.0
    assert rate.update(1.0, 100) == 100.0
    assert rate.update(2.0, 300) == 150.0
    assert rate.update(3.0, 300) == 100.0
    assert rate.update(5.0, 300) == 0.0
    assert rate.update(5.0, 300) == 0.0


async def test_nothing_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    """It returns at once."""
    with Progress("x", lambda: Figures(1, 2)) as progress:
        await progress.run()
    assert capfd.readouterr() == ("", "")


class Terminal:
    """A tool whose stderr is a terminal."""

    def __init__(self, name: str, *flags: str, stdin: int = subprocess.DEVNULL) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command(name, *flags),
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=slave,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
        )
        os.close(slave)
        self._seen = b""

    def __enter__(self) -> Terminal:
        """It runs."""
        return self

    def __exit__(self, *reason: object) -> None:
        """It does not."""
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    @property
    def text(self) -> str:
        """What was shown, without colours and movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._seen.decode("utf-8", "replace"))

    def wait_for(self, pattern: str) -> None:
        """Read until this was shown."""
        deadline = time.monotonic() + patience(WITHIN_S)
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, f"{pattern} was not shown\n{self.text[-2000:]}"
            self._read(0.1)

    def terminate(self) -> int:
        """SIGTERM; gives the exit code."""
        self.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + patience(WITHIN_S)
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it does not end"
            self._read(0.05)
        self._read(0.0)
        return self.process.returncode

    def _read(self, wait_s: float) -> None:
        if select.select([self._master], [], [], wait_s)[0]:
            try:
                self._seen += os.read(self._master, 65536)
            except OSError:  # nobody has its other end any more
                time.sleep(wait_s)


@pytest.mark.process
def test_nsq_to_http(shared_nsqd: Daemon, topic: str) -> None:
    """Messages, their rate, what is in flight; log lines stand above it, whole."""
    with Target() as target:
        flags = [f"-topic={topic}", f"-nsqd-tcp-address={shared_nsqd.tcp_address}", f"-post={target.url()}"]
        fill(shared_nsqd, topic, "nsq_to_http", bodies(0, 1000))
        with Terminal("nsq_to_http", *flags) as terminal:
            terminal.wait_for(r"nsq_to_http  1,000 messages  \d+/s  0 in flight  0:00:\d\d")
            terminal.wait_for(r"INFO: \[aggregate\]: finished 250 - 99th: [0-9.]+ms")
            assert " failed" not in terminal.text
            target.stop()
            publish(shared_nsqd, topic, [b"x"])
            terminal.wait_for(r"1,000 messages  \d+/s  \d in flight  1 failed")
            assert terminal.terminate() == 0


@pytest.mark.process
def test_nsq_to_nsq(shared_nsqd: Daemon, topic: str) -> None:
    """The same line."""
    flags = [
        f"-topic={topic}",
        f"-nsqd-tcp-address={shared_nsqd.tcp_address}",
        f"-destination-topic={topic}_2",
    ]
    fill(shared_nsqd, topic, "nsq_to_nsq", bodies(0, 500))
    with Terminal(
        "nsq_to_nsq", *flags, f"-destination-nsqd-tcp-address={shared_nsqd.tcp_address}"
    ) as terminal:
        terminal.wait_for(r"nsq_to_nsq  500 messages  \d+/s  0 in flight")
        assert terminal.terminate() == 0


@pytest.mark.process
def test_nsq_to_file(shared_nsqd: Daemon, topic: str, tmp_path: Path) -> None:
    """What is on disk is done; what is only written is in flight."""
    flags = [f"-topic={topic}", f"-nsqd-tcp-address={shared_nsqd.tcp_address}", f"-output-dir={tmp_path}"]
    fill(shared_nsqd, topic, "nsq_to_file", bodies(0, 5))
    with Terminal("nsq_to_file", *flags, "-sync-interval=1h", "-log-prefix=P ") as terminal:
        terminal.wait_for(r"nsq_to_file  0 messages  0/s  5 in flight")
        terminal.wait_for(r"P \d{4}/\d\d/\d\d .* INFO: writing topic")
        terminal.process.send_signal(signal.SIGHUP)
        terminal.wait_for(r"nsq_to_file  5 messages  \d+/s  0 in flight")
        assert terminal.terminate() == 0


@pytest.mark.process
def test_to_nsq(shared_nsqd: Daemon, topic: str) -> None:
    """While stdin is a pipe or a file."""
    flags = [f"-topic={topic}", f"-nsqd-tcp-address={shared_nsqd.tcp_address}"]
    with Terminal("to_nsq", *flags, stdin=subprocess.PIPE) as terminal:
        assert terminal.process.stdin is not None
        terminal.process.stdin.write(b"a\nb\n")
        terminal.process.stdin.flush()
        terminal.wait_for(r"to_nsq  2 messages  \d+/s  0 in flight")
        terminal.process.stdin.close()
        assert terminal.process.wait(patience(WITHIN_S)) == 0
