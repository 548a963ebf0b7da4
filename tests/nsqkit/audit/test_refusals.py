"""A flood of refusals makes few lines, and every one is counted."""

from __future__ import annotations

import math
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st

from nsqkit.audit import Event, Means, Result, Who
from nsqkit.audit.refusals import MAX_KINDS, OTHERS, Refusals


def refusal(**changes: Any) -> Event:
    return attrs.evolve(
        Event(
            time=1.0,
            who=Who("ann", Means.TOKEN, "10.0.0.9:1"),
            what="GET /stats",
            result=Result.REFUSED,
            error="SCOPE_REQUIRED_READ",
        ),
        **changes,
    )


def test_the_first_of_a_kind_has_its_line_at_once_and_the_others_have_one_together() -> None:
    refusals = Refusals()
    assert refusals.wait(0.0) is None
    assert refusals.add(refusal(), 0.0) == refusal()
    assert refusals.wait(0.25) == 0.75
    for number in range(2, 1000):
        assert refusals.add(refusal(who=Who("ann", Means.TOKEN, f"10.0.0.9:{number}")), 0.5) is None
    assert refusals.due(0.9) == []
    [line] = refusals.due(1.0)
    assert (line.count, line.who.remote) == (998, "10.0.0.9:999")
    assert refusals.wait(1.0) is None
    assert refusals.add(refusal(), 1.0) == refusal(), "another second"


def test_a_single_one_has_no_second_line() -> None:
    refusals = Refusals()
    refusals.add(refusal(), 0.0)
    assert refusals.due(5.0) == []
    assert refusals.wait(5.0) is None


def test_kinds_are_told_apart() -> None:
    refusals = Refusals()
    different = [
        refusal(),
        refusal(what="POST /drain"),
        refusal(error="TOKEN_EXPIRED"),
        refusal(who=Who("ann", Means.TOKEN, "10.0.0.10:1")),
        refusal(who=Who("bob", Means.TOKEN, "10.0.0.9:1")),
    ]
    assert [refusals.add(each, 0.0) for each in different] == different
    assert refusals.add(refusal(on={"topic": "other"}), 0.0) is None, "names make no other kind"


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 0.2)), max_size=300))
def test_of_many_kinds_few_lines_are_written_and_all_are_counted(events: list[tuple[int, float]]) -> None:
    refusals, now, lines, seconds = Refusals(), 0.0, list[Event](), 1
    for kind, pause in events:
        now += pause
        found = refusals.due(now)
        seconds += bool(found)
        lines += found
        if (own := refusals.add(refusal(what=f"GET /{kind}"), now)) is not None:
            lines.append(own)
    lines += refusals.due(math.inf)
    assert sum(line.count for line in lines) == len(events)
    assert len(lines) <= (2 * MAX_KINDS + 1) * (now + 1)
    assert all(line.who == Who() and not line.on for line in lines if line.what == OTHERS)
