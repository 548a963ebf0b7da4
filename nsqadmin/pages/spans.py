"""How far back the charts look: the choices, and what each takes of the history."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from attrs import define

from nsqadmin.cluster.history import Span
from nsqadmin.pages.visit import Visit

__all__ = ["SPANS", "ChartSpan", "SpanLink", "chosen_span", "series_link", "span_links"]


@define(frozen=True)
class ChartSpan:
    """One choice."""

    key: str
    label: str
    seconds: int
    source: Span


SPANS = {
    span.key: span
    for span in (
        ChartSpan("15m", "15 min", 15 * 60, Span.MINUTES),
        ChartSpan("1h", "1 h", 3_600, Span.HOURS),
        ChartSpan("12h", "12 h", 12 * 3_600, Span.HOURS),
    )
}
_USUAL = "15m"


@define(frozen=True)
class SpanLink:
    """One choice on a page."""

    key: str
    label: str
    link: str
    current: bool


def chosen_span(params: Mapping[str, str]) -> ChartSpan:
    """The choice that a query names; anything else is the usual one."""
    return SPANS.get(params.get("span", ""), SPANS[_USUAL])


def span_links(visit: Visit) -> list[SpanLink]:
    """The choices as links that keep the rest of the page's query."""
    current = chosen_span(visit.params)
    rest = {key: value for key, value in visit.params.items() if key != "span"}
    links = []
    for span in SPANS.values():
        link = f"{visit.here}?{urlencode({**rest, 'span': span.key})}"
        links.append(SpanLink(span.key, span.label, link, span is current))
    return links


def series_link(visit: Visit, topic: str = "", channel: str = "") -> str:
    """Where the charts of a page find their numbers."""
    query = {"topic": topic, "channel": channel, "span": chosen_span(visit.params).key}
    return visit.url("/series?" + urlencode({key: value for key, value in query.items() if value}))
