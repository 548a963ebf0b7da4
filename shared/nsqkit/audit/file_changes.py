"""The tokens or users of a daemon change when their file does: what is different, for the audit trail."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from nsqkit.audit.event import NOBODY, Value
from nsqkit.audit.trail import AuditTrail

__all__ = ["FileChanges"]


@attrs.define(eq=False)
class FileChanges:
    """The entries of a file, as they were last seen. `what` they are: `tokens`, `users`."""

    trail: AuditTrail
    what: str
    path: str
    entries: Callable[[], Mapping[str, object]]
    """Those of now, by name."""
    _seen: Mapping[str, object] = attrs.field(init=False)

    @_seen.default
    def _present(self) -> Mapping[str, object]:
        return self.entries()

    def look(self) -> None:
        """Record what has changed since the last look."""
        before, after = self._seen, self.entries()
        self._seen = after
        changes: dict[str, Value] = {
            "added": sorted(after.keys() - before.keys()),
            "removed": sorted(before.keys() - after.keys()),
            "changed": sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
        }
        if found := {name: names for name, names in changes.items() if names}:
            self.trail.record(NOBODY, self.what, on={"file": self.path}, after=found)
