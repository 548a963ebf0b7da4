"""How a daemon's process ends: its exit code, and its last line for the operator."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from nsqkit.logging import JSON
from nsqkit.service.runner import fatal_errors
from nsqkit.version import version_line

DAEMON = """
import logging
from types import SimpleNamespace
from nsqkit.logging import LogLevel, get_logger
from nsqkit.options import OptionError
from nsqkit.service.runner import run_daemon

class CannotStart(Exception): ...

def validate(options):
    assert not logging.getLogger().handlers, "nothing is logged before"
    {validate}

async def run():
    get_logger("d").debug("runs")
    {run}

run_daemon(
    "d",
    SimpleNamespace(log_level=LogLevel.DEBUG, log_prefix="[d] ", log_format="text"),
    validate,
    lambda options: SimpleNamespace(run=run),
    CannotStart,
)
"""


BANNER = f"INFO: {version_line('d')}"


class CannotStart(Exception):
    """Of one daemon."""


def ending(validate: str = "pass", run: str = "pass") -> tuple[int, list[str]]:
    """Of a daemon that does this when it validates and when it runs: exit code, and lines without prefix and time."""
    program = DAEMON.format(validate=validate, run=run)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return done.returncode, [line.split(" ", 3)[-1] for line in done.stderr.splitlines()]


def test_an_orderly_end() -> None:
    assert ending() == (0, [BANNER, "DEBUG: runs"])


def test_what_it_cannot_start_with_is_its_only_line() -> None:
    assert ending(validate="raise OptionError('--x is bad')") == (
        1,
        ["FATAL: failed to instantiate d - --x is bad"],
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("CannotStart('listen failed')", "FATAL: failed to instantiate d - listen failed"),
        ("OSError('accept failed')", "FATAL: failed to go on - accept failed"),
    ],
)
def test_what_ends_it_is_its_last_line(error: str, line: str) -> None:
    assert ending(run=f"raise {error}") == (1, [BANNER, "DEBUG: runs", line])


def test_the_line_has_the_format_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, fatal_errors("d", JSON, CannotStart, KeyError):
        raise KeyError("x")
    assert end.value.code == 1
    shown = json.loads(capsys.readouterr().err)
    assert (shown["daemon"], shown["message"]) == ("d", "failed to instantiate d - 'x'")


@pytest.mark.parametrize("error", [ValueError("a bug"), SystemExit(3)])
def test_other_errors_stay_what_they_are(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, fatal_errors("d", "text", CannotStart):
        raise error
    assert raised.value is error
