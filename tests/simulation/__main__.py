"""Run seeds: `python -m tests.simulation --seeds 0-9999 [--hours 0.06] [--jobs 2] [--mutation NAME]`.

Prints how many were red, by invariant, and how many simulated hours an hour takes. Each of the first red ones is
shrunk: fewer kinds of faults, fewer faults, fewer steps; and told. The exit status is 1 if any was red.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import attrs

from tests.nsqd.replication.simulation.checker import Violation
from tests.simulation.cluster import SECONDS, lived
from tests.simulation.faults import Fault, schedule
from tests.simulation.mutations import MUTATIONS, mutated

__all__ = ["Shrunk", "main", "run", "shrunk"]

STORIES = 3  # that are told


def run(
    seed: int,
    mutation: str | None = None,
    seconds: float = SECONDS,
    *,
    steps: int | None = None,
    faults: Sequence[Fault] | None = None,
) -> tuple[int, float, Violation | None]:
    """Seed, simulated seconds, and what was wrong."""
    with mutated(mutation), _silence():
        try:
            cluster = lived(seed, seconds, steps=steps, faults=faults)
        except Violation as violation:
            return seed, 0.0, violation
    return seed, cluster.now - cluster.began, None


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Thousands of faults are logged, as they should be."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@attrs.frozen
class Shrunk:
    """A red seed with few faults and steps; with one less it is not red, or for another reason."""

    faults: Sequence[Fault]
    steps: int
    violation: Violation

    @property
    def story(self) -> str:
        return "\n".join(self.violation.__notes__)


def shrunk(seed: int, mutation: str | None = None, seconds: float = SECONDS) -> Shrunk:
    """Drop kinds of faults, then faults, then steps, while the same invariant does not hold."""
    found = run(seed, mutation, seconds)[2]
    if found is None:
        raise AssertionError(f"seed {seed} is not red again: it depends on something else")
    invariant = found.invariant

    def red(faults: Sequence[Fault], steps: int | None = None) -> Violation | None:
        violation = run(seed, mutation, seconds, steps=steps, faults=faults)[2]
        return violation if violation is not None and violation.invariant == invariant else None

    faults = schedule(seed, seconds)
    for kind in sorted({fault.kind for fault in faults}):
        fewer = [fault for fault in faults if fault.kind != kind]
        if (violation := red(fewer)) is not None:
            faults, found = fewer, violation
    for fault in reversed(faults):
        fewer = [each for each in faults if each is not fault]
        if (violation := red(fewer)) is not None:
            faults, found = fewer, violation
    lowest, steps = 0, found.steps
    while lowest < steps:
        middle = (lowest + steps) // 2
        if (violation := red(faults, middle)) is None:
            lowest = middle + 1
        else:
            steps, found = middle, violation
    return Shrunk(faults, steps, found)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", default="0-999", metavar="A-B")
    parser.add_argument(
        "--hours", type=float, default=SECONDS / 3600, help="that each seed lives with faults"
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--mutation", choices=MUTATIONS)
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    each = options.hours * 3600
    began, simulated = time.perf_counter(), 0.0
    red: Counter[str] = Counter()
    reds: list[int] = []
    with concurrent.futures.ProcessPoolExecutor(options.jobs) as pool:
        results = pool.map(
            run, seeds, [options.mutation] * len(seeds), [each] * len(seeds), chunksize=min(10, len(seeds))
        )
        for count, (seed, seconds, violation) in enumerate(results, 1):
            simulated += seconds
            if violation is not None:
                red[violation.invariant] += 1
                reds.append(seed)
                print(f"seed {seed}: {violation}", flush=True)
            if count % 500 == 0 or count == len(seeds):
                took = time.perf_counter() - began
                print(
                    f"{count} seeds, {len(reds)} red {dict(red)}; {simulated / 3600:.1f} hours simulated in "
                    f"{took / 3600:.2f}: {simulated / took:.0f} an hour",
                    flush=True,
                )
    for seed in reds[:STORIES]:
        found = shrunk(seed, options.mutation, each)
        kinds = ", ".join(sorted({fault.kind for fault in found.faults})) or "no fault"
        print(
            f"\nseed {seed} is red with {len(found.faults)} faults ({kinds}): {found.violation}",
            found.story,
            sep="\n",
        )
    return 1 if reds else 0


if __name__ == "__main__":
    raise SystemExit(main())
