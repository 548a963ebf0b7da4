"""When a publish is safe: how many copies have it, and how many are in step.

The leader counts its appends; each follower acknowledges up to which it has them. A publish is answered when the leader
and as many followers as `--ack-copies` asks for have it; or, when fewer are in step, all of those that are. With fewer
than `--min-copies` in step nothing may be published.

A follower is *in step* when it has acknowledged everything that was sent when its copy had no gap. It is out of step
when its session ends, and when an acknowledgement is overdue; then it has to catch up anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

__all__ = ["Safety", "Standing"]


@attrs.define(eq=False)
class Standing:
    """One follower. `acknowledged`: the ticket up to which it has everything; -1 without a session.

    `state`: for people. `life`: of its data path, hexadecimal, once it has said so.
    """

    address: str
    acknowledged: int = -1
    in_step: bool = False
    state: str = "not connected"
    life: str = ""
    _goal: int | None = None
    _least: int = -1  # a goal from here on: what was written when it was late
    _owed: tuple[int, float] | None = None  # a ticket, and since when it is owed

    def session_ended(self, why: str) -> None:
        self.acknowledged, self.in_step, self.state = -1, False, why
        self._goal = self._owed = None
        self._least = -1

    def sent(self, ticket: int, *, complete: bool) -> bool:
        """All appends up to this ticket were sent. Whether it has just fallen in or out of step.

        `complete`: the copy has no gap with what was sent. When that is acknowledged, it is in step; with a gap it is
        not, whatever it acknowledges.
        """
        was = self.in_step
        if not complete:
            self.in_step, self._goal = False, None
            if was:
                self.state = "catching up"
        elif self._goal is None and not self.in_step and ticket >= self._least:
            self._goal = ticket
        self._look()
        return self.in_step is not was

    def acknowledge(self, ticket: int) -> None:
        self.acknowledged = max(self.acknowledged, ticket)
        if self._owed is not None and self._owed[0] <= self.acknowledged:
            self._owed = None
        self._look()

    def check(self, written: int, now: float, timeout: float) -> bool:
        """Whether it has just fallen out of step: it owes an acknowledgement for more than `timeout` seconds."""
        if self._owed is None and written > self.acknowledged:
            self._owed = (written, now)
        if self._owed is None or now - self._owed[1] <= timeout:
            return False
        # Else a ticket of before, which it has acknowledged, would put it into step again, and publishes would wait.
        self._goal, self._least = None, written
        if not self.in_step:
            return False
        self.in_step = False
        self.state = f"no acknowledgement for {timeout:g} s"
        return True

    def lag(self, now: float) -> float | None:
        """For how many seconds it has owed an acknowledgement; None without a session."""
        if self.acknowledged < 0:
            return None
        return now - self._owed[1] if self._owed is not None else 0.0

    def _look(self) -> None:
        if self._goal is not None and self.acknowledged >= self._goal:
            self.in_step, self.state, self._goal = True, "in step", None


@attrs.define(eq=False)
class Safety:
    """All followers of a leader. `ack_copies` and `min_copies` count the leader's own."""

    ack_copies: int
    min_copies: int
    timeout: float
    followers: Sequence[Standing]

    @property
    def copies_in_step(self) -> int:
        count = 1
        for follower in self.followers:  # a loop, as every acknowledgement comes here
            if follower.in_step:
                count += 1
        return count

    @property
    def refusal(self) -> str | None:
        """Why nothing may be published."""
        if (there := self.copies_in_step) < self.min_copies:
            return f"{there} of at least {self.min_copies} copies are in step"
        return None

    @property
    def degraded(self) -> str | None:
        """What is to be said when publishes are acknowledged with fewer copies than asked for."""
        if (there := self.copies_in_step) < self.ack_copies:
            return f"{there} of {self.ack_copies} copies"
        return None

    def safe(self, own: int) -> int:
        """The ticket up to which enough copies have everything. `own`: that of the leader itself."""
        wanted = min(self.ack_copies, self.copies_in_step) - 1
        if wanted <= 0:
            return own
        acknowledged = sorted((f.acknowledged for f in self.followers if f.in_step), reverse=True)
        return min(own, acknowledged[wanted - 1])

    def check(self, written: int, now: float) -> list[Standing]:
        """Those that have just fallen out of step. To be called every now and then."""
        return [follower for follower in self.followers if follower.check(written, now, self.timeout)]
