"""Names of topics and channels."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsqkit.wire import EPHEMERAL, is_ephemeral, is_valid_name

ALPHABET = "abcxyzABCXYZ0123456789._-"


@pytest.mark.parametrize(
    "name",
    ["a", ".", "..", "-", "_", "0", "test", "Test_1.2-3", "a" * 64, "a#ephemeral", "a" * 54 + "#ephemeral"],
)
def test_valid(name: str) -> None:
    assert is_valid_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a" * 65,
        "a" * 55 + "#ephemeral",
        "#ephemeral",
        "a#ephemera",
        "a#ephemerall",
        "a#ephemeral#ephemeral",
        "a#EPHEMERAL",
        "a#b",
        "a b",
        "a\n",
        "a#ephemeral\n",
        "a\r",
        "a/b",
        "a:b",
        "a*",
        "a\0",
        "\u00e9",
        "\u0661",  # a digit, but not one of ASCII
    ],
)
def test_invalid(name: str) -> None:
    assert not is_valid_name(name)


@settings(deadline=None)
@given(st.text(ALPHABET, min_size=1, max_size=80), st.booleans())
def test_the_length_counts_the_suffix(stem: str, ephemeral: bool) -> None:
    name = stem + EPHEMERAL if ephemeral else stem
    assert is_valid_name(name) == (len(name) <= 64)
    assert is_ephemeral(name) == ephemeral


@settings(deadline=None)
@given(st.text(max_size=70) | st.from_regex(r"[.a-zA-Z0-9_-]+(#ephemeral)?", fullmatch=True))
def test_it_is_the_rule_of_the_protocol(name: str) -> None:
    rule = re.compile(r"^[.a-zA-Z0-9_-]+(#ephemeral)?\Z", re.ASCII)
    assert is_valid_name(name) == (1 <= len(name) <= 64 and rule.match(name) is not None)
