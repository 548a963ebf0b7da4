"""The history: what it keeps, how far back it reaches, and that it stays within its memory."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from nsqadmin.cluster import slices as slices_module
from nsqadmin.cluster.history import Figures, History, Kind, Span
from nsqkit.yielder import Yielder


def figures(depth: float) -> Figures:
    return depth, 1.0, 2.0, 3.0, 4.0, 5.0


async def write(history: History, at: float, rows: dict[tuple[str, str], Figures]) -> None:
    for name, values in rows.items():
        history.note(*name, values)
    history.note_total(figures(at))
    await history.close_row(at, Yielder())


async def test_each_kind_is_kept_for_topics_channels_and_all() -> None:
    history = History()
    await write(history, 100, {("t", "c"): (1, 2, 3, 4, 5, 6), ("t", ""): (7, 8, 9, 10, 11, 12)})
    assert [history.series(kind, "t", "c").values[0] for kind in Kind] == [1, 2, 3, 4, 5, 6]
    assert [history.series(kind, "t").values[0] for kind in Kind] == [7, 8, 9, 10, 11, 12]
    assert [history.series(kind).values[0] for kind in Kind] == [100, 1, 2, 3, 4, 5]


async def test_what_is_not_known_is_empty_and_what_is_at_rest_is_zero() -> None:
    history = History()
    await write(history, 1, {("t", ""): figures(5)})
    await write(history, 2, {("t", ""): (0, 0, 0, 0, 0, 0)})
    await write(history, 3, {("t", ""): figures(6), ("u", ""): figures(1)})
    assert list(history.series(Kind.DEPTH, "t").values) == [5, 0, 6]
    assert list(history.series(Kind.DEPTH, "u").values) == [0, 0, 1]
    nothing = history.series(Kind.DEPTH, "none")
    assert (list(nothing.times), list(nothing.values)) == ([], [])
    assert list(history.series(Kind.DEPTH, "t", "none").values) == []


async def test_sparklines_are_the_last_polls() -> None:
    history = History()
    for at in range(5):
        await write(history, at, {("t", ""): figures(at)})
    lines = history.sparklines(Kind.DEPTH, ["t", "none"], points=3)
    assert {name: list(line) for name, line in lines.items()} == {"t": [2, 3, 4], "none": [0, 0, 0]}


async def test_minutes_are_averaged_into_hours() -> None:
    history = History(interval_s=20)
    for number in range(7):
        depth = number if number % 2 else 0.0
        rows = {("t", ""): (depth, depth * 2, depth * 3, depth * 4, depth * 5, depth * 6)}
        await write(history, 1000 + 20 * number, rows)
    hours = history.series(Kind.DEPTH, "t", span=Span.HOURS)
    assert list(hours.times) == [1000, 1060]
    assert list(hours.values) == pytest.approx([1 / 3, 8 / 3])
    for factor, kind in enumerate(Kind, 1):
        averages = list(history.series(kind, "t", span=Span.HOURS).values)
        assert averages == pytest.approx([factor / 3, factor * 8 / 3])


async def test_it_reaches_back_a_quarter_of_an_hour_and_half_a_day() -> None:
    history = History(interval_s=60)
    for minute in range(800):
        await write(history, minute * 60, {("t", ""): figures(minute)})
    assert len(history.series(Kind.DEPTH, "t").values) == 15
    assert len(history.series(Kind.DEPTH, "t", span=Span.HOURS).values) == 720


async def test_memory_is_bounded_whatever_happens() -> None:
    history = History(interval_s=5, max_bytes=100_000)
    for at in range(0, 600, 5):
        await write(history, at, {(f"t{number}", ""): figures(1) for number in range(300)})
        assert history.size <= 100_000
    assert 3 <= len(history.series(Kind.DEPTH, "t7").values) <= 6
    assert len(history.series(Kind.DEPTH, "t7", span=Span.HOURS).values) >= 3


async def test_a_row_that_is_larger_than_the_memory_is_not_kept() -> None:
    history = History(max_bytes=1000)
    await write(history, 1, {(f"t{number}", ""): figures(1) for number in range(300)})
    assert history.size == 0
    assert list(history.series(Kind.DEPTH).values) == []


async def test_names_that_are_gone_are_let_go_and_begin_anew() -> None:
    history = History()
    await write(history, 1, {("t", ""): figures(5), ("t", "c"): figures(6), ("u", ""): figures(7)})
    history.forget_all_but({("u", "")})
    assert history.known == 1
    await write(history, 2, {("t", ""): figures(8)})
    assert list(history.series(Kind.DEPTH, "t").values) == [0, 8], "a new topic of the name has no past"
    assert list(history.series(Kind.DEPTH, "u").values) == [7, 0]


async def test_the_work_gives_way_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices_module, "_SLICE_S", 0.0)
    history = History()
    for number in range(300):
        history.note(f"t{number}", "", figures(number))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        yielder = Yielder()
        await history.close_row(1, yielder)
        nursery.cancel_scope.cancel()
    assert turns >= 300
    assert yielder.busy_s > 0
    assert history.series(Kind.DEPTH, "t299").values[0] == 299
