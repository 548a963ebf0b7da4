"""stderr that stops no program, and descriptors that are never reused."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import attrs
import pytest

from nsqkit.standard_streams import BackgroundWriter
from tests.process.waiting import wait_until
from tests.timing import patience

LIMIT = 10_000
LINE = "x" * 99 + "\n"


@attrs.define
class Pipe:
    """A pipe whose reader reads only when the test says so."""

    read_end: int
    write_end: int
    text: str = ""

    def read(self) -> str:
        """Everything that came so far."""
        os.set_blocking(self.read_end, False)
        while True:
            try:
                data = os.read(self.read_end, 1 << 20)
            except BlockingIOError:
                return self.text
            if not data:
                return self.text
            self.text += data.decode()

    def wait_for(self, wanted: str) -> None:
        wait_until(lambda: wanted in self.read(), 10, repr(wanted), describe=lambda: self.text[-500:])

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    read_end, write_end = os.pipe()
    pipe = Pipe(read_end, write_end)
    yield pipe
    pipe.read()  # frees a thread that still writes
    os.close(read_end)


def fill(pipe: Pipe) -> None:
    """Leave no room in the pipe itself."""
    os.set_blocking(pipe.write_end, False)
    try:
        while True:
            os.write(pipe.write_end, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(pipe.write_end, True)


def stalled_writer(pipe: Pipe) -> BackgroundWriter:
    """A writer whose thread waits for the reader, with one line in its hands and an empty buffer."""
    fill(pipe)
    writer = BackgroundWriter(pipe.write_end, limit=LIMIT)
    writer.write("first\n")
    wait_until(lambda: not writer._pending, 10, "the thread has taken the line")
    return writer


def test_lines_are_written_in_their_order(pipe: Pipe) -> None:
    writer = BackgroundWriter(pipe.write_end, limit=LIMIT)
    for number in range(50):
        print("line", number, file=writer, flush=True)
    writer.finish(patience(10))
    assert pipe.read() == "".join(f"line {number}\n" for number in range(50))


def test_a_reader_that_stalls_costs_lines_and_no_time(pipe: Pipe) -> None:
    writer = stalled_writer(pipe)
    for _ in range(10 * LIMIT // len(LINE)):
        writer.write(LINE)
    pipe.wait_for("900 log lines were dropped")
    writer.write("afterwards\n")
    pipe.wait_for("afterwards")
    kept = [line for line in pipe.lines if line.endswith("x") or "first" in line]
    assert len(kept) == 1 + LIMIT // len(LINE)
    assert pipe.lines[-2:] == [
        "900 log lines were dropped: the reader of stderr did not keep up",
        "afterwards",
    ]


def test_a_line_above_the_limit_is_written_when_nothing_else_waits(pipe: Pipe) -> None:
    writer = BackgroundWriter(pipe.write_end, limit=10)
    writer.write(LINE)
    pipe.wait_for(LINE)


def test_the_end_waits_for_the_last_lines(pipe: Pipe) -> None:
    writer = stalled_writer(pipe)
    writer.write("last\n")
    pipe.read()
    writer.finish(patience(10))
    assert pipe.read().endswith("first\nlast\n")


def test_the_end_waits_so_long_and_no_longer(pipe: Pipe) -> None:
    writer = stalled_writer(pipe)
    began = time.monotonic()
    writer.finish(0.2)
    assert time.monotonic() - began >= 0.2
    writer.write("later\n")  # blocks no longer either
    assert "later" not in pipe.read()


def test_after_the_end_lines_are_written_at_once(pipe: Pipe) -> None:
    writer = BackgroundWriter(pipe.write_end)
    writer.finish()
    writer.write("exception ignored\n")
    assert pipe.read() == "exception ignored\n"


def test_a_reader_that_has_gone_costs_the_lines() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    writer = BackgroundWriter(write_end)
    for _ in range(3):
        writer.write(LINE)
        writer.finish(patience(10))


def test_a_stream_that_was_made_non_blocking_is_waited_for(pipe: Pipe) -> None:
    fill(pipe)
    os.set_blocking(pipe.write_end, False)
    writer = BackgroundWriter(pipe.write_end)
    writer.write("whole\n")
    pipe.wait_for("whole\n")


# --- programs


def run_python(code: str, *, redirect: str = "", within_s: float = 20) -> subprocess.CompletedProcess[bytes]:
    """Run a program that guards its streams, by a shell that redirects them."""
    prelude = "from nsqkit.standard_streams import guard_standard_streams; guard_standard_streams(); import os, sys\n"
    return subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {redirect}', sys.executable, prelude + code],
        capture_output=True,
        timeout=patience(within_s),
        check=False,
    )


def test_a_traceback_is_seen_at_the_end() -> None:
    done = run_python("raise RuntimeError('no')")
    assert done.returncode == 1
    assert done.stderr.endswith(b"RuntimeError: no\n")


def test_a_program_whose_reader_stalls_ends() -> None:
    """More than pipe and buffer hold, and then a traceback: nobody reads until the program has ended."""
    code = "for _ in range(300): sys.stderr.write('x' * 9_999 + chr(10))\nraise RuntimeError('no')"
    read_end, write_end = os.pipe()
    try:
        prelude = "from nsqkit.standard_streams import guard_standard_streams; guard_standard_streams(); import sys\n"
        process = subprocess.Popen([sys.executable, "-c", prelude + code], stderr=write_end)
        assert process.wait(patience(20)) == 1
    finally:
        process.kill()
        process.wait()
        os.close(write_end)
        os.close(read_end)


@pytest.mark.parametrize(
    ("redirect", "attempt"),
    [
        ("<&-", "os.read(0, 1)"),
        (">&-", "os.write(1, b'x')"),
        ("2>&-", "os.write(2, b'x')"),
        ("<&- >&- 2>&-", "os.write(1, b'x')"),
    ],
)
def test_a_closed_descriptor_is_not_reused(redirect: str, attempt: str) -> None:
    """The next file gets another number, and what was closed still cannot be used."""
    code = (
        "sys.stderr.write('to nobody' + chr(10))\n"
        "if os.open('/dev/null', os.O_RDWR) < 3: os._exit(3)\n"
        f"try: {attempt}\n"
        "except OSError: sys.exit(4)\n"
    )
    assert run_python(code, redirect=redirect).returncode == 4
