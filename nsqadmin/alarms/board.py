"""The board: which alarms are raised. It keeps alarms from flapping, and remembers when each began.

An alarm is raised when the rules have found it in every snapshot for some time, which depends on its kind, and cleared
when they have not found it for `--alarm-clear-after`. Until then it is shown as it was found last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs
import msgspec

from nsqadmin.alarms.alarm import Alarm, Kind, Subject
from nsqadmin.options import AdminOptions
from nsqkit.options import SECOND

__all__ = ["AlarmBoard", "Changes"]


_Key = tuple[Kind, Subject]


@attrs.frozen
class Changes:
    """What one snapshot has changed."""

    raised: list[Alarm]
    cleared: list[Alarm]

    def __bool__(self) -> bool:
        """Whether there is any change."""
        return bool(self.raised or self.cleared)


@attrs.define(eq=False)
class _Entry:
    alarm: Alarm
    found_first: float
    """On a clock that is never set, as is the following."""
    found_last: float
    is_raised: bool = False


@attrs.define(eq=False)
class AlarmBoard:
    """The alarms of one cluster."""

    options: AdminOptions
    alarms: tuple[Alarm, ...] = attrs.field(default=(), init=False)
    """Those that are raised, the worst first."""
    _entries: dict[_Key, _Entry] = attrs.field(factory=dict, init=False)

    def update(self, found: Iterable[Alarm], now: float) -> Changes:
        """Take in what the rules have found in one snapshot. `now`: seconds of a clock that is never set."""
        present = {(alarm.kind, alarm.subject): alarm for alarm in found}
        cleared = self._clear(present, now)
        raised = self._raise(present, now)
        shown = (entry.alarm for entry in self._entries.values() if entry.is_raised)
        self.alarms = tuple(sorted(shown, key=lambda alarm: alarm.order))
        return Changes(raised, cleared)

    def _clear(self, present: Mapping[_Key, Alarm], now: float) -> list[Alarm]:
        """Drop those that have not been found for long enough; at once, if they are not raised yet."""
        cleared = []
        for key in self._entries.keys() - present.keys():
            entry = self._entries[key]
            if not entry.is_raised:
                del self._entries[key]
            elif now - entry.found_last >= self.options.alarm_clear_after / SECOND:
                del self._entries[key]
                cleared.append(entry.alarm)
        return sorted(cleared, key=lambda alarm: alarm.order)

    def _raise(self, present: Mapping[_Key, Alarm], now: float) -> list[Alarm]:
        raised = []
        for key, alarm in present.items():
            entry = self._entries.setdefault(key, _Entry(alarm, now, now))
            # What a rule says of the beginning may change while the alarm lasts; the earliest time is right.
            since = min(entry.alarm.since, alarm.since)
            entry.alarm, entry.found_last = msgspec.structs.replace(alarm, since=since), now
            if not entry.is_raised and now - entry.found_first >= self._delay(alarm.kind):
                entry.is_raised = True
                raised.append(entry.alarm)
        return sorted(raised, key=lambda alarm: alarm.order)

    def _delay(self, kind: Kind) -> float:
        """Seconds for which an alarm must have held before it is raised."""
        options = self.options
        if kind is Kind.DAMAGED:
            return 0.0
        if kind is Kind.STUCK:
            return options.alarm_stuck_after / SECOND
        if kind in (Kind.NO_CONSUMER, Kind.NO_CHANNEL):
            return options.alarm_no_consumer_after / SECOND
        return options.alarm_raise_after / SECOND
