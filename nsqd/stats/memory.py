"""Figures on memory and garbage collection, under the names that dashboards for NSQ expect.

The names come from Go's runtime. Their meaning here (all are ints, none is negative):

    heap_objects           blocks that Python's allocator has handed out
    heap_in_use_bytes      resident memory of the process
    heap_idle_bytes        data memory that is reserved but not resident
    heap_released_bytes    the highest resident size so far minus the present one
    gc_pause_usec_*        100, 99, 95 percentile of the pauses of the last 256 collections since `watch_gc`
    next_gc_bytes          container objects (not bytes) to be made until the next collection
    gc_total_runs          collections of every generation
"""

from __future__ import annotations

import gc
import resource
import sys
from collections import deque
from time import perf_counter_ns

import attrs

from nsqkit.service.memory import resident_and_data

__all__ = ["MemoryStats", "memory_stats", "watch_gc"]


@attrs.frozen(kw_only=True)
class MemoryStats:
    """The figures of the module docstring, in the order of `/stats`."""

    heap_objects: int
    heap_idle_bytes: int
    heap_in_use_bytes: int
    heap_released_bytes: int
    gc_pause_usec_100: int
    gc_pause_usec_99: int
    gc_pause_usec_95: int
    next_gc_bytes: int
    gc_total_runs: int


class _Pauses:
    """A callback for the garbage collector that keeps the lengths of the last pauses, in microseconds."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque(maxlen=256)
        self._began = 0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = perf_counter_ns()
        elif self._began:
            self._recent.append((perf_counter_ns() - self._began) // 1000)

    def percentiles(self, *percents: int) -> list[int]:
        """The percentiles of the pauses, by nearest rank; 0 if there are none."""
        pauses = sorted(self._recent)
        if not pauses:
            return [0 for _ in percents]
        return [pauses[max(0, -(-len(pauses) * percent // 100) - 1)] for percent in percents]


_pauses = _Pauses()


def watch_gc() -> None:
    """Start to measure the pauses of the garbage collector. A second call has no effect."""
    if _pauses not in gc.callbacks:
        gc.callbacks.append(_pauses)


def memory_stats() -> MemoryStats:
    """The present figures. Takes some 50 us."""
    resident, data = resident_and_data()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pauses = _pauses.percentiles(100, 99, 95)
    return MemoryStats(
        heap_objects=sys.getallocatedblocks(),
        heap_idle_bytes=max(0, data - resident),
        heap_in_use_bytes=resident,
        heap_released_bytes=max(0, peak - resident),
        gc_pause_usec_100=pauses[0],
        gc_pause_usec_99=pauses[1],
        gc_pause_usec_95=pauses[2],
        next_gc_bytes=max(0, gc.get_threshold()[0] - gc.get_count()[0]),
        gc_total_runs=sum(generation["collections"] for generation in gc.get_stats()),
    )
