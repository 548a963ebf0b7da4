"""Measure the broker: `python -m bench [--quick] [--only NAME] [--peer 'CMD with {port}']...`.

Prints a Markdown table; keeps it and a JSON file with every run in bench/results/. Exit code 1 if a row
failed, 2 if a broker could not be started at all.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from bench import report
from bench.machine import facts
from bench.rows import FULL, QUICK, ROWS
from bench.runner import run_row
from bench.server import Broker, Server, ServerError, beanstalkd, nsqd, peer

RESULTS = Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for."""
    options = _parse(argv)
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # brokers are ended on the way out
    rows = [row for row in ROWS if not options.only or row.name in options.only]
    brokers = _brokers(options)
    scale = QUICK if options.quick else FULL
    if options.runs:
        scale = attrs.evolve(scale, runs=options.runs)
    RESULTS.mkdir(exist_ok=True)
    data_root = Path(tempfile.mkdtemp(prefix="run-", dir=options.data_root or RESULTS)).resolve()
    try:
        machine = facts(options.python, data_root)
        started = time.perf_counter()
        _warm_up(brokers, data_root)
        table = [run_row(row, brokers, scale, data_root, _progress) for row in rows]
        seconds = time.perf_counter() - started
    except ServerError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(data_root, ignore_errors=True)
    table = [cells for cells in table if cells]
    text = report.to_markdown(machine, scale, brokers, table, seconds)
    path = RESULTS / time.strftime("%Y-%m-%d-%H%M%S")
    path.with_suffix(".md").write_text(text)
    path.with_suffix(".json").write_text(report.to_json(machine, scale, brokers, table, seconds))
    print(text)
    print(f"kept in {path}.md and .json", file=sys.stderr)
    return 1 if any(cell.failed for cells in table for cell in cells) else 0


def _brokers(options: argparse.Namespace) -> list[Broker]:
    """The one under test first, then what it is compared with."""
    tested = peer("broker", options.broker) if options.broker else nsqd(options.python)
    peers = [peer(f"peer {number}", command) for number, command in enumerate(options.peer, 1)]
    return [tested, *peers, *([] if options.no_beanstalkd else [beanstalkd()])]


def _warm_up(brokers: Sequence[Broker], data_root: Path) -> None:
    """Start each once untimed: files get into the page cache, bytecode is written, errors show early."""
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
        "--quick", action="store_true", help="one short run of each row, under a minute in all"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[row.name for row in ROWS],
        metavar="NAME",
        help=f"only this row (may be repeated): {', '.join(row.name for row in ROWS)}",
    )
    parser.add_argument("--runs", type=_positive, help="runs of each row (default 3, with --quick 1)")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="CMD",
        help="run each row against this NSQ broker too, in turn: a shell command with {port}, "
        "perhaps {http_port}, {data_path} and {flags}",
    )
    parser.add_argument(
        "--broker", metavar="CMD", help="test this broker instead of nsqd: a command as for --peer"
    )
    parser.add_argument("--no-beanstalkd", action="store_true", help="do not compare with beanstalkd")
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter that runs nsqd (default: this one)"
    )
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="disk for the brokers' data (default: bench/results, beside the code)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
