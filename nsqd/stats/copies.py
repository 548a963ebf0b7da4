"""What is told about copies: those of this nsqd on other nodes, and those of other nsqds here."""

from __future__ import annotations

from typing import Any

import attrs

__all__ = ["CopiesStats", "FollowerStats", "HeldStats", "ScrubStats"]


@attrs.frozen(kw_only=True)
class FollowerStats:
    """One follower. `state`: for people. `lag`: appends that it has not acknowledged; None without a connection.

    `lag_bytes`: of logs that it was not sent yet; `lag_seconds`: for so long it has owed an acknowledgement; likewise.
    `troubles`: topics that it has in a form that is not known here, and why; nothing of them is copied. `life`: of its
    data path, hexadecimal, once it has said so. `dismissed`: it has a successor, and removes its copy when that one has
    everything.
    """

    address: str
    in_step: bool
    state: str
    lag: int | None
    lag_bytes: int | None
    lag_seconds: float | None
    sent_bytes: int
    troubles: dict[str, str]
    life: str = ""
    dismissed: bool = False


@attrs.frozen(kw_only=True)
class HeldStats:
    """One copy of another nsqd, by its life. `name`: of its node. `complete`: it has no gap.

    `silent_seconds`: since its leader was heard; None if that was not since the start. `adopted`: it is
    this nsqd's to serve; `stand_in_port`: the TCP port of the process that does so now. `clock_skew_seconds`: by which
    the clock here is ahead of its leader's; None if that was not heard since the start. `hanging_seconds`: for so long
    the leader's disk had not ended a sync, when it was last heard. `undecided`: why it was not adopted by itself, when
    that was tried.
    """

    life: str
    name: str
    complete: bool
    connected: bool
    bytes: int
    silent_seconds: float | None
    adopted: bool
    stand_in_port: int | None
    clock_skew_seconds: float | None
    hanging_seconds: float
    undecided: str = ""


@attrs.frozen(kw_only=True)
class ScrubStats:
    """How far the complete segments here were compared with the followers'.

    `total_bytes`: of them; `left_bytes`: to be compared in this pass. `at_once`: it was asked for. `passed_at`: the
    wall time, in seconds, at which the last pass ended; None before the first. Since the start: `passes` that have
    ended; `checked_bytes`; `mended`, `mended_there`: segments, here and at followers. `unmended_count`: segments with
    damage that could not be mended; `unmended`: what it is, by path, of the first of them.
    """

    at_once: bool
    total_bytes: int
    left_bytes: int
    passed_at: float | None
    passes: int
    checked_bytes: int
    mended: int
    mended_there: int
    unmended_count: int
    unmended: dict[str, str]


@attrs.frozen(kw_only=True)
class CopiesStats:
    """`wanted` and `in_step`: copies, this nsqd's own included. `held`: those of others.

    `trouble`: why there are too few followers to choose from; empty when there are enough.

    Since the start: `restored_bytes`: fetched from followers before it. `published_again`: messages that only a
    follower had. `adoptions`: of copies that are here. `scrub`: None without followers.

    `adopt`: see `--adopt`; `obstacle`: why followers cannot adopt by themselves all the same.
    """

    wanted: int
    in_step: int
    restored_bytes: int
    published_again: int
    adoptions: int
    followers: list[FollowerStats]
    held: list[HeldStats]
    trouble: str = ""
    adopt: str = "manual"
    obstacle: str | None = None
    scrub: ScrubStats | None = None

    def as_json(self) -> dict[str, Any]:
        return attrs.asdict(self)
