"""The figures of the benchmark that stand in other documents, taken from the table in docs/performance.md.

`python -m bench --write-docs` writes that table, and `make docs` the copies, so that no two documents disagree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from bench.docs import BEGIN, END

__all__ = ["FIGURES", "Row", "rows"]

PAGE: Final = Path(__file__).parents[2] / "docs/performance.md"
BEANSTALKD: Final = "beanstalkd -b (-f50, its default)"
BEANSTALKD_SYNCED: Final = "beanstalkd -b -f0"
DURABLE: Final = "every answer waits for the disk: one at a time, 64 connections"
BACKLOG: Final = "a backlog of 5,000,000 from disk after a cold start, RDY 2500, 2 connections"
IDLE: Final = "publish to delivery, idle broker"
MEMORY: Final = "memory at start, and with 1,000,000 messages of 200 bytes queued"
START: Final = "start: from exec until it listens"

# Work in the README -> row of the table.
RATES: Final = {
    "publish, batches of 200, 2 connections": "publish, batches of 200, 2 connections",
    "consume and finish, RDY 2500, 2 connections": "consume and finish, RDY 2500, 2 connections",
    "both at once, 2 + 2 connections": "publish in batches and consume at once, 2 + 2 connections",
    "publish one at a time, 1 connection": "publish one at a time, 1 connection",
    "publish one at a time, 16 connections": "publish one at a time, 16 connections",
    "publish, pipelined 100 deep, 16 connections": "publish, pipelined 100 deep, 16 connections",
    "consume and finish one at a time, 16 connections": "consume and finish one at a time, 16 connections",
    "consume a backlog of 5,000,000 from disk after a cold start": BACKLOG,
    "`POST /pub`, kept alive, 32 connections": "POST /pub, kept alive, 32 connections",
}


@attrs.frozen
class Row:
    """One row of the table."""

    result: str
    cpu: str
    """CPU a message; empty where it was not measured."""

    @property
    def numbers(self) -> list[float]:
        """Those in the result."""
        return [
            float(text.replace(",", "")) for text in re.findall(r"(?<![\w.])\d[\d,.]*\d|\b\d\b", self.result)
        ]

    @property
    def rate(self) -> str:
        """Messages a second, with two significant digits, or three from a million on."""
        number = self.numbers[0]
        return f"{_rounded(number, 3 if number >= 1e6 else 2):,.0f}"

    @property
    def shown_cpu(self) -> str:
        """Microseconds with two significant digits."""
        return f"{_rounded(float(self.cpu.split()[0]), 2):g} us" if self.cpu else ""


def rows(page: str) -> Mapping[tuple[str, str], Row]:
    """The rows of the page's results, by work and broker; of several with these, the first."""
    found: dict[tuple[str, str], Row] = {}
    for line in page.partition(BEGIN)[2].partition(END)[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) >= 5:
            found.setdefault((cells[0], cells[1]), Row(cells[2], cells[4]))
    return found


def _rounded(number: float, digits: int) -> float:
    return float(f"{number:.{digits - 1}e}")


def summary() -> str:
    """The table of the README."""
    measured = rows(PAGE.read_text())
    lines = [
        "| work | nsqd | CPU a message | beanstalkd, its default fsync |",
        "| --- | ---: | ---: | ---: |",
    ]
    for work, name in RATES.items():
        own, other = measured[name, "nsqd"], measured.get((name, BEANSTALKD))
        lines.append(_line(work, f"{own.rate}/s", own.shown_cpu, f"{other.rate}/s" if other else "-"))
    own, other = measured[DURABLE, "nsqd --durability=disk"], measured[DURABLE, BEANSTALKD_SYNCED]
    work = "publish one at a time, 64 connections, `--durability=disk`"
    lines.append(_line(work, f"{own.rate}/s", own.shown_cpu, f"{other.rate}/s (`-f0`)"))
    p50, p99 = (f"{number:.2f}" for number in measured[IDLE, "nsqd"].numbers[:2])
    lines.append(_line("publish to delivery on an idle broker, p50 and p99", f"{p50} and {p99} ms", "", "-"))
    own, other = measured[MEMORY, "nsqd"], measured[MEMORY, BEANSTALKD]
    memory = [f"{row.numbers[1]:.0f} MiB" for row in (own, other)]
    lines.append(_line("memory with 1,000,000 messages queued", memory[0], "", memory[1]))
    own, other = measured[START, "nsqd"], measured[START, BEANSTALKD]
    seconds = [f"{_rounded(row.numbers[0], 1) / 1000:g} s" for row in (own, other)]
    lines.append(_line("from exec until it listens", seconds[0], "", seconds[1]))
    return "\n".join(lines)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def sizing_cpu() -> str:
    """The paragraph on CPU in operations.md."""
    measured = rows(PAGE.read_text())
    one, batch, http = (
        measured[name, "nsqd"].rate
        for name in (
            "publish one at a time, 16 connections",
            "publish in batches and consume at once, 2 + 2 connections",
            "POST /pub, kept alive, 32 connections",
        )
    )
    return (
        "**CPU.** An nsqd is one thread: one core, and a little of a second one for syncs and statistics. [The\n"
        "benchmark](performance.md) shows what a core of a small machine achieves, in messages a second: "
        f"{batch}\npublished and consumed in batches, {one} published one at a time, {http} over HTTP."
    )


def sizing_memory() -> str:
    """The paragraph on memory in operations.md."""
    start, queued = rows(PAGE.read_text())[MEMORY, "nsqd"].numbers[:2]
    return (
        "**Memory.** Messages are on disk; memory holds a window on them. So a backlog takes no memory: nsqd takes\n"
        f"{start:.0f} MiB when it starts, and {queued:.0f} MiB with a million messages queued."
    )


FIGURES: Final = {"benchmark": summary, "CPU": sizing_cpu, "memory": sizing_memory}
