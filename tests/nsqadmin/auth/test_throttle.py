"""Tries to log in become slower with each failure, and what is remembered of them is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqadmin.auth.throttle import (
    FORGOTTEN_AFTER_S,
    FREE_TRIES,
    FREE_TRIES_OF_ADDRESS,
    MAX_REMEMBERED,
    MAX_WAIT_S,
    Throttle,
    address_of,
    is_this_machine,
)


def tries(throttle: Throttle, seconds: float, name: str = "alice", address: str = "1.1.1.1") -> int:
    """How many an attacker can make who tries all the time, in steps of half a second."""
    return sum(throttle.begin(name, address, step / 2) == 0 for step in range(int(seconds * 2)))


def test_the_first_tries_are_free_and_then_each_waits_twice_as_long() -> None:
    throttle, now, waits = Throttle(), 0.0, []
    for _ in range(FREE_TRIES + 10):
        waits.append(throttle.begin("alice", "1.1.1.1", now))
        now += waits[-1]
        if waits[-1]:
            assert throttle.begin("alice", "1.1.1.1", now) == 0
    assert waits[:FREE_TRIES] == [0] * FREE_TRIES
    assert waits[FREE_TRIES:] == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_guessing_is_slow_for_a_name_and_for_an_address() -> None:
    assert tries(Throttle(), 3600) <= FREE_TRIES + 6 + 3600 / MAX_WAIT_S
    names = Throttle()
    from_anywhere = sum(names.begin("alice", f"10.0.{n // 256}.{n % 256}", n / 2) == 0 for n in range(7200))
    assert from_anywhere <= FREE_TRIES + 6 + 3600 / MAX_WAIT_S
    addresses = Throttle()
    any_name = sum(addresses.begin(f"user{n}", "1.1.1.1", n / 2) == 0 for n in range(7200))
    assert any_name <= FREE_TRIES_OF_ADDRESS + 6 + 3600 / MAX_WAIT_S


def test_many_tries_at_once_are_no_way_around() -> None:
    throttle = Throttle()
    begun = [throttle.begin("alice", "1.1.1.1", 0.0) for _ in range(100)]
    assert begun.count(0.0) == FREE_TRIES


def test_a_try_that_is_refused_does_not_prolong_the_wait() -> None:
    throttle = Throttle()
    for _ in range(FREE_TRIES + 50):
        throttle.begin("alice", "1.1.1.1", 0.0)
    assert throttle.begin("alice", "1.1.1.1", 1.0) == 0


def test_a_success_clears_the_failures_of_the_name() -> None:
    throttle = Throttle()
    for _ in range(FREE_TRIES - 1):
        throttle.begin("alice", "1.1.1.1", 0.0)
    assert throttle.begin("alice", "1.1.1.1", 0.0) == 0
    throttle.succeeded("alice", "1.1.1.1")
    assert throttle.begin("alice", "1.1.1.1", 0.0) == 0


def test_who_can_log_in_himself_cannot_guess_faster() -> None:
    """A success takes back its own try, and no failure of the same address."""
    throttle, begun = Throttle(), 0
    for number in range(200):
        begun += throttle.begin(f"victim{number}", "1.1.1.1", 0.0) == 0
        if throttle.begin("mallory", "1.1.1.1", 0.0) == 0:
            throttle.succeeded("mallory", "1.1.1.1")
    assert begun <= FREE_TRIES_OF_ADDRESS


def test_strangers_do_not_lock_out_a_user_where_he_has_logged_in_before() -> None:
    throttle = Throttle()
    throttle.begin("alice", "10.0.0.1", 0.0)
    throttle.succeeded("alice", "10.0.0.1")
    tries(throttle, 600, address="6.6.6.6")
    for number in range(100):
        throttle.begin(f"user{number}", "10.0.0.1", 600.0)
    assert throttle.begin("alice", "10.0.0.1", 600.0) == 0
    assert throttle.begin("alice", "10.0.0.2", 600.0) > 0
    assert tries(throttle, 3600, address="10.0.0.1") <= FREE_TRIES + 6 + 3600 / MAX_WAIT_S


def test_failures_are_forgotten() -> None:
    throttle = Throttle()
    tries(throttle, 60)
    assert throttle.begin("alice", "1.1.1.1", 60.0) > 0
    assert tries(throttle, 1, address="9.9.9.9") == 0
    for _ in range(FREE_TRIES):
        assert throttle.begin("alice", "1.1.1.1", 61 + FORGOTTEN_AFTER_S) == 0


def test_tries_that_are_refused_push_nothing_out() -> None:
    """One who has to wait tries made-up names, so that what is remembered of others should be forgotten."""
    throttle = Throttle()
    tries(throttle, 60, "alice", "1.1.1.1")
    tries(throttle, 60, "mallory", "2.2.2.2")
    assert throttle.begin("alice", "1.1.1.1", 60.0) > 0
    assert any(
        throttle.begin(f"any-{number}", "2.2.2.2", 60.0) for number in range(FREE_TRIES_OF_ADDRESS + 1)
    )
    for number in range(MAX_REMEMBERED + 10):
        assert throttle.begin(f"made-up-{number}", "2.2.2.2", 60.0) > 0
    assert throttle.begin("alice", "1.1.1.1", 60.0) > 0


def test_memory_is_bounded() -> None:
    throttle = Throttle()
    for number in range(MAX_REMEMBERED + 100):
        throttle.begin(f"u{number}", f"a{number}", 0.0)
        throttle.succeeded(f"u{number}", f"a{number}")
        throttle.begin(f"v{number}", f"b{number}", 0.0)
    assert len(throttle._failures) == len(throttle._known) == MAX_REMEMBERED


@pytest.mark.parametrize(
    ("remote", "forwarded", "address"),
    [
        ("192.0.2.1:5", None, "192.0.2.1"),
        ("192.0.2.1:5", b"203.0.113.9", "192.0.2.1"),  # this is no proxy of this machine
        ("127.0.0.1:5", None, "127.0.0.1"),
        ("127.0.0.1:5", b"203.0.113.9", "203.0.113.9"),
        ("127.0.0.1:5", b"1.1.1.1, 203.0.113.9", "203.0.113.9"),  # what came before, the client may have sent
        ("127.0.0.1:5", b"unknown", "127.0.0.1"),
        ("[::1]:5", b"2001:db8::1", "2001:db8::/64"),
        ("@", b"203.0.113.9", "203.0.113.9"),
        ("@", None, "this machine"),
        ("[2001:db8:0:1:a:b:c:d]:5", None, "2001:db8:0:1::/64"),
        ("[::ffff:192.0.2.1]:5", None, "192.0.2.1"),
    ],
)
def test_an_address_is_that_of_the_client_or_its_network(
    remote: str, forwarded: bytes | None, address: str
) -> None:
    assert address_of(remote, forwarded) == address


@pytest.mark.parametrize(
    ("remote", "is_here"),
    [
        ("@", True),
        ("127.0.0.1:5", True),
        ("[::1]:5", True),
        ("10.0.0.1:5", False),
        ("[fe80::1%eth0]:5", False),
    ],
)
def test_an_address_is_of_this_machine_or_not(remote: str, is_here: bool) -> None:
    assert is_this_machine(address_of(remote, None)) == is_here


@given(st.text(max_size=60), st.none() | st.binary(max_size=60))
def test_any_address_is_something(remote: str, forwarded: bytes | None) -> None:
    assert is_this_machine(address_of(remote, forwarded)) in (True, False)
