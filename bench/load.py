"""The load generator: one kind of work against one running server; prints one line of JSON.

    python -m bench.load KIND PORT [--pids 12,13] [options]

`--pids` names the server's processes: their CPU is read at both ends of the timed part. Any wrong answer
ends the run with its text on stderr and exit code 1. What is queued before a timed part, and every check
that costs much, is outside of it.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from bench import load_nsq, load_peers, load_rest, load_storms, load_tail
from bench.link import LoadError
from bench.meter import Meter

__all__ = ["HTTP_KINDS", "KINDS", "main"]

HTTP_KINDS = {"http-pub", "nuisance-stats"}
"""Loads whose PORT is the HTTP port."""


def main(argv: Sequence[str]) -> int:
    """Run one load. Exit code 0 and JSON on stdout, or 1 and the reason on stderr."""
    options = _parse(argv)
    gc.disable()  # there are no cycles here, and a collection in the timed part would be noise
    try:
        with ExitStack() as options.opened:
            measurement = KINDS[options.kind](options, Meter(options.pids, options.beside))
    except (LoadError, OSError) as error:
        print(f"{options.kind}: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    finally:
        gc.enable()
    print(measurement.to_json())
    return 0


KINDS = load_nsq.KINDS | load_rest.KINDS | load_tail.KINDS | load_peers.KINDS | load_storms.KINDS


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("port", type=int)
    parser.add_argument("--pids", type=_numbers, default=[])
    parser.add_argument(
        "--beside", type=_numbers, default=[], help="processes whose CPU is the figure beside_cpu_s"
    )
    parser.add_argument("--tcp-port", type=int, default=0, help="for http-pub: where to create the channel")
    parser.add_argument("--topic", default="bench")
    parser.add_argument("--channel", default="ch")
    parser.add_argument("--topics", type=int, default=1, help="so many of them")
    parser.add_argument("--channels", type=int, default=1, help="so many of each topic")
    parser.add_argument("--count", type=int, default=1_000_000, help="messages")
    parser.add_argument(
        "--most-mb", type=float, default=1e6, help="fewer messages if they are larger altogether"
    )
    parser.add_argument("--add-mb", type=float, default=0.0, help="publish as much more")
    parser.add_argument("--there", action="store_true", help="consume what is there, publish nothing")
    parser.add_argument("--more", action="store_true", help="with --there: there is more than --count")
    parser.add_argument(
        "--aside", action="store_true", help="for defer and requeue: with a delay that outlasts the run"
    )
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--conns", type=int, default=2)
    parser.add_argument("--batch", type=int, default=200, help="messages in an MPUB")
    parser.add_argument("--size", type=int, default=200, help="bytes in a body")
    parser.add_argument("--depth", type=int, default=1, help="requests on their way on each connection")
    parser.add_argument("--rdy", type=int, default=2500)
    parser.add_argument("--gap", type=float, default=0.001, help="seconds between messages, for latency")
    parser.add_argument("--heartbeat-ms", type=int, default=0, help="ask for heartbeats so often")
    parser.add_argument("--allow-repeated-ids", action="store_true", help="count them instead of failing")
    return parser.parse_args(argv)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
