"""Answers of auth servers for tests that do not wait."""

from __future__ import annotations

import math

from nsqd.auth import AuthState
from nsqd.auth.state import parse_answer
from nsqkit.yielder import Yielder

__all__ = ["parsed"]


def parsed(body: bytes, now: float) -> AuthState:
    """`parse_answer` in one slice."""
    steps = parse_answer(body, now, Yielder(math.inf))
    try:
        steps.send(None)
    except StopIteration as end:
        state: AuthState = end.value
        return state
    raise AssertionError("it waits")
