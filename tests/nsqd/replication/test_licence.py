"""When a follower may adopt a copy by itself."""

from __future__ import annotations

import pytest

from nsqd.lookup.protocol import Heard, WitnessAnswer
from nsqd.replication.held_copies import CopyState
from nsqd.replication.keep import CopyNote
from nsqd.replication.licence import Licence, due_at, may_ask, obstacle
from nsqd.replication.seal import Seal
from nsqd.testing.memory_storage import MemoryStorage


def copy(*, complete: bool = True, registries: int = 3) -> CopyState:
    note = CopyNote("aa" * 16, "leader", 1, complete=complete, registries=registries)
    return CopyState(note, MemoryStorage())


def answers(text: str) -> tuple[WitnessAnswer, ...]:
    """`y`: yes, `n`: no, `o`: the original's, which can say nothing; all at addresses of their own."""
    return tuple(
        WitnessAnswer(f"r{number}:4160", "" if each == "o" else f"w{number}", each == "y", f"says {each}")
        for number, each in enumerate(text)
    )


@pytest.mark.parametrize(
    ("said", "registries", "granted"),
    [
        ("yyy", 3, True),
        ("yyn", 3, True),
        ("ynn", 3, False),
        ("yyo", 3, True),
        ("yoo", 3, False),
        ("yy", 3, True),  # the third one is not ours
        ("yy", 4, False),  # half of them
        ("yyy", 4, True),
        ("yyy", 5, True),
        ("yyyyy", 10, False),
        ("", 3, False),
        ("y", 1, False),  # too few to be witnesses
        ("yy", 2, False),
        ("yyy", 0, False),
    ],
)
def test_r7_more_than_half_of_the_leaders_registries_have_to_agree(
    said: str, registries: int, granted: bool
) -> None:
    assert (Licence(answers(said), registries).refusal is None) is granted


def test_a_registry_with_two_addresses_is_one() -> None:
    one = WitnessAnswer("r1:4160", "w", granted=True, reason="")
    other = WitnessAnswer("r1.example:4160", "w", granted=True, reason="")
    assert Licence((one, other), 3).yes == 1
    assert Licence((one, other), 3).refusal == "1 of its 3 nsqlookupds agree"


def test_an_answer_without_an_id_grants_nothing() -> None:
    assert Licence(tuple(WitnessAnswer(f"r{n}", "", granted=True, reason="") for n in range(3)), 3).yes == 0


def test_what_is_said_has_the_reasons() -> None:
    assert Licence(answers("yno"), 3).refusal == (
        "1 of its 3 nsqlookupds agree (r1:4160: says n; r2:4160: says o)"
    )
    assert Licence(answers("yy"), 2).refusal == ("its nsqd has 2 nsqlookupds, and adoption by itself needs 3")


def test_a_leader_must_be_silent_for_long_enough() -> None:
    state = copy()
    assert due_at(state, 100.0, 60.0, 300.0) == 160.0  # not heard since the start
    state.beat_at = 130.0
    assert due_at(state, 100.0, 60.0, 300.0) == 190.0
    state.left = True
    assert due_at(state, 100.0, 60.0, 300.0) == 430.0


def test_what_is_connected_or_has_gaps_or_was_adopted_is_not_adopted() -> None:
    for state in (copy(), copy(), copy(complete=False)):
        state.beat_at = 0.0
    connected, adopted, gaps = copy(), copy(), copy(complete=False)
    connected.connected = True
    adopted.seal = Seal()
    assert [due_at(each, 0.0, 60.0, 300.0) for each in (connected, adopted, gaps)] == [None] * 3


def test_one_at_a_time() -> None:
    begun, serving, idle = copy(), copy(), copy()
    begun.seal, serving.seal = Seal(), Seal({})
    assert may_ask([serving, idle])
    assert not may_ask([serving, begun, idle])


@pytest.mark.parametrize(
    ("registries", "said"),
    [
        ("www", None),
        ("wwh", None),  # two are left when this machine is gone
        ("wwo", None),
        ("wwwoo", None),
        ("whh", "only 1 could (r1:4160 is on this machine; r2:4160 is on this machine)"),
        (
            "who",
            "only 1 could (r1:4160 is on this machine; r2:4160 is not connected, or is one of the original)",
        ),
        ("wwoo", "more than half of 4 nsqlookupds have to agree, and only 2 could"),
        ("ww", "2 nsqlookupds are configured, and that needs 3"),
        ("", "0 nsqlookupds are configured"),
    ],
)
def test_what_keeps_followers_from_adopting_is_said(registries: str, said: str | None) -> None:
    """`w`: one of ours elsewhere, `h`: one of ours on this machine, `o`: one of the original."""
    found = obstacle(
        [
            Heard(f"r{n}:4160", "" if each == "o" else f"w{n}", 0.0, is_here=each == "h")
            for n, each in enumerate(registries)
        ]
    )
    assert found is None if said is None else said in (found or "")
