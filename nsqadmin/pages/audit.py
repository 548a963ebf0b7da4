"""The page of the audit trails: who has changed what in the cluster, and who was refused.

It asks all daemons, so it is not renewed by itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Final

from attrs import define

from nsqadmin.audit import NSQADMIN, AuditReport, search_trails
from nsqadmin.pages.badges import Badge
from nsqadmin.pages.page_request import Page, PageRequest
from nsqadmin.upstream.audit import AuditLine, AuditValue
from nsqkit.audit import AuditQuery, Means, Result, normal_time
from nsqkit.audit.event import MAX_TEXT

__all__ = ["AuditRow", "audit_page"]

LINES: Final = 100
MORE_LINES: Final = 1000

_SPANS: Final = (
    ("", "Any time", 0),
    ("1h", "Last hour", 3600),
    ("1d", "Last day", 86400),
    ("7d", "Last week", 7 * 86400),
)
"""Key, label, seconds."""
_RESULTS: Final = (("", "Any result"), *((each.value, each.value.capitalize()) for each in Result))
_KINDS: Final = {Result.OK.value: "good", Result.REFUSED.value: "warn", Result.FAILED.value: "bad"}
_NAMED: Final = 5


@define(frozen=True)
class AuditRow:
    """One line."""

    line: AuditLine
    time: str
    who: str
    means: str
    """Empty if `who` says it."""
    on: list[tuple[str, str, str]]
    """Of each name: what it is the name of, the name, and the link to its page, which may be empty."""
    changes: list[str]
    badge: Badge
    node_path: str


async def audit_page(request: PageRequest) -> Page:
    """The page."""
    asked = {name: request.query.get(name, "")[:MAX_TEXT] for name in ("who", "what", "topic", "q")}
    result = request.query.get("result", "")
    result = result if result in dict(_RESULTS) else ""
    span = request.query.get("since", "")
    seconds = next((seconds for key, _, seconds in _SPANS if key == span), 0)
    limit = MORE_LINES if request.query.get("limit") == str(MORE_LINES) else LINES
    query = AuditQuery(
        limit=limit,
        since=_time_before(seconds) if seconds else "",
        contains=asked["q"],
        who=asked["who"],
        what=asked["what"],
        topic=asked["topic"],
        result=Result(result) if result else None,
    )
    console = request.console
    report = await search_trails(
        console.trail,
        console.queries.upstream,
        query,
        request.snapshot.nodes,
        console.options.lookupd_http_addresses,
    )
    values: dict[str, object] = {
        "report": report,
        "rows": [_row(request, line) for line in report.lines],
        "problems_named": _named_problems(report),
        "asked": asked,
        "results": _RESULTS,
        "result": result,
        "spans": [(key, label) for key, label, _ in _SPANS],
        "span": span,
        "is_filtered": bool(any(asked.values()) or result or seconds),
        "more": request.link_with(limit=str(MORE_LINES)) if limit == LINES else "",
        "own_path": request.own_url,
        "look_again": request.link_with(),
    }
    return Page("audit.html", "audit", values)


def _time_before(seconds: float) -> str:
    return normal_time(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds)))


def _named_problems(report: AuditReport) -> list[tuple[str, str]]:
    """What daemons do instead of showing their trail, and which: the same of several together."""
    daemons: dict[str, list[str]] = {}
    for (kind, address), problem in report.problems.items():
        daemons.setdefault(problem, []).append(f"{kind} {address}" if kind != NSQADMIN else "this nsqadmin")
    return [
        (
            ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""),
            problem,
        )
        for problem, names in daemons.items()
    ]


def _row(request: PageRequest, line: AuditLine) -> AuditRow:
    day, _, rest = line.time.partition("T")
    return AuditRow(
        line=line,
        time=f"{day} {rest.partition('.')[0]} UTC",
        who=line.who or line.means or Means.ANONYMOUS.value,
        means=line.means if line.who else "",
        on=[(name, _text(value), _path(request, line.on, name)) for name, value in line.on.items()],
        changes=list(_changes(line.before, line.after)),
        badge=Badge(line.result or "unknown", _KINDS.get(line.result, ""), line.error),
        node_path=request.node_url(line.node) if line.node in request.snapshot.nodes else "",
    )


def _path(request: PageRequest, names: Mapping[str, AuditValue], name: str) -> str:
    """The page about a name, if the cluster still has what it is the name of."""
    topic, channel, node = (str(names.get(key, "")) for key in ("topic", "channel", "node"))
    known = request.snapshot.topics.get(topic)
    if name == "topic" and known is not None:
        return request.topic_url(topic)
    if name == "channel" and known is not None and channel in known.channels:
        return request.channel_url(topic, channel)
    return request.node_url(node) if name == "node" and node in request.snapshot.nodes else ""


def _changes(before: Mapping[str, AuditValue], after: Mapping[str, AuditValue]) -> Iterator[str]:
    for name in {**before, **after}:
        if name not in after:
            yield f"{name} was {_text(before[name])}"
        elif name not in before:
            yield f"{name} {_text(after[name])}"
        else:
            yield f"{name} {_text(before[name])} → {_text(after[name])}"


def _text(value: AuditValue) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return f"{value:,}" if isinstance(value, int) else value
