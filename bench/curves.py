"""The curves: rate and CPU per message as functions of one quantity. Data, as the rows."""

from __future__ import annotations

import attrs

from bench.rows import Row

__all__ = ["CURVES", "Curve", "Series"]


@attrs.frozen
class Series:
    """One line of a curve. `{x}` in `load` and `before` is the quantity, the rest as in rows."""

    title: str
    load: str
    before: str = ""
    beside: str = ""
    """What goes on meanwhile."""


@attrs.frozen
class Curve:
    """One quantity, and the work to measure at each of its values."""

    name: str
    title: str
    axis: str
    """Name of the quantity, with its unit."""
    values: tuple[int, ...]
    quick_values: tuple[int, ...]
    series: tuple[Series, ...]
    large_values: tuple[int, ...] = ()
    """Only with `--full-log`."""
    flags: str = ""
    """Of the broker; with `{x}`."""
    cold: bool = False
    """Whether the broker is restarted after `before`."""

    def points(self, *, quick: bool, large: bool) -> list[tuple[int, Series, Row]]:
        """Each value with each line, and the row that measures it."""
        values = self.quick_values if quick else self.values + (self.large_values if large else ())
        return [(x, series, self._row(x, series)) for x in values for series in self.series]

    def _row(self, x: int, series: Series) -> Row:
        def at_x(text: str) -> str:
            return text.replace("{x}", str(x))

        return Row(
            f"{self.name}={x}",
            f"{self.title}: {series.title}, {x:,} {self.axis}",
            "drain" if self.cold else "rate",
            {"nsq": at_x(series.load)},
            before={"nsq": at_x(series.before)} if series.before else {},
            beside=at_x(series.beside),
            flags=at_x(self.flags),
            cold=self.cold,
        )


def _usual(before: str = "", beside: str = "", sub: str = "") -> tuple[Series, ...]:
    """Publishing and consuming in a topic that is in some state: that must not change what a message costs."""
    return (
        Series(
            "publish, batches of 200, 2 connections",
            "mpub --conns=2 --count={curve_messages}",
            before,
            beside,
        ),
        Series("publish one at a time, 16 connections", "pub --conns=16 --seconds={seconds}", before, beside),
        Series(
            "consume and finish, RDY 2500, 2 connections",
            f"sub --conns=2 --rdy=2500 --count={{curve_messages}} {sub}".strip(),
            before,
            beside,
        ),
    )


CURVES = (
    Curve(
        "topics",
        "Number of topics",
        "topics, one channel each",
        (1, 10, 100, 1_000),
        (1, 1_000),
        (
            Series(
                "publish one at a time, 16 connections, to one topic after the other",
                "pub --conns=16 --topics={x} --seconds={seconds}",
            ),
            Series(
                "publish, batches of 200, 2 connections, to one topic after the other",
                "mpub --conns=2 --topics={x} --count={batch_messages}",
            ),
        ),
    ),
    Curve(
        "connections",
        "Number of connections",
        "connections",
        (1, 4, 16, 64, 256, 1_000),
        (1, 16, 1_000),
        (
            Series("publish one at a time", "pub --conns={x} --seconds={seconds}"),
            Series(
                "consume and finish, 100 in flight on each",
                "sub --conns={x} --rdy=100 --count={curve_messages}",
            ),
        ),
    ),
    Curve(
        "log",
        "Size of the log",
        "MB in the log behind what is consumed",
        (0, 10, 100, 1_000),
        (0, 100),
        (
            Series(
                "consume and finish after a cold start, RDY 2500, 2 connections",
                "sub --there --more --conns=2 --rdy=2500 --count={curve_messages}",
                before="mpub --conns=2 --count={curve_messages} --add-mb={x}",
            ),
        ),
        large_values=(10_000,),
        cold=True,
    ),
    Curve(
        "many-in-memory",
        "Messages in memory (--mem-queue-size)",
        "messages, as many as fit by their number",
        (1_000, 10_000, 100_000, 1_000_000),
        (1_000, 1_000_000),
        # Another topic's messages are consumed: those that fill the memory stay.
        _usual(before="mpub --conns=1 --count={x}", sub="--topic=other"),
        flags="--mem-queue-size={x} --mem-queue-bytes=8000000000",
    ),
    Curve(
        "many-bytes-in-memory",
        "Bytes in memory (--mem-queue-bytes)",
        "MB, full of messages",
        (1, 16, 64, 256),
        (1, 256),
        _usual(before="mpub --conns=2 --count=0 --add-mb={x}", sub="--topic=other"),
        flags="--mem-queue-size=100000000 --mem-queue-bytes={x}000000",
    ),
    Curve(
        "many-deferred",
        "Deferred messages",
        "messages of the channel are deferred",
        (1_000, 10_000, 100_000, 1_000_000),
        (1_000, 100_000),
        _usual(before="defer --aside --count={x}"),
        large_values=(10_000_000,),
    ),
    Curve(
        "many-requeued",
        "Requeued messages",
        "messages of the channel were requeued, and wait for their delay",
        (1_000, 10_000, 100_000, 1_000_000),
        (1_000, 100_000),
        _usual(before="requeue --aside --conns=1 --count={x}"),
        large_values=(10_000_000,),
    ),
    Curve(
        "many-in-flight",
        "Messages in flight",
        "messages of the channel are in flight at a consumer that waits",
        (1_000, 10_000, 100_000, 1_000_000),
        (1_000, 100_000),
        _usual(before="mpub --conns=1 --count={x}", beside="nuisance-hold --count={x}"),
        flags="--max-rdy-count=10000000 --msg-timeout=10m",
        large_values=(10_000_000,),
    ),
    Curve(
        "size",
        "Size of a message",
        "bytes in a message",
        (10, 100, 1_000, 10_000, 100_000, 1_000_000),
        (10, 1_000, 1_000_000),
        (
            Series(
                "publish, batches of 200 or 4 MB, 2 connections",
                "mpub --conns=2 --size={x} --count={curve_messages} --most-mb={curve_mb}",
            ),
            Series("publish one at a time, 16 connections", "pub --conns=16 --size={x} --seconds={seconds}"),
            Series(
                "consume and finish, RDY 2500, 2 connections",
                "sub --conns=2 --rdy=2500 --size={x} --count={curve_messages} --most-mb={curve_mb}",
            ),
        ),
    ),
)
