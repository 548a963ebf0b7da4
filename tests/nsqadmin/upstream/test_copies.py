"""Copies: in the snapshot, from nsqds without any, and in other forms."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from nsqadmin.model import Copies, Follower, HeldCopy
from nsqadmin.upstream.copies import MAX_FOLLOWERS, MAX_HELD, MAX_TROUBLES, MAX_UNMENDED, read_copies
from nsqd.stats.copies import CopiesStats, FollowerStats, HeldStats, ScrubStats
from tests.nsqadmin.cluster.polling import ONE, TWO, nsqds, polling
from tests.nsqadmin.fake_upstream import channel, topic

LIFE = "0123456789abcdef0123456789abcdef"
FOLLOWER = {
    "address": "10.0.0.2:4159",
    "in_step": False,
    "state": "not connected",
    "lag": None,
    "sent_bytes": 0,
    "troubles": {},
}
HELD = {
    "life": LIFE,
    "name": "10.0.0.2:4150",
    "complete": True,
    "connected": False,
    "bytes": 4096,
    "silent_seconds": 7.5,
    "adopted": False,
    "stand_in_port": None,
}


def copies(**values: Any) -> dict[str, Any]:
    return {"wanted": 2, "in_step": 1, "followers": [FOLLOWER], "held": [HELD], **values}


def read(value: Any) -> Copies | None:
    return read_copies(msgspec.Raw(json.dumps(value).encode()))


def known(value: Any) -> Copies:
    found = read(value)
    assert found is not None
    return found


async def test_copies_and_losses_are_in_the_snapshot() -> None:
    async with polling(**nsqds(ONE, TWO)) as stage:
        lost = topic("t", channel("c", damaged_count=2))
        stage.upstream.nsqd(ONE, lost, copies=copies())
        stage.upstream.nsqd(TWO, topic("t", channel("c")))
        shown = await stage.round()
    assert shown.nodes[ONE].copies == Copies(
        2,
        1,
        followers=(Follower("10.0.0.2:4159", False, "not connected"),),
        held=(HeldCopy(LIFE, "10.0.0.2:4150", True, False, 4096, False, 7.5),),
    )
    assert shown.nodes[TWO].copies is None, "the original does not have the key"
    found = shown.channel("t", "c")
    assert found is not None
    assert found.stats.damaged_count == 2


def test_everything_that_nsqd_reports_is_read() -> None:
    """From the classes of nsqd itself, so that a renamed key is noticed."""
    reported = CopiesStats(
        wanted=3,
        in_step=2,
        restored_bytes=0,
        published_again=0,
        adoptions=1,
        followers=[
            FollowerStats(
                address="f:4159",
                in_step=True,
                state="in step",
                lag=3,
                lag_bytes=700,
                lag_seconds=2.5,
                sent_bytes=9,
                troubles={"topic-t": "why"},
            )
        ],
        held=[
            HeldStats(
                life=LIFE,
                name="l:4150",
                complete=False,
                connected=True,
                bytes=5,
                silent_seconds=0.5,
                adopted=True,
                stand_in_port=4170,
                clock_skew_seconds=-7.5,
                hanging_seconds=0.0,
                undecided="one agrees",
            )
        ],
        obstacle="too few",
        scrub=ScrubStats(
            at_once=False,
            total_bytes=1,
            left_bytes=1,
            passed_at=None,
            passes=0,
            checked_bytes=0,
            mended=0,
            mended_there=0,
            unmended_count=3,
            unmended={"topic-t/2.log": "why", "topic-t/1.log": "why"},
        ),
    )
    assert known(reported.as_json()) == Copies(
        3,
        2,
        followers=(Follower("f:4159", True, "in step", 3, 9, (("topic-t", "why"),), 0, 2.5),),
        held=(HeldCopy(LIFE, "l:4150", False, True, 5, True, 0.5, 4170, -7.5, "one agrees"),),
        obstacle="too few",
        unmended=("topic-t/1.log", "topic-t/2.log"),
        more_unmended=1,
    )


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        [],
        {},
        {"wanted": 3},
        {"wanted": -1, "in_step": 0},
        {"wanted": 2.5, "in_step": 1},
        {"wanted": 10**40, "in_step": 1},
        {"wanted": 2, "in_step": 1, "held": 7},
    ],
)
def test_another_form_is_unknown(value: Any) -> None:
    assert read(value) is None


def test_a_missing_key_is_unknown() -> None:
    assert read_copies(msgspec.Raw()) is None


def test_the_numbers_alone_are_enough() -> None:
    assert read({"wanted": 3, "in_step": 2}) == Copies(3, 2)


@pytest.mark.parametrize(
    "entry",
    [
        7,
        {},
        {**HELD, "life": LIFE[1:]},
        {**HELD, "life": "../" + LIFE},
        {**HELD, "name": ""},
        {**HELD, "name": "x" * 301},
        {**HELD, "bytes": -1},
        {**HELD, "silent_seconds": -1},
        {**HELD, "stand_in_port": 70_000},
        {**HELD, "adopted": "yes"},
    ],
)
def test_invalid_copies_are_counted(entry: Any) -> None:
    found = known(copies(held=[entry, HELD]))
    assert ([each.life for each in found.held], found.more_held) == ([LIFE], 1)


@pytest.mark.parametrize(
    "entry", [None, {**FOLLOWER, "lag": -1}, {**FOLLOWER, "troubles": {"t": 1}}, {**FOLLOWER, "address": ""}]
)
def test_invalid_followers_are_counted(entry: Any) -> None:
    found = known(copies(followers=[FOLLOWER, entry]))
    assert (len(found.followers), found.more_followers) == (1, 1)


def test_a_few_of_many_are_kept_and_the_rest_counted() -> None:
    many = {f"topic-{n:05}": "x" * 400 for n in range(500)}
    found = known(
        copies(followers=[{**FOLLOWER, "troubles": many}, *[FOLLOWER] * 4_999], held=[HELD] * 5_000)
    )
    assert (len(found.followers), found.more_followers) == (MAX_FOLLOWERS, 5_000 - MAX_FOLLOWERS)
    assert (len(found.held), found.more_held) == (MAX_HELD, 5_000 - MAX_HELD)
    follower = found.followers[0]
    assert (len(follower.troubles), follower.more_troubles) == (MAX_TROUBLES, 500 - MAX_TROUBLES)
    assert all(len(reason) == 300 for _, reason in follower.troubles)


def test_an_entry_that_takes_long_to_decode_is_counted_only() -> None:
    huge = {**FOLLOWER, "troubles": {f"topic-{n:07}": "x" for n in range(60_000)}}
    found = known(copies(followers=[huge, FOLLOWER]))
    assert (len(found.followers), found.more_followers) == (1, 1)


def test_a_long_reason_is_cut() -> None:
    [follower] = known(copies(followers=[{**FOLLOWER, "state": "x" * 5_000}])).followers
    assert follower.state == "x" * 300


@pytest.mark.parametrize(
    "scrub",
    [None, 7, {}, {"unmended_count": -1, "unmended": {}}, {"unmended_count": 1, "unmended": {"t": 1}}],
)
def test_damage_in_another_form_is_none(scrub: Any) -> None:
    assert (known(copies(scrub=scrub)).unmended, known(copies(scrub=scrub)).more_unmended) == ((), 0)


def test_of_much_damage_a_little_is_kept_and_the_rest_counted() -> None:
    many = {f"topic-{n:05}": "x" * 400 for n in range(20)}
    found = known(copies(scrub={"unmended_count": 1000, "unmended": many}))
    assert (len(found.unmended), found.more_unmended) == (MAX_UNMENDED, 1000 - MAX_UNMENDED)
