"""Whether a leader that may have been cut off still serves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nsqd.replication.fence import Fence

PATIENCE = 30.0


def test_it_is_closed_until_somebody_is_heard() -> None:
    fence = Fence(PATIENCE, 3)
    assert fence.is_closed(0.0)
    fence.heard_follower("f", 10.0, ["f"])
    assert not fence.is_closed(40.0)
    assert fence.is_closed(40.1)


def test_more_than_half_of_the_registries_open_it() -> None:
    fence = Fence(PATIENCE, 4)
    for number, now in enumerate((1.0, 2.0)):
        fence.heard_registry(f"r{number}", now)
    assert fence.is_closed(2.0)
    fence.heard_registry("r2", 10.0)
    assert not fence.is_closed(31.0)  # the third youngest was heard at 1
    assert fence.is_closed(31.1)


def test_one_that_knows_of_an_adoption_does_not_count() -> None:
    fence = Fence(PATIENCE, 3)
    fence.heard_registry("r0", 1.0)
    fence.heard_registry("r1", 1.0)
    assert not fence.is_closed(1.0)
    fence.forget_registry("r1")
    assert fence.is_closed(1.0)
    fence.forget_registry("r2")  # was never heard


def test_registries_that_are_configured_anew() -> None:
    fence = Fence(PATIENCE, 3)
    fence.heard_registry("r0", 1.0)
    fence.heard_registry("r1", 1.0)
    fence.set_registries(["r1", "r2", "r3"])
    assert fence.is_closed(1.0)
    fence.set_registries(["r1"])
    assert not fence.is_closed(1.0)


def test_one_of_two_followers_is_not_enough() -> None:
    """The other one may have adopted its copy: it and more than half of the registries may be cut off from here."""
    fence = Fence(PATIENCE, 3)
    fence.heard_follower("f1", 10.0, ["f1", "f2"])
    assert fence.is_closed(10.0)
    fence.heard_follower("f2", 20.0, ["f1", "f2"])
    assert not fence.is_closed(40.0)
    fence.heard_follower("f2", 40.0, ["f1", "f2"])
    assert fence.is_closed(40.1)  # the other one was heard at 10


def test_without_registries_followers_decide() -> None:
    fence = Fence(PATIENCE, 0)
    assert fence.is_closed(0.0)
    fence.heard_follower("f", 0.0, ["f"])
    assert not fence.is_closed(PATIENCE)


@given(
    st.integers(1, 7),
    st.lists(st.tuples(st.sampled_from("fhx"), st.integers(0, 6), st.integers(0, 20)), max_size=40),
    st.integers(0, 60),
)
def test_r6_it_is_open_only_while_one_of_the_two_was_heard_lately(
    registries: int, events: list[tuple[str, int, int]], later: int
) -> None:
    fence = Fence(PATIENCE, registries)
    now, follower, heard = 0.0, -100.0, dict[int, float]()
    for event, number, seconds in events:
        now += seconds
        if event == "f":
            follower = now
            fence.heard_follower("f", now, ["f"])
        elif event == "h":
            heard[number % registries] = now
            fence.heard_registry(f"r{number % registries}", now)
        else:
            heard.pop(number % registries, None)
            fence.forget_registry(f"r{number % registries}")
    now += later
    lately = sum(now - at <= PATIENCE for at in heard.values())
    assert fence.is_closed(now) is not (now - follower <= PATIENCE or 2 * lately > registries)
