"""The table of commands, and the numbers in their parameters."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsqkit.wire import COMMANDS, MAGIC_V2, State, parse_number
from nsqkit.wire.commands import MAX_LINE

INIT, SUBSCRIBED, CLOSING = State.INIT, State.SUBSCRIBED, State.CLOSING
ANY = {INIT, SUBSCRIBED, CLOSING}


def test_constants() -> None:
    assert bytes.fromhex("20205632") == MAGIC_V2
    assert MAX_LINE == 16384
    assert [int(state) for state in (INIT, SUBSCRIBED, CLOSING)] == [0, 3, 4]


@pytest.mark.parametrize(
    ("name", "states", "ignored", "sized_body"),
    [
        ("IDENTIFY", {INIT}, set(), True),
        ("AUTH", {INIT}, set(), True),
        ("SUB", {INIT}, set(), False),
        ("RDY", {SUBSCRIBED}, {CLOSING}, False),
        ("FIN", {SUBSCRIBED, CLOSING}, set(), False),
        ("REQ", {SUBSCRIBED, CLOSING}, set(), False),
        ("TOUCH", {SUBSCRIBED, CLOSING}, set(), False),
        ("CLS", {SUBSCRIBED}, set(), False),
        ("PUB", ANY, set(), True),
        ("MPUB", ANY, set(), True),
        ("DPUB", ANY, set(), True),
        ("NOP", ANY, set(), False),
    ],
)
def test_rows(name: str, states: set[State], ignored: set[State], sized_body: bool) -> None:
    command = COMMANDS[name.encode()]
    assert command.name == name
    assert command.states == states
    assert command.ignored == ignored
    assert command.sized_body == sized_body


def test_there_are_twelve() -> None:
    assert len(COMMANDS) == 12


@pytest.mark.parametrize(
    "text", [b"-1", b"+1", b"1.5", b"10x", b"0x1f", b" 1", b"1 ", b"1_0", b"\xb2", b"1\n"]
)
def test_what_is_no_number(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a number"):
        parse_number(text)


def test_nothing_at_all_is_zero() -> None:
    assert parse_number(b"") == 0


@settings(deadline=None)
@given(st.integers(0, 10**60), st.integers(0, 100))
def test_numbers_and_leading_zeros(number: int, zeros: int) -> None:
    assert parse_number(b"0" * zeros + b"%d" % number) == number


@settings(deadline=None)
@given(st.text("0123456789", min_size=65, max_size=300).filter(lambda text: text[0] != "0"))
def test_absurdly_long_numbers_stay_large_and_wrap_alike(text: str) -> None:
    number = parse_number(text.encode())
    assert number >= 10**64
    assert number % (1 << 64) == int(text) % (1 << 64)


def test_the_longest_line_is_parsed_at_once() -> None:
    assert parse_number(b"9" * MAX_LINE) >= 10**64
