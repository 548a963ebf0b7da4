"""`parking.py` on trio. Imported only when trio runs."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import attrs
from trio import lowlevel

__all__ = ["TrioParking", "call_soon", "is_here"]


def is_here() -> bool:
    """Whether the caller runs in trio."""
    return lowlevel.in_trio_task()


def call_soon() -> Callable[[Callable[[], None]], None]:
    """What has trio make a call, from a thread or from the handler of a signal."""
    return lowlevel.current_trio_token().run_sync_soon


@attrs.define(eq=False)
class TrioPlace:
    """A sleeping task, rescheduled once. Twice, or after a cancellation, would be an internal error of trio."""

    _task: lowlevel.Task | None = None
    _is_left: bool = False

    # Returns the iterator of trio's coroutine itself: one frame less in each task switch.

    def __await__(self) -> Generator[Any, Any, None]:
        if self._is_left:
            return lowlevel.checkpoint().__await__()  # noqa: ASYNC105
        self._task = lowlevel.current_task()
        return lowlevel.wait_task_rescheduled(self._cancel).__await__()  # noqa: ASYNC105

    def leave(self) -> None:
        task, self._task, self._is_left = self._task, None, True
        if task is not None:
            lowlevel.reschedule(task)

    def _cancel(self, _: object) -> lowlevel.Abort:
        self._task = None
        return lowlevel.Abort.SUCCEEDED


class TrioParking:
    """A place is a task in `wait_task_rescheduled`."""

    def __init__(self) -> None:
        self.now: Callable[[], float] = lowlevel.current_clock().current_time
        self.new = TrioPlace

    def leave(self, place: TrioPlace) -> None:
        place.leave()
