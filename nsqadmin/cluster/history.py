"""The history: depths and rates of every topic and channel over the last minutes and hours, in memory.

Theory of operation: each poll adds a *row*, with one number for each metric of each topic and channel that is not idle,
under the small integer (the id) that stands for its name. Whatever is missing from a row was all zeros; of 10,000
topics most are idle, and cost nothing. A series is read by looking for its id in every row, by bisection: a third of
a millisecond for a whole series. The rows of a minute are averaged into one row of the coarser resolution.

Bounds: each resolution has a number of rows and half of `max_bytes`; the oldest row is dropped when either is used up.
A row takes 28 bytes for each topic or channel that is not idle. With 10,000 topics of two channels each, all of them
busy, that is 840 kB, and in the default 64 MiB the polls reach back 3 minutes and the averages 40; with a twentieth of
them busy, both reach back to their limits. The averages of the current minute take about 250 bytes more for each topic
or channel that was busy in it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Container, Sequence
from enum import Enum

import attrs

from nsqkit.yielder import Yielder

__all__ = ["History", "Metric", "MetricValues", "Resolution", "Series"]


class Metric(Enum):
    """What is kept of each topic, of each channel, and of the whole cluster. Rates are per second."""

    DEPTH = "depth"
    """Messages ready; of a topic, in the topic and in all its channels. So are the following, except for `IN_RATE`."""
    IN_FLIGHT = "in_flight"
    IN_RATE = "in_rate"
    OUT_RATE = "out_rate"
    REQUEUE_RATE = "requeue_rate"
    TIMEOUT_RATE = "timeout_rate"


class Resolution(Enum):
    """How fine a series is, and with that how far it reaches back."""

    POLL = "poll"
    """One value for each poll, for up to 15 minutes."""
    MINUTE = "minute"
    """Averages over a minute each, for up to 12 hours."""


MetricValues = tuple[float, float, float, float, float, float]
"""One number for each `Metric`, in the order of the enum."""

_COLUMN = {metric: index for index, metric in enumerate(Metric)}
_IDLE: MetricValues = (0.0,) * 6
_TOTAL_ID = 0
"""Of the sums over the cluster."""
_POLLS_S = 15 * 60
_MAX_POLL_ROWS = 900
_MINUTE_ROWS = 12 * 60
_ROW_OVERHEAD = 700  # bytes of the array objects


@attrs.frozen
class Series:
    """Two arrays of the same length, oldest first."""

    times: array[float]
    """Unix seconds."""
    values: array[float]
    """Messages, or messages a second."""


@attrs.frozen(eq=False)
class _Row:
    """Everything that was not idle at one time."""

    at: float
    ids: array[int]
    """Ascending."""
    columns: tuple[array[float], ...]
    """One for each metric, parallel to `ids`."""

    def value(self, id_: int, column: int) -> float:
        place = bisect_left(self.ids, id_)
        if place == len(self.ids) or self.ids[place] != id_:
            return 0.0
        return self.columns[column][place]

    def all_values(self, id_: int) -> MetricValues:
        place = bisect_left(self.ids, id_)
        if place == len(self.ids) or self.ids[place] != id_:
            return _IDLE
        depth, in_flight, entered, left, requeued, timed_out = self.columns
        return depth[place], in_flight[place], entered[place], left[place], requeued[place], timed_out[place]

    @property
    def size(self) -> int:
        """Bytes."""
        return _ROW_OVERHEAD + len(self.ids) * 4 * (1 + len(self.columns))


@attrs.define(eq=False)
class _Ring:
    """The rows of one resolution."""

    max_rows: int
    max_bytes: int
    rows: deque[_Row] = attrs.field(factory=deque)
    size: int = 0

    def append(self, row: _Row) -> None:
        self.rows.append(row)
        self.size += row.size
        while self.rows and (len(self.rows) > self.max_rows or self.size > self.max_bytes):
            self.size -= self.rows.popleft().size


@attrs.define(eq=False)
class History:
    """The history of everything that exists.

    A row is written with `add` and `add_total`, then `close_row` or `drop_row`.
    """

    interval_s: float = 5.0
    """Between two rows, approximately."""
    max_bytes: int = 64 * 1024 * 1024
    _polls: _Ring = attrs.field(init=False)
    _minutes: _Ring = attrs.field(init=False)
    _ids: dict[tuple[str, str], int] = attrs.field(factory=dict, init=False)
    """By topic and channel (empty for the topic itself); never reused, so that old rows stay valid."""
    _next_id: int = attrs.field(default=_TOTAL_ID + 1, init=False)
    _open_row: list[tuple[int, MetricValues]] = attrs.field(factory=list, init=False)
    _minute: dict[int, list[float]] = attrs.field(factory=dict, init=False)
    """Sums over the rows of this minute, by id."""
    _minute_rows: int = attrs.field(default=0, init=False)
    _minute_began: float = attrs.field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        rows = min(_MAX_POLL_ROWS, max(2, int(_POLLS_S / self.interval_s)))
        self._polls = _Ring(rows, self.max_bytes // 2)
        self._minutes = _Ring(_MINUTE_ROWS, self.max_bytes // 2)

    # Reading.

    def series(
        self, metric: Metric, topic: str = "", channel: str = "", resolution: Resolution = Resolution.POLL
    ) -> Series:
        """The series of a topic, of a channel, or (without a topic) of the cluster; empty if it is unknown.

        The value is 0 at times before the topic or channel existed.
        """
        id_ = self._ids.get((topic, channel), -1) if topic else _TOTAL_ID
        ring = self._polls if resolution is Resolution.POLL else self._minutes
        rows = ring.rows if id_ >= 0 else ()
        column = _COLUMN[metric]
        return Series(
            array("d", [row.at for row in rows]), array("d", [row.value(id_, column) for row in rows])
        )

    def sparklines(self, metric: Metric, topics: Sequence[str], points: int = 60) -> dict[str, array[float]]:
        """The values of the last polls for some topics: at most `points` for each, oldest first."""
        rows = list(self._polls.rows)[-points:]
        column = _COLUMN[metric]
        lines = {}
        for topic in topics:
            id_ = self._ids.get((topic, ""), -1)
            lines[topic] = array("d", [row.value(id_, column) for row in rows])
        return lines

    def last_minutes(self, topic: str, channel: str, count: int) -> list[tuple[float, MetricValues]]:
        """The averages of the last `count` complete minutes of a topic (with an empty channel) or of a channel.

        Each with the time (unix seconds) at which it began; oldest first. Fewer if the history is shorter.
        """
        rows = self._minutes.rows
        id_ = self._ids.get((topic, channel), -1)
        return [
            (row.at, row.all_values(id_))
            for row in (rows[place] for place in range(-min(count, len(rows)), 0))
        ]

    @property
    def size(self) -> int:
        """Bytes of all rows."""
        return self._polls.size + self._minutes.size

    @property
    def known(self) -> int:
        """Number of topics and channels whose names are kept."""
        return len(self._ids)

    # Writing.

    def add(self, topic: str, channel: str, values: MetricValues) -> None:
        """Add a channel's values, or (with an empty channel) a topic's, to the row that is being written."""
        if values != _IDLE:
            self._open_row.append((self._id(topic, channel), values))

    def add_total(self, values: MetricValues) -> None:
        """Add the cluster's values to the row that is being written."""
        self._open_row.append((_TOTAL_ID, values))

    async def close_row(self, at: float, yielder: Yielder) -> None:
        """End the row, which is of this time (unix seconds)."""
        entries, self._open_row = self._open_row, []
        entries.sort()
        self._polls.append(await _row(at, entries, yielder))
        if self._minute_rows and at - self._minute_began >= 60:
            await self._close_minute(yielder)
        if not self._minute_rows:
            self._minute_began = at
        self._minute_rows += 1
        for id_, values in entries:
            sums = self._minute.get(id_)
            if sums is None:
                self._minute[id_] = list(values)
            else:
                for column, value in enumerate(values):
                    sums[column] += value
            await yielder.maybe_yield()

    def drop_row(self) -> None:
        """Discard the row: its rates are unknown, and zeros would be wrong."""
        self._open_row.clear()

    async def _close_minute(self, yielder: Yielder) -> None:
        rows, sums = self._minute_rows, self._minute
        self._minute_rows, self._minute = 0, {}
        averages: list[tuple[int, MetricValues]] = []
        for id_, (depth, in_flight, entered, left, requeued, timed_out) in sorted(sums.items()):
            averages.append(
                (
                    id_,
                    (
                        depth / rows,
                        in_flight / rows,
                        entered / rows,
                        left / rows,
                        requeued / rows,
                        timed_out / rows,
                    ),
                )
            )
            await yielder.maybe_yield()
        self._minutes.append(await _row(self._minute_began, averages, yielder))

    def _id(self, topic: str, channel: str) -> int:
        id_ = self._ids.get((topic, channel))
        if id_ is None:
            id_ = self._ids[topic, channel] = self._next_id
            self._next_id += 1
        return id_

    def forget_all_but(self, existing: Container[tuple[str, str]]) -> None:
        """Forget the names of deleted topics (with an empty channel) and channels."""
        for name in [name for name in self._ids if name not in existing]:
            del self._ids[name]


async def _row(at: float, entries: Sequence[tuple[int, MetricValues]], yielder: Yielder) -> _Row:
    # Arrays of four bytes an entry: as lists of objects the rows would take eight times as much. Single precision
    # is enough for charts.
    ids = array("I", [id_ for id_, _ in entries])
    columns = []
    for column in range(len(_IDLE)):
        columns.append(array("f", [values[column] for _, values in entries]))
        await yielder.maybe_yield()
    return _Row(at, ids, tuple(columns))
