"""Waiting for something that another process will do, with a limit."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.timing import patience

__all__ = ["wait_until"]


def wait_until(
    condition: Callable[[], bool], within_s: float, what: str, *, describe: Callable[[], str] = str
) -> None:
    """Ask again and again until it holds. AssertionError with both texts when it does not in time.

    `within_s`: seconds on a quiet machine (`patience`).
    """
    within_s = patience(within_s)
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:.1f} s: {what}\n{describe()}"
        time.sleep(0.02)
