"""The audit trail of one daemon: what it records, and whether that can be written.

    trail = AuditTrail(options.audit_file, options.audit_required, "nsqd")
    await start_audit(trail, "10.0.0.7:4151")       # nsqkit.audit.waiting
    ticket = trail.record(who, "POST /topic/pause", on={"topic": "orders"})
    await is_written(trail, ticket)                 # where it is required only
    trail.close()

Without a file it is disabled: nothing is recorded, and nothing costs anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from nsqkit.audit.event import NOBODY, Event, Means, Result, Value, Who
from nsqkit.audit.target import STDERR, FileTarget, StderrTarget, Target
from nsqkit.audit.writer import AuditWriter

__all__ = ["AuditTrail", "by_signal"]


@attrs.define(eq=False)
class AuditTrail:
    """`file`: its path, `-` for stderr, or empty for none. `required`: no change without a line."""

    file: str = ""
    required: bool = False
    daemon: str = ""
    node: str = attrs.field(default="", init=False)
    """Where the daemon is reached."""
    clock: Callable[[], float] = time.time
    """Seconds since 1970."""
    _writer: AuditWriter | None = attrs.field(default=None, init=False)

    @property
    def enabled(self) -> bool:
        """Whether there is one."""
        return bool(self.file)

    @property
    def failing(self) -> str:
        """Why lines cannot be written now; empty: they can, as far as it is known."""
        return self._writer.failing if self._writer is not None else ""

    @property
    def written_count(self) -> int:
        """Lines, since the start."""
        return self._writer.written if self._writer is not None else 0

    @property
    def lost_count(self) -> int:
        """Lines that are lost, since the start."""
        return self._writer.lost if self._writer is not None else 0

    @property
    def refuses_changes(self) -> bool:
        """Whether there must be no change now, as it could not be recorded."""
        return self.required and bool(self.failing)

    def start(self, node: str, **facts: Value) -> int | None:
        """Begin, with a line that says so, and these facts. Returns its ticket."""
        self.node = node
        if not self.file:
            return None
        target: Target = StderrTarget() if self.file == STDERR else FileTarget(self.file)
        self._writer = AuditWriter(
            target, self.file, lambda event: event.line(self.daemon, self.node), clock=self.clock
        )
        self._writer.start()
        return self.record(NOBODY, "start", after=facts)

    def close(self) -> None:
        """Record the end, and write what there is, for a bounded time."""
        if self._writer is not None:
            self._writer.close(self._event(NOBODY, "stop", {}))

    def reopen(self) -> None:
        """Let go of a file that was renamed. Without it, that happens with the next line."""
        if self._writer is not None:
            self._writer.reopen()

    def record(self, who: Who, what: str, **details: Any) -> int | None:
        """Record a change. `details`: of the `Event`. Returns the ticket of its line."""
        return None if self._writer is None else self._writer.put(self._event(who, what, details))

    def refuse(
        self, who: Who, what: str, error: str, *, result: Result = Result.REFUSED, **details: Any
    ) -> None:
        """Record that nothing was changed, for this reason; a flood of these is counted."""
        if self._writer is not None:
            details |= {"result": result, "error": error}
            self._writer.put_refusal(self._event(who, what, details))

    def is_written(self, ticket: int | None) -> bool:
        """Whether the line is on the disk; also if there is no audit trail."""
        if self._writer is None:
            return True
        return ticket is not None and self._writer.written >= ticket

    def when_settled(self, ticket: int | None, call: Callable[[], object]) -> None:
        """Call a function, in any thread, when a line is written, or the file cannot be written."""
        if self._writer is None or ticket is None:
            call()
        else:
            self._writer.when_settled(ticket, call)

    def _event(self, who: Who, what: str, details: Mapping[str, Any]) -> Event:
        return Event(time=self.clock(), who=who, what=what, **details)


def by_signal(name: str) -> Who:
    """Somebody who has sent this signal to the process."""
    return Who(name, Means.SIGNAL)
