"""Charts with their legends, the time ranges to choose from, the series that `charts.js` draws, and sparklines as SVG.

GET /series answers `{"at":[unix seconds],"lines":{"in":[value or null]}}`, oldest first. Rates are messages a second;
time-outs and requeues are those of the minute before. Legends show the values of the page's snapshot, as all else on
the page does.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from urllib.parse import urlencode

from attrs import define
from markupsafe import Markup

from nsqadmin.cluster.history import History, Metric, Resolution, Series
from nsqadmin.cluster.snapshot import ChannelSnapshot, TopicSnapshot, Totals
from nsqadmin.pages.format import number, rate
from nsqadmin.pages.page_request import PageRequest, query_of
from nsqkit.service.http import Request, Response
from nsqkit.service.typed_json import encode_json

__all__ = [
    "Chart",
    "ChartLine",
    "Choice",
    "Sparkline",
    "TimeRange",
    "charts_of",
    "series_response",
    "series_url",
    "sparkline",
    "time_range_choices",
]

# --- Time ranges ------------------------------------------------------------------------------------------------------


@define(frozen=True)
class TimeRange:
    """How far back charts reach."""

    key: str
    label: str
    seconds: int
    resolution: Resolution


TIME_RANGES = {
    time_range.key: time_range
    for time_range in (
        TimeRange("15m", "15 min", 15 * 60, Resolution.POLL),
        TimeRange("1h", "1 h", 3_600, Resolution.MINUTE),
        TimeRange("12h", "12 h", 12 * 3_600, Resolution.MINUTE),
    )
}
_DEFAULT = "15m"


@define(frozen=True)
class Choice:
    """One of several links, of which one is selected."""

    key: str
    label: str
    link: str
    current: bool


def time_range_choices(request: PageRequest) -> list[Choice]:
    """A link to this page for each time range."""
    selected = _selected(request.query)
    return [
        Choice(each.key, each.label, request.link_with(span=each.key), each is selected)
        for each in TIME_RANGES.values()
    ]


def series_url(request: PageRequest, topic: str = "", channel: str = "") -> str:
    """The address of the series for the charts of a page."""
    query = {"topic": topic, "channel": channel, "span": _selected(request.query).key}
    return request.url("/series?" + urlencode({key: value for key, value in query.items() if value}))


def _selected(query: Mapping[str, str]) -> TimeRange:
    """The time range that the query names in `span`; the default for anything else."""
    return TIME_RANGES.get(query.get("span", ""), TIME_RANGES[_DEFAULT])


# --- Charts -----------------------------------------------------------------------------------------------------------


@define(frozen=True)
class ChartLine:
    """One line of a chart."""

    key: str
    """Its name in the answer of /series."""
    label: str
    color: str
    """CSS class of the swatch in the legend."""
    value: Markup
    """In the snapshot of the page."""


@define(frozen=True)
class Chart:
    """One chart. `charts.js` draws it, with the labels and colours of the legend."""

    key: str
    title: str
    lines: tuple[ChartLine, ...]
    counts: bool = True
    """Whether the values are whole numbers, and so the ticks."""


def charts_of(figures: Totals | TopicSnapshot | ChannelSnapshot) -> tuple[Chart, ...]:
    """The charts of the cluster, of a topic or of a channel."""
    rates = (
        ChartLine("in", "in", "in", rate(figures.in_rate)),
        ChartLine("out", "out", "out", rate(figures.out_rate)),
    )
    waiting = (
        ChartLine("depth", "ready", "in", number(figures.depth)),
        ChartLine("in_flight", "in flight", "out", number(figures.in_flight_count)),
    )
    trouble = (
        ChartLine("timeouts", "timed out", "bad", number(figures.timeouts_per_minute)),
        ChartLine("requeues", "requeued", "third", number(figures.requeues_per_minute)),
    )
    return (
        Chart("rates", "Messages per second", rates, counts=False),
        Chart("depth", "Messages waiting", waiting),
        Chart("trouble", "Time-outs and requeues per minute", trouble),
    )


# --- Series -----------------------------------------------------------------------------------------------------------

_LINES = {
    "in": Metric.IN_RATE,
    "out": Metric.OUT_RATE,
    "depth": Metric.DEPTH,
    "in_flight": Metric.IN_FLIGHT,
    "timeouts": Metric.TIMEOUT_RATE,
    "requeues": Metric.REQUEUE_RATE,
}
_COUNTED = ("timeouts", "requeues")
"""Shown as the number in the minute before, like everywhere on the pages."""


def series_response(history: History, request: Request) -> Response:
    """GET /series: the history of a topic or channel (`topic`, `channel`, `span`). No values if it is unknown."""
    query = query_of(request)
    time_range = _selected(query)
    topic, channel = query.get("topic", ""), query.get("channel", "")
    kept = {
        name: history.series(metric, topic, channel, time_range.resolution) for name, metric in _LINES.items()
    }
    at = _times(kept, time_range)
    for name in _COUNTED:
        kept[name] = _last_minutes(kept[name])
    lines = {name: _values(series, at) for name, series in kept.items()}
    body = encode_json({"at": at, "lines": lines})
    return Response(200, body, b"application/json", ((b"Cache-Control", b"no-store"),), nsq=False)


def _last_minutes(rates: Series) -> Series:
    """Rates per second as the number of events in the 60 seconds before each time."""
    counts = array("d")
    window: deque[tuple[float, float]] = deque()
    total = 0.0
    # The first rate is of as long a time as the second.
    before = 2 * rates.times[0] - rates.times[1] if len(rates.times) > 1 else math.inf
    for time, rate_ in zip(rates.times, rates.values, strict=True):
        count = 0.0 if math.isnan(rate_) else rate_ * max(0.0, time - before)
        before = time
        window.append((time, count))
        total += count
        while window[0][0] <= time - 60:
            total -= window.popleft()[1]
        counts.append(max(0, round(total)))
    return Series(rates.times, counts)


def _times(kept: Mapping[str, Series], time_range: TimeRange) -> list[float]:
    times = max((series.times for series in kept.values()), key=len)
    start = times[-1] - time_range.seconds if times else 0.0
    return [time for time in times if time >= start]


def _values(series: Series, at: list[float]) -> list[float | None]:
    """The values at these times; None where there is none."""
    known = dict(zip(series.times, series.values, strict=True))
    values = (known.get(time) for time in at)
    return [
        None if value is None or math.isnan(value) else round(value, 3) if value else 0 for value in values
    ]


# --- Sparklines -------------------------------------------------------------------------------------------------------

SPARKLINE_WIDTH = 100
SPARKLINE_HEIGHT = 24
_PADDING = 1.5
_MAX_POINTS = 40


@define(frozen=True)
class Sparkline:
    """The paths of an SVG of `SPARKLINE_WIDTH` by `SPARKLINE_HEIGHT`."""

    line: str
    area: str


def sparkline(values: Sequence[float | None]) -> Sparkline | None:
    """Draw values over equal steps of time; an unknown value repeats the one before. None if there are too few.

    The scale starts at 0: a constant rate is a line at the top, and no traffic is one at the bottom.
    """
    points = _downsample(_fill_gaps(values))
    if len(points) < 2:
        return None
    top = max(points) or 1.0
    step = SPARKLINE_WIDTH / (len(points) - 1)
    low = SPARKLINE_HEIGHT - _PADDING
    path = "L".join(
        f"{n * step:.0f} {low - (low - _PADDING) * value / top:.1f}".replace(".0", "")
        for n, value in enumerate(points)
    )
    corners = f"L{SPARKLINE_WIDTH} {SPARKLINE_HEIGHT}Z"
    return Sparkline(f"M{path}", f"M0 {SPARKLINE_HEIGHT}L{path}{corners}")


def _fill_gaps(values: Sequence[float | None]) -> list[float]:
    filled: list[float] = []
    for value in values:
        if value is not None and not math.isnan(value):
            filled.append(max(0.0, value))
        elif filled:
            filled.append(filled[-1])
    return filled


def _downsample(values: list[float]) -> list[float]:
    """At most `_MAX_POINTS` values: the mean of each piece."""
    # There may be fifty on a page: this keeps it small.
    if len(values) <= _MAX_POINTS:
        return values
    edges = [n * len(values) // _MAX_POINTS for n in range(_MAX_POINTS + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
