"""The history: what it keeps, how far back it reaches, and its bounds."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from nsqadmin.cluster.history import History, Metric, MetricValues, Resolution
from nsqkit.yielder import Yielder


def values(depth: float) -> MetricValues:
    return depth, 1.0, 2.0, 3.0, 4.0, 5.0


async def write(history: History, at: float, rows: dict[tuple[str, str], MetricValues]) -> None:
    for name, row in rows.items():
        history.add(*name, row)
    history.add_total(values(at))
    await history.close_row(at, Yielder())


async def test_each_metric_is_kept_for_topics_channels_and_the_cluster() -> None:
    history = History()
    await write(history, 100, {("t", "c"): (1, 2, 3, 4, 5, 6), ("t", ""): (7, 8, 9, 10, 11, 12)})
    assert [history.series(metric, "t", "c").values[0] for metric in Metric] == [1, 2, 3, 4, 5, 6]
    assert [history.series(metric, "t").values[0] for metric in Metric] == [7, 8, 9, 10, 11, 12]
    assert [history.series(metric).values[0] for metric in Metric] == [100, 1, 2, 3, 4, 5]


async def test_unknown_series_are_empty_and_idle_ones_zero() -> None:
    history = History()
    await write(history, 1, {("t", ""): values(5)})
    await write(history, 2, {("t", ""): (0, 0, 0, 0, 0, 0)})
    await write(history, 3, {("t", ""): values(6), ("u", ""): values(1)})
    assert list(history.series(Metric.DEPTH, "t").values) == [5, 0, 6]
    assert list(history.series(Metric.DEPTH, "u").values) == [0, 0, 1]
    nothing = history.series(Metric.DEPTH, "none")
    assert (list(nothing.times), list(nothing.values)) == ([], [])
    assert list(history.series(Metric.DEPTH, "t", "none").values) == []


async def test_sparklines_are_the_last_polls() -> None:
    history = History()
    for at in range(5):
        await write(history, at, {("t", ""): values(at)})
    lines = history.sparklines(Metric.DEPTH, ["t", "none"], points=3)
    assert {name: list(line) for name, line in lines.items()} == {"t": [2, 3, 4], "none": [0, 0, 0]}


async def test_polls_are_averaged_over_each_minute() -> None:
    history = History(interval_s=20)
    for number in range(7):
        depth = number if number % 2 else 0.0
        rows = {("t", ""): (depth, depth * 2, depth * 3, depth * 4, depth * 5, depth * 6)}
        await write(history, 1000 + 20 * number, rows)
    hours = history.series(Metric.DEPTH, "t", resolution=Resolution.MINUTE)
    assert list(hours.times) == [1000, 1060]
    assert list(hours.values) == pytest.approx([1 / 3, 8 / 3])
    for factor, metric in enumerate(Metric, 1):
        averages = list(history.series(metric, "t", resolution=Resolution.MINUTE).values)
        assert averages == pytest.approx([factor / 3, factor * 8 / 3])


async def test_the_last_minutes_are_those_that_are_complete() -> None:
    history = History(interval_s=20)
    for number in range(10):
        await write(history, 1000 + 20 * number, {("t", "c"): values(number), ("t", ""): values(0)})
    assert history.last_minutes("t", "c", 2) == [(1060, values(4)), (1120, values(7))]
    assert [at for at, _ in history.last_minutes("t", "c", 9)] == [1000, 1060, 1120]
    assert history.last_minutes("none", "", 1) == [(1120, (0, 0, 0, 0, 0, 0))]
    assert History().last_minutes("t", "c", 1) == []


async def test_the_history_reaches_back_15_minutes_and_12_hours() -> None:
    history = History(interval_s=60)
    for minute in range(800):
        await write(history, minute * 60, {("t", ""): values(minute)})
    assert len(history.series(Metric.DEPTH, "t").values) == 15
    assert len(history.series(Metric.DEPTH, "t", resolution=Resolution.MINUTE).values) == 720


async def test_memory_is_bounded() -> None:
    history = History(interval_s=5, max_bytes=100_000)
    for at in range(0, 600, 5):
        await write(history, at, {(f"t{number}", ""): values(1) for number in range(300)})
        assert history.size <= 100_000
    assert 3 <= len(history.series(Metric.DEPTH, "t7").values) <= 6
    assert len(history.series(Metric.DEPTH, "t7", resolution=Resolution.MINUTE).values) >= 3


async def test_a_row_larger_than_the_bound_is_not_kept() -> None:
    history = History(max_bytes=1000)
    await write(history, 1, {(f"t{number}", ""): values(1) for number in range(300)})
    assert history.size == 0
    assert list(history.series(Metric.DEPTH).values) == []


async def test_names_of_deleted_topics_are_forgotten_and_start_anew() -> None:
    history = History()
    await write(history, 1, {("t", ""): values(5), ("t", "c"): values(6), ("u", ""): values(7)})
    history.forget_all_but({("u", "")})
    assert history.known == 1
    await write(history, 2, {("t", ""): values(8)})
    assert list(history.series(Metric.DEPTH, "t").values) == [0, 8], (
        "a new topic of the same name has no past"
    )
    assert list(history.series(Metric.DEPTH, "u").values) == [7, 0]


async def test_other_tasks_run_while_a_row_is_written() -> None:
    history = History()
    for number in range(300):
        history.add(f"t{number}", "", values(number))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        yielder = Yielder(slice_s=0.0)
        await history.close_row(1, yielder)
        nursery.cancel_scope.cancel()
    assert turns >= 300
    assert yielder.busy_s > 0
    assert history.series(Metric.DEPTH, "t299").values[0] == 299
