"""One measurement: messages, time, and the CPU of server and load generator.

The load generator reads the server's counters itself, at both ends of the timed part, so that connecting,
filling queues and checking afterwards are in neither figure.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import attrs

from bench.procfs import cpu_seconds, machine_cpu_seconds, rss_bytes

__all__ = ["Measurement", "Meter", "percentiles"]

PERCENTILES = (50, 99, 99.9)


@attrs.frozen
class Measurement:
    """The result of one run of one row."""

    messages: int
    seconds: float
    server_cpu_seconds: float
    load_cpu_seconds: float
    rss_bytes: int
    """Resident memory of the server at the end of the timed part."""
    machine_cpu_seconds: float = 0.0
    """CPU of everything on the machine in the timed part."""
    extra: dict[str, float] = attrs.field(factory=dict)
    """Figures of this row alone; the unit is the last part of the name, as in `p50_ms`."""

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / self.seconds if self.seconds else 0.0

    @property
    def cpu_us(self) -> float:
        """Server CPU for each message, in microseconds."""
        return self.server_cpu_seconds * 1e6 / self.messages if self.messages else 0.0

    @property
    def load_share(self) -> float:
        """CPU of the load generator as a fraction of one core; near 1.0 the load was the bottleneck."""
        return self.load_cpu_seconds / self.seconds if self.seconds else 0.0

    @property
    def others_share(self) -> float:
        """CPU used by others than server and load generator, as a fraction of one core."""
        others = self.machine_cpu_seconds - self.server_cpu_seconds - self.load_cpu_seconds
        return max(0.0, others / self.seconds) if self.seconds else 0.0

    def to_json(self) -> str:
        return json.dumps(attrs.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Measurement:
        """`ValueError` or `TypeError` for anything but the output of `to_json`."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**fields)


@attrs.define
class Meter:
    """A stop watch that also reads the CPU of the server (all of `pids`) and of this process.

    `beside`: processes that do a part of the server's work, such as those that keep copies. Their CPU is the figure
    `beside_cpu_s`.
    """

    pids: Sequence[int]
    beside: Sequence[int] = ()
    _started: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)

    def start(self) -> None:
        self._started = self._now()

    def stop(self, messages: int, extra: dict[str, float] | None = None) -> Measurement:
        """End the timed part, in which `messages` were processed."""
        seconds, server, load, machine, beside = (
            now - then for now, then in zip(self._now(), self._started, strict=True)
        )
        extra = {**({"beside_cpu_s": beside} if self.beside else {}), **(extra or {})}
        return Measurement(messages, seconds, server, load, rss_bytes(self.pids), machine, extra)

    def _now(self) -> tuple[float, float, float, float, float]:
        return (
            time.perf_counter(),
            cpu_seconds(self.pids),
            time.process_time(),
            machine_cpu_seconds(),
            cpu_seconds(self.beside),
        )


def percentiles(samples: Sequence[float], prefix: str = "") -> dict[str, float]:
    """`p50_ms`, `p99_ms` and `p99.9_ms` of durations in seconds."""
    ordered = sorted(samples)
    return {
        f"{prefix}p{percent:g}_ms": ordered[int(len(ordered) * percent / 100)] * 1e3
        for percent in PERCENTILES
    }
