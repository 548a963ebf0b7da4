"""Run seeds: `python -m tests.nsqd.replication.simulation --seeds 0-9999 [--jobs 2] [--mutation NAME] [--rots]`.

Prints how many were red, by invariant, and how many simulated hours an hour takes; of the first red ones, the story
with few steps that show it. The exit status is 1 if any was red.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial

from tests.nsqd.replication.simulation.checker import Violation
from tests.nsqd.replication.simulation.mutations import MUTATIONS, mutated
from tests.nsqd.replication.simulation.world import STEPS, lived

STORIES = 3  # that are told


def run(
    seed: int, mutation: str | None = None, steps: int = STEPS, *, rots: bool = False
) -> tuple[int, float, Violation | None]:
    """Seed, simulated seconds, and what was wrong. `rots`: in a world whose disks forget bits."""
    with mutated(mutation), _silence():
        try:
            world = lived(seed, steps, rots=rots)
        except Violation as violation:
            return seed, 0.0, violation
    return seed, world.now - world.began, None


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Thousands of faults are logged, as they should be."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def shortest(seed: int, mutation: str | None, *, rots: bool = False) -> tuple[int, Violation]:
    """A number of steps after which it is red, and with one less it is not; and what is wrong then."""
    lowest, steps = 0, STEPS
    found = run(seed, mutation, rots=rots)[2]
    if found is None:
        raise AssertionError(f"seed {seed} is not red again: it depends on something else")
    while lowest < steps:
        middle = (lowest + steps) // 2
        violation = run(seed, mutation, middle, rots=rots)[2]
        if violation is None:
            lowest = middle + 1
        else:
            steps, found = middle, violation
    return steps, found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.nsqd.replication.simulation")
    parser.add_argument("--seeds", default="0-999", metavar="A-B")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--mutation", choices=MUTATIONS)
    parser.add_argument("--rots", action="store_true", help="disks forget bits, and the leader scrubs")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    began, simulated = time.perf_counter(), 0.0
    red: Counter[str] = Counter()
    reds: list[int] = []
    with concurrent.futures.ProcessPoolExecutor(options.jobs) as pool:
        job = partial(run, mutation=options.mutation, rots=options.rots)
        results = pool.map(job, seeds, chunksize=10)
        for count, (seed, seconds, violation) in enumerate(results, 1):
            simulated += seconds
            if violation is not None:
                red[violation.invariant] += 1
                reds.append(seed)
                print(f"seed {seed}: {violation}", flush=True)
            if count % 500 == 0 or count == len(seeds):
                took = time.perf_counter() - began
                print(
                    f"{count} seeds, {len(reds)} red {dict(red)}; {simulated / 3600:.0f} hours simulated in "
                    f"{took / 3600:.2f}: {simulated / took:.0f} an hour",
                    flush=True,
                )
    for seed in reds[:STORIES]:
        steps, violation = shortest(seed, options.mutation, rots=options.rots)
        print(f"\nseed {seed} is red after {steps} steps: {violation}", *violation.__notes__, sep="\n")
    return 1 if reds else 0


if __name__ == "__main__":
    raise SystemExit(main())
