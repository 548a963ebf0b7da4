"""Ctrl-C and SIGTERM, as they reach a user's program: a process of its own, ended by a signal."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.timing import patience

pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[3]

PROGRAM = """\
import asyncio, signal, sys
import anyio, trio
from nsqkit.client import Consumer
from tests.nsqkit.client.fake import fake_nsqd

backend, work_s, how = sys.argv[1], float(sys.argv[2]), sys.argv[3]


async def handle(message):
    print("working", flush=True)
    await anyio.sleep(work_s)


async def feed(nsqd):
    peer = await nsqd.peer(60)
    await peer.take(3, within_s=60)
    peer.message("m1")


async def main():
    async with fake_nsqd() as nsqd, anyio.create_task_group() as group:
        group.start_soon(feed, nsqd)
        consumers = [
            Consumer("t", "c", nsqd_tcp_addresses=["a:1"], connect=nsqd.connect, handler=handle)
            for _ in range(2 if how == "two" else 1)
        ]
        if how == "two":
            group.start_soon(consumers[1].run)
        await consumers[0].run(stop_on_signals=how != "embedded")
        print("ended", *[command for peer in nsqd.peers for command in peer.commands if "m1" in command], flush=True)


if how == "own":
    signal.signal(signal.SIGTERM, lambda *_: print("own", flush=True))
    signal.signal(signal.SIGINT, lambda *_: print("own", flush=True))
if backend == "trio":
    trio.run(main)
else:
    asyncio.run(main())
"""
BOTH = pytest.mark.parametrize("backend", ["trio", "asyncio"])


class Program:
    """The program above."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, line: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{line}\n"

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def rest(self) -> tuple[int, str, str]:
        """Exit code, and what was written from now on."""
        out, err = self.process.communicate(timeout=patience(20))
        return self.process.returncode, out, err

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    found: list[Program] = []
    yield found
    for program in found:
        program.end()


@BOTH
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("how", ["one", "two"])
def test_the_first_signal_stops_in_order(
    programs: list[Program], backend: str, number: signal.Signals, how: str
) -> None:
    """The handler finishes its message; no traceback, exit code 0; also with two consumers."""
    program = Program(backend, "0.5", how)
    programs.append(program)
    program.wait_for("working")
    program.send(number)
    assert program.rest() == (0, "ended FIN m1\n", "")


@BOTH
def test_the_second_signal_ends_at_once(programs: list[Program], backend: str) -> None:
    """The message goes back."""
    program = Program(backend, "3600", "one")
    programs.append(program)
    program.wait_for("working")
    program.send(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        program.process.wait(0.3)
    program.send(signal.SIGINT)
    assert program.rest() == (0, "ended REQ m1 0\n", "")


@BOTH
def test_an_embedder_keeps_the_default(programs: list[Program], backend: str) -> None:
    """A KeyboardInterrupt."""
    program = Program(backend, "3600", "embedded")
    programs.append(program)
    program.wait_for("working")
    program.send(signal.SIGINT)
    code, out, err = program.rest()
    assert code != 0
    assert out == ""
    assert "KeyboardInterrupt" in err


@BOTH
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_handler_of_the_program_stays(
    programs: list[Program], backend: str, number: signal.Signals
) -> None:
    """Nothing is taken from it."""
    program = Program(backend, "1", "own")
    programs.append(program)
    program.wait_for("working")
    program.send(number)
    program.wait_for("own")
    with pytest.raises(subprocess.TimeoutExpired):
        program.process.wait(1.5)
