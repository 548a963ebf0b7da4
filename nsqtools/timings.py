"""The log lines of `--status-every`: response times of the last requests.

    [aggregate]: finished 250 - 99th: 11.39ms - 95th: 11.39ms - avg: 10.76ms

With several hosts there is also a line for each of them, `[HOST]: ...`, after the same number of its own requests. Only
successes are counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import attrs

from nsqkit.logging import get_logger
from nsqkit.options import option
from nsqkit.redact import shown_url
from nsqtools.common import ConsumerFlags

__all__ = ["StatusFlags", "StatusLines", "Timings"]

TOO_FEW: Final = 100
"""With fewer values the 99th percentile is only their maximum."""

_log = get_logger(__name__)


@attrs.define(kw_only=True)
class StatusFlags(ConsumerFlags):
    """The flags of every consumer that writes these lines."""

    status_every: int = option(
        250,
        minimum=0,
        maximum=1_000_000,
        help="Requests after which a log line says how long they took (99th and 95th percentile, average). "
        "0: never.",
    )


@attrs.define(eq=False)
class Timings:
    """The response times of one host, or of all hosts."""

    prefix: str
    every: int
    _seconds: list[float] = attrs.field(factory=list)

    def add(self, seconds: float) -> str | None:
        """Add a value; returns the line after each `every` values."""
        self._seconds.append(seconds)
        if len(self._seconds) < self.every:
            return None
        ordered = sorted(self._seconds)
        self._seconds.clear()
        average = sum(ordered) / len(ordered)
        return (
            f"[{self.prefix}]: finished {len(ordered)}"
            f" - 99th: {_percentile(ordered, 99) * 1000:.2f}ms"
            f" - 95th: {_percentile(ordered, 95) * 1000:.2f}ms"
            f" - avg: {average * 1000:.2f}ms"
        )


@attrs.define(eq=False)
class StatusLines:
    """The response times of several hosts, separately and together, written to the log."""

    hosts: Sequence[str]
    every: int
    """0: no lines."""
    _all: Timings = attrs.field(init=False)
    _each: dict[str, Timings] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._all = Timings("aggregate", self.every)
        several = len(self.hosts) > 1
        self._each = {host: Timings(shown_url(host), self.every) for host in self.hosts if several}
        if 0 < self.every < TOO_FEW:
            _log.warning("--status-every=%d: percentiles of less than %d say little", self.every, TOO_FEW)

    def add(self, host: str, seconds: float) -> None:
        """Add the time of a request to one host; for the message, `add_all` is called as well."""
        if self.every and host in self._each:
            _log_line(self._each[host].add(seconds))

    def add_all(self, seconds: float) -> None:
        """Add the time of a message."""
        if self.every:
            _log_line(self._all.add(seconds))


def _log_line(line: str | None) -> None:
    if line is not None:
        _log.info("%s", line)


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """The percentile by nearest rank."""
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]
