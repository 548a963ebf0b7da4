"""Errors that come out of task groups."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["without_groups"]


@contextlib.contextmanager
def without_groups() -> Iterator[None]:
    """Raise an error that comes alone, however many groups are around it, as itself."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if isinstance(error, BaseExceptionGroup):
            raise
        raise error from error.__cause__
