"""Answers that all who ask within a while share: many browsers on one page cost the daemons one request."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import attrs
import trio

__all__ = ["SharedAnswers"]

AnswerT = TypeVar("AnswerT")

_MOST_KEPT = 64


@attrs.define(eq=False)
class _Question(Generic[AnswerT]):
    asked_at: float
    answered: trio.Event = attrs.field(factory=trio.Event)
    answer: AnswerT | None = None


@attrs.define(eq=False)
class SharedAnswers(Generic[AnswerT]):
    """Keeps each answer for some seconds, and not more than a few dozen of them."""

    keep_s: float
    _questions: OrderedDict[Hashable, _Question[AnswerT]] = attrs.field(factory=OrderedDict, init=False)
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False)

    @contextlib.asynccontextmanager
    async def running(self, nursery: trio.Nursery) -> AsyncIterator[None]:
        """Let questions be asked in this nursery: whoever asked first may go away before the answer is there."""
        self._nursery = nursery
        try:
            yield
        finally:
            self._nursery = None

    async def get(self, key: Hashable, ask: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        """The answer to the question `key`, which `ask` gives; it must not raise. RuntimeError when not running."""
        question = self._questions.get(key)
        now = trio.current_time()
        if question is None or (question.answered.is_set() and question.asked_at + self.keep_s <= now):
            if self._nursery is None:
                raise RuntimeError("nothing is asked before the start or after the end")
            question = self._questions[key] = _Question(now)
            self._questions.move_to_end(key)
            if len(self._questions) > _MOST_KEPT:
                self._questions.popitem(last=False)
            self._nursery.start_soon(self._ask, question, ask)
        await question.answered.wait()
        assert question.answer is not None
        return question.answer

    async def _ask(self, question: _Question[AnswerT], ask: Callable[[], Awaitable[AnswerT]]) -> None:
        question.answer = await ask()
        question.answered.set()
