"""Measure the broker: `python -m bench [--quick] [--only NAME] [--peer 'CMD with {port}']...`.

Prints Markdown tables; keeps them, a JSON file with every run and the pictures of the curves in bench/results/.
Exit code 1 if a row failed, 2 if a broker could not be started at all.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from bench.curves import CURVES
from bench.docs import DocsError, write_docs, write_pictures
from bench.machine import facts
from bench.report import Drawn, Point, Results, to_markdown
from bench.rows import FULL, QUICK, ROWS, TAILS
from bench.runner import run_row
from bench.server import PROJECT, Broker, Server, ServerError, beanstalkd, nats, nsqd, peer, redis
from nsqkit.service.descriptors import raise_descriptor_limit

RESULTS = Path(__file__).parent / "results"
DOCS = PROJECT / "docs"
NAMES = [item.name for item in (*ROWS, *TAILS, *CURVES)]
OTHERS: dict[str, Callable[[], Broker]] = {"beanstalkd": beanstalkd, "redis": redis, "nats": nats}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    options = _parse(argv)
    # Exits through the `finally` blocks that end the brokers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    raise_descriptor_limit()
    RESULTS.mkdir(exist_ok=True)
    data_root = Path(tempfile.mkdtemp(prefix="run-", dir=options.data_root or RESULTS)).resolve()
    try:
        results = _measure(options, data_root)
    except ServerError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(data_root, ignore_errors=True)
    _keep(results)
    if options.write_docs:
        try:
            write_docs(results, DOCS)
        except DocsError as error:
            print(error, file=sys.stderr)
            return 1
    return 1 if results.failed else 0


def _measure(options: argparse.Namespace, data_root: Path) -> Results:
    machine = facts((options.python or [sys.executable])[0], data_root)
    started = time.perf_counter()
    brokers = _brokers(options)
    scale = QUICK if options.quick else FULL
    if options.runs:
        scale = attrs.evolve(scale, runs=options.runs)
    _warm_up(brokers, data_root)
    rows, tails = (
        [
            cells
            for row in group
            if _wanted(options, row.name) and (cells := run_row(row, brokers, scale, data_root, _progress))
        ]
        for group in (ROWS, TAILS)
    )
    curves = [
        Drawn(
            curve,
            [
                Point(x, series, run_row(row, brokers[:1], scale, data_root, _progress)[0])
                for x, series, row in curve.points(quick=options.quick, large=options.full_log)
            ],
        )
        for curve in CURVES
        if _wanted(options, curve.name)
    ]
    return Results(machine, scale, brokers, rows, time.perf_counter() - started, tails, curves)


def _wanted(options: argparse.Namespace, name: str) -> bool:
    return not options.only or name in options.only


def _keep(results: Results) -> None:
    path = RESULTS / time.strftime("%Y-%m-%d-%H%M%S")
    path.with_suffix(".md").write_text(to_markdown(results, path.name))
    path.with_suffix(".json").write_text(results.to_json())
    write_pictures(results, path)
    print(to_markdown(results))
    print(f"kept in {path}.md and .json", file=sys.stderr)


def _brokers(options: argparse.Namespace) -> list[Broker]:
    """The broker under test first, by each interpreter, then those that it is compared with."""
    pythons = options.python or [sys.executable]
    several = len(pythons) > 1
    tested = [nsqd(python, of_several=several) for python in pythons]
    if options.broker:
        tested = [peer("broker", options.broker, tested=True)]
    peers = [
        peer(f"peer {number}", command, python=python if "{python}" in command else "")
        for number, command in enumerate(options.peer, 1)
        for python in (pythons if "{python}" in command else pythons[:1])
    ]
    return [*tested, *peers, *(make() for name, make in OTHERS.items() if name not in options.without)]


def _warm_up(brokers: Sequence[Broker], data_root: Path) -> None:
    """Start each once, untimed: files get into the page cache, bytecode is written, errors show early."""
    for broker in brokers:
        if not broker.missing:
            with Server(broker, data_root):
                pass


def _progress(text: str) -> None:
    print(text, file=sys.stderr)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the broker.")
    parser.add_argument(
        "--quick", action="store_true", help="everything once and short: two to three minutes in all"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=NAMES,
        metavar="NAME",
        help=f"only this row or curve (may be repeated): {', '.join(NAMES)}",
    )
    parser.add_argument("--runs", type=_positive, help="runs of each row (default 3, with --quick 1)")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="CMD",
        help="run each row against this NSQ broker too, in turn: a shell command with {port}, "
        "perhaps {http_port}, {data_path} and {flags}; with {python}, for each --python",
    )
    parser.add_argument(
        "--broker", metavar="CMD", help="test this broker instead of nsqd: a command as for --peer"
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=list(OTHERS),
        help="do not compare with this one (may be repeated)",
    )
    parser.add_argument(
        "--no-beanstalkd",
        action="append_const",
        dest="without",
        const="beanstalkd",
        help="short for --without=beanstalkd",
    )
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help="put tables and pictures into docs/performance.md (not together with --only)",
    )
    parser.add_argument("--full-log", action="store_true", help="the curve of the log's size up to 10 GB")
    parser.add_argument(
        "--python",
        action="append",
        metavar="PATH",
        help="interpreter that runs nsqd (default: this one); more than one: each row with each, and their ratios "
        "side by side, so that nothing is tuned for one alone",
    )
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="disk for the brokers' data (default: bench/results, beside the code)",
    )
    options = parser.parse_args(argv)
    if options.write_docs and options.only:
        parser.error("--write-docs is for everything: it takes no --only")
    return options


if __name__ == "__main__":
    sys.exit(main())
