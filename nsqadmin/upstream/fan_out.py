"""One question to many daemons at once, and what is said when some or all of them did not answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import attrs
import msgspec
import trio

from nsqadmin.upstream.client import UpstreamError

__all__ = ["UpstreamFailed", "Warnings", "ask_all"]

TargetT = TypeVar("TargetT")
AnswerT = TypeVar("AnswerT")


class UpstreamFailed(Exception):
    """Nobody answered; the text is for people, and part of the API."""

    def __init__(self, kind: str, errors: Sequence[str]) -> None:
        super().__init__(f"failed to query any {kind}: " + "\n".join(errors))


@attrs.define
class Warnings:
    """What went wrong on the way to an answer that is given all the same."""

    steps: list[list[str]] = attrs.field(factory=list, init=False)
    """The errors of each step that had some."""

    def add(self, errors: Sequence[str]) -> None:
        """Note the errors of one step."""
        if errors:
            self.steps.append(list(errors))

    @property
    def message(self) -> str:
        """For the API's `message`: empty when nothing went wrong."""
        if not self.steps:
            return ""
        return "WARNING: " + "; ".join("\n".join(errors) for errors in self.steps)


async def ask_all(
    kind: str,
    targets: Sequence[TargetT],
    ask: Callable[[TargetT], Awaitable[AnswerT]],
    warnings: Warnings,
) -> list[tuple[TargetT, AnswerT]]:
    """Ask all at once; the answers in the order of the targets, the errors of those who failed as one step of
    `warnings`. `UpstreamFailed` when nobody answered, also when there is nobody to ask.
    """
    answers: list[tuple[TargetT, AnswerT] | None] = [None] * len(targets)
    errors: list[str | None] = [None] * len(targets)

    async def ask_one(place: int, target: TargetT) -> None:
        try:
            answers[place] = target, await ask(target)
        except (UpstreamError, msgspec.MsgspecError) as error:
            errors[place] = str(error)

    async with trio.open_nursery() as nursery:
        for place, target in enumerate(targets):
            nursery.start_soon(ask_one, place, target)
    told = [error for error in errors if error is not None]
    given = [answer for answer in answers if answer is not None]
    if not given:
        raise UpstreamFailed(kind, told)
    warnings.add(told)
    return given
