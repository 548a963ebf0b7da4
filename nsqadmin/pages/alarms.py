"""The page of all alarms, and their rows on the front page."""

from __future__ import annotations

import time
from typing import Final

from attrs import define

from nsqadmin.alarms.alarm import Alarm, Kind, Severity
from nsqadmin.pages.badges import Badge
from nsqadmin.pages.page_request import Page, PageRequest
from nsqadmin.pages.tables import Column, read_table_query, select_page

__all__ = ["AlarmRow", "alarm_row", "alarms_page"]

_BADGES: Final = {Severity.CRITICAL: "bad", Severity.WARNING: "warn", Severity.INFO: ""}
_COLUMNS: Final[tuple[Column[Alarm], ...]] = (
    Column(key="harm", title="Harm", value=lambda _: 0, numeric=False),  # they are in this order already
)
_FILTERS: Final = (
    ("", "All alarms"),
    *((each.value, f"Severity: {each.value}") for each in Severity),
    *((each.value, each.title.capitalize()) for each in Kind),
)


@define(frozen=True)
class AlarmRow:
    """One alarm."""

    alarm: Alarm
    badge: Badge
    path: str
    """Of the page about its subject."""
    since: str
    duration: str


async def alarms_page(request: PageRequest) -> Page:
    """The page of all alarms."""
    alarms = request.alarms
    query = read_table_query(
        request.own_url, request.query, _COLUMNS, sort="harm", filters=(key for key, _ in _FILTERS)
    )
    table = select_page(
        alarms,
        query,
        _COLUMNS,
        text=lambda each: f"{each.subject.text} {each.kind.title} {each.text}",
        matches=lambda each: query.show in ("", each.kind.value, each.kind.severity.value),
    )
    rows = [alarm_row(request, each) for each in table.rows]
    return Page("alarms.html", "alarms", {"table": table, "rows": rows, "filters": _FILTERS})


def alarm_row(request: PageRequest, alarm: Alarm) -> AlarmRow:
    """The row of an alarm, at the time of the snapshot."""
    since = time.strftime("since %Y-%m-%d %H:%M:%S", time.localtime(alarm.since))
    severity = alarm.kind.severity
    badge = Badge(alarm.kind.title, _BADGES[severity], severity.value)
    path = request.url(alarm.subject.path)
    return AlarmRow(alarm, badge, path, since, alarm.duration(request.snapshot.at))
