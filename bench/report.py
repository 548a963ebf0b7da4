"""Medians of the runs, as a Markdown table and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence

import attrs

from bench.machine import Facts
from bench.meter import Measurement
from bench.rows import Scale
from bench.runner import Cell
from bench.server import Broker

__all__ = ["to_json", "to_markdown"]

FULL_CORE = 0.95
OTHERS_SHARE = 0.2
"""Of one core: when others took more than this, the rate is said to be disturbed."""
HEADER = (
    "| work | broker | result | lowest to highest | CPU a message | RSS | load CPU | ratio | CPU ratio |",
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
)


def to_markdown(
    facts: Facts, scale: Scale, brokers: Sequence[Broker], rows: Sequence[Sequence[Cell]], seconds: float
) -> str:
    """`rows` holds the cells of each row; the first broker is the one under test, the ratios are its."""
    lines = [*_preamble(facts, scale, brokers, seconds), "", *HEADER]
    notes: list[str] = []
    for cells in rows:
        for cell in cells:
            lines.append(_table_line(cell, cells[0] if cells[0].broker is brokers[0] else None))
            notes.extend(
                f"- {cell.row.name}, {cell.broker.label(to_disk=cell.row.to_disk)}: {note}"
                for note in _notes(cell)
            )
    if notes:
        lines += ["", "Notes", "", *notes]
    return "\n".join(lines) + "\n"


def to_json(
    facts: Facts, scale: Scale, brokers: Sequence[Broker], rows: Sequence[Sequence[Cell]], seconds: float
) -> str:
    """Every single measurement, with the medians beside them."""
    content = {
        "facts": attrs.asdict(facts),
        "scale": attrs.asdict(scale),
        "brokers": [attrs.asdict(broker) for broker in brokers],
        "seconds": seconds,
        "rows": [_json_cell(cell) for cells in rows for cell in cells],
    }
    return json.dumps(content, indent=1) + "\n"


def _json_cell(cell: Cell) -> dict[str, object]:
    content: dict[str, object] = {
        "row": cell.row.name,
        "title": cell.row.title,
        "broker": cell.broker.label(to_disk=cell.row.to_disk),
    }
    if cell.skipped or cell.failed:
        return content | ({"skipped": cell.skipped} if cell.skipped else {"failed": cell.failed})
    return content | {
        "median": {
            "rate": _median(cell, lambda m: m.rate),
            "server_cpu_us": _median(cell, lambda m: m.cpu_us),
            "rss_bytes": _median(cell, lambda m: m.rss_bytes),
            "load_share": _median(cell, lambda m: m.load_share),
            "others_share": _median(cell, lambda m: m.others_share),
            **{name: _extra(cell, name) for name in cell.measurements[0].extra},
        },
        "runs": [attrs.asdict(m) for m in cell.measurements],
    }


def _preamble(facts: Facts, scale: Scale, brokers: Sequence[Broker], seconds: float) -> list[str]:
    runs = f"median of {scale.runs} runs" if scale.runs > 1 else "1 run"
    return [
        f"# Benchmark of {facts.date}",
        "",
        f"- machine: {facts.cpu}, {facts.cores} cores, {facts.memory_mib} MiB, Linux {facts.kernel}, "
        f"load average {facts.load_average:.2f} at the start",
        f"- interpreter: {facts.interpreter}, {facts.python}",
        f"- packages: {', '.join(f'{name} {number}' for name, number in facts.packages.items())}",
        f"- commit {facts.commit}; data on {facts.file_system}; {runs}; {seconds:.0f} s in all",
        *[f"- {broker.label()}: {broker.missing or broker.version or broker.command}" for broker in brokers],
    ]


def _table_line(cell: Cell, tested: Cell | None) -> str:
    start = f"| {cell.row.title} | {cell.broker.label(to_disk=cell.row.to_disk)} |"
    if cell.skipped:
        return f"{start} skipped: {cell.skipped} | | | | | | |"
    if cell.failed:
        return f"{start} FAILED: {cell.failed.splitlines()[0]} | | | | | | |"
    rss = f"{_median(cell, lambda m: m.rss_bytes) / 2**20:.0f} MiB"
    result, spread = _result(cell)
    if cell.row.measures != "rate":
        return f"{start} {result} | {spread} | | {rss} | | {_ratio(cell, tested)} | |"
    cpu = f"{_median(cell, lambda m: m.cpu_us):.2f} us"
    share = _median(cell, lambda m: m.load_share)
    load = f"{share:.0%}{' (!)' if _load_bound(cell) else ''}"
    return (
        f"{start} {result} | {spread} | {cpu} | {rss} | {load} | "
        f"{_ratio(cell, tested)} | {_cpu_ratio(cell, tested)} |"
    )


def _result(cell: Cell) -> tuple[str, str]:
    """The figure of the row as text, and its lowest and highest."""
    match cell.row.measures:
        case "rate":
            return f"{_median(cell, lambda m: m.rate):,.0f}/s", _spread(cell, lambda m: m.rate, ",.0f")
        case "start":
            return f"{_extra(cell, 'start_ms'):.0f} ms", _spread(cell, lambda m: m.extra["start_ms"], ".0f")
        case "latency":
            text = ", ".join(f"{name} {_extra(cell, f'{name}_ms'):.3f}" for name in ("p50", "p99", "p99.9"))
            return f"{text} ms", _spread(cell, lambda m: m.extra["p50_ms"], ".3f")
        case _:
            full = f"{_median(cell, lambda m: m.rss_bytes) / 2**20:.0f} MiB"
            spread = _spread(cell, lambda m: m.rss_bytes / 2**20, ".0f")
            return f"{_extra(cell, 'rss_at_start_mib'):.0f} MiB, then {full}", spread


def _ratio(cell: Cell, tested: Cell | None) -> str:
    """How many times better the tested broker is than this one: above 1 it is faster, or smaller."""
    if tested is None or cell is tested or not tested.measurements:
        return ""
    match cell.row.measures:
        case "rate":
            return _quotient(_median(tested, lambda m: m.rate), _median(cell, lambda m: m.rate))
        case "start":
            return _quotient(_extra(cell, "start_ms"), _extra(tested, "start_ms"))
        case "latency":
            return _quotient(_extra(cell, "p50_ms"), _extra(tested, "p50_ms"))
        case _:
            return _quotient(_median(cell, lambda m: m.rss_bytes), _median(tested, lambda m: m.rss_bytes))


def _cpu_ratio(cell: Cell, tested: Cell | None) -> str:
    """How many times the CPU of the tested broker this one takes for a message."""
    if tested is None or cell is tested or not tested.measurements:
        return ""
    return _quotient(_median(cell, lambda m: m.cpu_us), _median(tested, lambda m: m.cpu_us))


def _notes(cell: Cell) -> list[str]:
    notes = []
    if "\n" in cell.failed:
        notes.append(cell.failed)
    if not cell.measurements:
        return notes
    if "fdatasync_p50_ms" in cell.measurements[0].extra:
        p50, p99 = _extra(cell, "fdatasync_p50_ms"), _extra(cell, "fdatasync_p99_ms")
        shared = _median(cell, lambda m: m.rate * m.extra["fdatasync_p50_ms"] / 1e3)
        notes.append(
            f"one fdatasync took {p50:.3f} ms (p50; p99 {p99:.3f} ms) just before; "
            f"in that time {shared:.1f} messages were answered (64 at most if each sync serves all who wait)"
        )
    others = max(m.others_share for m in cell.measurements)
    if others > OTHERS_SHARE:
        notes.append(f"other processes took up to {others:.0%} of a core meanwhile: the rate is disturbed")
    repeated = max(m.extra.get("repeated_ids", 0) for m in cell.measurements)
    if repeated:
        notes.append(f"{repeated:.0f} messages came with an id that had come before")
    if cell.row.measures == "rate" and _load_bound(cell):
        notes.append(
            "(!) the load generator was at its limit: the broker may do more; its CPU a message holds"
        )
    return notes


def _load_bound(cell: Cell) -> bool:
    """Whether the load generator had no CPU left while the broker still had some."""
    shares = ((m.load_share, m.server_cpu_seconds / m.seconds) for m in cell.measurements)
    return any(load >= FULL_CORE and server < FULL_CORE for load, server in shares)


def _quotient(over: float, under: float) -> str:
    return f"{over / under:.2f}" if under else ""


def _spread(cell: Cell, value: Callable[[Measurement], float], form: str) -> str:
    values = [value(m) for m in cell.measurements]
    return f"{min(values):{form}} to {max(values):{form}}" if len(values) > 1 else ""


def _extra(cell: Cell, name: str) -> float:
    return _median(cell, lambda m: m.extra[name])


def _median(cell: Cell, value: Callable[[Measurement], float]) -> float:
    return statistics.median([value(m) for m in cell.measurements]) if cell.measurements else 0.0
