"""/debug/pprof...: profiles of a running daemon.

The paths are those of Go's profiler. The content is plain text, for reading and for flame graphs (`profile`), not in
Go's formats.
"""

from __future__ import annotations

import gc
import re
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import FrameType

import trio

from nsqkit.redact import shown_url
from nsqkit.service.http.message import HTML, Request, Response, query, text
from nsqkit.service.http.routing import Router

__all__ = ["Profiling"]

_PROFILE_SECONDS = 30
_LONGEST_PROFILE_SECONDS = 60
_SAMPLE_EVERY_SECONDS = 0.01
_MOST_TASKS = 20_000
_INTEGER = re.compile(r"[+-]?[0-9]+")
_PPROF = "/debug/pprof/"

_PAGES = {
    "block": "waits for locks (not measured here)",
    "cmdline": "the command line",
    "goroutine": "tasks and threads, with their stacks",
    "heap": "memory and garbage collection",
    "profile": "a profile of some seconds (?seconds=30), as folded stacks for a flame graph",
    "symbol": "symbols (none here)",
    "threadcreate": "threads",
}


class Profiling:
    """The handlers. `figures` returns what the page on memory shows in addition to the garbage collector's figures."""

    def __init__(self, figures: Callable[[], Mapping[str, int]] = dict) -> None:
        self._figures = figures
        self._profiling = False

    def add_to(self, router: Router, index: str = _PPROF) -> None:
        """Register all routes; `index` is the path of the page that links to the others."""
        router.add("GET", index, lambda _: _index(index))
        router.add("GET", _PPROF + "block", lambda _: _text("waits for locks are not measured\n"))
        router.add("GET", _PPROF + "cmdline", lambda _: _text("\0".join(map(shown_url, sys.orig_argv))))
        router.add("GET", _PPROF + "goroutine", lambda _: _text(_tasks() + _threads()))
        router.add("GET", _PPROF + "heap", lambda _: _text(_heap(self._figures())))
        router.add("GET", _PPROF + "profile", self.profile)
        router.add("GET", _PPROF + "symbol", lambda _: _text("num_symbols: 0\n"))
        router.add("POST", _PPROF + "symbol", lambda _: _text("num_symbols: 0\n"))
        router.add("GET", _PPROF + "threadcreate", lambda _: _text(_threads()))

    async def profile(self, request: Request) -> Response:
        """Samples of the event loop's thread: a line for each stack, outermost frame first, with its count."""
        if self._profiling:
            return _text("Could not enable CPU profiling: cpu profiling already in use\n", 500)
        wish = query(request).get("seconds", "")
        seconds = int(wish) if _INTEGER.fullmatch(wish) and len(wish) < 10 else _PROFILE_SECONDS
        seconds = min(seconds if seconds > 0 else _PROFILE_SECONDS, _LONGEST_PROFILE_SECONDS)
        stop, thread = threading.Event(), threading.get_ident()
        self._profiling = True
        try:
            stacks = await trio.to_thread.run_sync(_sample, thread, seconds, stop, abandon_on_cancel=True)
        finally:
            self._profiling = False
            stop.set()
        return _text("".join([f"{stack} {count}\n" for stack, count in stacks.most_common()]))


def _text(body: str, status: int = 200) -> Response:
    return text(body, status, nsq=False)


def _index(path: str) -> Response:
    base = "" if path.endswith("/") else path.rpartition("/")[2] + "/"
    rows = "".join(
        f'<li><a href="{base}{name}">{name}</a>: {what}</li>\n' for name, what in sorted(_PAGES.items())
    )
    page = f"<html><head><title>{_PPROF}</title></head><body>\n<ul>\n{rows}</ul>\n</body></html>\n"
    return Response(200, page.encode(), HTML, nsq=False)


def _sample(thread: int, seconds: int, stop: threading.Event) -> Counter[str]:
    stacks: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while not stop.wait(_SAMPLE_EVERY_SECONDS) and time.monotonic() < end:
        frame = sys._current_frames().get(thread)
        places = [_place(f, line) for f, line in traceback.walk_stack(frame)] if frame else []
        stacks[";".join(reversed(places))] += 1
    return stacks


def _tasks() -> str:
    """All tasks; those with the same name and the same stack are one entry with a count."""
    stacks: Counter[str] = Counter()
    root = trio.lowlevel.current_root_task()
    todo = [root] if root is not None else []
    while todo and stacks.total() < _MOST_TASKS:
        task = todo.pop()
        stacks[f"{task.name}\n{_stack(task.iter_await_frames())}"] += 1
        for nursery in task.child_nurseries:
            todo += nursery.child_tasks
    entries = [f"{count} x {stack}\n" for stack, count in stacks.most_common()]
    return f"tasks: {stacks.total()}\n\n" + "".join(entries)


def _threads() -> str:
    frames = sys._current_frames()
    entries = []
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        entries.append(f"{thread.name}\n{_stack(traceback.walk_stack(frame) if frame else ())}\n")
    return f"threads: {len(entries)}\n\n" + "".join(entries)


def _stack(frames: Iterable[tuple[FrameType, int]]) -> str:
    return "".join([f"    {_place(frame, line)}\n" for frame, line in frames])


def _place(frame: FrameType, line: int) -> str:
    code = frame.f_code
    return f"{code.co_qualname} ({code.co_filename}:{line})"


def _heap(figures: Mapping[str, int]) -> str:
    lines = [f"{name}: {value}" for name, value in figures.items()]
    lines.append(f"python_allocated_blocks: {sys.getallocatedblocks()}")
    lines.append(f"gc_frozen_objects: {gc.get_freeze_count()}")
    for generation, stats in enumerate(gc.get_stats()):
        shown = " ".join(f"{name}={value}" for name, value in stats.items())
        lines.append(f"gc_generation_{generation}: {shown}")
    return "\n".join(lines) + "\n"
