"""What every test folder shares: options, deadlines that fit the machine, progress, and what was skipped or left out.

- `--soak` runs the long tests too (those marked `soak`).
- `--progress` prints a line every few seconds instead of a dot for every test, and a short list at the end: what was
  skipped for which reason, and what a choice of markers (`-m`) has left out. `make test` runs with it.
- Deadlines are scaled (`tests/timing.py`): this file measures the machine, and scales pytest's own time-outs.
- hypothesis gives no example a deadline: on a busy machine any of them may be slow.

Nothing else is applied to a test that it does not name: there are no autouse fixtures.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests import timing

PROGRESS_EVERY_S = 5.0
LONGEST_ID = 60
LEFT_OUT = pytest.StashKey[Counter[str]]()
KINDS = ("browser", "deploy", "network", "foreign", "process", "heavy")  # markers, the most telling first

settings.register_profile("nsq", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("nsq")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of this project's tests to pytest's command line."""
    parser.addoption("--soak", action="store_true", help="also run the tests marked soak (long)")
    parser.addoption("--progress", action="store_true", help="a line every few seconds instead of dots")


def pytest_configure(config: pytest.Config) -> None:
    """Measure the machine once, before there are workers, which inherit the result."""
    timing.measure()
    # As in a shell's background job; daemons would inherit it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[LEFT_OUT] = Counter()
    if config.getoption("--progress") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Progress(config), "progress")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Keep ids short: pytest puts them into the environment of every process, and a megabyte does not fit there."""
    if isinstance(val, str | bytes) and len(val) > LONGEST_ID:
        return f"{argname}-of-{len(val)}"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is marked `soak` unless `--soak` was given, and scale every time-out."""
    skip = pytest.mark.skip(reason="long: runs only with --soak")
    usual_s = float(config.getini("timeout"))
    for item in items:
        if item.get_closest_marker("soak") is not None and not config.getoption("--soak"):
            item.add_marker(skip)
        marker = item.get_closest_marker("timeout")
        seconds = timing.patience(marker.args[0] if marker else usual_s)
        item.add_marker(pytest.mark.timeout(seconds), append=False)


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Count what is left out, by its marker."""
    for item in items:
        kind = next((kind for kind in KINDS if item.get_closest_marker(kind)), "others")
        item.config.stash[LEFT_OUT][kind] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist tells its controller what it has left out: all workers collect the same."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(session.config.stash[LEFT_OUT])


class Progress:
    """Lines in place of dots, at once also where the output goes to a file; failures when they happen."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._done = self._failed = 0
        self._began_s = self._told_s = time.monotonic()

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """No dots."""
        if report.failed:
            return ("failed" if report.when == "call" else "error", "", "")
        if report.skipped:
            return ("skipped", "", "")
        return ("passed" if report.when == "call" else "", "", "")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Print a failure at once, and a line now and then."""
        if report.failed:
            self._failed += 1
            self._say(f"FAILED {report.nodeid} ({report.when})")
        if report.when != "teardown":
            return
        self._done += 1
        now_s = time.monotonic()
        if now_s >= self._told_s + PROGRESS_EVERY_S:
            self._told_s = now_s
            self._say(self._line(Path(report.nodeid.partition("::")[0]).parent))

    def _line(self, folder: Path) -> str:
        total = self._reporter._session.testscollected
        failures = f", {self._failed} failed" if self._failed else ""
        seconds = time.monotonic() - self._began_s
        return f"{self._done / max(total, 1):4.0%}  {self._done} of {total} tests, {seconds:.0f} s{failures}: {folder}"

    @property
    def _reporter(self) -> Any:
        return self._config.pluginmanager.get_plugin("terminalreporter")

    def _say(self, line: str) -> None:
        self._reporter.ensure_newline()
        self._reporter.write_line(line)
        self._reporter.flush()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a worker has counted."""
        counted = getattr(node, "workeroutput", {}).get("left_out", {})
        self._config.stash[LEFT_OUT] = Counter(counted) or self._config.stash[LEFT_OUT]

    def pytest_terminal_summary(self) -> None:
        """Say what was skipped for which reason, and what was left out."""
        skipped: Counter[tuple[str, str]] = Counter()
        for report in self._reporter.stats.get("skipped", ()):
            reason = str(report.longrepr[2]).removeprefix("Skipped: ")
            skipped[(str(Path(report.nodeid.partition("::")[0]).parent), reason)] += 1
        for title, lines in (
            ("skipped", [f"{count:5} in {folder}: {why}" for (folder, why), count in skipped.items()]),
            ("left out", [f"{count:5} {kind}" for kind, count in self._config.stash[LEFT_OUT].items()]),
        ):
            if lines:
                self._reporter.section(title)
                for line in lines:
                    self._reporter.write_line(line)
