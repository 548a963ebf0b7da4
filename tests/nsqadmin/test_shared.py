"""Answers that all who ask within a while share."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from nsqadmin.cluster.shared import SharedAnswers


async def test_whoever_asked_first_may_go_away(autojump_clock: trio.testing.MockClock) -> None:
    answers: SharedAnswers[str] = SharedAnswers(5)

    async def slow() -> str:
        await trio.sleep(2)
        return "answer"

    async with trio.open_nursery() as nursery, answers.running(nursery):
        with trio.move_on_after(1):
            await answers.get("q", slow)
        with trio.fail_after(1.5):
            assert await answers.get("q", slow) == "answer"


async def test_answers_are_kept_for_their_time_and_not_longer(autojump_clock: trio.testing.MockClock) -> None:
    answers: SharedAnswers[int] = SharedAnswers(5)
    asked = 0

    async def count() -> int:
        nonlocal asked
        asked += 1
        return asked

    async with trio.open_nursery() as nursery, answers.running(nursery):
        got = []
        for _ in range(4):
            got.append(await answers.get("q", count))
            await trio.sleep(2)
    assert got == [1, 1, 1, 2]


async def test_no_more_than_some_dozens_are_kept() -> None:
    answers: SharedAnswers[int] = SharedAnswers(5)

    async def one() -> int:
        return 1

    async with trio.open_nursery() as nursery, answers.running(nursery):
        for number in range(1_000):
            await answers.get(number, one)
        assert len(answers._questions) <= 64


async def test_nothing_is_asked_before_the_start() -> None:
    async def one() -> int:
        return 1

    with pytest.raises(RuntimeError, match="before the start"):
        await SharedAnswers[int](5).get("q", one)
