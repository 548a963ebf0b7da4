"""What memory holds of a topic: the newest messages, within two bounds."""

from __future__ import annotations

import random

import pytest

from nsqd.broker.window import Window, WindowBudget
from tests.nsqd.broker.harness import Harness


def frames(count: int, size: int = 10, first: int = 0) -> list[bytes]:
    return [b"%0*d" % (size, seq) for seq in range(first, first + count)]


def extend(window: Window, new: list[bytes]) -> None:
    window.extend(new, sum(map(len, new)))


class TestWindow:
    def test_a_window_holds_the_frames_it_was_given(self) -> None:
        window = Window(7, 100, WindowBudget(1000))
        extend(window, frames(5))
        assert window.get(6) is None
        assert [window.get(seq) for seq in range(7, 12)] == frames(5)
        assert window.slice(9, 2) == frames(2, first=2)
        assert window.slice(11, 100) == frames(1, first=4)

    @pytest.mark.parametrize("most", [0, 1, 10, 1000])
    def test_the_newest_stay(self, most: int) -> None:
        budget = WindowBudget(1 << 20)
        window = Window(0, most, budget)
        for seq in range(300):
            extend(window, frames(1, first=seq))
        assert most <= len(window.frames) <= most + most // 8 or len(window.frames) == 300
        assert window.base + len(window.frames) == 300
        assert window.frames == frames(300)[window.base :]
        assert window.size == budget.used == sum(map(len, window.frames))

    def test_many_at_once_are_cut_too(self) -> None:
        window = Window(0, 10, WindowBudget(1 << 20))
        extend(window, frames(1000))
        assert (window.base, len(window.frames)) == (990, 10)

    def test_a_window_begins_anew_after_a_jump(self) -> None:
        budget = WindowBudget(1000)
        window = Window(0, 10, budget)
        extend(window, frames(5))
        window.reset(8)
        extend(window, frames(2, first=8))
        assert (window.base, window.frames, budget.used) == (8, frames(2, first=8), 20)
        assert window.get(4) is None

    def test_a_topic_that_goes_gives_its_bytes_back(self) -> None:
        budget = WindowBudget(1000)
        window = Window(0, 10, budget)
        extend(window, frames(5))
        window.close()
        assert budget.used == 0


class TestBudget:
    def test_the_one_longest_without_news_shrinks_first(self) -> None:
        budget = WindowBudget(100)
        old, new = Window(0, 1000, budget), Window(0, 1000, budget)
        extend(old, frames(6))
        extend(new, frames(3))
        extend(new, frames(3, first=3))
        assert (len(old.frames), len(new.frames), budget.used) == (3, 6, 90)  # a 64th more than must be

    def test_a_single_window_is_bounded_too(self) -> None:
        budget = WindowBudget(100)
        window = Window(0, 1000, budget)
        extend(window, frames(25))
        assert (window.base, budget.used) == (16, 90)
        extend(window, [bytes(500)])
        assert (window.base, budget.used) == (26, 0)

    def test_the_budget_is_kept_in_any_order_of_events(self) -> None:
        chance = random.Random(7)
        budget = WindowBudget(500)
        windows = [Window(0, chance.choice([0, 3, 50]), budget) for _ in range(5)]
        for _ in range(1000):
            window = chance.choice(windows)
            before = window.base + len(window.frames)
            new = frames(chance.randrange(1, 5), chance.randrange(5, 60))
            extend(window, new)
            assert window.base + len(window.frames) == before + len(new)
            assert budget.used == sum(w.size for w in windows) <= 500
            assert all(w.size == sum(map(len, w.frames)) for w in windows)


def test_what_was_dropped_is_not_kept_and_takes_little_room() -> None:
    """The list is not moved at each drop; its empty places are never more than the frames."""
    budget = WindowBudget(64_000)
    window = Window(0, 10_000, budget)
    places: list[int] = []
    for number in range(5000):
        extend(window, frames(3, first=3 * number))
        places.append(len(window._frames))
        held = sum(map(bool, window._frames))
        assert held == len(window.frames)
        assert places[-1] <= 2 * held
    assert window.frames == frames(15_000)[window.base :]
    assert max(places) > len(window.frames)


def test_bytes_of_the_whole_daemon_are_bounded() -> None:
    harness = Harness(mem_queue_bytes=10_000)
    for name in ("a", "b", "c"):
        harness.create(topic=name)
        harness.publish(*[bytes(100)] * 100, topic=name)
    assert harness.broker.context.window_budget.used <= 10_000
    for name in ("a", "b", "c"):
        assert harness.channel(topic=name).depth == 100
        consumer = harness.subscribe(topic=name, rdy=7)
        assert harness.drain(consumer) == [bytes(100)] * 100
        assert harness.channel(topic=name).counts.damaged == 0
    assert harness.broker.context.read_ahead.used <= 20_000
