"""One query to many daemons at once, and the errors and warnings when some or all of them do not answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import attrs
import trio

from nsqadmin.upstream.client import UpstreamError

__all__ = ["NSQD", "NSQLOOKUPD", "UpstreamFailed", "Warnings", "query_all"]

NSQLOOKUPD: Final = "nsqlookupd"
NSQD: Final = "nsqd"

TargetT = TypeVar("TargetT")
ResponseT = TypeVar("ResponseT")


class UpstreamFailed(Exception):
    """No daemon answered; the text is for people, and part of the API."""

    def __init__(self, kind: str, errors: Sequence[str]) -> None:
        super().__init__(f"failed to query any {kind}: " + "\n".join(errors))


@attrs.define
class Warnings:
    """The errors of daemons behind a response that is sent all the same."""

    steps: list[list[str]] = attrs.field(factory=list, init=False)
    """The errors of each step that had any."""

    def add(self, errors: Sequence[str]) -> None:
        """Add the errors of one step."""
        if errors:
            self.steps.append(list(errors))

    @property
    def message(self) -> str:
        """The `message` of the API; empty without errors."""
        if not self.steps:
            return ""
        return "WARNING: " + "; ".join("\n".join(errors) for errors in self.steps)


async def query_all(
    kind: str,
    targets: Sequence[TargetT],
    query: Callable[[TargetT], Awaitable[ResponseT]],
    warnings: Warnings,
) -> list[tuple[TargetT, ResponseT]]:
    """Query all targets at once. Returns the responses in the order of the targets, and adds the errors of the others
    to `warnings` as one step. `UpstreamFailed` if no target answered, and also if there is none.
    """
    found: list[tuple[TargetT, ResponseT] | None] = [None] * len(targets)
    failures: list[str | None] = [None] * len(targets)

    async def query_one(index: int, target: TargetT) -> None:
        try:
            found[index] = target, await query(target)
        except UpstreamError as error:
            failures[index] = str(error)

    async with trio.open_nursery() as nursery:
        for index, target in enumerate(targets):
            nursery.start_soon(query_one, index, target)
    errors = [error for error in failures if error is not None]
    answered = [response for response in found if response is not None]
    if not answered:
        raise UpstreamFailed(kind, errors)
    warnings.add(errors)
    return answered
