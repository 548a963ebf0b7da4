"""What was: depths and rates of every topic and channel over the last minutes and hours, in memory.

Theory of operation: a poll is a *row*: one number for each kind, of everything that is not at rest, under the small
integers that stand for the names. What is missing in a row was all zeros; of 10,000 topics most are at rest, and cost
nothing. A series is read by looking for its integer in every row (a bisection each: a third of a millisecond for a
whole series). The rows of a minute are averaged into one row of the coarser span.

Bounds: each span has a number of rows and half of `max_bytes`; the oldest row goes when either is used up. A row
takes 28 bytes for each topic or channel that is not at rest: with 10,000 topics of two channels each, all of them busy,
840 kB, and in the default 64 MiB the polls reach back three minutes and the minutes 40; with a twentieth of them busy
both reach back as far as they ever do. The averages of the minute under way come on top, about 250 bytes for each
that was busy in it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Container, Sequence
from enum import Enum

import attrs

from nsqkit.yielder import Yielder

__all__ = ["Figures", "History", "Kind", "Series", "Span"]


class Kind(Enum):
    """What is kept of each topic, each channel, and of all together. Rates are per second."""

    DEPTH = "depth"
    """Of a topic what no channel has been given yet, of a channel what is ready; of all, both."""
    IN_FLIGHT = "in_flight"
    """Of a topic: in all its channels. So are the following, but for what comes in."""
    IN_RATE = "in_rate"
    OUT_RATE = "out_rate"
    REQUEUE_RATE = "requeue_rate"
    TIMEOUT_RATE = "timeout_rate"


class Span(Enum):
    """How far back, and how fine."""

    MINUTES = "minutes"
    """The polls themselves, for up to 15 minutes."""
    HOURS = "hours"
    """Averages of a minute each, for up to 12 hours."""


Figures = tuple[float, float, float, float, float, float]
"""One number for each `Kind`, in its order."""

_COLUMN = {kind: number for number, kind in enumerate(Kind)}
_AT_REST: Figures = (0.0,) * 6
_TOTAL = 0
"""The number of all together."""
_MINUTES_S = 15 * 60
_HOURS_ROWS = 12 * 60
_MOST_ROWS = 900
_ROW_OVERHEAD = 700  # bytes of the arrays themselves


@attrs.frozen
class Series:
    """Two arrays of the same length, oldest first."""

    times: array[float]
    """Unix seconds."""
    values: array[float]
    """Messages, or messages a second."""


@attrs.frozen(eq=False)
class _Row:
    """All that was not at rest at one time."""

    at: float
    numbers: array[int]
    """Ascending."""
    columns: tuple[array[float], ...]
    """One for each kind, along with `numbers`."""

    def value(self, number: int, column: int) -> float:
        place = bisect_left(self.numbers, number)
        if place == len(self.numbers) or self.numbers[place] != number:
            return 0.0
        return self.columns[column][place]

    @property
    def size(self) -> int:
        """Bytes."""
        return _ROW_OVERHEAD + len(self.numbers) * 4 * (1 + len(self.columns))


@attrs.define(eq=False)
class _Ring:
    """The rows of one span."""

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
    """What was, of everything that there is now.

    The picture adds rows: `note`, `note_total`, then `close_row` or `drop_row`.
    """

    interval_s: float = 5.0
    """Between two rows, about."""
    max_bytes: int = 64 * 1024 * 1024
    _minutes: _Ring = attrs.field(init=False)
    _hours: _Ring = attrs.field(init=False)
    _numbers: dict[tuple[str, str], int] = attrs.field(factory=dict, init=False)
    """Of each topic (with no channel) and each channel; never given twice, so that an old row keeps its meaning."""
    _next_number: int = attrs.field(default=_TOTAL + 1, init=False)
    _noted: list[tuple[int, Figures]] = attrs.field(factory=list, init=False)
    _minute: dict[int, list[float]] = attrs.field(factory=dict, init=False)
    """Sums of the rows of this minute."""
    _minute_rows: int = attrs.field(default=0, init=False)
    _minute_began: float = attrs.field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        rows = min(_MOST_ROWS, max(2, int(_MINUTES_S / self.interval_s)))
        self._minutes = _Ring(rows, self.max_bytes // 2)
        self._hours = _Ring(_HOURS_ROWS, self.max_bytes // 2)

    # Reading.

    def series(self, kind: Kind, topic: str = "", channel: str = "", span: Span = Span.MINUTES) -> Series:
        """One topic's, one channel's, or (without a topic) that of all together. Empty for what is not known.

        Times at which it was not there yet count as 0.
        """
        number = self._numbers.get((topic, channel), -1) if topic else _TOTAL
        rows = self._ring(span).rows if number >= 0 else ()
        column = _COLUMN[kind]
        return Series(
            array("d", [row.at for row in rows]), array("d", [row.value(number, column) for row in rows])
        )

    def sparklines(self, kind: Kind, topics: Sequence[str], points: int = 60) -> dict[str, array[float]]:
        """The last polls of some topics, for small charts: at most so many values each, oldest first."""
        rows = list(self._minutes.rows)[-points:]
        column = _COLUMN[kind]
        lines = {}
        for topic in topics:
            number = self._numbers.get((topic, ""), -1)
            lines[topic] = array("d", [row.value(number, column) for row in rows])
        return lines

    @property
    def size(self) -> int:
        """Bytes of all rows."""
        return self._minutes.size + self._hours.size

    @property
    def known(self) -> int:
        """Topics and channels whose names are kept."""
        return len(self._numbers)

    def _ring(self, span: Span) -> _Ring:
        return self._minutes if span is Span.MINUTES else self._hours

    # Writing.

    def note(self, topic: str, channel: str, figures: Figures) -> None:
        """Into the row that is being written: a channel's figures, or (without a channel) a topic's."""
        if figures != _AT_REST:
            self._noted.append((self._number(topic, channel), figures))

    def note_total(self, figures: Figures) -> None:
        """Into the row that is being written: those of all together."""
        self._noted.append((_TOTAL, figures))

    async def close_row(self, at: float, yielder: Yielder) -> None:
        """End the row, true for this time (unix seconds)."""
        noted, self._noted = self._noted, []
        noted.sort()
        self._minutes.append(await _row(at, noted, yielder))
        if self._minute_rows and at - self._minute_began >= 60:
            await self._close_minute(yielder)
        if not self._minute_rows:
            self._minute_began = at
        self._minute_rows += 1
        for number, figures in noted:
            sums = self._minute.get(number)
            if sums is None:
                self._minute[number] = list(figures)
            else:
                for column, value in enumerate(figures):
                    sums[column] += value
            await yielder.maybe_yield()

    def drop_row(self) -> None:
        """End the row without keeping it: its rates are not known, and zeros would not be true."""
        self._noted.clear()

    async def _close_minute(self, yielder: Yielder) -> None:
        rows, sums = self._minute_rows, self._minute
        self._minute_rows, self._minute = 0, {}
        averages: list[tuple[int, Figures]] = []
        for number, (depth, in_flight, came, left, requeued, timed_out) in sorted(sums.items()):
            averages.append(
                (
                    number,
                    (
                        depth / rows,
                        in_flight / rows,
                        came / rows,
                        left / rows,
                        requeued / rows,
                        timed_out / rows,
                    ),
                )
            )
            await yielder.maybe_yield()
        self._hours.append(await _row(self._minute_began, averages, yielder))

    def _number(self, topic: str, channel: str) -> int:
        number = self._numbers.get((topic, channel))
        if number is None:
            number = self._numbers[topic, channel] = self._next_number
            self._next_number += 1
        return number

    def forget_all_but(self, existing: Container[tuple[str, str]]) -> None:
        """Let go of the names of topics (with no channel) and channels that are no more."""
        for name in [name for name in self._numbers if name not in existing]:
            del self._numbers[name]


async def _row(at: float, noted: Sequence[tuple[int, Figures]], yielder: Yielder) -> _Row:
    numbers = array("I", [number for number, _ in noted])
    columns = []
    for column in range(len(_AT_REST)):
        columns.append(array("f", [figures[column] for _, figures in noted]))
        await yielder.maybe_yield()
    return _Row(at, numbers, tuple(columns))
