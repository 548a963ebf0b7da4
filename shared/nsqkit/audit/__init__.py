"""The audit trail: who has changed what, and who was refused, one JSON line for each.

- `event`: what a line has, and that no secret is in it.
- `refusals`, `target`, `writer`: how lines get into the file, by a thread of its own.
- `trail`: what a daemon records with, one for each daemon; `waiting`: for its lines.
- `reader`: the last lines of a file.
- `file_changes`: what has changed in the tokens or users of a daemon.

Changes that come over HTTP are recorded in one place, `nsqkit.service.http.audit`.
"""

from nsqkit.audit.event import NOBODY, Event, Means, Result, Value, Who
from nsqkit.audit.file_changes import FileChanges
from nsqkit.audit.reader import MAX_LINES, AuditQuery, AuditTail, normal_time, read_tail
from nsqkit.audit.target import STDERR
from nsqkit.audit.trail import AuditTrail, by_signal

__all__ = [
    "MAX_LINES",
    "NOBODY",
    "STDERR",
    "AuditQuery",
    "AuditTail",
    "AuditTrail",
    "Event",
    "FileChanges",
    "Means",
    "Result",
    "Value",
    "Who",
    "by_signal",
    "normal_time",
    "read_tail",
]
