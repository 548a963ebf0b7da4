"""An alarm: its kind, its subject, since when, the figures, and what to do."""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

from nsqadmin.paths import channel_path, node_path
from nsqadmin.text import duration_text

__all__ = ["Alarm", "Kind", "Severity", "Subject", "alarm_as_json"]


class Severity(Enum):
    """How harmful a kind of alarm is, in the words that alerting systems use."""

    CRITICAL = "critical"
    """Messages are lost, or will be refused or out of reach."""
    WARNING = "warning"
    """Messages are late."""
    INFO = "info"
    """Somebody may have meant it so."""


class Kind(Enum):
    """The kinds of alarms, the most harmful first."""

    DAMAGED = "damaged"
    SILENT = "silent"
    REFUSES = "refuses"
    DISK_FULL = "disk-full"
    BEHIND = "behind"
    STUCK = "stuck"
    TIMEOUTS = "timeouts"
    REQUEUES = "requeues"
    NO_CONSUMER = "no-consumer"
    NO_CHANNEL = "no-channel"
    IDLE = "idle"
    OLD = "old"
    NOT_ADOPTED = "not-adopted"
    UNDER_REPLICATED = "under-replicated"
    NO_TAKEOVER = "no-takeover"
    NOT_AUDITED = "not-audited"
    CERTIFICATE = "certificate"
    PAUSED = "paused"

    @property
    def severity(self) -> Severity:
        """How harmful it is."""
        return _KINDS[self][0]

    @property
    def title(self) -> str:
        """It in a word or two."""
        return _KINDS[self][1]

    @property
    def rank(self) -> int:
        """0 for the most harmful."""
        return _RANKS[self]


_KINDS = {
    Kind.DAMAGED: (Severity.CRITICAL, "damaged"),
    Kind.SILENT: (Severity.CRITICAL, "no answer"),
    Kind.REFUSES: (Severity.CRITICAL, "refuses publishes"),
    Kind.DISK_FULL: (Severity.CRITICAL, "disk full soon"),
    Kind.BEHIND: (Severity.WARNING, "falling behind"),
    Kind.STUCK: (Severity.WARNING, "stuck"),
    Kind.TIMEOUTS: (Severity.WARNING, "time-outs"),
    Kind.REQUEUES: (Severity.WARNING, "requeues"),
    Kind.NO_CONSUMER: (Severity.WARNING, "no consumer"),
    Kind.NO_CHANNEL: (Severity.WARNING, "no channel"),
    Kind.IDLE: (Severity.WARNING, "ends soon"),
    Kind.OLD: (Severity.WARNING, "old messages"),
    Kind.NOT_ADOPTED: (Severity.WARNING, "not adopted"),
    Kind.UNDER_REPLICATED: (Severity.WARNING, "under-replicated"),
    Kind.NO_TAKEOVER: (Severity.WARNING, "no takeover"),
    Kind.NOT_AUDITED: (Severity.WARNING, "not audited"),
    Kind.CERTIFICATE: (Severity.WARNING, "certificate expires"),
    Kind.PAUSED: (Severity.INFO, "paused"),
}
_RANKS = {kind: rank for rank, kind in enumerate(Kind)}


class Subject(msgspec.Struct, frozen=True, order=True, gc=False, kw_only=True):
    """What an alarm is about: a topic, a channel of it, an nsqd, or a registry."""

    topic: str = ""
    channel: str = ""
    registry: str = ""
    """HTTP address of an nsqlookupd."""
    node: str = ""
    """HTTP address of an nsqd."""

    @property
    def text(self) -> str:
        """Its name for people."""
        if self.topic:
            return f"{self.topic} / {self.channel}" if self.channel else self.topic
        return self.node or f"nsqlookupd {self.registry}"

    @property
    def path(self) -> str:
        """The page about it, below the base path."""
        if self.topic:
            return channel_path(self.topic, self.channel)
        return node_path(self.node) if self.node else "/lookup"


class Alarm(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What is wrong with one subject, in one respect."""

    kind: Kind
    subject: Subject
    since: float
    """When it began, unix seconds."""
    text: str
    """What is wrong, with the figures; it can be continued by "for 5 min"."""
    advice: str
    """One sentence on what to do."""
    figures: dict[str, float] = {}
    """The numbers in the text, by name; the first one says how bad it is."""

    @property
    def id(self) -> str:
        """Identifies it as long as it lasts, and the same trouble later on: kind and subject."""
        return f"{self.kind.value}:{self.subject.text.replace(' / ', '/').replace(' ', ':')}"

    def duration(self, now: float) -> str:
        """For how long it has lasted at this time (unix seconds)."""
        return duration_text(now - self.since)

    @property
    def order(self) -> tuple[int, float, Subject]:
        """Sorts alarms by harm, the worst first."""
        size = next(iter(self.figures.values()), 0.0)
        return self.kind.rank, -size, self.subject


def alarm_as_json(alarm: Alarm, base_path: str, now: float) -> dict[str, Any]:
    """The object of the API and of webhooks, at this time (unix seconds). Names that the subject lacks are left out."""
    names = {name: value for name, value in msgspec.structs.asdict(alarm.subject).items() if value}
    return {
        "id": alarm.id,
        "kind": alarm.kind.value,
        "severity": alarm.kind.severity.value,
        **names,
        "since": int(alarm.since),
        "text": f"{alarm.text}, for {alarm.duration(now)}",
        "advice": alarm.advice,
        "figures": alarm.figures,
        "path": base_path + alarm.subject.path,
    }
