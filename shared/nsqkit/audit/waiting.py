"""Waiting for audit lines, on trio. The rest of the package knows no event loop."""

from __future__ import annotations

import contextlib
from typing import Final

import trio

from nsqkit.audit.event import Value
from nsqkit.audit.trail import AuditTrail
from nsqkit.audit.writer import HANG_S

__all__ = ["WRITE_S", "AuditError", "is_written", "start_audit"]

WRITE_S: Final = HANG_S
"""How long a change waits for its line. A disk that needs longer counts as one that fails."""


class AuditError(Exception):
    """The daemon cannot start, as its audit file cannot be written and is required; the text is for the operator."""


async def start_audit(trail: AuditTrail, node: str, **facts: Value) -> None:
    """Begin the trail of a daemon, which is reached at `node`. `facts`: of its first line. `AuditError`."""
    ticket = trail.start(node, **facts)
    if trail.required and not await is_written(trail, ticket):
        reason = trail.failing or f"a line takes longer than {WRITE_S:g} s"
        raise AuditError(f"--audit-file={trail.file} is required, and cannot be written: {reason}")


async def is_written(trail: AuditTrail, ticket: int | None) -> bool:
    """Wait until the line is on the disk; whether it is, within `WRITE_S`."""
    settled, token = trio.Event(), trio.lowlevel.current_trio_token()

    def tell() -> None:
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(settled.set)

    trail.when_settled(ticket, tell)
    with trio.move_on_after(WRITE_S):
        await settled.wait()
    return trail.is_written(ticket)
