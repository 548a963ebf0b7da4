"""The tokens of a daemon change when their file does: what is different, for the audit trail."""

from __future__ import annotations

import attrs

from nsqkit.access import Access, Tokens
from nsqkit.audit.event import NOBODY, Value
from nsqkit.audit.trail import AuditTrail

__all__ = ["TokenChanges"]


@attrs.define(eq=False)
class TokenChanges:
    """The tokens of one daemon, as they were last seen."""

    access: Access
    trail: AuditTrail
    _seen: Tokens = attrs.field(init=False)

    @_seen.default
    def _present(self) -> Tokens:
        return self.access.tokens

    def look(self) -> None:
        """Record what has changed since the last look."""
        before, after = self._seen.by_name, self.access.tokens.by_name
        if self._seen is self.access.tokens:
            return
        self._seen = self.access.tokens
        changes: dict[str, Value] = {
            "added": sorted(after.keys() - before.keys()),
            "removed": sorted(before.keys() - after.keys()),
            "changed": sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
        }
        found = {name: names for name, names in changes.items() if names}
        if found:
            file = self.access.file.path if self.access.file is not None else ""
            self.trail.record(NOBODY, "tokens", on={"file": file}, after=found)
