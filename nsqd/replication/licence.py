"""When a follower may adopt a copy by itself: the rules, without I/O.

All of them must hold:

- the copy has no gap, was not adopted, and its leader is not connected;
- the leader was not heard for `adopt_after` seconds; for `restart_grace` when it has said that it would come back;
- **more than half of the leader's nsqlookupds** grant it. Each of them has rules of its own (`nsqlookupd/witness.py`);
  the original's grants nothing. With fewer than three nothing is adopted: of two, both would have to live, and one is
  no witness of its own absence;
- no other copy is being adopted here at the same time.

Then the leader's other followers are asked as for an adoption by command (`stand_in.py`). What was granted and is not
used is given back: else two followers could keep one another from a majority for ever.

Times are seconds of a clock that never goes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import attrs

from nsqd.lookup.protocol import Heard, WitnessAnswer
from nsqd.replication.held_copies import CopyState

__all__ = ["FEWEST_WITNESSES", "Licence", "Witnesses", "due_at", "may_ask", "obstacle"]

FEWEST_WITNESSES: Final = 3
_NO_WITNESS: Final = "is not connected, or is one of the original"


class Witnesses(Protocol):
    """The nsqlookupds of this nsqd."""

    def announce_followers(self, lives: Sequence[str], adopt_after: float, restart_grace: float) -> None:
        """Tell them, now and at each new connection, who may adopt the copies of this nsqd, and after which times."""

    def heard(self) -> Sequence[Heard]:
        """All of them."""

    async def grants(self, life: str) -> list[WitnessAnswer]:
        """Ask each of them, in bounded time, whether we may adopt the copy of this life."""

    async def release(self, life: str) -> None:
        """What they have granted is not used. In bounded time."""


@attrs.frozen
class Licence:
    """What the answers come to, for the copy of a leader that has so many nsqlookupds."""

    answers: tuple[WitnessAnswer, ...]
    registries: int

    @property
    def yes(self) -> int:
        """How many grant it. One that has two addresses here is one."""
        return len({answer.witness for answer in self.answers if answer.granted and answer.witness})

    @property
    def refusal(self) -> str | None:
        """Why it may not be adopted; None when it may."""
        if self.registries < FEWEST_WITNESSES:
            return (
                f"its nsqd has {self.registries} nsqlookupds, and adoption by itself needs {FEWEST_WITNESSES}"
            )
        if 2 * self.yes > self.registries:
            return None
        reasons = "; ".join(_by_reason(answer for answer in self.answers if not answer.granted))
        return f"{self.yes} of its {self.registries} nsqlookupds agree" + (f" ({reasons})" if reasons else "")


def _by_reason(answers: Iterable[WitnessAnswer]) -> list[str]:
    return [f"{answer.address}: {answer.reason}" for answer in answers]


def obstacle(registries: Sequence[Heard]) -> str | None:
    """Why nobody can adopt the copies of an nsqd with these nsqlookupds by itself, once it is gone; None if they can.

    An nsqlookupd on the machine of the nsqd goes with it.
    """
    count = len(registries)
    if count < FEWEST_WITNESSES:
        return f"{count} nsqlookupds are configured, and that needs {FEWEST_WITNESSES}"
    left = {each.witness for each in registries if each.witness and not each.is_here}
    if 2 * len(left) > count:
        return None
    reasons = "; ".join(
        f"{each.address} {'is on this machine' if each.witness else _NO_WITNESS}"
        for each in registries
        if each.is_here or not each.witness
    )
    return f"more than half of {count} nsqlookupds have to agree, and only {len(left)} could ({reasons})"


def due_at(state: CopyState, started: float, adopt_after: float, restart_grace: float) -> float | None:
    """When its leader has been away for long enough; None while there is nothing to wait for.

    `started`: when this nsqd has, which may have heard nothing of it since.
    """
    if state.connected or state.seal is not None or not state.note.complete:
        return None
    heard_at = started if state.beat_at is None else state.beat_at
    return heard_at + (restart_grace if state.left else adopt_after)


def may_ask(copies: Iterable[CopyState]) -> bool:
    """Whether no other copy is being adopted here: one whose seal says nothing of what it owns yet."""
    return not any(copy.seal is not None and copy.seal.owned is None for copy in copies)
