"""Medians of the runs, as a Markdown table and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence

import attrs

from bench.curves import Curve, Series
from bench.machine import Facts
from bench.meter import Measurement
from bench.rows import Scale
from bench.runner import CONTROL, Cell
from bench.server import Broker

__all__ = ["Drawn", "Point", "Results", "median_cpu_us", "median_rate", "to_markdown"]

RATES = ("rate", "drain")

FULL_CORE = 0.95
OTHERS_SHARE = 0.2
"""Fraction of one core: above this CPU time of others a rate is marked as disturbed."""
HEADER = (
    "| work | broker | result | lowest to highest | CPU a message | RSS | load CPU | ratio | CPU ratio |",
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
)
TAIL_HEADER = (
    "| what goes on | broker | when | OK, p50 / p99 / p99.9 ms | delivery, p50 / p99 / p99.9 ms "
    "| longest stretch of the loop, ms of CPU |",
    "| --- | --- | --- | ---: | ---: | ---: |",
)


@attrs.frozen
class Point:
    """One point of a line of a curve."""

    x: int
    series: Series
    cell: Cell


@attrs.frozen
class Drawn:
    """A curve with its points."""

    curve: Curve
    points: Sequence[Point]


@attrs.frozen
class Results:
    """The results of a run of the benchmark. In each row the first cell is that of the broker under test."""

    facts: Facts
    scale: Scale
    brokers: Sequence[Broker]
    rows: Sequence[Sequence[Cell]]
    seconds: float
    """Duration of the run."""
    tails: Sequence[Sequence[Cell]] = ()
    curves: Sequence[Drawn] = ()

    @property
    def failed(self) -> bool:
        return any(cell.failed for cell in self._cells())

    def _cells(self) -> list[Cell]:
        points = [point.cell for curve in self.curves for point in curve.points]
        return [*(cell for cells in (*self.rows, *self.tails) for cell in cells), *points]

    def to_json(self) -> str:
        """All measurements, with their medians."""
        content = {
            "facts": attrs.asdict(self.facts),
            "scale": attrs.asdict(self.scale),
            "brokers": [attrs.asdict(broker) for broker in self.brokers],
            "seconds": self.seconds,
            "rows": [_json_cell(cell) for cell in self._cells()],
        }
        return json.dumps(content, indent=1) + "\n"


def to_markdown(results: Results, pictures: str = "") -> str:
    """`pictures`: the folder with those of the curves, if they are to be shown."""
    parts = [_preamble(results)]
    if results.rows:
        parts.append(_table(results))
    if results.rows and (by_interpreter := _interpreters(results)):
        parts.append(by_interpreter)
    if results.tails:
        parts.append(["## Tail latency", "", *_tail_table(results.tails)])
    parts += [_curve(drawn, pictures) for drawn in results.curves]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _table(results: Results) -> list[str]:
    lines, notes = [*HEADER], []
    for cells in results.rows:
        for cell in cells:
            lines.append(_table_line(cell, _tested(cell, cells)))
            notes += [f"- {cell.row.name}, {_label(cell)}: {note}" for note in _notes(cell)]
    return lines + (["", "Notes", "", *notes] if notes else [])


def _tested(cell: Cell, cells: Sequence[Cell]) -> Cell | None:
    """The cell of the broker under test that this one is compared with: by the same interpreter, or the first one."""
    tested = [each for each in cells if each.broker.tested]
    same = [each for each in tested if each.broker.interpreter == cell.broker.interpreter]
    return next(iter(same or tested), None)


def _interpreters(results: Results) -> list[str]:
    """The ratios to each peer by all interpreters, side by side; nothing if there is only one."""
    interpreters = [broker.interpreter for broker in results.brokers if broker.tested]
    if len(interpreters) < 2:
        return []
    names = [f"{name}: ratio | CPU ratio" for name in interpreters]
    lines = [
        "## By interpreter",
        "",
        f"| work | compared with | {' | '.join(names)} |",
        f"| --- | --- |{' ---: | ---: |' * len(names)}",
    ]
    for cells in results.rows:
        ratios: dict[str, dict[str, str]] = {}
        for cell in cells:
            tested = _tested(cell, cells)
            if cell.broker.tested or tested is None or not cell.measurements:
                continue
            peer = cell.broker.name.removesuffix(f", {cell.broker.interpreter}")
            for interpreter in [cell.broker.interpreter] if cell.broker.interpreter else interpreters:
                against = next(
                    each for each in cells if each.broker.interpreter == interpreter and each.broker.tested
                )
                ratios.setdefault(peer, {})[interpreter] = (
                    f"{_ratio(cell, against)} | {_cpu_ratio(cell, against)}"
                )
        for peer, found in ratios.items():
            columns = " | ".join(found.get(interpreter, " | ") for interpreter in interpreters)
            lines.append(f"| {cells[0].row.title} | {peer} | {columns} |")
    return lines


def _tail_table(tails: Sequence[Sequence[Cell]]) -> list[str]:
    lines = [*TAIL_HEADER]
    for cell in (cell for cells in tails for cell in cells):
        start = f"| {cell.row.title} | {_label(cell)} |"
        if cell.measurements and not cell.failed:
            idle, busy = _tail_cells(cell, CONTROL), _tail_cells(cell, "")
            lines += [f"{start} before | {idle} |", f"{start} meanwhile | {busy} |"]
        else:
            lines.append(f"{start} {_reason(cell)} | | | |")
    return lines


def _tail_cells(cell: Cell, prefix: str) -> str:
    columns = [
        " / ".join(
            f"{_extra(cell, f'{prefix}{kind}_{percent}_ms'):.2f}" for percent in ("p50", "p99", "p99.9")
        )
        for kind in ("publish", "delivery")
    ]
    stretch = f"{prefix}stretch_ms"
    columns.append(f"{_extra(cell, stretch):.1f}" if stretch in cell.measurements[0].extra else "")
    return " | ".join(columns)


def _curve(drawn: Drawn, pictures: str) -> list[str]:
    curve = drawn.curve
    lines = [f"## {curve.title}", ""]
    if pictures:
        lines += [f"![{curve.title}]({pictures}/{curve.name}.svg)", ""]
    lines += [f"| {curve.axis} | work | rate | lowest to highest | CPU a message | to the first | RSS |"]
    lines += ["| ---: | --- | ---: | ---: | ---: | ---: | ---: |"]
    first: dict[str, Cell] = {}
    for point in drawn.points:
        start, cell = f"| {point.x:,} | {point.series.title} |", point.cell
        if cell.failed or not cell.measurements:
            lines.append(f"{start} {_reason(cell)} | | | | |")
            continue
        growth = _quotient(median_cpu_us(cell), median_cpu_us(first.setdefault(point.series.title, cell)))
        rss = f"{_median(cell, lambda m: m.rss_bytes) / 2**20:.0f} MiB"
        answers = f", answers after {_extra(cell, 'start_ms'):.0f} ms" if cell.row.cold else ""
        lines.append(
            f"{start} {median_rate(cell):,.0f}/s{answers} | {_spread(cell, lambda m: m.rate, ',.0f')} | "
            f"{median_cpu_us(cell):.2f} us | {growth} | {rss} |"
        )
    return lines


def _json_cell(cell: Cell) -> dict[str, object]:
    content: dict[str, object] = {
        "row": cell.row.name,
        "title": cell.row.title,
        "broker": _label(cell),
    }
    if cell.skipped or cell.failed:
        return content | ({"skipped": cell.skipped} if cell.skipped else {"failed": cell.failed})
    return content | {
        "median": {
            "rate": median_rate(cell),
            "server_cpu_us": median_cpu_us(cell),
            "rss_bytes": _median(cell, lambda m: m.rss_bytes),
            "load_share": _median(cell, lambda m: m.load_share),
            "others_share": _median(cell, lambda m: m.others_share),
            **{name: _extra(cell, name) for name in cell.measurements[0].extra},
        },
        "runs": [attrs.asdict(m) for m in cell.measurements],
    }


def _preamble(results: Results) -> list[str]:
    facts, scale = results.facts, results.scale
    runs = f"median of {scale.runs} runs" if scale.runs > 1 else "1 run"
    return [
        f"# Benchmark of {facts.date}",
        "",
        f"- machine: {facts.cpu}, {facts.cores} cores, {facts.memory_mib} MiB, Linux {facts.kernel}, "
        f"load average {facts.load_average:.2f} at the start",
        f"- interpreter: {facts.interpreter}, {facts.python}",
        f"- packages: {', '.join(f'{name} {number}' for name, number in facts.packages.items())}",
        f"- commit {facts.commit}; data on {facts.file_system}; {runs}; {results.seconds:.0f} s in all",
        *[
            f"- {broker.label()}: {broker.missing or broker.version or broker.command}"
            for broker in results.brokers
        ],
    ]


def _table_line(cell: Cell, tested: Cell | None) -> str:
    start = f"| {cell.row.title} | {_label(cell)} |"
    if cell.skipped or cell.failed:
        return f"{start} {_reason(cell)} | | | | | | |"
    rss = f"{_median(cell, lambda m: m.rss_bytes) / 2**20:.0f} MiB"
    result, spread = _result(cell)
    if cell.row.measures not in RATES:
        return f"{start} {result} | {spread} | | {rss} | | {_ratio(cell, tested)} | |"
    cpu = f"{median_cpu_us(cell):.2f} us"
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
            return f"{median_rate(cell):,.0f}/s", _spread(cell, lambda m: m.rate, ",.0f")
        case "drain":
            text = f"{median_rate(cell):,.0f}/s; answers after {_extra(cell, 'start_ms'):,.0f} ms"
            return text, _spread(cell, lambda m: m.rate, ",.0f")
        case "start":
            return f"{_extra(cell, 'start_ms'):.0f} ms", _spread(cell, lambda m: m.extra["start_ms"], ".0f")
        case "latency":
            text = ", ".join(f"{name} {_extra(cell, f'{name}_ms'):.3f}" for name in ("p50", "p99", "p99.9"))
            return f"{text} ms", _spread(cell, lambda m: m.extra["p50_ms"], ".3f")
        case _:
            full = f"{_median(cell, lambda m: m.rss_bytes) / 2**20:.0f} MiB"
            spread = _spread(cell, lambda m: m.rss_bytes / 2**20, ".0f")
            text = f"{_extra(cell, 'rss_at_start_mib'):.0f} MiB, then {full}"
            if cell.row.measures == "rest":
                text += f", {_median(cell, lambda m: m.server_cpu_seconds / m.seconds):.1%} of a core"
            return text, spread


def _ratio(cell: Cell, tested: Cell | None) -> str:
    """The ratio to the tested broker: above 1 the tested one is faster, or smaller."""
    if tested is None or cell is tested or not tested.measurements:
        return ""
    match cell.row.measures:
        case "rate" | "drain":
            return _quotient(_median(tested, lambda m: m.rate), median_rate(cell))
        case "start":
            return _quotient(_extra(cell, "start_ms"), _extra(tested, "start_ms"))
        case "latency":
            return _quotient(_extra(cell, "p50_ms"), _extra(tested, "p50_ms"))
        case _:
            return _quotient(_median(cell, lambda m: m.rss_bytes), _median(tested, lambda m: m.rss_bytes))


def _cpu_ratio(cell: Cell, tested: Cell | None) -> str:
    """The CPU per message of this broker divided by that of the tested one."""
    if tested is None or cell is tested or not tested.measurements:
        return ""
    return _quotient(median_cpu_us(cell), median_cpu_us(tested))


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
    if cell.row.measures in RATES and _load_bound(cell):
        notes.append(
            "(!) the load generator was at its limit: the broker may do more; its CPU a message holds"
        )
    return notes


def _load_bound(cell: Cell) -> bool:
    """Whether the load generator used up its CPU while the broker did not."""
    shares = ((m.load_share, m.server_cpu_seconds / m.seconds) for m in cell.measurements)
    return any(load >= FULL_CORE and server < FULL_CORE for load, server in shares)


def median_rate(cell: Cell) -> float:
    """Messages a second."""
    return _median(cell, lambda m: m.rate)


def median_cpu_us(cell: Cell) -> float:
    """The broker's CPU per message, in microseconds."""
    return _median(cell, lambda m: m.cpu_us)


def _label(cell: Cell) -> str:
    return cell.broker.label(to_disk=cell.row.to_disk)


def _reason(cell: Cell) -> str:
    """The reason why there are no figures."""
    return f"FAILED: {cell.failed.splitlines()[0]}" if cell.failed else f"skipped: {cell.skipped}"


def _quotient(over: float, under: float) -> str:
    return f"{over / under:.2f}" if under else ""


def _spread(cell: Cell, value: Callable[[Measurement], float], form: str) -> str:
    values = [value(m) for m in cell.measurements]
    return f"{min(values):{form}} to {max(values):{form}}" if len(values) > 1 else ""


def _extra(cell: Cell, name: str) -> float:
    return _median(cell, lambda m: m.extra[name])


def _median(cell: Cell, value: Callable[[Measurement], float]) -> float:
    return statistics.median([value(m) for m in cell.measurements]) if cell.measurements else 0.0
