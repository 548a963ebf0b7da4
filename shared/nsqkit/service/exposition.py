"""Metrics in the text format of Prometheus (version 0.0.4).

A *family* has a name, a kind, a help text and samples. `render` writes families in slices and lets other tasks run in
between: a broker with thousands of channels has a hundred thousand samples, and a scrape must not block it.

The text is written here instead of by prometheus_client because of its cost: 68,000 samples take 18 ms, and block the
event loop for less than 3 ms at a time. That library takes 350 ms in one piece, or 800 ms in a thread, where the event
loop waits for the interpreter for up to 84 ms.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import attrs

from nsqkit.audit import AuditTrail
from nsqkit.certificates import TlsFiles
from nsqkit.service.http import Response
from nsqkit.service.memory import resident_and_data
from nsqkit.version import VERSION
from nsqkit.yielder import Yielder

__all__ = [
    "CONTENT_TYPE",
    "Family",
    "Histogram",
    "Sample",
    "certificates",
    "counter",
    "gauge",
    "label_set",
    "of_audit",
    "program",
    "render",
]

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
SLICE_SECONDS = 0.0005
CHUNK = 100  # samples between two calls of the yielder; one call for each takes three times as long

Sample = tuple[str, float]
"""The part after the name of the family (suffix, labels; often empty), and the value."""

_STARTED = time.time()


@attrs.frozen
class Family:
    """`kind`: counter, gauge, histogram or summary. `samples` is iterated while it is written."""

    name: str
    kind: str
    help: str
    samples: Iterable[Sample]


def counter(name: str, help: str, value: float | Iterable[Sample]) -> Family:
    """A value that only grows; its name ends in `_total`. Give one value, or samples."""
    return Family(name, "counter", help, _samples(value))


def gauge(name: str, help: str, value: float | Iterable[Sample]) -> Family:
    """A value that goes up and down."""
    return Family(name, "gauge", help, _samples(value))


def _samples(value: float | Iterable[Sample]) -> Iterable[Sample]:
    return [("", value)] if isinstance(value, (int, float)) else value


def label_set(labels: Mapping[str, str]) -> str:
    """`{name="value",...}`."""
    return "{" + ",".join([f'{name}="{_escaped(value)}"' for name, value in labels.items()]) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class Histogram:
    """Counts of observed values. `bounds`: ascending upper bounds of the buckets; one more bucket has none."""

    def __init__(self, bounds: Iterable[float]) -> None:
        self._bounds = list(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._sum += value
        for at, bound in enumerate(self._bounds):
            if value <= bound:
                self._counts[at] += 1
                return
        self._counts[-1] += 1

    def family(self, name: str, help: str) -> Family:
        return Family(name, "histogram", help, list(self._lines()))

    def _lines(self) -> Iterator[Sample]:
        total = 0
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            total += count
            yield f'_bucket{{le="{bound}"}}', total
        yield "_sum", self._sum
        yield "_count", total


def of_audit(name: str, trail: AuditTrail) -> list[Family]:
    """Metrics of the audit trail of the program `name`."""
    return [
        gauge(f"{name}_audit_failing", "1 while the audit file cannot be written.", int(bool(trail.failing))),
        counter(f"{name}_audit_lines_total", "Lines of the audit trail.", trail.written_count),
        counter(
            f"{name}_audit_lines_lost_total",
            "Lines that were lost, as the audit file could not be written for too long.",
            trail.lost_count,
        ),
    ]


def certificates(name: str, files: Iterable[TlsFiles]) -> Iterator[Family]:
    """When the certificates of a program expire; no family if it has none. `name`: e.g. `nsqd`."""
    expiries = {each.cert_file: each.expires for each in files if each.expires is not None}
    if expiries:
        yield gauge(
            f"{name}_certificate_expiry_timestamp_seconds",
            "When the certificate in this file expires, in seconds since 1970.",
            [(label_set({"file": path}), expires) for path, expires in sorted(expiries.items())],
        )


def program(name: str) -> list[Family]:
    """Metrics of the process and its Python, mostly under the names of prometheus_client. `name`: e.g. `nsqd`."""
    build = label_set({"version": VERSION, "python": platform.python_version()})
    return [
        gauge(f"{name}_build_info", "Always 1; what runs here is in the labels.", [(build, 1)]),
        gauge("process_resident_memory_bytes", "Resident memory of the process.", resident_and_data()[0]),
        counter(
            "process_cpu_seconds_total", "CPU time of the process, user and system.", time.process_time()
        ),
        gauge("process_start_time_seconds", "When the process started, in seconds since 1970.", _STARTED),
    ]


async def render(families: Iterable[Family]) -> Response:
    """The response with all families. Lets other tasks run between slices."""
    lines: list[str] = []
    yielder = Yielder(SLICE_SECONDS)
    for family in families:
        name = family.name
        lines.append(f"# HELP {name} {family.help}\n# TYPE {name} {family.kind}\n")
        samples = iter(family.samples)
        while chunk := [f"{name}{labels} {value}\n" for labels, value in islice(samples, CHUNK)]:
            lines += chunk
            await yielder.maybe_yield()
    return Response(200, "".join(lines).encode(), CONTENT_TYPE, nsq=False)
