"""Which host gets the next message: turns, hosts that failed, fast hosts."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqtools.hosts import CHOICES, EpsilonGreedy, HostPool, RoundRobin, make_pool

ABC = ("a", "b", "c")


def choices(pool: HostPool | RoundRobin, now: float, count: int) -> str:
    """So many choices at one time, as one word."""
    return "".join(pool.choose(now) for _ in range(count))


def test_round_robin_minds_no_failure() -> None:
    """Each in turn."""
    pool = RoundRobin(ABC)
    assert choices(pool, 0.0, 4) == "abca"
    pool.failed("b", 0.0)
    assert choices(pool, 0.0, 3) == "bca"


@pytest.mark.parametrize("mode", CHOICES)
def test_hosts_that_are_down_are_passed_over(mode: str) -> None:
    """As long as another one is up; when none is, one is chosen all the same."""
    pool = make_pool(mode, ABC)
    assert {pool.choose(0.0, lambda host: host != "b") for _ in range(9)} == {"a", "c"}
    assert pool.choose(0.0, lambda host: False) in ABC


def test_host_pool_leaves_a_failed_host_alone() -> None:
    """For 30 s; then it gets one message, and no other before that one's end is known."""
    pool = HostPool(ABC)
    assert choices(pool, 0.0, 1) == "a"
    pool.failed("a", 0.0)
    assert choices(pool, 29.9, 4) == "bcbc"
    assert choices(pool, 30.0, 4) == "abcb"


def test_host_pool_waits_longer_each_time() -> None:
    """30, 60, 120 ... 900 s from one try to the next."""
    pool, now, waits = HostPool("ab"), 0.0, []
    pool.failed("a", now)
    for _ in range(7):
        began = now
        while pool.choose(now) != "a":
            now += 1.0
        pool.failed("a", now)
        waits.append(now - began)
    assert waits == [30, 60, 120, 240, 480, 900, 900]


def test_host_pool_takes_one_back_that_succeeds() -> None:
    """With the shortest time at its next failure."""
    pool = HostPool("ab")
    pool.failed("a", 0.0)
    assert choices(pool, 30.0, 2) == "ab"
    pool.succeeded("a", 31.0, 0.01)
    assert choices(pool, 31.0, 2) == "ab"
    pool.failed("a", 40.0)
    assert choices(pool, 69.0, 2) == "bb"
    assert choices(pool, 70.0, 1) == "a"


def test_host_pool_begins_anew_when_all_are_dead() -> None:
    """At the first: there is nothing better to do."""
    pool = HostPool(ABC)
    for host in ABC:
        pool.failed(host, 0.0)
    assert choices(pool, 1.0, 4) == "abca"


def test_failures_at_the_same_time_count_once() -> None:
    """Many messages are on their way when a host dies."""
    pool = HostPool("ab")
    for now in (0.0, 0.1, 5.0):
        pool.failed("a", now)
    assert "a" in choices(pool, 30.0, 2)


def test_one_host_is_always_tried() -> None:
    """Dead or not."""
    for mode in CHOICES:
        pool = make_pool(mode, ["a", "a"])
        for _ in range(5):
            assert pool.choose(0.0) == "a"
            pool.failed("a", 0.0)


def run_greedy(seconds: dict[str, float], count: int, pool: EpsilonGreedy, now: float = 0.0) -> Counter[str]:
    """So many requests, a tenth of a second apart, to hosts that take so long."""
    chosen: Counter[str] = Counter()
    for number in range(count):
        host = pool.choose(now + number / 10)
        pool.succeeded(host, now + number / 10, seconds[host])
        chosen[host] += 1
    return chosen


def test_epsilon_greedy_prefers_the_fast() -> None:
    """In proportion to their speed; the slow one still gets some, to see whether it still is."""
    pool = EpsilonGreedy(ABC, random=random.Random(1))
    chosen = run_greedy({"a": 0.010, "b": 0.040, "c": 0.040}, 3000, pool)
    assert chosen["a"] > 1.5 * (chosen["b"] + chosen["c"])
    assert chosen["c"] > 100
    assert pool.epsilon == 0.01


def test_epsilon_greedy_forgets() -> None:
    """A host that was slow long ago is found to be fast now."""
    pool = EpsilonGreedy("ab", random=random.Random(1))
    run_greedy({"a": 0.100, "b": 0.010}, 3000, pool)
    run_greedy({"a": 0.001, "b": 0.010}, 12000, pool, now=300.0)
    chosen = run_greedy({"a": 0.001, "b": 0.010}, 1000, pool, now=1500.0)
    assert chosen["a"] > 5 * chosen["b"]


def test_epsilon_greedy_avoids_the_dead() -> None:
    """However fast it was."""
    pool = EpsilonGreedy("ab", random=random.Random(1))
    run_greedy({"a": 0.001, "b": 1.0}, 200, pool)
    pool.failed("a", 20.0)
    assert {pool.choose(21.0) for _ in range(50)} == {"b"}


@given(
    st.sampled_from(sorted(CHOICES)),
    st.lists(st.tuples(st.floats(0, 1000), st.booleans(), st.sets(st.sampled_from(ABC)))),
)
def test_there_is_always_a_choice(mode: str, steps: list[tuple[float, bool, set[str]]]) -> None:
    """Whatever fails; and it is one that is up, if any is."""
    pool, now = make_pool(mode, ABC), 0.0
    for seconds, works, up in steps:
        now += seconds
        host = pool.choose(now, up.__contains__)
        assert host in (up or ABC)
        if works:
            pool.succeeded(host, now, 0.0)
        else:
            pool.failed(host, now)
