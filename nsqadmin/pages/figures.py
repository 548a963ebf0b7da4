"""Figures that may be unknown: a cell or tile shows them, or says why it is empty."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define

from nsqadmin.cluster.snapshot import Usage
from nsqadmin.text import bytes_text, milliseconds

__all__ = ["Figure", "UsageFigures", "usage_figures"]

_LATER = "Known with the next update"


@define(frozen=True)
class Figure:
    """One figure."""

    text: str
    """Empty if it is unknown."""
    why: str = ""
    """Why it is."""


@define(frozen=True)
class UsageFigures:
    """What a node uses."""

    cpu: Figure
    memory: Figure
    disk_free: Figure
    logs: Figure
    loop_lag: Figure


def usage_figures(usage: Usage) -> UsageFigures:
    """For the pages of nodes."""

    def figure(value: float | None, text: Callable[[float], str]) -> Figure:
        return Figure("", usage.missing or _LATER) if value is None else Figure(text(value))

    return UsageFigures(
        cpu=figure(usage.cpu, lambda share: f"{100 * share:.1f} %"),
        memory=figure(usage.memory_bytes, bytes_text),
        disk_free=figure(usage.disk_free_bytes, bytes_text),
        logs=figure(usage.log_bytes, bytes_text),
        loop_lag=figure(usage.loop_lag_s, lambda seconds: milliseconds(seconds * 1000)),
    )
